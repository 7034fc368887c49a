//! A model that is written in a moment: a Llama with random weights whose tokens are bytes.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Its context, in tokens.
pub(crate) const CONTEXT: usize = 2048;

/// Writes the files of the model into a folder.
pub(crate) fn write_model(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/llama");
    std::fs::copy(golden.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = CONTEXT.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();

    // Byte-level BPE writes a byte as a printable character: itself, or one from 256 on.
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut unprintable = 256_u32..;
    let mut vocab: Map<String, Value> = (0_u32..)
        .zip(["<unk>", "<s>", "</s>"])
        .map(|(id, text)| (text.into(), id.into()))
        .collect();
    for byte in 0..=255_u8 {
        let code = if is_printable(byte) { byte.into() } else { unprintable.next().unwrap() };
        let character = char::from_u32(code).unwrap().to_string();
        vocab.insert(character, (u32::from(byte) + 3).into());
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";
    let tokenizer_config =
        json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    std::fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
}

//! Models that are written in a moment: checkpoints with random weights, and a tokenizer and a
//! template beside them.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::Path;

use serde_json::{Map, Value, json};

/// The context of [`write_model`]'s model, in tokens.
pub(crate) const CONTEXT: usize = 2048;
/// Tokens with a text: three special ones and one for each byte.
const NUM_TOKENS: u32 = 3 + 256;

/// What the tokens of a model stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// A byte each, so that every text is one, but half of all answers are no UTF-8.
    Bytes,
    /// A character each, so that an answer's text tells its tokens. Prompts are ASCII.
    Characters,
}

/// A checkpoint of `tests/golden/models`, with some settings changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiny<'a> {
    /// Its folder's name.
    pub(crate) golden: &'a str,
    pub(crate) tokens: Tokens,
    /// What is written into its `config.json`.
    pub(crate) config: &'a [(&'a str, Value)],
}

/// Writes the files of a Llama whose tokens are bytes into a folder.
pub(crate) fn write_model(folder: &Path) {
    let config = [("max_position_embeddings", CONTEXT.into())];
    Tiny { golden: "llama", tokens: Tokens::Bytes, config: &config }.write(folder);
}

impl Tiny<'_> {
    /// Writes the files of the model into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
        let golden = models.join(self.golden);
        for entry in std::fs::read_dir(&golden).unwrap() {
            let name = entry.unwrap().file_name();
            if name.to_str().unwrap().contains(".safetensors") {
                std::fs::copy(golden.join(&name), folder.join(&name)).unwrap();
            }
        }
        let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        for (key, value) in self.config {
            config[*key] = value.clone();
        }
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let num_tokens = config["vocab_size"].as_u64().unwrap() as u32;
        write_text(folder, self.tokens, num_tokens);
    }
}

/// Writes a tokenizer of at most that many tokens, and a template.
pub(crate) fn write_text(folder: &Path, tokens: Tokens, num_tokens: u32) {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab(tokens, num_tokens), "merges": []},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";
    let tokenizer_config =
        json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
    std::fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
}

/// Ids of tokens by what they stand for, as byte-level BPE writes it.
fn vocab(tokens: Tokens, num_tokens: u32) -> Map<String, Value> {
    let alphabet = alphabet();
    let written = |bytes: &[u8]| bytes.iter().map(|&byte| alphabet[usize::from(byte)]).collect();
    let text = |id: u32| -> String {
        match (tokens, id.checked_sub(3)) {
            (_, None) => ["<unk>", "<s>", "</s>"][id as usize].to_owned(),
            // Letters with two bytes, all different.
            (Tokens::Characters, Some(128..)) => {
                written(char::from_u32(0x400 + id).unwrap().to_string().as_bytes())
            }
            (_, Some(byte)) => written(&[byte as u8]),
        }
    };
    let num_tokens = match tokens {
        Tokens::Bytes => num_tokens.min(NUM_TOKENS),
        Tokens::Characters => num_tokens,
    };
    (0..num_tokens).map(|id| (text(id), id.into())).collect()
}

/// Byte-level BPE writes a byte as a printable character: itself, or one from 256 on.
fn alphabet() -> Vec<char> {
    let is_printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut unprintable = 256_u32..;
    let code = |byte: u8| {
        if is_printable(byte) { byte.into() } else { unprintable.next().unwrap() }
    };
    (0..=255_u8).map(code).map(|code| char::from_u32(code).unwrap()).collect()
}

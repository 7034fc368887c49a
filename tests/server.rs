//! The server over real HTTP. Every test starts the program with a tiny random model on a free
//! port.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `shapes` | what answers look like |
//! | `input` | bodies that are refused |
//! | `wire` | HTTP itself, well formed and not |
//! | `lifecycle` | clients that leave, wait or come in crowds; the way out |
//! | `client` | a client in plain TCP |
//!
//! `server/openai_client.py` checks a running server with the official Python client.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "server/client.rs"]
mod client;
#[path = "server/input.rs"]
mod input;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/shapes.rs"]
mod shapes;
#[path = "server/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use client::Server;

/// What the model is served as.
const MODEL: &str = "tiny";
/// Its context, in tokens; a token is a byte.
const CONTEXT: usize = 2048;

/// Starts the program with a tiny model and these flags, and waits until it answers. This is the
/// only place that knows how.
fn start_server(flags: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_cairn"))
        .arg("serve")
        .arg(folder.path())
        .args(["--served-model-name", MODEL, "--port", "0", "--no-cache"])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let address = loop {
        let start = said.len();
        assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "it ended: {said}");
        if let Some((_, address)) = said[start..].split_once("listening on http://") {
            break address.trim().parse().unwrap();
        }
    };
    // Somebody must go on reading, or the program blocks when the pipe is full.
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    Server { address, child, _folder: folder }
}

/// A Llama with random weights whose tokens are bytes.
fn write_model(folder: &Path) {
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

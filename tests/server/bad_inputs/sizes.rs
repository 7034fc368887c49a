//! Z: more than there is room for.

use serde_json::json;

use super::super::client::COMPLETIONS;
use super::{Case, chat, completion, raw, refused};

pub(super) fn cases() -> Vec<Case> {
    let too_long = || refused(400, Some("context_length_exceeded"));
    let too_large = || refused(413, Some("body_too_large"));
    let message = json!({"role": "user", "content": "a"});
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n");
    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    vec![
        completion(
            "Z01 a million words",
            json!({"prompt": "word ".repeat(1_000_000)}).to_string(),
            too_long(),
        ),
        completion(
            "Z02 a million ids",
            json!({"prompt": vec![5; 1_000_000]}).to_string(),
            too_long(),
        ),
        completion("Z03 64 MiB", "x".repeat(64 << 20), too_large()),
        raw(
            "Z03 64 MiB in chunks, without a length",
            format!("{head}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(64)),
            too_large(),
        ),
        raw(
            "Z03 a terabyte is declared",
            format!("{head}expect: 100-continue\r\ncontent-length: 999999999999\r\n\r\n"),
            too_large(),
        ),
        completion(
            "Z04 one word of 2 MiB",
            json!({"prompt": "x".repeat(2 << 20)}).to_string(),
            too_long(),
        ),
        chat(
            "Z04 a message of 2 MiB",
            json!({"messages": [{"role": "user", "content": "x".repeat(2 << 20)}]}).to_string(),
            too_long(),
        ),
        chat(
            "Z05 100,000 messages",
            json!({"messages": vec![message; 100_000]}).to_string(),
            refused(400, Some("context_length_exceeded")),
        ),
        completion(
            "Z06 a name of the model of 1 MiB",
            json!({"prompt": "a", "model": "x".repeat(1 << 20)}).to_string(),
            refused(404, Some("model_not_found")),
        ),
    ]
}

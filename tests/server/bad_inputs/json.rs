//! J: bodies that are no JSON, no object, or odd.

use super::{Case, Expected, bad, bad_param, bad_within, chat, completion, refused};

/// A body with one more field.
fn with(value: &str) -> String {
    format!(r#"{{"model": "tiny", "prompt": "a", "max_tokens": 1, "temperature": {value}}}"#)
}

pub(super) fn cases() -> Vec<Case> {
    let keys = (0..700_000).fold(String::new(), |keys, i| keys + &format!("\"{i}\":0,"));
    vec![
        completion("J01 empty", "", bad()),
        completion("J02 garbage", "hello", bad()),
        completion("J03 array", "[]", bad()),
        completion("J04 null", "null", bad()),
        chat("J04 a number", "5", bad()),
        completion("J05 truncated", r#"{"model": "tiny", "prompt": "a""#, bad()),
        completion("J06 trailing", r#"{"prompt": "a"} x"#, bad()),
        completion("J06 a second object", r#"{"prompt": "a"}{}"#, bad()),
        completion("J07 invalid UTF-8", b"{\"prompt\": \"\xff\"}", bad()),
        completion("J07 UTF-16", b"\xff\xfe{\0}\0", bad()),
        completion("J08 lone surrogate", r#"{"prompt": "\ud800"}"#, bad_param("prompt")),
        chat(
            "J08 lone surrogate in a message",
            r#"{"messages": [{"role": "user", "content": "\udc00x"}]}"#,
            bad_within("messages"),
        ),
        completion("J09 NUL as it is", b"{\"prompt\": \"a\0b\"}", bad_param("prompt")),
        completion("J09 NUL escaped", r#"{"prompt": "a\u0000b", "max_tokens": 1}"#, Expected::Ok),
        completion("J10 nested arrays", "[".repeat(100_000), bad()),
        completion(
            "J10 nested arrays in a field",
            format!(r#"{{"prompt": {}"#, "[".repeat(100_000)),
            bad_param("prompt"),
        ),
        completion("J11 nested objects", r#"{"a":"#.repeat(100_000), refused(400, None)),
        completion(
            "J11 nested objects in an unknown field",
            format!(
                r#"{{"prompt": "a", "x": {}0{}}}"#,
                r#"{"a":"#.repeat(100_000),
                "}".repeat(100_000)
            ),
            Expected::Ok,
        ),
        completion(
            "J12 700,000 keys",
            format!("{{{keys}\"prompt\": \"a\", \"max_tokens\": 1}}"),
            Expected::Ok,
        ),
        completion(
            "J13 duplicate keys",
            r#"{"prompt": "a", "max_tokens": 1, "max_tokens": 1, "model": "x", "model": "tiny"}"#,
            Expected::Ok,
        ),
        completion("J14 NaN", with("NaN"), bad_param("temperature")),
        completion("J15 Infinity", with("Infinity"), bad_param("temperature")),
        completion("J15 -Infinity", with("-Infinity"), bad_param("temperature")),
        completion("J16 1e999", with("1e999"), bad_param("temperature")),
        completion("J17 400 digits", with(&"9".repeat(400)), bad_param("temperature")),
        completion(
            "J17 an integer of 400 digits",
            with(&format!("1{}", "0".repeat(399))),
            bad_param("temperature"),
        ),
        completion("J18 a comment", "{\"prompt\": \"a\" /* x */}", bad()),
        completion("J19 single quotes", "{'prompt': 'a'}", bad()),
        completion("J20 a byte order mark", b"\xef\xbb\xbf{\"prompt\": \"a\"}", bad()),
    ]
}

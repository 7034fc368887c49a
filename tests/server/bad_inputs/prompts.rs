//! Q and M: prompts and messages that are none.

use serde_json::{Value, json};

use super::{Case, bad_param, bad_within, chat, completion, shown};

fn prompts() -> Vec<Value> {
    vec![
        json!(null),
        json!(5),
        json!(true),
        json!(""),
        json!([]),
        json!([[]]),
        json!([[1], []]),
        json!(["a", ""]),
        json!([1, "a"]),
        json!([-1]),
        json!([1_000_000_000]),
        json!([1_099_511_627_776_u64]),
        json!([1.5]),
        json!({}),
        json!([[[1]]]),
        json!([null]),
        Value::from(vec!["a"; 3_000]),
    ]
}

fn messages() -> Vec<(&'static str, Value)> {
    let image = |url: &str| {
        let part = json!({"type": "image_url", "image_url": {"url": url}});
        json!([{"role": "user", "content": [part]}])
    };
    vec![
        ("M00 null", json!(null)),
        ("M01 a string", json!("text")),
        ("M02 empty", json!([])),
        ("M03 no role", json!([{}])),
        ("M03 no role, with content", json!([{"content": "a"}])),
        ("M04 no content", json!([{"role": "user"}])),
        ("M05 a role that is a number", json!([{"role": 1, "content": "a"}])),
        ("M06 a part without text", json!([{"role": "user", "content": [{"type": "text"}]}])),
        ("M06 a part without type", json!([{"role": "user", "content": [{"text": "a"}]}])),
        ("M07 a file", image("file:///etc/passwd")),
        ("M08 an address inside", image("http://169.254.169.254/latest/meta-data")),
        ("M08 data", image("data:image/png;base64,AAAA")),
        (
            "M09 an answer of a tool that nobody called",
            json!([{"role": "tool", "content": "a", "tool_call_id": "x"}]),
        ),
        ("M10 content null", json!([{"role": "user", "content": null}])),
        ("M11 a content that is a number", json!([{"role": "user", "content": 5}])),
        ("M12 an unknown role", json!([{"role": "king", "content": "a"}])),
        ("M13 an array in the array", json!([[]])),
        ("M13 a string in the array", json!(["a"])),
        (
            "M14 an unknown part",
            json!([{"role": "user", "content": [{"type": "video", "video": 1}]}]),
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (idx, prompt) in prompts().into_iter().enumerate() {
        let name = format!("Q{idx:02} {}", shown(&prompt));
        cases.push(completion(name, json!({"prompt": prompt}).to_string(), bad_within("prompt")));
    }
    cases.push(completion("Q left out", "{}", bad_param("prompt")));
    for (name, messages) in messages() {
        let body = json!({"messages": messages}).to_string();
        cases.push(chat(name, body, bad_within("messages")));
    }
    cases.push(chat("M left out", "{}", bad_param("messages")));
    cases
}

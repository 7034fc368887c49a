//! What a prompt is to the model, and vLLM's small additions.

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, user};
use super::{CONTEXT, start_server};

#[test]
fn a_prompt_becomes_tokens_and_text_again() {
    let server = start_server(&[]);
    let ask = |path: &str, body: Value| server.post(path, body.to_string()).json();
    let plain = ask("/tokenize", json!({"prompt": "hi"}));
    assert_eq!((&plain["count"], &plain["max_model_len"]), (&json!(2), &json!(CONTEXT)));
    assert_eq!(
        (plain["tokens"].as_array().unwrap().len(), &plain["token_strs"]),
        (2, &Value::Null)
    );
    let spelled = ask("/tokenize", json!({"prompt": "hi", "return_token_strs": true}));
    assert_eq!(spelled["token_strs"], json!(["h", "i"]));
    let back = ask("/detokenize", json!({"tokens": plain["tokens"]}));
    assert_eq!(back, json!({"prompt": "hi"}));

    let chat = ask("/tokenize", json!({"messages": user("hi")}));
    let text = ask("/detokenize", json!({"tokens": chat["tokens"]}));
    assert_eq!(text, json!({"prompt": "<user>hi\n<assistant>"}));
    let no_turn = json!({"messages": user("hi"), "add_generation_prompt": false});
    let no_turn = ask("/tokenize", no_turn);
    assert_eq!(no_turn["count"], "<user>hi\n".len());
}

#[test]
fn what_is_no_prompt_is_refused_by_name() {
    let server = start_server(&[]);
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({"prompt": 5}), "prompt"),
        ("/tokenize", json!({"prompt": "a", "messages": user("a")}), "prompt"),
        ("/tokenize", json!({"messages": []}), "messages"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens"),
        ("/detokenize", json!({"tokens": [4_000_000_000_u32]}), "tokens"),
        ("/detokenize", json!({"tokens": "a"}), "tokens"),
    ] {
        let reply = server.post(path, body.to_string());
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "{path} {body}");
    }
    let other = server.post("/tokenize", json!({"model": "other", "prompt": "a"}).to_string());
    assert_eq!(other.status, 404);
}

#[test]
fn balancers_are_answered() {
    let server = start_server(&[]);
    assert_eq!(server.get("/ping").status, 200);
    assert_eq!(server.post("/ping", "").status, 200);
    assert_eq!(server.get("/load").json(), json!({"server_load": 0}));
}

#[test]
fn token_ids_are_told_where_they_are_asked_for() {
    let server = start_server(&[]);
    let asked = json!({"max_tokens": 4, "ignore_eos": true, "return_token_ids": true,
                       "request_id": "mine", "logprobs": true,
                       "return_tokens_as_token_ids": true});
    let mut chat = asked.clone();
    chat["messages"] = user("a");
    let whole = server.chat(&chat).json();
    assert_eq!(whole["id"], "chatcmpl-mine");
    assert_eq!(whole["prompt_token_ids"].as_array().unwrap().len(), "<user>a\n<assistant>".len());
    let ids = whole["choices"][0]["token_ids"].as_array().unwrap().clone();
    assert_eq!(ids.len(), 4);
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens[0]["token"], format!("token_id:{}", ids[0]));

    let mut text = asked;
    text["prompt"] = json!([70, 71]);
    text["logprobs"] = 1.into();
    let whole = server.complete(&text).json();
    assert_eq!(whole["choices"][0]["prompt_token_ids"], json!([70, 71]));
    text["stream"] = true.into();
    let chunks = server.chunks(COMPLETIONS, &text);
    let streamed = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["token_ids"].as_array().cloned().unwrap_or_default());
    assert_eq!(streamed.count(), 4);
    chat["stream"] = true.into();
    let chunks = server.chunks(CHAT, &chat);
    assert!(chunks[0]["prompt_token_ids"].is_array(), "{}", chunks[0]);
}

#[test]
fn a_stream_can_count_as_it_goes() {
    let server = start_server(&[]);
    let fields = json!({"messages": user("a"), "max_tokens": 5, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true,
                           "include_obfuscation": false}});
    let chunks = server.chunks(CHAT, &fields);
    let counts: Vec<u64> =
        chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.first() == Some(&0), "{counts:?}");
    assert_eq!(counts.last(), Some(&5));
}

#[test]
fn a_prompt_can_be_cut_and_a_final_message_continued() {
    let server = start_server(&[]);
    let cut = json!({"prompt": "abcdef", "max_tokens": 1, "truncate_prompt_tokens": 2});
    assert_eq!(server.complete(&cut).json()["usage"]["prompt_tokens"], 2);
    for bad in [0, -2, 1_000_000] {
        let fields = json!({"prompt": "a", "truncate_prompt_tokens": bad});
        assert_eq!(server.complete(&fields).error()["param"], "truncate_prompt_tokens");
    }
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let go_on = json!({"messages": messages, "max_tokens": 1, "continue_final_message": true});
    let usage = server.chat(&go_on).json()["usage"].clone();
    assert_eq!(usage["prompt_tokens"], "<user>a\n<assistant>b".len());
    for (field, value) in [
        ("chat_template", json!("x")),
        ("chat_template_kwargs", json!({"messages": 1})),
        ("chat_template_kwargs", json!([])),
        ("request_id", json!("a b")),
        ("service_tier", json!("flex")),
    ] {
        let mut fields = json!({"messages": user("a"), "max_tokens": 1});
        fields[field] = value;
        let reply = server.chat(&fields);
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(field)));
    }
    let trusting = start_server(&["--trust-request-chat-template"]);
    let own = json!({"messages": user("a"), "max_tokens": 1, "chat_template": "12345"});
    assert_eq!(trusting.chat(&own).json()["usage"]["prompt_tokens"], 5);
}

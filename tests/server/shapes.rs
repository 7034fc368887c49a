//! What answers look like.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, keys, user};
use super::{CONTEXT, MODEL, start_server};

#[test]
fn the_served_model_is_listed_and_found_and_no_other() {
    let server = start_server(&[]);
    let list = server.get("/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    let one = server.get("/v1/models/tiny").json();
    assert_eq!(one, list["data"][0]);
    assert!(keys(&one).is_superset(&BTreeSet::from(["id", "object", "created", "owned_by"])));
    for path in ["/v1/models/other", "/v1/models/some/other", "/v1/models/%00"] {
        let reply = server.get(path);
        assert_eq!(
            (reply.status, &reply.error()["code"]),
            (404, &json!("model_not_found")),
            "{path}"
        );
    }
    let no_text = server.get("/v1/models/%ff%fe");
    assert_eq!((no_text.status, &no_text.error()["param"]), (400, &json!("model")));
}

#[test]
fn a_chat_completion_has_its_schema() {
    let server = start_server(&[]);
    let reply = server.chat(&json!({"messages": user("hi"), "max_tokens": 5, "ignore_eos": true}));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let whole = reply.json();
    assert_eq!(
        keys(&whole),
        BTreeSet::from([
            "id",
            "object",
            "created",
            "model",
            "choices",
            "system_fingerprint",
            "usage"
        ])
    );
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!(MODEL)));
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &whole["choices"][0];
    assert_eq!(
        keys(choice),
        BTreeSet::from(["index", "message", "logprobs", "finish_reason", "stop_reason"])
    );
    assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &json!("length")));
    assert!(choice["logprobs"].is_null() && choice["stop_reason"].is_null());
    let message = &choice["message"];
    assert_eq!(keys(message), BTreeSet::from(["role", "content", "refusal"]));
    assert!(message["content"].is_string() && message["refusal"].is_null());
    let prompt = "<user>hi\n<assistant>".len();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(whole["usage"], usage);
}

#[test]
fn a_streamed_chat_completion_is_role_content_reason_usage() {
    let server = start_server(&[]);
    let fields = json!({"messages": user("hi"), "max_completion_tokens": 8, "temperature": 0,
                        "ignore_eos": true});
    let whole = server.chat(&fields).json();
    let mut streamed = fields.clone();
    streamed["stream"] = true.into();
    let plain = server.chunks(CHAT, &streamed);
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for it");

    streamed["stream_options"] = json!({"include_usage": true});
    let mut chunks = server.chunks(CHAT, &streamed);
    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    // All but what was cached, which the second request finds more of.
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], whole["usage"][count], "{count}");
    }
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&last["id"], &last["created"]));
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
    }
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
    assert_eq!(*deltas.last().unwrap(), &json!({}));
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    let reasons: Vec<&Value> =
        chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(**reasons.last().unwrap(), "length");
    assert!(reasons[..reasons.len() - 1].iter().all(|reason| reason.is_null()));
}

#[test]
fn a_text_completion_has_its_schema_and_sixteen_tokens() {
    let server = start_server(&[]);
    let whole = server.complete(&json!({"prompt": "once", "ignore_eos": true})).json();
    assert_eq!(whole["object"], "text_completion");
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        keys(&whole["choices"][0]),
        BTreeSet::from(["index", "text", "logprobs", "finish_reason", "stop_reason"])
    );
    assert_eq!(whole["usage"]["completion_tokens"], 16);
}

#[test]
fn prompts_come_in_four_forms_and_answers_in_their_order() {
    let server = start_server(&[]);
    let fields = |prompt: Value| json!({"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": true});
    let text_of = |prompt: Value| {
        let whole = server.complete(&fields(prompt)).json();
        whole["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let (one, two) = (text_of(json!("one")), text_of(json!("twotwo")));
    let both = server.complete(&fields(json!(["one", "twotwo"]))).json();
    let texts: Vec<_> = both["choices"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
    assert_eq!(texts, [&json!(one), &json!(two)]);
    assert_eq!(both["usage"]["completion_tokens"], 8);

    let mut streamed = fields(json!(["one", "twotwo"]));
    streamed["stream"] = true.into();
    let mut joined = [String::new(), String::new()];
    for chunk in server.chunks(COMPLETIONS, &streamed) {
        let choice = &chunk["choices"][0];
        joined[choice["index"].as_u64().unwrap() as usize]
            .push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(joined, [one, two]);

    let ids = json!([40, 41, 42]);
    assert_eq!(text_of(ids.clone()), text_of(json!([ids])));
}

#[test]
fn echo_puts_the_prompt_first() {
    let server = start_server(&[]);
    let fields = json!({"prompt": "once é", "echo": true, "max_tokens": 2});
    let whole = server.complete(&fields).json();
    assert!(whole["choices"][0]["text"].as_str().unwrap().starts_with("once é"));
    let mut streamed = fields;
    streamed["stream"] = true.into();
    assert_eq!(server.chunks(COMPLETIONS, &streamed)[0]["choices"][0]["text"], "once é");
}

#[test]
fn health_version_and_metrics_tell_what_runs() {
    let server = start_server(&[]);
    for path in ["/health", "/health/live", "/health/ready"] {
        let reply = server.get(path);
        assert_eq!((reply.status, keys(&reply.json())), (200, BTreeSet::from(["status"])));
    }
    let version = server.get("/version").json();
    assert_eq!((&version["name"], &version["max_model_len"]), (&json!("cairn"), &json!(CONTEXT)));
    assert!(version["boot_seconds"].is_object() && version["graphs"]["compiled"].is_u64());

    server.assert_serves("nothing");
    assert!(server.metric("vllm:generation_tokens_total") >= 1.0);
    assert!(server.metric("vllm:time_to_first_token_seconds_count") >= 1.0);
    assert!((server.metric("cairn_compiles_after_ready_total")).abs() < f64::EPSILON);
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in String::from_utf8(reply.body).unwrap().lines() {
        let is_comment = line.starts_with("# HELP ") || line.starts_with("# TYPE ");
        let is_sample = line.rsplit_once("\"} ").is_some_and(|(series, value)| {
            series.contains("{model_name=\"") && value.parse::<f64>().is_ok()
        });
        assert!(is_comment || is_sample, "{line}");
    }
}

#[test]
fn every_answer_carries_a_request_id() {
    let server = start_server(&[]);
    for path in ["/v1/models", "/nowhere", "/v1/completions", "/metrics"] {
        assert_eq!(server.get(path).header("x-request-id").map(str::len), Some(32), "{path}");
    }
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\nx-request-id: mine-7\r\n\r\n";
    assert_eq!(server.connect().exchange(request).header("x-request-id"), Some("mine-7"));
}

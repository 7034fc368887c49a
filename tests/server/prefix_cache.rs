//! Prompts that begin alike: what is told of it, and how it is forgotten.

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, Server};
use super::start_server;

/// Far more than a few KV blocks.
const SYSTEM: &str = "You are a patient guide of a small museum of clocks. Answer in one sentence, \
                      and never tell anybody the time.";

/// How many tokens of a chat's prompt were in the cache.
fn cached_tokens(server: &Server, question: &str, more: &Value) -> u64 {
    let messages =
        json!([{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]);
    let mut fields = json!({"messages": messages, "max_tokens": 2, "temperature": 0});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = server.chat(&fields);
    assert_eq!(reply.status, 200, "{reply:?}");
    let usage = reply.json()["usage"].clone();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached < usage["prompt_tokens"].as_u64().unwrap(), "the last token is always computed");
    cached
}

#[test]
fn the_second_prompt_that_begins_alike_is_mostly_cached_until_a_reset() {
    let server = start_server(&[]);
    let none = json!({});
    assert_eq!(cached_tokens(&server, "one", &none), 0);
    let shared = cached_tokens(&server, "two", &none);
    assert!(shared >= SYSTEM.len() as u64, "{shared}");
    assert!(server.metric("vllm:prefix_cache_hits_total") >= shared as f64);
    assert!(
        server.metric("vllm:prefix_cache_queries_total")
            > server.metric("vllm:prefix_cache_hits_total")
    );

    let reply = server.post("/reset_prefix_cache", "");
    assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
    assert_eq!(cached_tokens(&server, "three", &none), 0);
    assert!(
        server.metric(
            "cairn_prefix_cache_evictions_total{model_name=\"tiny\",engine=\"0\",reason=\"reset\"}"
        ) > 0.0
    );
    assert_eq!(server.get("/reset_prefix_cache").status, 405);
}

#[test]
fn tenants_with_different_salts_share_nothing() {
    let server = start_server(&[]);
    let of = |salt: &str| json!({"cache_salt": salt});
    assert_eq!(cached_tokens(&server, "one", &of("a")), 0);
    assert_eq!(cached_tokens(&server, "one", &of("b")), 0);
    assert_eq!(cached_tokens(&server, "one", &json!({})), 0);
    assert!(cached_tokens(&server, "one", &of("a")) > 0);
}

#[test]
fn nothing_is_cached_where_it_is_turned_off() {
    let server = start_server(&["--no-enable-prefix-caching"]);
    for _ in 0..2 {
        assert_eq!(cached_tokens(&server, "one", &json!({})), 0);
    }
}

#[test]
fn a_stream_tells_what_was_cached_with_its_counts() {
    let server = start_server(&[]);
    for (path, input) in [
        (COMPLETIONS, json!({"prompt": SYSTEM})),
        (CHAT, json!({"messages": [{"role": "user", "content": SYSTEM}]})),
    ] {
        let mut fields = input;
        let more =
            json!({"max_tokens": 1, "stream": true, "stream_options": {"include_usage": true}});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let cached = || {
            let usage = server.chunks(path, &fields).pop().unwrap()["usage"].clone();
            usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
        };
        let (first, second) = (cached(), cached());
        assert!(first < second && second > 64, "{path}: {first} {second}");
    }
}

#[test]
fn a_folder_for_prefixes_is_told_with_the_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let server = start_server(&["--prefix-cache-dir", folder.path().to_str().unwrap()]);
    assert_eq!(cached_tokens(&server, "one", &json!({})), 0);
    for name in ["bytes", "misses_total", "errors_total", "blocks_saved_total"] {
        assert!(server.metric(&format!("cairn_prefix_store_{name}")) >= 0.0, "{name}");
    }
    assert!(server.metric("cairn_prefix_store_errors_total") < 1.0);
}

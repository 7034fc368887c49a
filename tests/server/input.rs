//! Bodies that ask for what cannot be had: each is refused, by name, and the next is served.

use std::time::Instant;

use serde_json::json;

use super::client::{CHAT, COMPLETIONS, PATIENCE, Reply, user, with_model};
use super::{CONTEXT, start_server};

#[test]
fn what_is_not_a_json_object_is_refused() {
    let server = start_server(&[]);
    let field = |value: &str| format!(r#"{{"model": "tiny", "prompt": "a", "x": {value}}}"#);
    let bodies: Vec<Vec<u8>> = [
        String::new(),
        "nonsense".into(),
        "[]".into(),
        "null".into(),
        r#"{"model": "tiny", "prompt": "a""#.into(),
        r#"{"model": "tiny", "prompt": "a"} trailing"#.into(),
        r#"{"model": "tiny", "prompt": "\ud800"}"#.into(),
        "[".repeat(100_000),
        r#"{"a":"#.repeat(100_000),
        field("NaN"),
        field("-Infinity"),
        field("'a'"),
    ]
    .map(String::into_bytes)
    .into_iter()
    .chain([b"\xff\xfe".to_vec(), b"{\"model\": \"tiny\", \"prompt\": \"\xff\"}".to_vec()])
    .collect();
    for body in &bodies {
        for path in [COMPLETIONS, CHAT] {
            let reply = server.post(path, body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(reply.status, 400, "{shown}: {reply:?}");
            assert_eq!(reply.error()["type"], "invalid_request_error", "{shown}");
        }
    }
    server.assert_serves("bad JSON");
}

#[test]
fn odd_but_valid_json_is_taken() {
    let server = start_server(&[]);
    let keys = (0..100_000).fold(String::new(), |keys, i| keys + &format!("\"k{i}\":0,"));
    for body in [
        r#"{"model": "x", "model": "tiny", "prompt": "a", "max_tokens": 1}"#.to_owned(),
        r#"{"prompt": "a\u0000b", "max_tokens": 1, "user": "me", "unheard_of": [1, {}]}"#
            .to_owned(),
        format!("{{{keys}\"prompt\": \"a\", \"max_tokens\": 1}}"),
    ] {
        let reply = server.post(COMPLETIONS, &body);
        assert_eq!(reply.status, 200, "{body:.80}: {reply:?}");
    }
}

#[test]
fn a_bad_parameter_is_named() {
    let server = start_server(&[]);
    let digits = "9".repeat(400);
    for (param, values) in [
        (
            "max_tokens",
            vec![
                "0",
                "-1",
                "-9223372036854775808",
                "9223372036854775808",
                "1.5",
                "\"5\"",
                "true",
                "[]",
                "{}",
                "1e999",
                &digits,
            ],
        ),
        ("temperature", vec!["-0.1", "1e30", "\"a\"", "1e999", "true", &digits, "[1]"]),
        ("top_p", vec!["0", "-1", "1.5", "\"a\""]),
        ("top_k", vec!["-7", "1.5", "\"a\"", "9223372036854775808"]),
        ("min_p", vec!["-0.1", "1.1", "\"a\""]),
        ("seed", vec!["1.5", "\"a\"", "99999999999999999999"]),
        ("n", vec!["0", "-1", "129", "100000", "2147483648", "1.5", "\"2\"", "[]"]),
        ("best_of", vec!["0", "-1", "129", "true"]),
        ("min_tokens", vec!["-1", "1.5"]),
        ("presence_penalty", vec!["2.5", "-3", "1e999", "\"a\""]),
        ("frequency_penalty", vec!["2.5", "-3", "[]"]),
        ("repetition_penalty", vec!["0", "-1", "1e300"]),
        ("logit_bias", vec!["{\"abc\": 1}", "{\"1000000\": 1}", "{\"5\": \"x\"}", "[1]", "5"]),
        ("bad_words", vec!["[\"\"]", "\"x\"", "[1]"]),
        ("allowed_token_ids", vec!["[]", "[4294967295]", "[1000000]", "[-1]"]),
        ("prompt_logprobs", vec!["-1", "21", "true"]),
        ("use_beam_search", vec!["1", "\"true\""]),
        ("length_penalty", vec!["2", "\"a\""]),
        ("early_stopping", vec!["true", "\"never\""]),
        ("include_stop_str_in_output", vec!["1"]),
        ("priority", vec!["2147483648", "1.5"]),
        ("deadline", vec!["0", "-1", "1e9", "\"soon\""]),
        ("timeout", vec!["0", "-1", "1e9"]),
        ("cache_salt", vec!["\"\"", "5"]),
        ("stop", vec!["[\"\"]", "[1]", "{}", "5", "\"\""]),
        ("stop_token_ids", vec!["[-1]", "[4294967295]", "[\"a\"]", "5"]),
        ("ignore_eos", vec!["1", "\"true\""]),
        ("stream", vec!["1", "\"true\""]),
        ("stream_options", vec!["[]", "{\"include_usage\": true}"]),
        ("model", vec!["5", "[]"]),
    ] {
        for value in values {
            for (path, input) in [
                (COMPLETIONS, r#""prompt": "a""#),
                (CHAT, r#""messages": [{"role": "user", "content": "a"}]"#),
            ] {
                let reply = server.post(path, format!("{{{input}, \"{param}\": {value}}}"));
                assert_eq!(reply.status, 400, "{param} {value:.40}: {reply:?}");
                assert_eq!(reply.error()["param"], param, "{value:.40}: {reply:?}");
            }
        }
    }
    for (param, value) in
        [("logprobs", json!(-1)), ("logprobs", json!(21)), ("logprobs", json!(true))]
    {
        let reply = server.complete(&json!({"prompt": "a", param: value}));
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "{value}");
    }
    for (param, fields) in [
        ("logprobs", json!({"logprobs": 1})),
        ("top_logprobs", json!({"top_logprobs": 1})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": -1})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 21})),
        ("best_of", json!({"n": 3, "best_of": 2})),
    ] {
        let mut body = json!({"messages": user("a")});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = server.chat(&body);
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "{fields}");
    }
    let many = json!({"prompt": "a", "stop": vec!["x"; 10_000]});
    assert_eq!(server.complete(&many).error()["param"], "stop");
    let many = json!({"prompt": "a", "stop_token_ids": vec![1; 5_000]});
    assert_eq!(server.complete(&many).error()["param"], "stop_token_ids");
    for seed in ["-1", "-9223372036854775808", "9223372036854775807"] {
        let body = format!(r#"{{"prompt": "a", "max_tokens": 1, "seed": {seed}}}"#);
        assert_eq!(server.post(COMPLETIONS, body).status, 200, "seed {seed}");
    }
    let zero = server.chat(&json!({"messages": user("a"), "max_completion_tokens": 0}));
    assert_eq!(zero.error()["param"], "max_completion_tokens");
    let other = server.complete(&json!({"model": "other", "prompt": "a"}));
    assert_eq!((other.status, &other.error()["code"]), (404, &json!("model_not_found")));
}

#[test]
fn what_is_not_supported_is_refused_by_name_unless_it_asks_for_nothing() {
    let server = start_server(&[]);
    let shared = json!({
        "logits_processors": [["x"]], "kv_transfer_params": [{}],
        "structured_outputs": [{"structural_tag": {}}],
    });
    let chat = json!({
        "modalities": [["audio"]], "audio": [{}], "echo": [true], "store": [true],
        "web_search_options": [{}], "prediction": [{}], "mm_processor_kwargs": [{"a": 1}],
    });
    let completions = json!({"suffix": ["x"], "prompt_embeds": ["x"]});
    let tables = [
        (COMPLETIONS, json!({"prompt": "a"}), [&shared, &completions]),
        (CHAT, json!({"messages": user("a")}), [&shared, &chat]),
    ];
    for (path, input, fields) in tables {
        for (field, values) in fields.iter().flat_map(|fields| fields.as_object().unwrap()) {
            for value in values.as_array().unwrap() {
                let mut body = input.clone();
                body[field] = value.clone();
                let reply = server.post(path, with_model(&body).to_string());
                assert_eq!(reply.status, 400, "{field} {value}: {reply:?}");
                let error = reply.error();
                assert_eq!(error["param"], *field, "{value}");
                assert!(error["message"].as_str().unwrap().contains("not supported"), "{error}");
            }
        }
    }
    let neutral = json!({
        "messages": user("a"), "max_tokens": 1, "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0,
        "repetition_penalty": 1.0, "logit_bias": {}, "logprobs": false, "top_logprobs": null,
        "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "stop": null,
        "min_tokens": 0, "modalities": ["text"], "top_k": -1, "user": "me", "metadata": {},
        "store": false, "service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "y",
        "verbosity": "low", "spaces_between_special_tokens": true, "functions": null,
    });
    assert_eq!(server.chat(&neutral).status, 200);
}

#[test]
fn a_prompt_that_is_none_is_refused() {
    let server = start_server(&[]);
    for prompt in [
        "null",
        "5",
        "\"\"",
        "[]",
        "[[]]",
        "[[1], []]",
        "[\"a\", \"\"]",
        "[1, \"a\"]",
        "[-1]",
        "[1000000000]",
        "[1099511627776]",
        "[1.5]",
        "{}",
        "true",
        "[[[1]]]",
    ] {
        let reply = server.post(COMPLETIONS, format!(r#"{{"prompt": {prompt}}}"#));
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("prompt")), "{prompt}");
    }
    let many = server.complete(&json!({"prompt": vec!["a"; 3_000]}));
    assert_eq!((many.status, &many.error()["param"]), (400, &json!("prompt")));
    assert_eq!(server.complete(&json!({})).error()["param"], "prompt");
}

#[test]
fn messages_that_cannot_be_rendered_are_refused() {
    let server = start_server(&[]);
    let image = |url: &str| json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]);
    for messages in [
        json!(null),
        json!("text"),
        json!([]),
        json!([{}]),
        json!([[]]),
        json!(["a"]),
        json!([{"role": "user"}]),
        json!([{"content": "a"}]),
        json!([{"role": 1, "content": "a"}]),
        json!([{"role": "user", "content": null}]),
        json!([{"role": "user", "content": 5}]),
        json!([{"role": "user", "content": [{"type": "text"}]}]),
        json!([{"role": "user", "content": [{"text": "a"}]}]),
        json!([{"role": "king", "content": "a"}]),
        json!([{"role": "tool", "content": "a", "tool_call_id": "x"}]),
        image("file:///etc/passwd"),
        image("http://169.254.169.254/latest/meta-data"),
    ] {
        let reply = server.chat(&json!({"messages": messages}));
        assert_eq!(reply.status, 400, "{messages}: {reply:?}");
        let param = reply.error()["param"].as_str().unwrap().to_owned();
        assert!(param.starts_with("messages"), "{messages}: {param}");
    }
    assert_eq!(server.chat(&json!({})).error()["param"], "messages");
}

#[test]
fn what_is_too_long_for_the_context_is_refused_quickly() {
    let server = start_server(&[]);
    let start = Instant::now();
    let long = |reply: Reply| {
        assert_eq!(reply.status, 400, "{reply:?}");
        assert_eq!(reply.error()["code"], "context_length_exceeded", "{reply:?}");
    };
    long(server.complete(&json!({"prompt": "word ".repeat(1_000_000)})));
    long(server.complete(&json!({"prompt": vec![5; 1_000_000]})));
    long(server.complete(&json!({"prompt": "x".repeat(2 << 20)})));
    long(server.complete(&json!({"prompt": vec![5; CONTEXT]})));
    long(server.chat(&json!({"messages": user(&"a".repeat(CONTEXT))})));
    let message = json!({"role": "user", "content": "a"});
    let many = server.chat(&json!({"messages": vec![message; 100_000]}));
    assert_eq!(many.status, 400, "{many:?}");
    assert!(start.elapsed() < PATIENCE);
    // One token is left: that is enough.
    let full = json!({"prompt": vec![5; CONTEXT - 1], "max_tokens": 50, "ignore_eos": true});
    let usage = &server.complete(&full).json()["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(CONTEXT - 1), &json!(1))
    );
}

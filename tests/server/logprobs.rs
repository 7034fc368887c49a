//! Log probabilities: of generated tokens, of prompts, whole and streamed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, Server, keys, user};
use super::start_server;

/// Capital letters only, so that every token is a text of one character.
fn letters() -> Vec<u32> {
    (b'A'..=b'Z').map(|letter| 3 + u32::from(letter)).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

/// The texts of a list, joined.
fn joined(texts: &[Value]) -> String {
    texts.iter().map(|text| text.as_str().unwrap()).collect()
}

fn choice(server: &Server, fields: &Value) -> Value {
    let reply = server.complete(fields);
    assert_eq!(reply.status, 200, "{fields}: {reply:?}");
    reply.json()["choices"][0].clone()
}

/// The lists of a text completion's logprobs over all chunks of a stream.
fn streamed(server: &Server, fields: &Value) -> Value {
    let mut fields = fields.clone();
    fields["stream"] = true.into();
    let mut all =
        json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    for chunk in server.chunks(COMPLETIONS, &fields) {
        let Some(logprobs) = chunk["choices"][0]["logprobs"].as_object() else { continue };
        for (key, more) in logprobs {
            all[key].as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
        }
    }
    all
}

#[test]
fn a_text_completion_has_four_lists_side_by_side() {
    let server = start_server(&[]);
    let fields = json!({"prompt": "once", "max_tokens": 6, "temperature": 0, "logprobs": 3,
                        "ignore_eos": true, "allowed_token_ids": letters()});
    let choice = choice(&server, &fields);
    let logprobs = &choice["logprobs"];
    let names = ["text_offset", "token_logprobs", "tokens", "top_logprobs"];
    assert_eq!(keys(logprobs), BTreeSet::from(names));
    for name in names {
        assert_eq!(list(logprobs, name).len(), 6, "{name}");
    }
    assert_eq!(joined(list(logprobs, "tokens")), choice["text"].as_str().unwrap());
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5]));
    for at in 0..6 {
        let (token, logprob) = (&logprobs["tokens"][at], &logprobs["token_logprobs"][at]);
        let likely = logprobs["top_logprobs"][at].as_object().unwrap();
        assert!((3..=4).contains(&likely.len()), "{likely:?}");
        assert_eq!(likely[token.as_str().unwrap()], *logprob, "the token itself is among them");
        assert!(likely.values().all(|logprob| logprob.as_f64().unwrap() <= 0.0), "{likely:?}");
    }
    assert_eq!(streamed(&server, &fields), *logprobs);
}

#[test]
fn without_a_number_there_are_none_and_with_zero_the_tokens_own() {
    let server = start_server(&[]);
    let fields = json!({"prompt": "once", "max_tokens": 2, "temperature": 0});
    assert!(choice(&server, &fields)["logprobs"].is_null());
    let mut fields = fields;
    fields["logprobs"] = 0.into();
    let own = choice(&server, &fields);
    for likely in list(&own["logprobs"], "top_logprobs") {
        assert_eq!(likely.as_object().unwrap().len(), 1, "{own}");
    }
}

#[test]
fn a_chat_has_tokens_with_bytes_and_the_likeliest() {
    let server = start_server(&[]);
    let mut fields = json!({"messages": user("hi"), "max_tokens": 12, "temperature": 0,
                            "ignore_eos": true, "logprobs": true, "top_logprobs": 2});
    let whole = server.chat(&fields).json();
    let choice = &whole["choices"][0];
    assert_eq!(keys(&choice["logprobs"]), BTreeSet::from(["content", "refusal"]));
    let content = list(&choice["logprobs"], "content");
    assert_eq!(content.len(), 12);
    let mut bytes = Vec::new();
    for token in content {
        assert_eq!(keys(token), BTreeSet::from(["bytes", "logprob", "token", "top_logprobs"]));
        bytes.extend(list(token, "bytes").iter().map(|byte| byte.as_u64().unwrap() as u8));
        let top = list(token, "top_logprobs");
        assert_eq!(top.len(), 2);
        assert_eq!(keys(&top[0]), BTreeSet::from(["bytes", "logprob", "token"]));
        // Nothing keeps the greedy choice from the likeliest token.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        assert!(top[1]["logprob"].as_f64() <= top[0]["logprob"].as_f64());
    }
    let text = choice["message"]["content"].as_str().unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text, "bytes join to the text");

    fields["stream"] = true.into();
    let chunks = server.chunks(CHAT, &fields);
    let streamed: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(streamed, content.iter().collect::<Vec<_>>());

    fields["stream"] = false.into();
    fields.as_object_mut().unwrap().remove("top_logprobs");
    let own = server.chat(&fields).json();
    assert_eq!(own["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[test]
fn an_echo_has_the_logprobs_of_the_prompt_too() {
    let server = start_server(&[]);
    let prompt = "once upon";
    let fields = json!({"prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": true,
                        "echo": true, "logprobs": 1, "allowed_token_ids": letters()});
    let scored = choice(&server, &fields);
    let logprobs = &scored["logprobs"];
    assert_eq!(joined(list(logprobs, "tokens")), scored["text"].as_str().unwrap());
    assert!(scored["text"].as_str().unwrap().starts_with(prompt));
    assert_eq!(list(logprobs, "tokens").len(), prompt.len() + 1);
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    assert!(list(logprobs, "token_logprobs")[1..].iter().all(Value::is_f64), "{logprobs}");
    let offsets: Vec<usize> = (0..=prompt.len()).collect();
    assert_eq!(logprobs["text_offset"], json!(offsets));
    assert!(scored.get("prompt_logprobs").is_none(), "nobody asked for vLLM's form");
    assert_eq!(streamed(&server, &fields), *logprobs);

    // Every choice begins with the prompt.
    let mut fields = fields;
    fields["n"] = 2.into();
    let both = server.complete(&fields).json();
    assert_eq!(both["choices"][0]["logprobs"], both["choices"][1]["logprobs"]);
}

#[test]
fn no_tokens_but_an_echo_scores_a_text() {
    let server = start_server(&[]);
    let generated = choice(
        &server,
        &json!({"prompt": [40, 41, 42], "max_tokens": 8, "temperature": 0, "ignore_eos": true,
                "logprobs": 1, "allowed_token_ids": letters()}),
    );
    let letters = generated["text"].as_str().unwrap().bytes();
    let prompt: Vec<u32> =
        [40, 41, 42].into_iter().chain(letters.map(|byte| 3 + u32::from(byte))).collect();
    let mut fields = json!({"prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 1});
    let reply = server.complete(&fields).json();
    let usage = &reply["usage"];
    assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(0), &json!(11)));
    let scored = &reply["choices"][0];
    assert_eq!(
        (&scored["finish_reason"], list(&scored["logprobs"], "tokens").len()),
        (&json!("length"), 11)
    );
    assert!(scored["text"].as_str().unwrap().ends_with(generated["text"].as_str().unwrap()));
    let of_prompt = &list(&scored["logprobs"], "token_logprobs")[3..];
    for (scored, made) in of_prompt.iter().zip(list(&generated["logprobs"], "token_logprobs")) {
        let (scored, made) = (scored.as_f64().unwrap(), made.as_f64().unwrap());
        assert!((scored - made).abs() < 1e-5, "{scored} {made}");
    }
    assert_eq!(streamed(&server, &fields), scored["logprobs"]);

    fields["echo"] = false.into();
    assert_eq!(server.complete(&fields).error()["param"], "max_tokens");
}

#[test]
fn prompt_logprobs_are_told_by_token_id() {
    let server = start_server(&[]);
    let check = |logprobs: &Value, num_tokens: usize| {
        let logprobs = logprobs.as_array().unwrap();
        assert_eq!(logprobs.len(), num_tokens);
        assert!(logprobs[0].is_null());
        for likely in &logprobs[1..] {
            let likely = likely.as_object().unwrap();
            assert!((2..=3).contains(&likely.len()), "{likely:?}");
            let ranks: BTreeSet<u64> =
                likely.values().map(|token| token["rank"].as_u64().unwrap()).collect();
            assert!(ranks.contains(&1) && ranks.contains(&2), "{likely:?}");
            for (id, token) in likely {
                assert!(id.parse::<u32>().is_ok());
                assert_eq!(keys(token), BTreeSet::from(["decoded_token", "logprob", "rank"]));
            }
        }
    };
    let fields = json!({"prompt": ["once", "twice"], "max_tokens": 1, "prompt_logprobs": 2});
    let reply = server.complete(&fields).json();
    check(&reply["choices"][0]["prompt_logprobs"], "once".len());
    check(&reply["choices"][1]["prompt_logprobs"], "twice".len());
    assert!(reply["choices"][0]["logprobs"].is_null());
    let mut fields = json!({"messages": user("hi"), "max_tokens": 1, "prompt_logprobs": 2});
    check(&server.chat(&fields).json()["prompt_logprobs"], "<user>hi\n<assistant>".len());
    fields["stream"] = true.into();
    assert_eq!(server.chat(&fields).error()["param"], "prompt_logprobs");
}

//! Which texts come back: several choices, beams, and everything that steers the sampler.

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, Server, user};
use super::start_server;

/// Tokens of the tiny model are bytes, after three special ones.
fn token_of(letter: u8) -> u32 {
    3 + u32::from(letter)
}

/// A JSON object with the fields of both.
fn with(fields: &Value, more: &Value) -> Value {
    let mut all = fields.clone();
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn completion(server: &Server, fields: &Value) -> Value {
    let defaults = json!({"prompt": "once", "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let reply = server.complete(&with(&defaults, fields));
    assert_eq!(reply.status, 200, "{fields}: {reply:?}");
    reply.json()
}

fn text(server: &Server, fields: &Value) -> String {
    completion(server, fields)["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// The texts of an answer, whose choices must stand in order.
fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap().iter().enumerate();
    choices
        .map(|(index, choice)| {
            assert_eq!(choice["index"], index);
            let text = choice.get("text").unwrap_or(&choice["message"]["content"]);
            text.as_str().unwrap().to_owned()
        })
        .collect()
}

/// The same from a stream, where each choice must end once and be followed by nothing.
fn streamed_texts(server: &Server, path: &str, fields: &Value, num_choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); num_choices];
    let mut has_ended = vec![false; num_choices];
    for chunk in server.chunks(path, &with(fields, &json!({"stream": true}))) {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        assert!(!has_ended[index], "choice {index} goes on after its end: {chunk}");
        let text = choice.get("text").unwrap_or(&choice["delta"]["content"]);
        texts[index].push_str(text.as_str().unwrap_or_default());
        has_ended[index] = !choice["finish_reason"].is_null();
    }
    assert!(has_ended.iter().all(|has_ended| *has_ended), "{has_ended:?}");
    texts
}

#[test]
fn several_choices_come_whole_and_streamed_alike() {
    let server = start_server(&[]);
    let fields = json!({"n": 3, "seed": 7, "max_tokens": 12, "temperature": 1, "ignore_eos": true});
    for (path, input) in
        [(COMPLETIONS, json!({"prompt": "a"})), (CHAT, json!({"messages": user("a")}))]
    {
        let fields = with(&fields, &input);
        let whole = server.post(path, with(&fields, &json!({"model": super::MODEL})).to_string());
        let whole = whole.json();
        let texts = texts(&whole);
        assert_eq!(texts.len(), 3, "{whole}");
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
        assert_eq!(streamed_texts(&server, path, &fields, 3), texts);
        // The prompt counts once, however many choices it has.
        let usage = &whole["usage"];
        let prompt_tokens = if path == COMPLETIONS { 1 } else { "<user>a\n<assistant>".len() };
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"]),
            (&json!(prompt_tokens), &json!(36))
        );
    }
}

#[test]
fn the_first_of_several_choices_is_the_only_one_of_one() {
    let server = start_server(&[]);
    let fields = |n: u32| json!({"n": n, "seed": 5, "temperature": 1, "max_tokens": 16});
    let one = texts(&completion(&server, &fields(1)));
    let three = texts(&completion(&server, &fields(3)));
    assert_eq!(one[0], three[0]);
    assert_eq!(three, texts(&completion(&server, &fields(3))));
}

#[test]
fn choices_of_several_prompts_are_numbered_prompt_by_prompt() {
    let server = start_server(&[]);
    let (one, two) =
        (text(&server, &json!({"prompt": "one"})), text(&server, &json!({"prompt": "twotwo"})));
    let fields = json!({"prompt": ["one", "twotwo"], "n": 2});
    let expected = [&one, &one, &two, &two].map(String::clone);
    assert_eq!(texts(&completion(&server, &fields)), expected);
    let fields = with(&fields, &json!({"max_tokens": 8, "temperature": 0, "ignore_eos": true}));
    assert_eq!(streamed_texts(&server, COMPLETIONS, &fields, 4), expected);
}

/// The sum of the logprobs of a choice's tokens.
fn likelihood(choice: &Value) -> f64 {
    let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    logprobs.iter().map(|logprob| logprob.as_f64().unwrap()).sum()
}

#[test]
fn the_best_of_several_texts_is_the_likeliest() {
    let server = start_server(&[]);
    let fields = json!({"seed": 3, "temperature": 1, "logprobs": 0});
    let all = completion(&server, &with(&fields, &json!({"n": 4})));
    let choices = all["choices"].as_array().unwrap();
    let by_likelihood = |a: &&Value, b: &&Value| likelihood(a).total_cmp(&likelihood(b));
    let best = choices.iter().max_by(by_likelihood).unwrap();
    let got = completion(&server, &with(&fields, &json!({"best_of": 4})));
    assert_eq!(texts(&got), [best["text"].as_str().unwrap()]);
}

#[test]
fn beams_are_texts_in_the_order_of_their_likelihood() {
    let server = start_server(&[]);
    let fields = json!({"use_beam_search": true, "n": 3, "best_of": 4, "logprobs": 1});
    let found = completion(&server, &fields);
    let choices = found["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    let likelihoods: Vec<f64> = choices.iter().map(likelihood).collect();
    assert!(likelihoods.is_sorted_by(|a, b| a >= b), "{likelihoods:?}");
    let greedy = completion(&server, &json!({"logprobs": 0}));
    assert!(likelihoods[0] >= likelihood(&greedy["choices"][0]) - 1e-4, "{likelihoods:?}");
    let fields = with(&fields, &json!({"prompt": "once", "max_tokens": 8, "ignore_eos": true}));
    assert_eq!(streamed_texts(&server, COMPLETIONS, &fields, 3), texts(&found));
}

#[test]
fn biases_allowances_and_bad_words_rule_the_tokens() {
    let server = start_server(&[]);
    let [a, b] = [b'A', b'B'].map(token_of);
    let bias = json!({"logit_bias": {a.to_string(): 100}});
    assert_eq!(text(&server, &bias), "AAAAAAAA");
    let allowed = json!({"allowed_token_ids": [a, b], "temperature": 1});
    assert!(text(&server, &allowed).bytes().all(|byte| b"AB".contains(&byte)));
    assert_eq!(text(&server, &with(&allowed, &json!({"bad_words": ["A"]}))), "BBBBBBBB");
    // A word of two tokens: only its second one is forbidden, and only after the first.
    let word = with(&bias, &json!({"bad_words": ["AA"], "allowed_token_ids": [a, b]}));
    assert_eq!(text(&server, &word), "ABABABAB");
    // What occurred again and again becomes unlikely.
    let often = json!({"allowed_token_ids": [a, b], "max_tokens": 60, "frequency_penalty": 2});
    let often = text(&server, &often);
    assert!(often.contains('A') && often.contains('B'), "{often}");
}

#[test]
fn a_text_ends_at_a_stop_and_says_which() {
    let server = start_server(&[]);
    let a = token_of(b'A');
    let bias = json!({"logit_bias": {a.to_string(): 100}, "max_tokens": 20});
    let end = |fields: &Value| {
        let answer = completion(&server, &with(&bias, fields));
        let choice = &answer["choices"][0];
        let [text, finish, stop] =
            ["text", "finish_reason", "stop_reason"].map(|key| choice[key].clone());
        (text, finish, stop, answer["usage"]["completion_tokens"].as_u64().unwrap())
    };
    let (word, number) = (|text: &str| json!(text), |number: u32| json!(number));
    assert_eq!(end(&json!({"stop": "AAA"})), (word(""), word("stop"), word("AAA"), 3));
    let included = json!({"stop": ["never", "AAA"], "include_stop_str_in_output": true});
    assert_eq!(end(&included), (word("AAA"), word("stop"), word("AAA"), 3));
    assert_eq!(end(&json!({"stop_token_ids": [a]})), (word(""), word("stop"), number(a), 1));
    assert_eq!(end(&json!({"max_tokens": 2})), (word("AA"), word("length"), Value::Null, 2));
    let (text, finish, stop, count) = end(&json!({"stop_token_ids": [a], "min_tokens": 3}));
    assert_eq!((finish, stop, count), (word("stop"), number(a), 4));
    assert!(!text.as_str().unwrap().contains('A'), "{text}");
}

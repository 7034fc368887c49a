//! Texts that must follow a grammar: whatever the model says, and whatever else runs.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::text::grammar::{Grammar, GrammarCompiler, GrammarSpec};

use super::super::fake::{VOCAB_SIZE, tokenizer};
use super::exactness::{Whole, whole};
use super::*;

fn grammars() -> GrammarCompiler {
    GrammarCompiler::new(&tokenizer(), VOCAB_SIZE + 3, &[EOS]).unwrap()
}

fn json(grammars: &GrammarCompiler, schema: &Value) -> Grammar {
    grammars.compile(&GrammarSpec::JsonSchema(schema.to_string())).unwrap()
}

fn roomy() -> EngineOptions {
    EngineOptions {
        max_model_len: 600,
        max_num_seqs: 16,
        max_num_batched_tokens: 256,
        num_blocks: 1500,
        max_num_queued_reqs: 400,
        ..options()
    }
}

/// Sampling with a seed, without blanks, of which a text of random bytes would be full.
fn sampled(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: if seed.is_multiple_of(3) { 0.0 } else { 1.0 },
        seed: Some(seed),
        logit_bias: [b' ', b'\n', b'\t', b'\r'].map(|blank| (blank.into(), -100.0)).to_vec(),
        ..SamplingParams::default()
    }
}

fn with(grammar: &Grammar, prompt: &[u32], params: SamplingParams) -> Request {
    Request { grammar: Some(grammar.clone()), ..request(prompt, params) }
}

/// Whether a value is what a schema of [`schemas`] wants.
fn is_valid(schema: &Value, value: &Value) -> bool {
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        return options.iter().any(|option| is_valid(option, value));
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.contains(value);
    }
    let limit = |name: &str, or: i64| schema.get(name).and_then(Value::as_i64).unwrap_or(or);
    let within = |got: i64, min: &str, max: &str| {
        (limit(min, i64::MIN)..=limit(max, i64::MAX)).contains(&got)
    };
    match (schema["type"].as_str(), value) {
        (Some("null"), Value::Null) | (Some("boolean"), Value::Bool(_)) => true,
        (Some("integer"), value) => {
            // Minus zero is an integer, too, but none of Rust's.
            let number = value.as_f64().filter(|number| number.fract() == 0.0);
            number.is_some_and(|number| within(number as i64, "minimum", "maximum"))
        }
        (Some("string"), Value::String(text)) => {
            within(text.chars().count() as i64, "minLength", "maxLength")
        }
        (Some("array"), Value::Array(items)) => {
            within(items.len() as i64, "minItems", "maxItems")
                && items.iter().all(|item| is_valid(&schema["items"], item))
        }
        (Some("object"), Value::Object(members)) => {
            let properties = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().unwrap();
            required.iter().all(|name| members.contains_key(name.as_str().unwrap()))
                && members.iter().all(|(name, value)| {
                    properties.get(name).is_some_and(|schema| is_valid(schema, value))
                })
        }
        _ => false,
    }
}

#[test]
fn the_validator_can_say_no() {
    let schema = json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer",
            "minimum": 3, "maximum": 5}},
        "b": {"anyOf": [{"type": "null"}, {"enum": ["x"]}, {"type": "string", "minLength": 2, "maxLength": 2}]}}});
    for good in
        [r#"{"a":[3]}"#, r#"{"a":[5,4],"b":null}"#, r#"{"b":"x","a":[3]}"#, r#"{"a":[3],"b":"éé"}"#]
    {
        assert!(is_valid(&schema, &serde_json::from_str(good).unwrap()), "{good}");
    }
    for bad in [
        "{}",
        "[]",
        r#"{"a":[]}"#,
        r#"{"a":[2]}"#,
        r#"{"a":[3,3,3]}"#,
        r#"{"a":["3"]}"#,
        r#"{"a":[3],"b":1}"#,
        r#"{"a":[3],"b":"y"}"#,
        r#"{"a":[3],"c":1}"#,
    ] {
        assert!(!is_valid(&schema, &serde_json::from_str(bad).unwrap()), "{bad}");
    }
}

/// Small schemas whose texts end.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": "boolean"})),
        (-200_i64..200, 0_i64..3000).prop_map(|(min, more)| {
            json!({"type": "integer", "minimum": min, "maximum": min + more})
        }),
        (0_u64..3, 0_u64..5).prop_map(|(min, more)| {
            json!({"type": "string", "minLength": min, "maxLength": min + more})
        }),
        prop::collection::vec(
            prop_oneof![
                Just(json!(null)),
                Just(json!(false)),
                (-9..1000).prop_map(|n| json!(n)),
                "[a-c\"é ]{0,3}".prop_map(|s| json!(s)),
            ],
            1..4
        )
        .prop_map(|values| json!({"enum": values})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0_u64..2, 0_u64..3).prop_map(|(items, min, more)| {
                json!({"type": "array", "items": items, "minItems": min, "maxItems": min + more})
            }),
            prop::collection::vec((inner.clone(), any::<bool>()), 0..4).prop_map(|members| {
                let names = (0..).map(|idx| format!("p{idx}"));
                let required: Vec<String> = names
                    .clone()
                    .zip(&members)
                    .filter(|(_, (_, is_required))| *is_required)
                    .map(|(name, _)| name)
                    .collect();
                let properties: serde_json::Map<String, Value> =
                    names.zip(members).map(|(name, (schema, _))| (name, schema)).collect();
                json!({"type": "object", "properties": properties, "required": required,
                    "additionalProperties": false})
            }),
            prop::collection::vec(inner, 1..3).prop_map(|options| json!({"anyOf": options})),
        ]
    })
}

#[test]
fn whatever_the_model_says_the_text_is_what_the_schema_wants() {
    let grammars = grammars();
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &roomy());
    let mut runner = TestRunner::new(Config { cases: 60, ..Config::default() });
    let tested = runner.run(&(schemas(), 0_u64..1000), |(schema, first_seed)| {
        let grammar = json(&grammars, &schema);
        let streams: Vec<_> = (first_seed..first_seed + 4)
            .map(|seed| {
                let prompt: Vec<u32> = (0..=seed as u32 % 7).map(|idx| 40 + idx).collect();
                engine.submit(with(&grammar, &prompt, sampled(seed))).unwrap()
            })
            .collect();
        for stream in streams {
            let answer = read(stream);
            prop_assert_eq!(answer.end, Ok(FinishReason::Stop), "{}", &answer.text);
            let value: Result<Value, _> = serde_json::from_str(&answer.text);
            prop_assert!(value.is_ok(), "{} {}", schema, &answer.text);
            prop_assert!(is_valid(&schema, &value.unwrap()), "{} {}", schema, &answer.text);
        }
        Ok(())
    });
    tested.unwrap();
    assert!(is_empty(&engine));
}

/// An object that says much the same again and again, which drafts can guess.
fn records() -> Value {
    json!({"type": "array", "minItems": 3, "maxItems": 5, "items": {"type": "object",
        "properties": {"name": {"type": "string", "maxLength": 3},
            "kind": {"enum": ["same", "same again"]}},
        "required": ["name", "kind"], "additionalProperties": false}})
}

/// With grammars and without, of all kinds.
fn mixed_requests(grammars: &GrammarCompiler) -> Vec<Request> {
    let records = json(grammars, &records());
    let choice = GrammarSpec::Choice(vec!["yes".into(), "no".into(), "yes, but".into()]);
    let choice = grammars.compile(&choice).unwrap();
    (0..40_u64)
        .map(|idx| {
            let prompt: Vec<u32> = (0..=idx as u32 * 7 % 30).map(|at| 34 + at % 50).collect();
            let mut params = sampled(idx);
            match idx % 8 {
                1 => params.n = 3,
                2 => (params.n, params.best_of) = (2, Some(4)),
                3 => params.logprobs = Some(2),
                4 => params.max_tokens = Some(20),
                5 => (params.presence_penalty, params.min_tokens) = (0.5, 40),
                6 => params.prompt_logprobs = Some(1),
                _ => {}
            }
            match idx % 5 {
                0 => {
                    params.max_tokens = Some(50);
                    request(&prompt, params)
                }
                1 => with(&choice, &prompt, params),
                _ => with(&records, &prompt, params),
            }
        })
        .collect()
}

#[test]
fn crowding_preemption_and_speculation_change_no_text() {
    let grammars = grammars();
    let requests = mixed_requests(&grammars);
    let expected: Vec<Whole> = {
        let options = EngineOptions { is_prefix_cache_on: false, ..roomy() };
        let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options);
        let alone =
            |request: &Request| whole(engine.submit(request.clone()).unwrap(), request.params.n);
        requests.iter().map(alone).collect()
    };
    let records = records();
    for (request, whole) in requests.iter().zip(&expected) {
        let is_records = request.grammar.is_some() && whole.choices[0].text.starts_with('[');
        for choice in whole.choices.iter().filter(|_| is_records) {
            let is_whole = choice.end.as_ref().unwrap().reason == FinishReason::Stop;
            assert_eq!(is_whole, request.params.max_tokens.is_none());
            let value: Result<Value, _> = serde_json::from_str(&choice.text);
            assert_eq!(value.is_ok_and(|value| is_valid(&records, &value)), is_whole);
        }
    }
    let ngram = Speculation { num_tokens: 4, method: SpeculativeMethod::Ngram { min: 1, max: 3 } };
    let (mut num_preemptions, mut num_accepted) = (0, 0);
    for (num_blocks, speculation, capabilities) in [
        (1500, None, STATIC),
        (170, None, DYNAMIC),
        (1500, Some(ngram), DYNAMIC),
        (170, Some(ngram), SEPARATE),
    ] {
        let options = EngineOptions { num_blocks, speculation, ..roomy() };
        let (engine, _) = engine(&capabilities, &Script::Hash, &options);
        let streams: Vec<_> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        for (idx, (stream, expected)) in streams.into_iter().zip(&expected).enumerate() {
            let got = whole(stream, expected.choices.len());
            assert_eq!(&got, expected, "request {idx}, {options:?}");
        }
        wait_until("everything is free", || is_empty(&engine));
        let stats = engine.stats();
        num_preemptions += stats.num_preemptions;
        num_accepted += stats.num_accepted_tokens;
    }
    assert!(num_preemptions > 5 && num_accepted > 100, "{num_preemptions} {num_accepted}");
}

#[test]
fn choices_of_one_request_go_their_own_ways() {
    let grammars = grammars();
    let grammar = json(&grammars, &json!({"type": "string", "minLength": 5, "maxLength": 5}));
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &roomy());
    let params = SamplingParams { n: 4, ..sampled(1) };
    let whole = whole(engine.submit(with(&grammar, &[65], params)).unwrap(), 4);
    let texts: std::collections::BTreeSet<&str> =
        whole.choices.iter().map(|choice| choice.text.as_str()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    for text in texts {
        let text: String = serde_json::from_str(text).unwrap();
        assert_eq!(text.chars().count(), 5);
    }
}

#[test]
fn a_text_ends_where_its_grammar_ends() {
    let grammars = grammars();
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &roomy());
    let grammar = |pattern: &str| grammars.compile(&GrammarSpec::Regex(pattern.into())).unwrap();
    let ask = |pattern: &str, params: SamplingParams| {
        read(engine.submit(with(&grammar(pattern), &[65], params)).unwrap())
    };
    let greedy = || greedy_params(50);
    let answer = ask("ab", greedy());
    assert_eq!(answer.token_ids, [97, 98], "complete without an end-of-text token");
    assert_eq!(answer.without_tokens(), Answer::ended("ab", FinishReason::Stop));
    // Neither keeps a text that has nothing more to say.
    let stays = SamplingParams { min_tokens: 9, ignore_eos: true, ..greedy() };
    assert_eq!(ask("ab", stays.clone()).text, "ab");
    let empty = ask("", stays.clone());
    assert_eq!((empty.text.as_str(), empty.end), ("", Ok(FinishReason::Stop)));
    // What may still be said is said.
    assert_eq!(ask("a*", SamplingParams { max_tokens: Some(9), ..stays }).text, "aaaaaaaaa");
    assert_eq!(ask("a{3}b", greedy_params(2)).end, Ok(FinishReason::Length));
    assert_eq!(ask("a{3}b", greedy_params(4)).end, Ok(FinishReason::Stop));
    let stop = SamplingParams { stop: vec!["aab".into()], ..greedy() };
    assert_eq!(
        ask("a{3}b*", stop.clone()).without_tokens(),
        Answer::ended("a", FinishReason::Stop)
    );
    assert_eq!(ask("a{3}", stop).text, "aaa");
    let stop = SamplingParams { stop_token_ids: vec![98], ..greedy() };
    assert_eq!(ask("aaba", stop).without_tokens(), Answer::ended("aa", FinishReason::Stop));
}

#[test]
fn logprobs_are_the_models_own() {
    let grammars = grammars();
    let (engine, _) = engine(&DYNAMIC, &Script::Text(b"xyz".to_vec()), &roomy());
    let grammar = grammars.compile(&GrammarSpec::Regex("ab".into())).unwrap();
    let params = SamplingParams { logprobs: Some(1), ..greedy_params(5) };
    let whole = whole(engine.submit(with(&grammar, &[65], params)).unwrap(), 1);
    let told = &whole.choices[0].logprobs;
    let seen: Vec<_> = told.iter().map(|told| (told.token_id, told.top[0].0)).collect();
    assert_eq!(seen, [(97, u32::from(b'x')), (98, u32::from(b'y'))]);
    assert!(told.iter().all(|told| told.logprob < -30.0 && told.rank > 1));
}

#[test]
fn a_text_that_cannot_go_on_fails_alone() {
    let grammars = grammars();
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &roomy());
    let gate = control.gate();
    // More expressions than a mask may cost.
    let dear = GrammarSpec::Regex("(.*x)?".repeat(300));
    let dear = grammars.compile(&dear).unwrap();
    let good = json(&grammars, &records());
    let good = engine.submit(with(&good, &[66], sampled(5))).unwrap();
    let bad = engine.submit(with(&dear, &[65], greedy_params(50))).unwrap();
    let never = SamplingParams { allowed_token_ids: Some(vec![90]), ..greedy_params(5) };
    let nothing = grammars.compile(&GrammarSpec::Regex("ab".into())).unwrap();
    let nothing = engine.submit(with(&nothing, &[65], never)).unwrap();
    drop(gate);
    let error = read(bad).end.unwrap_err();
    assert!(matches!(error, RequestError::Grammar(_)), "{error}");
    assert!(read(nothing).end.unwrap_err().to_string().starts_with("no token is allowed next"));
    assert_eq!(read(good).end, Ok(FinishReason::Stop));
    assert!(is_empty(&engine));
}

#[test]
fn what_a_grammar_does_not_go_with_is_refused() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &roomy());
    let refusal = |grammars: &GrammarCompiler, params| {
        let grammar = grammars.compile(&GrammarSpec::JsonObject).unwrap();
        engine.submit(with(&grammar, &[65], params)).unwrap_err().to_string()
    };
    let beam = BeamParams { width: 2, length_penalty: 1.0, early_stopping: false };
    let beams = SamplingParams { beam: Some(beam), ..greedy_params(5) };
    assert!(refusal(&grammars(), beams).starts_with("invalid use_beam_search: "));
    let narrow = GrammarCompiler::new(&tokenizer(), 200, &[EOS]).unwrap();
    assert_eq!(
        refusal(&narrow, greedy_params(5)),
        "invalid grammar: expected a grammar over 256 tokens, got one over 200"
    );
}

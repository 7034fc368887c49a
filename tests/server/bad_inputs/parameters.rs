//! P: parameters of a wrong type, out of range or absurd.

use serde_json::{Value, json};

use super::{Case, Expected, bad_param, bad_within, chat, completion, refused, shown};

/// By parameter: values that both endpoints refuse, naming it.
fn refused_by_both() -> Vec<(&'static str, Vec<Value>)> {
    let mut longest = vec![json!("x"); 10_000];
    longest.push(json!("y"));
    vec![
        (
            "max_tokens",
            vec![
                json!(0),
                json!(-1),
                json!(i64::MIN),
                json!(9_223_372_036_854_775_808_u64),
                json!(1.5),
                json!("5"),
                json!(true),
                json!([]),
                json!({}),
            ],
        ),
        (
            "n",
            vec![
                json!(0),
                json!(-1),
                json!(100_000),
                json!(2_147_483_648_u64),
                json!(1.5),
                json!("2"),
            ],
        ),
        ("temperature", vec![json!(-0.1), json!(1e30), json!("a"), json!(true), json!([1])]),
        ("top_p", vec![json!(0), json!(-1), json!(1.5), json!("a")]),
        ("top_k", vec![json!(-7), json!(1.5), json!("a"), json!(9_223_372_036_854_775_808_u64)]),
        ("min_p", vec![json!(-0.1), json!(1.1), json!("a")]),
        ("presence_penalty", vec![json!(2.5), json!(-3), json!("a")]),
        ("frequency_penalty", vec![json!(2.5), json!(-3), json!([])]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!(1e300)]),
        ("seed", vec![json!(1.5), json!("a"), json!(u64::MAX)]),
        ("stop", vec![json!([""]), json!(longest), json!([1]), json!({}), json!(5)]),
        ("stop_token_ids", vec![json!([-1]), json!([4_294_967_295_u32]), json!(["a"]), json!(5)]),
        (
            "logit_bias",
            vec![
                json!({"abc": 1}),
                json!({"1000000": 1}),
                json!({"5": "x"}),
                json!({"-1": 1}),
                json!([1]),
                json!({"5": 1e300}),
            ],
        ),
        ("stream", vec![json!(1), json!("true")]),
        ("stream_options", vec![json!([]), json!({"include_usage": true})]),
        ("best_of", vec![json!(0), json!(-1), json!(100_000), json!(true)]),
        ("priority", vec![json!(2_147_483_648_u64), json!(1.5)]),
        ("timeout", vec![json!(0), json!(-1), json!(1e9)]),
        ("model", vec![json!(5), json!([]), json!({"a": 1})]),
        ("ignore_eos", vec![json!(1), json!("true")]),
        ("min_tokens", vec![json!(-1), json!(1.5)]),
        ("allowed_token_ids", vec![json!([]), json!([1_000_000]), json!([-1])]),
        ("bad_words", vec![json!([""]), json!("x"), json!([1])]),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (param, values) in refused_by_both() {
        for value in values {
            let name = format!("P {param} {}", shown(&value));
            let expected =
                || if param == "logit_bias" { bad_within(param) } else { bad_param(param) };
            let body = json!({"prompt": "a", param: value});
            cases.push(completion(format!("{name}, completion"), body.to_string(), expected()));
            let body = json!({"messages": [{"role": "user", "content": "a"}], param: value});
            cases.push(chat(format!("{name}, chat"), body.to_string(), expected()));
        }
    }
    for value in [json!(-1), json!(100_000), json!(true), json!("5")] {
        let body = json!({"prompt": "a", "logprobs": value});
        let name = format!("P logprobs {value}");
        cases.push(completion(name, body.to_string(), bad_param("logprobs")));
    }
    for (param, fields) in [
        ("top_logprobs", json!({"top_logprobs": 1})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": -1})),
        ("top_logprobs", json!({"logprobs": true, "top_logprobs": 100_000})),
        ("max_completion_tokens", json!({"max_completion_tokens": 0})),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        cases.push(chat(format!("P {fields}"), body.to_string(), bad_param(param)));
    }
    let neutral =
        json!({"prompt": "a", "max_tokens": 1, "temperature": null, "stop": null, "n": null});
    cases.push(completion("P null is as if left out", neutral.to_string(), Expected::Ok));
    let other = json!({"prompt": "a", "model": "../../etc/passwd"}).to_string();
    cases.push(completion("P another model", other, refused(404, Some("model_not_found"))));
    cases
}

//! Answers that follow a form, whatever the weights.

use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, user};
use super::start_server;

/// A schema whose texts are short.
fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["name", "size"],
           "properties": {"name": {"enum": ["a", "b"]}, "size": {"enum": [1, 2]}}})
}

fn assert_follows(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(["a", "b"].contains(&value["name"].as_str().unwrap()), "{text}");
    assert!([1, 2].contains(&value["size"].as_u64().unwrap()), "{text}");
}

/// Every way to ask for the schema.
fn ways() -> [Value; 4] {
    [
        json!({"response_format": {"type": "json_schema", "json_schema":
               {"name": "x", "strict": true, "schema": schema()}}}),
        json!({"structured_outputs": {"json": schema()}}),
        json!({"guided_json": schema()}),
        json!({"guided_json": schema().to_string()}),
    ]
}

#[test]
fn an_answer_follows_its_schema_whole_streamed_and_several_times() {
    let server = start_server(&[]);
    for way in ways() {
        let mut fields = way.clone();
        fields["messages"] = user("hi");
        fields["max_tokens"] = 300.into();
        fields["n"] = 3.into();
        fields["logprobs"] = true.into();
        let whole = server.chat(&fields).json();
        for choice in whole["choices"].as_array().unwrap() {
            assert_eq!(choice["finish_reason"], "stop", "{choice}");
            assert_follows(choice["message"]["content"].as_str().unwrap());
        }
        fields["n"] = 1.into();
        fields["stream"] = true.into();
        let chunks = server.chunks(CHAT, &fields);
        let delta = |chunk: &Value| {
            chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
        };
        assert_follows(&chunks.iter().map(delta).collect::<String>());
    }
}

#[test]
fn a_text_completion_follows_a_regex_a_choice_and_a_grammar() {
    let server = start_server(&[]);
    let answer = |form: Value| {
        let mut fields = json!({"prompt": "a", "max_tokens": 100});
        fields.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        let reply = server.complete(&fields);
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    for form in [
        json!({"structured_outputs": {"regex": "[0-9]{3}-[ab]"}}),
        json!({"guided_regex": "[0-9]{3}-[ab]"}),
    ] {
        let text = answer(form);
        let (number, letter) = text.split_once('-').unwrap();
        assert!(number.len() == 3 && number.parse::<u32>().is_ok(), "{text}");
        assert!(letter == "a" || letter == "b", "{text}");
    }
    for form in [
        json!({"structured_outputs": {"choice": ["yes", "no"]}}),
        json!({"guided_choice": ["yes", "no"]}),
        json!({"guided_grammar": "start: \"yes\" | \"no\""}),
        json!({"structured_outputs": {"grammar": "start: \"yes\" | \"no\""}}),
    ] {
        let text = answer(form);
        assert!(text == "yes" || text == "no", "{text}");
    }
}

#[test]
fn what_is_no_form_is_refused_by_name() {
    let server = start_server(&[]);
    let json_schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (field, value) in [
        ("response_format", json!({"type": "yaml"})),
        ("response_format", json!({"type": "json_schema"})),
        ("response_format", json!("json")),
        ("response_format", json_schema(json!({"type": "no such type"}))),
        ("response_format", json_schema(json!({"$ref": "https://example.com/schema.json"}))),
        ("structured_outputs", json!({})),
        ("structured_outputs", json!({"regex": "a", "choice": ["b"]})),
        ("structured_outputs", json!({"regex": "("})),
        ("guided_json", json!("not json")),
        ("guided_json", json!(5)),
        ("guided_regex", json!("[")),
        ("guided_choice", json!([])),
        ("guided_choice", json!("yes")),
        ("guided_grammar", json!("nonsense")),
    ] {
        for (path, input) in
            [(COMPLETIONS, json!({"prompt": "a"})), (CHAT, json!({"messages": user("a")}))]
        {
            let mut body = input;
            body["model"] = super::MODEL.into();
            body["max_tokens"] = 1.into();
            body[field] = value.clone();
            let reply = server.post(path, body.to_string());
            assert_eq!(reply.status, 400, "{field} {value}: {reply:?}");
            assert_eq!(reply.error()["param"], field, "{value}");
        }
    }
}

#[test]
fn a_hostile_schema_harms_nobody_else() {
    let server = start_server(&[]);
    let item = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    for schema in [
        json!({"type": "array", "minItems": 1_000_000_000}),
        json!({"type": "array", "items": item, "minItems": 1_000_000, "maxItems": 2_000_000}),
        json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"type": "string", "pattern": "(((a+)+)+)+$"}),
        json!({"enum": (0..20_000).map(|number| format!("value {number}")).collect::<Vec<_>>()}),
        (0..12).fold(json!({"type": "null"}), |inner, _| json!({"anyOf": [inner, inner]})),
    ] {
        let reply =
            server.complete(&json!({"prompt": "a", "max_tokens": 2, "guided_json": schema}));
        // Some have an answer, which begins as they want; the others say why not.
        assert!(reply.status == 200 || reply.error()["param"] == "guided_json", "{reply:?}");
        server.assert_serves("a hostile schema");
    }
}

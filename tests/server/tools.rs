//! Calls of tools. The model's weights are random, so it calls what it must and nothing else.

use serde_json::{Value, json};

use super::client::{CHAT, Server, user};
use super::start_server;

/// Two functions whose arguments are short whatever a model writes.
fn tools() -> Value {
    let tool = |name: &str, schema: Value| {
        json!({"type": "function", "function": {
            "name": name, "description": "for tests", "strict": true, "parameters": schema,
        }})
    };
    let object = |properties: Value, required: Value| {
        json!({"type": "object", "properties": properties, "required": required,
               "additionalProperties": false})
    };
    json!([
        tool("paint", object(json!({"colour": {"enum": ["red", "green"]}}), json!(["colour"]))),
        tool("count", object(json!({"to": {"type": "integer", "enum": [1, 2, 3]}}), json!(["to"]))),
    ])
}

fn forced(choice: &Value) -> Value {
    json!({"messages": user("hi"), "tools": tools(), "tool_choice": choice, "max_tokens": 400,
           "seed": 1, "parallel_tool_calls": false})
}

/// Fails unless a call has its tool's arguments.
fn assert_fits(call: &Value) {
    let arguments = call["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    match call["name"].as_str().unwrap() {
        "paint" => assert!(["red", "green"].contains(&arguments["colour"].as_str().unwrap())),
        "count" => assert!((1..=3).contains(&arguments["to"].as_u64().unwrap())),
        other => panic!("{other}"),
    }
}

/// The message that the chunks of a stream add up to, and its end.
fn reassembled(server: &Server, fields: &Value) -> (Value, Value) {
    let mut streamed = fields.clone();
    streamed["stream"] = true.into();
    let mut calls: Vec<Value> = Vec::new();
    let (mut content, mut end) = (String::new(), Value::Null);
    for chunk in server.chunks(CHAT, &streamed) {
        let choice = &chunk["choices"][0];
        content += choice["delta"]["content"].as_str().unwrap_or_default();
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = part["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(part["id"].is_string() && part["type"] == "function", "{part}");
                calls.push(json!({"name": part["function"]["name"], "arguments": ""}));
            }
            let more = part["function"]["arguments"].as_str().unwrap();
            let arguments = calls[index]["arguments"].as_str().unwrap().to_owned() + more;
            calls[index]["arguments"] = arguments.into();
        }
        if !choice["finish_reason"].is_null() {
            end = choice["finish_reason"].clone();
        }
    }
    (json!({"content": content, "calls": calls}), end)
}

#[test]
fn a_forced_call_is_made_with_valid_arguments_whole_and_streamed() {
    let server = start_server(&[]);
    for choice in [
        json!("required"),
        json!({"type": "function", "function": {"name": "count"}}),
        json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
            {"type": "function", "function": {"name": "paint"}}]}}),
    ] {
        let fields = forced(&choice);
        let whole = server.chat(&fields).json();
        let choice_object = &whole["choices"][0];
        assert_eq!(choice_object["finish_reason"], "tool_calls", "{whole}");
        let message = &choice_object["message"];
        assert!(message["content"].is_null(), "{message}");
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{message}");
        assert!(calls[0]["id"].is_string() && calls[0]["type"] == "function", "{message}");
        assert_fits(&calls[0]["function"]);
        if let Some(name) = choice["function"]["name"].as_str() {
            assert_eq!(calls[0]["function"]["name"], name);
        }
        let (streamed, end) = reassembled(&server, &fields);
        assert_eq!(end, "tool_calls");
        assert_eq!(streamed, json!({"content": "", "calls": [calls[0]["function"]]}));
    }
}

#[test]
fn every_format_of_calls_can_be_forced() {
    for parser in ["hermes", "llama3_json", "mistral", "deepseek_v3", "qwen3_coder", "pythonic"] {
        let server = start_server(&["--tool-call-parser", parser, "--enable-auto-tool-choice"]);
        let reply = server.chat(&forced(&json!("required")));
        assert_eq!(reply.status, 200, "{parser}: {reply:?}");
        let message = reply.json()["choices"][0]["message"].clone();
        let calls = message["tool_calls"].as_array();
        let calls = calls.unwrap_or_else(|| panic!("{parser}: {message}"));
        assert_fits(&calls[0]["function"]);
    }
}

#[test]
fn the_deprecated_form_is_answered_in_its_own_form() {
    let server = start_server(&[]);
    let functions: Vec<Value> =
        tools().as_array().unwrap().iter().map(|tool| tool["function"].clone()).collect();
    let fields = json!({"messages": user("hi"), "functions": functions, "max_tokens": 400,
                        "function_call": {"name": "paint"}});
    let choice = server.chat(&fields).json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "function_call", "{choice}");
    assert_fits(&choice["message"]["function_call"]);
    assert!(choice["message"].get("tool_calls").is_none());
}

#[test]
fn a_model_may_be_shown_calls_and_their_answers() {
    let server = start_server(&["--tool-call-parser", "hermes"]);
    let call = json!({"id": "c1", "type": "function",
                      "function": {"name": "count", "arguments": "{\"to\": 2}"}});
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1 2"},
    ]);
    for choice in ["auto", "none"] {
        let fields = json!({"messages": messages, "tools": tools(), "tool_choice": choice,
                            "max_tokens": 3});
        assert_eq!(server.chat(&fields).status, 200, "{choice}");
    }
}

#[test]
fn what_is_wrong_with_tools_is_named() {
    let server = start_server(&[]);
    let named = |name: &str| json!([{"type": "function", "function": {"name": name}}]);
    let hi = user("hi");
    let bad_schema = json!([{"type": "function", "function": {"name": "f", "parameters":
        {"type": "object", "properties": {"a": {"type": "no such type"}}, "required": ["a"]}}}]);
    for (fields, param) in [
        (json!({"messages": hi, "tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"messages": hi, "tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"messages": hi, "tools": named("a b")}), "tools[0].function.name"),
        (json!({"messages": hi, "tools": 5}), "tools"),
        // Its template tells no format of calls.
        (json!({"messages": hi, "tools": named("f")}), "tools"),
        (json!({"messages": hi, "tools": named("f"), "tool_choice": "g"}), "tool_choice"),
        (json!({"messages": hi, "tool_choice": "required"}), "tool_choice"),
        (
            json!({"messages": hi, "tools": named("f"),
                   "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (json!({"messages": hi, "tools": bad_schema, "tool_choice": "required"}), "tools"),
        (
            json!({"messages": hi, "tools": named("f"), "tool_choice": "required",
                   "response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (json!({"messages": hi, "tools": named("f"), "functions": [{"name": "f"}]}), "functions"),
        (
            json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": "a"}]}),
            "messages[0].tool_call_id",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "x",
                   "function": {"name": "f", "arguments": "nonsense"}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ] {
        let reply = server.chat(&fields);
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "{fields}");
    }
}

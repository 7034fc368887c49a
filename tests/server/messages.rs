//! `/v1/messages`.

use serde_json::{Value, json};

use super::client::{Reply, Server, user, with_model};
use super::keys::{Place, entry};
use super::start_server;

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn create(server: &Server, fields: &Value) -> Reply {
    server.post(MESSAGES, with_model(fields).to_string())
}

/// The typed events of a streamed message.
fn events(server: &Server, fields: &Value) -> Vec<Value> {
    let mut streamed = fields.clone();
    streamed["stream"] = true.into();
    let reply = create(server, &streamed);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    let text = String::from_utf8(reply.body).unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let read = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    };
    events.map(read).collect()
}

/// The message that the events add up to, as a client reads them.
fn reassembled(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    assert_eq!((&events[0]["type"], &message["content"]), (&json!("message_start"), &json!([])));
    let mut json = String::new();
    let mut is_open = false;
    for event in &events[1..] {
        let blocks = message["content"].as_array_mut().unwrap();
        let index = event["index"].as_u64();
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(!std::mem::replace(&mut is_open, true));
                assert_eq!(index, Some(blocks.len() as u64));
                blocks.push(event["content_block"].clone());
                json.clear();
            }
            "content_block_delta" => {
                let (delta, block) = (&event["delta"], blocks.last_mut().unwrap());
                let key = match delta["type"].as_str().unwrap() {
                    "text_delta" => "text",
                    "thinking_delta" => "thinking",
                    "input_json_delta" => {
                        json += delta["partial_json"].as_str().unwrap();
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let text = block[key].as_str().unwrap().to_owned() + delta[key].as_str().unwrap();
                block[key] = text.into();
            }
            "content_block_stop" => {
                assert!(std::mem::replace(&mut is_open, false));
                assert_eq!(index, Some(blocks.len() as u64 - 1));
                let block = blocks.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&json).unwrap();
                }
            }
            "message_delta" => {
                assert!(!is_open);
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => assert_eq!(event, events.last().unwrap()),
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

/// What two answers to the same request share: not their ids, nor what the second found cached.
fn comparable(mut message: Value) -> Value {
    let count = |key: &str| message["usage"][key].as_u64().unwrap();
    let input = count("input_tokens") + count("cache_read_input_tokens");
    message["usage"] = json!([input, count("output_tokens")]);
    message["id"].take();
    for block in message["content"].as_array_mut().unwrap() {
        if block["type"] == "tool_use" {
            assert!(!block["id"].take().as_str().unwrap().is_empty());
        }
    }
    message
}

fn paint() -> Value {
    json!([{"name": "paint", "description": "for tests", "input_schema": {
        "type": "object", "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"], "additionalProperties": false}}])
}

#[test]
fn a_text_is_one_block_and_its_stream_adds_up_to_it() {
    let server = start_server(&[]);
    let fields = json!({"messages": user("hi"), "system": "be brief", "max_tokens": 6,
                        "temperature": 0, "ignore_eos": true});
    let whole = create(&server, &fields).json();
    assert!(whole["id"].as_str().unwrap().starts_with("msg_"), "{whole}");
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(whole["model"], super::MODEL);
    let ended = (&whole["stop_reason"], &whole["stop_sequence"]);
    assert_eq!(ended, (&json!("max_tokens"), &Value::Null));
    let [block] = &whole["content"].as_array().unwrap()[..] else { panic!("{whole}") };
    assert_eq!(block["type"], "text");
    assert_eq!(whole["usage"]["output_tokens"], 6);

    let events = events(&server, &fields);
    let before = &events[0]["message"];
    assert_eq!(
        (&before["stop_reason"], &before["usage"]["output_tokens"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(comparable(reassembled(&events)), comparable(whole.clone()));

    let counted = server.post(COUNT, with_model(&fields).to_string());
    let input_tokens = counted.json()["input_tokens"].clone();
    assert_eq!(comparable(whole)["usage"][0], input_tokens);
    assert_eq!(before["usage"]["input_tokens"], input_tokens);
    let without_limit = json!({"messages": user("hi"), "system": "be brief"});
    let counted = server.post(COUNT, without_limit.to_string());
    assert_eq!(counted.json(), json!({"input_tokens": input_tokens}));
}

#[test]
fn a_stop_sequence_is_named_and_left_out() {
    let server = start_server(&[]);
    let fields = json!({"messages": user("hi"), "max_tokens": 24, "seed": 5, "ignore_eos": true,
                        "stop_sequences": ["never said", "e"], "guided_regex": "[a-d]{4}e[a-d]{4}"});
    let whole = create(&server, &fields).json();
    assert_eq!(
        (&whole["stop_reason"], &whole["stop_sequence"]),
        (&json!("stop_sequence"), &json!("e"))
    );
    let text = whole["content"][0]["text"].as_str().unwrap();
    assert!(text.len() == 4 && !text.contains('e'), "{text}");
    assert_eq!(comparable(reassembled(&events(&server, &fields))), comparable(whole));
}

#[test]
fn a_forced_call_is_a_block_and_its_result_goes_back() {
    let server = start_server(&[]);
    let choice = json!({"type": "tool", "name": "paint", "disable_parallel_tool_use": true});
    let fields = json!({"messages": user("hi"), "tools": paint(), "tool_choice": choice,
                        "max_tokens": 300, "seed": 3});
    let whole = create(&server, &fields).json();
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let [call] = &whole["content"].as_array().unwrap()[..] else { panic!("{whole}") };
    assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("paint")));
    assert!(["red", "green"].contains(&call["input"]["colour"].as_str().unwrap()));
    assert_eq!(comparable(reassembled(&events(&server, &fields))), comparable(whole.clone()));

    let result = json!({"type": "tool_result", "tool_use_id": call["id"], "is_error": false,
                        "content": [{"type": "text", "text": "done"}]});
    let told = json!([{"role": "user", "content": "hi"},
                      {"role": "assistant", "content": whole["content"]},
                      {"role": "user", "content": [result, {"type": "text", "text": "and?"}]}]);
    let reply = create(&server, &json!({"messages": told, "max_tokens": 3}));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn an_answer_can_have_a_schema_and_a_beginning() {
    let server = start_server(&[]);
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
                        "additionalProperties": false});
    let fields = json!({"messages": user("hi"), "max_tokens": 200,
                        "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let whole = create(&server, &fields).json();
    assert_eq!(whole["stop_reason"], "end_turn", "{whole}");
    let text = whole["content"][0]["text"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    assert!([1, 2].contains(&value["a"].as_u64().unwrap()));

    let count = |messages: Value| {
        let reply = server.post(COUNT, json!({"messages": messages}).to_string());
        reply.json()["input_tokens"].as_u64().unwrap()
    };
    let begun = |last: &str| json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": last}]);
    let one_letter = count(begun("ab")) - count(begun("a"));
    assert_eq!(one_letter, 1);
    assert_eq!(count(begun("ab")), count(user("hi")) + 2, "nothing closes what goes on");
}

/// Fails unless this is an error of the dialect, of this status and type.
fn assert_refused(reply: &Reply, status: u16, kind: &str) -> String {
    assert_eq!(reply.status, status, "{reply:?}");
    let object = reply.json();
    assert_eq!((&object["type"], &object["error"]["type"]), (&json!("error"), &json!(kind)));
    assert_eq!(object["request_id"], reply.header("x-request-id").unwrap());
    assert_eq!(object["error"].as_object().unwrap().len(), 2, "{object}");
    object["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn errors_have_the_form_of_the_dialect() {
    let server = start_server(&[]);
    let good = json!({"messages": user("hi"), "max_tokens": 2});
    let image = json!({"type": "image", "source": {"type": "url", "url": "http://x/"}});
    for (change, named) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": [image]}]}),
            "messages[0].content[0].type",
        ),
        (json!({"temperature": 9}), "temperature"),
        (json!({"stop_sequences": [""]}), "stop_sequences"),
        (json!({"top_k": "many"}), "top_k"),
        (json!({"n": 2}), "`n`"),
        (json!({"mcp_servers": [1]}), "mcp_servers"),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type",
        ),
    ] {
        let mut fields = good.clone();
        fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let message = assert_refused(&create(&server, &fields), 400, "invalid_request_error");
        assert!(message.contains(named), "{change}: {message}");
    }
    let mut long = good.clone();
    long["messages"] = user(&"a ".repeat(5000));
    let message = assert_refused(&create(&server, &long), 400, "invalid_request_error");
    assert!(message.starts_with("prompt is too long: "), "{message}");

    let other = json!({"model": "other", "messages": user("hi"), "max_tokens": 1}).to_string();
    for path in [MESSAGES, COUNT] {
        assert_refused(&server.post(path, &other), 404, "not_found_error");
        assert_refused(&server.post(path, "{"), 400, "invalid_request_error");
        let reply = server.get(path);
        assert_refused(&reply, 405, "invalid_request_error");
        assert_eq!(reply.header("allow"), Some("POST"));
    }
    assert_refused(&server.get("/v1/messages/batches"), 404, "not_found_error");
    // Beside these paths nothing changes.
    assert_eq!(server.get("/v1/messagesx").error()["type"], "invalid_request_error");
    server.assert_serves("refusals");
}

#[test]
fn what_the_guard_refuses_has_that_form_too() {
    let file = entry("slow", "requests_per_second = 0.001\nburst = 1");
    let place = Place::new(&(file + &entry("elsewhere", "models = [\"other\"]")));
    let server = place.start(&[]);
    let body = with_model(&json!({"messages": user("hi"), "max_tokens": 1})).to_string();
    let ask = |key: &str| {
        let headers = [&format!("x-api-key: {key}"), "anthropic-version: 2023-06-01"];
        server.ask("POST", MESSAGES, &headers, &body)
    };
    assert_refused(&server.post(MESSAGES, &body), 401, "authentication_error");
    assert_refused(&ask("sk-nobody"), 401, "authentication_error");
    assert_refused(&ask("sk-elsewhere"), 403, "permission_error");
    assert_eq!(ask("sk-slow").status, 200);
    let limited = ask("sk-slow");
    assert_refused(&limited, 429, "rate_limit_error");
    assert!(limited.header("retry-after").is_some());
}

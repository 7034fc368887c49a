//! `/v1/responses`.

use serde_json::{Value, json};

use super::client::{Reply, Server, with_model};
use super::start_server;

const RESPONSES: &str = "/v1/responses";

fn create(server: &Server, fields: &Value) -> Reply {
    server.post(RESPONSES, with_model(fields).to_string())
}

/// The typed events of a streamed response.
fn events(server: &Server, fields: &Value) -> Vec<Value> {
    let mut streamed = fields.clone();
    streamed["stream"] = true.into();
    let reply = create(server, &streamed);
    assert_eq!(reply.status, 200, "{reply:?}");
    let text = String::from_utf8(reply.body).unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let read = |(index, event): (usize, &str)| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        assert_eq!(data["sequence_number"], index);
        data
    };
    events.enumerate().map(read).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

fn paint() -> Value {
    json!([{"type": "function", "name": "paint", "parameters": {
        "type": "object", "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"], "additionalProperties": false}}])
}

#[test]
fn a_text_is_one_message_whole_and_streamed() {
    let server = start_server(&[]);
    let fields =
        json!({"input": "hi", "max_output_tokens": 6, "temperature": 0, "ignore_eos": true});
    let whole = create(&server, &fields).json();
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!((&whole["store"], &whole["tools"]), (&json!(true), &json!([])));
    let message = &whole["output"][0];
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(message["content"][0]["type"], "output_text");
    assert_eq!(whole["usage"]["output_tokens"], 6);
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 0);

    let events = events(&server, &fields);
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let delta = |event: &Value| event["delta"].as_str().unwrap_or_default().to_owned();
    let text: String = events.iter().map(delta).collect();
    assert_eq!(message["content"][0]["text"], text);
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], message["content"]);
}

#[test]
fn a_call_is_an_item_and_its_answer_goes_back() {
    let server = start_server(&[]);
    let fields = json!({"input": [{"role": "user", "content": "hi"}], "tools": paint(), "seed": 3,
                        "tool_choice": {"type": "function", "name": "paint"},
                        "max_output_tokens": 300});
    let whole = create(&server, &fields).json();
    assert_eq!(whole["status"], "completed", "{whole}");
    let call = &whole["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("paint")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["red", "green"].contains(&arguments["colour"].as_str().unwrap()));

    let events = events(&server, &fields);
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let done = events.iter().find(|event| event["arguments"].is_string()).unwrap();
    assert_eq!(done["arguments"], call["arguments"]);

    let answer =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"});
    let next = json!({"input": [answer], "previous_response_id": whole["id"],
                      "max_output_tokens": 3});
    assert_eq!(create(&server, &next).status, 200);
    let by_hand = json!({"input": [{"role": "user", "content": "hi"}, call, answer],
                         "max_output_tokens": 3});
    assert_eq!(create(&server, &by_hand).status, 200);
}

#[test]
fn a_text_can_have_a_schema() {
    let server = start_server(&[]);
    let format = json!({"type": "json_schema", "name": "x", "strict": true, "schema": {
        "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
        "additionalProperties": false}});
    let fields = json!({"input": "hi", "text": {"format": format}, "max_output_tokens": 200});
    let whole = create(&server, &fields).json();
    assert_eq!(whole["text"]["format"], format);
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    assert!([1, 2].contains(&value["a"].as_u64().unwrap()));
}

#[test]
fn a_response_is_held_gone_on_from_and_deleted() {
    let server = start_server(&[]);
    let first = json!({"input": "hi", "instructions": "be brief", "max_output_tokens": 2,
                       "ignore_eos": true});
    let first = create(&server, &first).json();
    let id = first["id"].as_str().unwrap();
    let path = format!("{RESPONSES}/{id}");
    assert_eq!(server.get(&path).json(), first);
    let next = json!({"input": "and?", "previous_response_id": id, "max_output_tokens": 1});
    let second = create(&server, &next).json();
    assert_eq!(second["previous_response_id"], id);
    let alone = json!({"input": "and?", "max_output_tokens": 1, "store": false});
    let alone = create(&server, &alone).json();
    let prompt = |response: &Value| response["usage"]["input_tokens"].as_u64().unwrap();
    assert!(prompt(&second) > prompt(&alone), "it has the conversation before it");

    let deletion = format!("DELETE {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let deleted = server.connect().exchange(deletion.as_bytes()).json();
    assert_eq!(deleted, json!({"id": id, "object": "response", "deleted": true}));
    let gone = server.get(&path);
    assert_eq!((gone.status, &gone.error()["param"]), (404, &json!("response_id")));
    let gone = create(&server, &next);
    assert_eq!((gone.status, &gone.error()["param"]), (404, &json!("previous_response_id")));
    let never = server.get(&format!("{RESPONSES}/{}", alone["id"].as_str().unwrap()));
    assert_eq!(never.status, 404, "it was not to be stored");
}

#[test]
fn what_cannot_be_served_is_named() {
    let server = start_server(&[]);
    for (fields, param) in [
        (json!({}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
        (json!({"input": "a", "background": true}), "background"),
        (json!({"input": "a", "conversation": "x"}), "conversation"),
        (json!({"input": "a", "prompt": {"id": "x"}}), "prompt"),
        (json!({"input": "a", "tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"input": "a", "text": {"format": {"type": "xml"}}}), "text.format"),
        (json!({"input": "a", "max_output_tokens": 0}), "max_output_tokens"),
        (json!({"input": "a", "top_logprobs": 3}), "top_logprobs"),
        (json!({"input": "a", "n": 2}), "n"),
        (json!({"input": "a", "truncation": "middle"}), "truncation"),
        (json!({"input": "a", "metadata": []}), "metadata"),
        (json!({"input": "a", "service_tier": "flex"}), "service_tier"),
    ] {
        let reply = create(&server, &fields);
        assert_eq!((reply.status, &reply.error()["param"]), (400, &json!(param)), "{fields}");
    }
}

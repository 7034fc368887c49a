//! Conversations with tools, thoughts and documents against what the reference renders;
//! `golden/make_chat.py` makes them.

use cairn::text::{ChatMessage, ChatTemplate, Conversation, TextError, ToolCall, ToolSpec};
use serde_json::{Map, Value, json};

use super::golden;

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn message(value: &Value) -> ChatMessage {
    let call = |call: &Value| ToolCall {
        id: text(&call["id"]).unwrap(),
        name: text(&call["function"]["name"]).unwrap(),
        arguments: call["function"]["arguments"].clone(),
    };
    let calls = value["tool_calls"].as_array();
    ChatMessage {
        role: text(&value["role"]).unwrap(),
        content: text(&value["content"]),
        reasoning_content: text(&value["reasoning_content"]),
        tool_calls: calls.into_iter().flatten().map(call).collect(),
        tool_call_id: text(&value["tool_call_id"]),
        name: text(&value["name"]),
    }
}

fn tool(value: &Value) -> ToolSpec {
    let function = &value["function"];
    ToolSpec {
        name: text(&function["name"]).unwrap(),
        description: text(&function["description"]),
        parameters: function["parameters"].clone(),
        strict: false,
    }
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source.to_owned(), Some("<s>"), Some("</s>")).unwrap()
}

#[test]
fn prompts_with_tools_equal_the_reference() {
    let golden = golden::read("chat_tools.json");
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 90);
    for (index, case) in cases.iter().enumerate() {
        let template =
            template(golden["templates"][case["template"].as_str().unwrap()].as_str().unwrap());
        let no_kwargs = Map::new();
        let conversation = Conversation {
            messages: &list(&case["messages"], message),
            tools: &list(&case["tools"], tool),
            documents: &list(&case["documents"], Value::clone),
            add_generation_prompt: case["add_generation_prompt"] == true,
            continue_final_message: case["continue_final_message"] == true,
            kwargs: case["kwargs"].as_object().unwrap_or(&no_kwargs),
        };
        match (template.render(&conversation), case["text"].as_str()) {
            (Ok(text), Some(expected)) => assert_eq!(text, expected, "case {index}"),
            (Err(_), None) => {}
            (result, _) => panic!("case {index}: got {result:?} for {case}"),
        }
    }
}

#[test]
fn a_template_that_asks_whether_there_is_content_is_told() {
    let call = ToolCall { id: "1".into(), name: "f".into(), arguments: json!({}) };
    let messages = [ChatMessage {
        role: "assistant".into(),
        tool_calls: vec![call],
        ..ChatMessage::default()
    }];
    let rendered = |source: &str| template(source).render(&Conversation::new(&messages)).unwrap();
    assert_eq!(rendered("{{ messages[0]['content'] is none }}"), "True");
    assert_eq!(rendered("{{ messages[0].content is not none }}"), "False");
    assert_eq!(rendered("{{ 'content' in messages[0] }}"), "False");
}

#[test]
fn names_that_a_template_relies_on_cannot_be_given() {
    let messages = [ChatMessage::new("user", "x")];
    for name in ["messages", "tools", "bos_token", "strftime_now", "raise_exception"] {
        let kwargs = json!({"style": 1, name: 2});
        let kwargs = kwargs.as_object().unwrap();
        let conversation = Conversation { kwargs, ..Conversation::new(&messages) };
        match template("x").render(&conversation) {
            Err(TextError::ReservedName(got)) => assert_eq!(got, name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn another_program_runs_in_the_same_surroundings() {
    let messages = [ChatMessage::new("user", "x")];
    let own = template("a").with_source("{{ bos_token }}b\r\n{{ messages[0].content }}").unwrap();
    assert_eq!(own.render(&Conversation::new(&messages)).unwrap(), "<s>b\nx");
    assert_eq!(own.source(), "{{ bos_token }}b\n{{ messages[0].content }}");
    assert!(matches!(own.with_source("{% if"), Err(TextError::Template { line: Some(1), .. })));
    assert!(matches!(own.with_source(&"x".repeat(5 << 20)), Err(TextError::Invalid { .. })));
}

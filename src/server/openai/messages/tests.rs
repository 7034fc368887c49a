//! Bodies to dialogues.

use super::*;
use crate::text::output_parser::RequiredTool;

fn read(fields: &str) -> Result<Dialogue, ApiError> {
    let body = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}]{fields}}}"#);
    dialogue(parse(body.as_bytes(), NOT_SUPPORTED)?, Some(7))
}

fn param(fields: &str) -> String {
    read(fields).unwrap_err().body().error.param.unwrap_or_default()
}

#[test]
fn every_field_arrives() {
    let dialogue = read(
        r#", "system": "s", "temperature": 0.5, "top_p": 0.25, "top_k": 4, "stream": true,
            "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "service_tier": "auto",
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"effort": "low"}, "whatever": 1"#,
    )
    .unwrap();
    assert_eq!(dialogue.messages[0], ChatMessage::new("system", "s"));
    assert_eq!(dialogue.max_tokens.value, Some(7));
    let sampling = &dialogue.fields.sampling;
    let numbers = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stream);
    assert_eq!(numbers, (Some(0.5), Some(0.25), Some(4), Some(true)));
    assert_eq!(sampling.stop.as_ref().unwrap().0, ["x"]);
    assert_eq!(dialogue.fields.reasoning_effort.as_deref(), Some("low"));
    assert!(dialogue.include_reasoning && dialogue.parallel_tool_calls);
}

#[test]
fn a_model_thinks_where_it_is_asked_to() {
    let told = |fields: &str| {
        let dialogue = read(fields).unwrap();
        let kwargs = dialogue.fields.chat_template_kwargs.unwrap().0;
        (dialogue.include_reasoning, kwargs["enable_thinking"].as_bool().unwrap())
    };
    assert_eq!(told(""), (false, false));
    assert_eq!(told(r#", "thinking": {"type": "disabled"}"#), (false, false));
    assert_eq!(told(r#", "thinking": {"type": "adaptive"}"#), (true, true));
    let own =
        r#", "thinking": {"type": "enabled"}, "chat_template_kwargs": {"enable_thinking": false}"#;
    assert_eq!(told(own), (true, false));
}

#[test]
fn a_choice_says_what_must_be_called() {
    let tools = r#", "tools": [{"name": "f", "input_schema": {"type": "object"}},
        {"type": "custom", "name": "g", "description": "d", "input_schema": {}}]"#;
    let chosen = |choice: &str| {
        let dialogue = read(&format!(r#"{tools}, "tool_choice": {choice}"#)).unwrap();
        let num_tools = dialogue.tools.specs.len();
        (num_tools, dialogue.tools.required, dialogue.parallel_tool_calls)
    };
    assert!(matches!(chosen(r#"{"type": "auto"}"#), (2, None, true)));
    assert!(matches!(chosen(r#"{"type": "none"}"#), (0, None, true)));
    let any = r#"{"type": "any", "disable_parallel_tool_use": true}"#;
    assert!(matches!(chosen(any), (2, Some(RequiredTool::Any), false)));
    let (_, named, _) = chosen(r#"{"type": "tool", "name": "g"}"#);
    assert!(matches!(named, Some(RequiredTool::Named(name)) if name == "g"));
}

#[test]
fn an_answer_goes_on_with_an_assistants_last_text_only() {
    let goes_on = |last: &str| {
        let body = format!(r#"{{"messages": [{{"role": "user", "content": "a"}}, {last}]}}"#);
        let dialogue = dialogue(parse(body.as_bytes(), &[]).unwrap(), None).unwrap();
        dialogue.fields.continue_final_message == Some(true)
    };
    assert!(goes_on(r#"{"role": "assistant", "content": "b"}"#));
    assert!(!goes_on(r#"{"role": "user", "content": "b"}"#));
    let call = r#"{"role": "assistant", "content": [{"type": "text", "text": "b"},
        {"type": "tool_use", "id": "i", "name": "f", "input": {}}]}"#;
    assert!(!goes_on(call));
}

#[test]
fn what_is_wrong_is_named() {
    for (fields, expected) in [
        (r#", "temperature": 1.5"#, "temperature"),
        (r#", "temperature": -1"#, "temperature"),
        (r#", "stop_sequences": 5"#, "stop_sequences"),
        (r#", "thinking": {"type": "much"}"#, "thinking.type"),
        (r#", "thinking": {}"#, "thinking.type"),
        (r#", "output_config": {"format": {"type": "xml"}}"#, "output_config.format"),
        (r#", "mcp_servers": [{"url": "x"}]"#, "mcp_servers"),
        (r#", "container": "x""#, "container"),
        (r#", "tool_choice": {"type": "any"}"#, "tool_choice"),
        (r#", "tool_choice": {"type": "tool"}"#, "tool_choice"),
        (r#", "tool_choice": {"type": "tool", "name": "f"}"#, "tool_choice"),
        (r#", "tool_choice": {"type": "some"}"#, "tool_choice"),
        (r#", "tool_choice": "auto""#, "tool_choice"),
        (r#", "tools": [{"name": "f"}]"#, "tools[0].input_schema"),
        (r#", "tools": [{"name": "f", "input_schema": 5}]"#, "tools[0].input_schema"),
        (r#", "tools": [{"name": "a b", "input_schema": {}}]"#, "tools[0].name"),
        (r#", "tools": [{"type": "bash_20250124", "name": "bash"}]"#, "tools[0].type"),
    ] {
        assert_eq!(param(fields), expected, "{fields}");
    }
    let error = of_sequences(ApiError::invalid("stop", "invalid stop: too many"));
    assert_eq!(error, ApiError::invalid("stop_sequences", "invalid stop_sequences: too many"));
}

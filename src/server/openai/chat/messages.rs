//! Messages as clients send them, to messages as templates take them.
//!
//! | Message | Becomes |
//! | --- | --- |
//! | role `developer` | role `system` |
//! | text parts, refusals | one text, the parts joined by line ends |
//! | an assistant's `function_call` | one tool call |
//! | role `function` | role `tool`, for the call of that name |
//! | a call's `arguments`, a text | the JSON object that the text holds |
//!
//! A `tool` message answers a call that an assistant's message before it has made. A call that
//! nobody answers is no error: people interrupt.
//!
//! What this module deliberately does not do: images, audio and files, whatever URL they are at.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::requests::{Call, CalledFunction, Content, Message, Part};
use crate::server::error::ApiError;
use crate::text::{ChatMessage, ToolCall};

/// What is wrong with a message: the key, as in `content` or `tool_calls[0].id`, and the problem.
type Problem = (String, String);

/// Reads the messages.
///
/// # Errors
/// The first one that is wrong, as `messages[i]` and its key.
pub(super) fn conversation(messages: Option<Vec<Message>>) -> Result<Vec<ChatMessage>, ApiError> {
    const PARAM: &str = "messages";
    let messages = match messages {
        None => {
            return Err(ApiError::invalid(PARAM, "`messages` is missing, expected a list"));
        }
        Some(messages) if messages.is_empty() => {
            let message = "`messages` is empty, expected at least one message";
            return Err(ApiError::invalid(PARAM, message));
        }
        Some(messages) => messages,
    };
    let mut reader = Reader::default();
    let read = |(index, message)| {
        reader.message(message).map_err(|(key, problem)| {
            let param = format!("{PARAM}[{index}].{key}");
            ApiError::invalid(&param, format!("invalid {param}: {problem}"))
        })
    };
    messages.into_iter().enumerate().map(read).collect()
}

/// Reads messages in order.
#[derive(Default)]
struct Reader {
    /// The ids of all calls so far.
    call_ids: HashSet<String>,
    /// Calls of the deprecated form, which has no ids.
    num_function_calls: usize,
    /// The last of them that was not answered: its function and its id.
    open_function_call: Option<(String, String)>,
}

impl Reader {
    fn message(&mut self, message: Message) -> Result<ChatMessage, Problem> {
        let role = message.role.as_deref();
        match role {
            Some("system" | "developer" | "user") => {}
            Some("assistant") => return self.assistant(message),
            Some("tool") => return self.tool(message),
            Some("function") => return self.function(message),
            Some(other) => {
                let expected = "expected `system`, `developer`, `user`, `assistant` or `tool`";
                return problem("role", format!("{expected}, got `{other}`"));
            }
            None => return problem("role", "it is missing"),
        }
        if message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) {
            return problem("tool_calls", "only an assistant calls tools");
        }
        let role = if role == Some("user") { "user" } else { "system" };
        let content = required(message.content)?;
        Ok(ChatMessage { name: message.name, ..ChatMessage::new(role, content) })
    }

    fn assistant(&mut self, message: Message) -> Result<ChatMessage, Problem> {
        let mut tool_calls = Vec::new();
        for (index, call) in message.tool_calls.into_iter().flatten().enumerate() {
            let call = tool_call(call)
                .map_err(|(key, problem)| (format!("tool_calls[{index}].{key}"), problem))?;
            self.call_ids.insert(call.id.clone());
            tool_calls.push(call);
        }
        if let Some(call) = message.function_call {
            let (name, arguments) =
                called(call).map_err(|(key, problem)| (format!("function_call.{key}"), problem))?;
            let id = format!("call_{}", self.num_function_calls);
            self.num_function_calls += 1;
            self.open_function_call = Some((name.clone(), id.clone()));
            tool_calls.push(ToolCall { id, name, arguments });
        }
        let content = match message.content {
            None if tool_calls.is_empty() => return Err(no_content()),
            None => None,
            Some(content) => Some(text(content)?),
        };
        Ok(ChatMessage {
            role: "assistant".to_owned(),
            content,
            reasoning_content: message.reasoning_content.or(message.reasoning),
            tool_calls,
            tool_call_id: None,
            name: message.name,
        })
    }

    fn tool(&mut self, message: Message) -> Result<ChatMessage, Problem> {
        let Some(id) = message.tool_call_id else {
            return problem("tool_call_id", "it is missing: which call does this answer?");
        };
        if !self.call_ids.contains(&id) {
            let expected = "expected the id of a call in `tool_calls` of a message before this one";
            return problem("tool_call_id", format!("{expected}, got `{id}`"));
        }
        let content = required(message.content)?;
        let answer = ChatMessage::new("tool", content);
        Ok(ChatMessage { tool_call_id: Some(id), name: message.name, ..answer })
    }

    fn function(&mut self, message: Message) -> Result<ChatMessage, Problem> {
        let content = required(message.content)?;
        let Some((name, id)) = self.open_function_call.take() else {
            let expected = "expected a `function_call` in a message before this one, got none";
            return problem("role", expected);
        };
        if message.name.as_ref().is_some_and(|got| *got != name) {
            return problem("name", format!("expected `{name}`, which was called"));
        }
        let answer = ChatMessage::new("tool", content);
        Ok(ChatMessage { tool_call_id: Some(id), name: Some(name), ..answer })
    }
}

fn problem<T>(key: &str, problem: impl Into<String>) -> Result<T, Problem> {
    Err((key.to_owned(), problem.into()))
}

fn no_content() -> Problem {
    ("content".to_owned(), "expected a string or a list of text parts, got nothing".to_owned())
}

fn required(content: Option<Content>) -> Result<String, Problem> {
    content.ok_or_else(no_content).and_then(text)
}

fn text(content: Content) -> Result<String, Problem> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) => joined(parts).or_else(|message| problem("content", message)),
    }
}

pub(in crate::server::openai) fn joined(parts: Vec<Part>) -> Result<String, String> {
    if parts.is_empty() {
        return Err("the list of parts is empty".to_owned());
    }
    let text = |part: Part| match (part.kind.as_deref(), part.text, part.refusal) {
        (
            Some("text" | "input_text" | "output_text" | "reasoning_text" | "summary_text"),
            Some(text),
            _,
        )
        | (Some("refusal"), _, Some(text)) => Ok(text),
        (Some(kind @ ("text" | "refusal")), ..) => {
            Err(format!("a part of type `{kind}` has no `{kind}`"))
        }
        (Some(kind), ..) => Err(format!(
            "parts of type `{kind}` are not supported by this version, only `text` is; nothing is \
             fetched from a URL"
        )),
        (None, ..) => Err("a part has no `type`".to_owned()),
    };
    Ok(parts.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn tool_call(call: Call) -> Result<ToolCall, Problem> {
    if let Some(kind) = call.kind.as_deref().filter(|kind| *kind != "function") {
        return problem("type", format!("expected `function`, got `{kind}`"));
    }
    let Some(id) = call.id else { return problem("id", "it is missing") };
    let Some(function) = call.function else { return problem("function", "it is missing") };
    let (name, arguments) =
        called(function).map_err(|(key, problem)| (format!("function.{key}"), problem))?;
    Ok(ToolCall { id, name, arguments })
}

fn called(function: CalledFunction) -> Result<(String, Value), Problem> {
    let Some(name) = function.name else { return problem("name", "it is missing") };
    let arguments = arguments(function.arguments.map(|json| json.0))
        .or_else(|message| problem("arguments", message))?;
    Ok((name, arguments))
}

/// The object that a call's arguments are, or that their text holds.
pub(in crate::server::openai) fn arguments(arguments: Option<Value>) -> Result<Value, String> {
    let parsed = match arguments {
        None => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|error| format!("expected a text that holds a JSON object: {error}"))?,
        Some(value) => value,
    };
    if parsed.is_object() { Ok(parsed) } else { Err("expected a JSON object".to_owned()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::openai::json::parse;
    use crate::server::openai::requests::{ChatRequest, NOT_SUPPORTED_IN_CHAT};

    fn read(messages: &str) -> Result<Vec<ChatMessage>, (String, String)> {
        let body = format!(r#"{{"messages": {messages}}}"#);
        let request: ChatRequest = parse(body.as_bytes(), NOT_SUPPORTED_IN_CHAT).unwrap();
        conversation(request.messages).map_err(|error| {
            let object = error.body().error;
            (object.param.unwrap_or_default(), object.message)
        })
    }

    #[test]
    fn text_parts_are_joined_and_developer_means_system() {
        let read = read(
            r#"[{"role": "developer", "content": "be brief"}, {"role": "user", "content":
                [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c", "tool_calls": []}]"#,
        );
        let expected = [("system", "be brief"), ("user", "a\nb"), ("assistant", "c")];
        assert_eq!(read, Ok(expected.map(|(role, text)| ChatMessage::new(role, text)).to_vec()));
    }

    #[test]
    fn calls_and_their_answers_arrive_whole() {
        let read = read(
            r#"[{"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                  {"id": "c1", "type": "function",
                   "function": {"name": "f", "arguments": "{\"x\": 1}"}},
                  {"id": "c2", "function": {"name": "g", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "c2", "content": "two"},
                {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "one"}]"#,
        )
        .unwrap();
        let call = |id: &str, name: &str, arguments| ToolCall {
            id: id.into(),
            name: name.into(),
            arguments,
        };
        assert_eq!(
            read[1].tool_calls,
            [call("c1", "f", json!({"x": 1})), call("c2", "g", json!({}))]
        );
        assert_eq!((&read[1].content, read[1].reasoning_content.as_deref()), (&None, Some("hm")));
        assert_eq!(read[2].tool_call_id.as_deref(), Some("c2"));
        assert_eq!((read[3].role.as_str(), read[3].name.as_deref()), ("tool", Some("f")));
    }

    #[test]
    fn the_deprecated_form_of_a_call_is_a_call() {
        let read = read(
            r#"[{"role": "assistant", "content": null,
                 "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "one"}]"#,
        )
        .unwrap();
        assert_eq!(read[0].tool_calls[0].name, "f");
        assert_eq!(read[1].tool_call_id.as_ref(), Some(&read[0].tool_calls[0].id));
        assert_eq!(read[1].role, "tool");
    }

    #[test]
    fn what_cannot_be_rendered_is_refused_with_its_place() {
        let image = r#"{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}"#;
        let user = r#"{"role": "user", "content": "a"}"#;
        let call =
            |call: &str| format!(r#"[{user}, {{"role": "assistant", "tool_calls": [{call}]}}]"#);
        let answer = |fields: &str| format!(r#"[{user}, {{"role": "tool", {fields}}}]"#);
        for (messages, param) in [
            ("null".to_owned(), "messages"),
            ("[]".to_owned(), "messages"),
            ("[{}]".to_owned(), "messages[0].role"),
            (r#"[{"role": "user"}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "assistant"}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": null}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": []}]"#.to_owned(), "messages[0].content"),
            (r#"[{"role": "user", "content": [{"text": "a"}]}]"#.to_owned(), "messages[0].content"),
            (
                r#"[{"role": "user", "content": [{"type": "text"}]}]"#.to_owned(),
                "messages[0].content",
            ),
            (
                format!(r#"[{user}, {{"role": "user", "content": [{image}]}}]"#),
                "messages[1].content",
            ),
            (answer(r#""content": "a""#), "messages[1].tool_call_id"),
            (answer(r#""content": "a", "tool_call_id": "c""#), "messages[1].tool_call_id"),
            (format!(r#"[{user}, {{"role": "function", "content": "a"}}]"#), "messages[1].role"),
            (format!(r#"[{user}, {{"role": "king", "content": "a"}}]"#), "messages[1].role"),
            (call(r#"{"id": "x"}"#), "messages[1].tool_calls[0].function"),
            (call(r#"{"function": {"name": "f"}}"#), "messages[1].tool_calls[0].id"),
            (
                call(r#"{"id": "x", "function": {"name": "f", "arguments": "{"}}"#),
                "messages[1].tool_calls[0].function.arguments",
            ),
            (
                call(r#"{"id": "x", "function": {"name": "f", "arguments": "[1]"}}"#),
                "messages[1].tool_calls[0].function.arguments",
            ),
            (
                call(r#"{"id": "x", "function": {"arguments": "{}"}}"#),
                "messages[1].tool_calls[0].function.name",
            ),
            (call(r#"{"id": "x", "type": "custom"}"#), "messages[1].tool_calls[0].type"),
        ] {
            assert_eq!(read(&messages).unwrap_err().0, param, "{messages}");
        }
    }
}

//! Items, which stand in a row, to messages, which have parts.
//!
//! ```text
//! reasoning  message(assistant)  function_call  function_call | function_call_output | message(user)
//! `------------ one assistant's message with two calls ------'  `---- tool ----------'
//! ```
//!
//! What this module deliberately does not do: items of tools that run elsewhere (search, files,
//! computers), images, and references to items that were not sent.

use std::collections::HashSet;

use super::requests::{Input, Item};
use crate::server::error::ApiError;
use crate::server::openai::chat::{arguments, joined};
use crate::server::openai::requests::Content;
use crate::text::{ChatMessage, ToolCall};

const PARAM: &str = "input";

/// What is wrong with an item: its key and the problem.
type Problem = (&'static str, String);

/// Appends the input to a conversation.
///
/// # Errors
/// The first item that is wrong, as `input[i]` and its key.
pub(super) fn append(
    messages: Vec<ChatMessage>,
    input: Option<Input>,
) -> Result<Vec<ChatMessage>, ApiError> {
    let mut reader = Reader::new(messages);
    match input {
        None => {
            return Err(ApiError::invalid(PARAM, "`input` is missing, expected a text or a list"));
        }
        Some(Input::Text(text)) => reader.messages.push(ChatMessage::new("user", text)),
        Some(Input::Items(items)) if items.is_empty() && reader.messages.is_empty() => {
            let message = "`input` is empty, expected at least one item";
            return Err(ApiError::invalid(PARAM, message));
        }
        Some(Input::Items(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                reader.item(item).map_err(|(key, problem)| {
                    let param = format!("{PARAM}[{index}].{key}");
                    ApiError::invalid(&param, format!("invalid {param}: {problem}"))
                })?;
            }
        }
    }
    Ok(reader.messages)
}

struct Reader {
    messages: Vec<ChatMessage>,
    /// The ids of all calls so far.
    call_ids: HashSet<String>,
}

impl Reader {
    fn new(messages: Vec<ChatMessage>) -> Self {
        let calls = messages.iter().flat_map(|message| &message.tool_calls);
        let call_ids = calls.map(|call| call.id.clone()).collect();
        Self { messages, call_ids }
    }

    fn item(&mut self, item: Item) -> Result<(), Problem> {
        let kind = match (&item.kind, &item.role) {
            (Some(kind), _) => kind.as_str(),
            (None, Some(_)) => "message",
            (None, None) => return Err(("type", "it is missing".to_owned())),
        };
        match kind {
            "message" => self.message(item),
            "function_call" => self.call(item),
            "function_call_output" => self.output(item),
            "reasoning" => self.thought(item),
            other => {
                let expected =
                    "expected `message`, `function_call`, `function_call_output` or `reasoning`";
                let problem = format!("{expected}, got `{other}`, which is not supported");
                Err(("type", problem))
            }
        }
    }

    fn message(&mut self, item: Item) -> Result<(), Problem> {
        let content = text("content", item.content)?;
        let role = match item.role.as_deref() {
            Some("user") => "user",
            Some("system" | "developer") => "system",
            Some("assistant") => {
                // A thought comes before its words.
                let last = self.messages.last_mut();
                match last.filter(|last| last.content.is_none() && last.tool_calls.is_empty()) {
                    Some(thought) => thought.content = Some(content),
                    None => self.messages.push(ChatMessage::new("assistant", content)),
                }
                return Ok(());
            }
            Some(other) => {
                let expected = "expected `user`, `assistant`, `system` or `developer`";
                return Err(("role", format!("{expected}, got `{other}`")));
            }
            None => return Err(("role", "it is missing".to_owned())),
        };
        self.messages.push(ChatMessage::new(role, content));
        Ok(())
    }

    fn call(&mut self, item: Item) -> Result<(), Problem> {
        let id = item.call_id.ok_or(("call_id", "it is missing".to_owned()))?;
        let name = item.name.ok_or(("name", "it is missing".to_owned()))?;
        let arguments = arguments(item.arguments.map(|json| json.0))
            .map_err(|problem| ("arguments", problem))?;
        self.call_ids.insert(id.clone());
        let call = ToolCall { id, name, arguments };
        match self.messages.last_mut().filter(|last| last.role == "assistant") {
            Some(message) => message.tool_calls.push(call),
            None => self.messages.push(ChatMessage {
                role: "assistant".to_owned(),
                tool_calls: vec![call],
                ..ChatMessage::default()
            }),
        }
        Ok(())
    }

    fn output(&mut self, item: Item) -> Result<(), Problem> {
        let id = item.call_id.ok_or(("call_id", "it is missing".to_owned()))?;
        if !self.call_ids.contains(&id) {
            let expected = "expected the `call_id` of a `function_call` before this item";
            return Err(("call_id", format!("{expected}, got `{id}`")));
        }
        let answer = ChatMessage::new("tool", text("output", item.output)?);
        self.messages.push(ChatMessage { tool_call_id: Some(id), ..answer });
        Ok(())
    }

    fn thought(&mut self, item: Item) -> Result<(), Problem> {
        let parts = item.content.or(item.summary);
        let thought = match parts {
            Some(Content::Parts(parts)) if parts.is_empty() => None,
            parts => parts.map(|parts| text("content", Some(parts))).transpose()?,
        };
        // Without its text, as when it was encrypted elsewhere, it says nothing.
        if let Some(thought) = thought {
            self.messages.push(ChatMessage {
                role: "assistant".to_owned(),
                reasoning_content: Some(thought),
                ..ChatMessage::default()
            });
        }
        Ok(())
    }
}

fn text(key: &'static str, content: Option<Content>) -> Result<String, Problem> {
    match content {
        None => Err((key, "expected a string or a list of text parts, got nothing".to_owned())),
        Some(Content::Text(text)) => Ok(text),
        Some(Content::Parts(parts)) => joined(parts).map_err(|problem| (key, problem)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::requests::{NOT_SUPPORTED, ResponsesRequest};
    use super::*;
    use crate::server::openai::json::parse;

    fn read(input: &str) -> Result<Vec<ChatMessage>, String> {
        let body = format!(r#"{{"input": {input}}}"#);
        let request: ResponsesRequest = parse(body.as_bytes(), NOT_SUPPORTED).unwrap();
        append(Vec::new(), request.input).map_err(|error| error.body().error.param.unwrap())
    }

    #[test]
    fn what_one_speaks_in_a_row_is_one_message() {
        let read = read(
            r#"[{"role": "developer", "content": "be brief"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "reasoning", "id": "rs", "summary": [],
                 "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "message", "role": "assistant",
                 "content": [{"type": "output_text", "text": "b", "annotations": []}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"x\": 1}"},
                {"type": "function_call_output", "call_id": "c", "output": "one"}]"#,
        )
        .unwrap();
        assert_eq!(
            read[..2],
            [ChatMessage::new("system", "be brief"), ChatMessage::new("user", "a")]
        );
        let call = ToolCall { id: "c".into(), name: "f".into(), arguments: json!({"x": 1}) };
        let spoken = ChatMessage {
            reasoning_content: Some("hm".into()),
            tool_calls: vec![call],
            ..ChatMessage::new("assistant", "b")
        };
        let answer =
            ChatMessage { tool_call_id: Some("c".into()), ..ChatMessage::new("tool", "one") };
        assert_eq!(read[2..], [spoken, answer]);
        assert_eq!(self::read(r#""hi""#), Ok(vec![ChatMessage::new("user", "hi")]));
    }

    #[test]
    fn an_item_that_cannot_be_read_is_named() {
        for (input, param) in [
            ("null", "input"),
            ("[]", "input"),
            ("[{}]", "input[0].type"),
            (r#"[{"type": "web_search_call"}]"#, "input[0].type"),
            (r#"[{"type": "item_reference", "id": "x"}]"#, "input[0].type"),
            (r#"[{"role": "king", "content": "a"}]"#, "input[0].role"),
            (r#"[{"role": "user"}]"#, "input[0].content"),
            (
                r#"[{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]"#,
                "input[0].content",
            ),
            (
                r#"[{"type": "function_call", "call_id": "c", "name": "f", "arguments": "x"}]"#,
                "input[0].arguments",
            ),
            (
                r#"[{"type": "function_call_output", "call_id": "c", "output": "x"}]"#,
                "input[0].call_id",
            ),
        ] {
            assert_eq!(read(input), Err(param.to_owned()), "{input}");
        }
    }
}

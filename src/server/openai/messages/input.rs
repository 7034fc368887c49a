//! Messages of blocks to messages as templates take them.
//!
//! | Said | Becomes |
//! | --- | --- |
//! | `system` | a system's message |
//! | a user's texts in a row | one user's message, the texts joined by line ends |
//! | a user's `tool_result` | a tool's message |
//! | an assistant's texts, thoughts and `tool_use`s in a row | one assistant's message with calls |
//! | `redacted_thinking` | nothing: nobody here can read it |
//!
//! What this module deliberately does not do: images, documents, and blocks of tools that run on a
//! server.

use std::collections::HashSet;

use super::requests::{Block, Blocks, Turn};
use crate::server::error::ApiError;
use crate::server::openai::chat::{arguments, joined};
use crate::server::openai::requests::Content;
use crate::text::{ChatMessage, ToolCall};

const PARAM: &str = "messages";

/// What is wrong with a message: the key, as in `role` or `content[0].text`, and the problem.
type Problem = (String, String);

/// Reads a conversation.
///
/// # Errors
/// The first part that is wrong, as `messages[i]` and its key, or `system`.
pub(super) fn conversation(
    system: Option<Content>,
    turns: Option<Vec<Turn>>,
) -> Result<Vec<ChatMessage>, ApiError> {
    let invalid = |param: &str, problem: String| {
        ApiError::invalid(param, format!("invalid {param}: {problem}"))
    };
    let turns = match turns {
        None => return Err(ApiError::invalid(PARAM, "`messages` is missing, expected a list")),
        Some(turns) if turns.is_empty() => {
            let message = "`messages` is empty, expected at least one message";
            return Err(ApiError::invalid(PARAM, message));
        }
        Some(turns) => turns,
    };
    let mut reader = Reader::default();
    let system = text(system).map_err(|problem| invalid("system", problem))?;
    reader.messages.extend(system.map(|text| ChatMessage::new("system", text)));
    for (index, turn) in turns.into_iter().enumerate() {
        reader
            .turn(turn)
            .map_err(|(key, problem)| invalid(&format!("{PARAM}[{index}].{key}"), problem))?;
    }
    Ok(reader.messages)
}

#[derive(Default)]
struct Reader {
    messages: Vec<ChatMessage>,
    /// The ids of all calls so far.
    call_ids: HashSet<String>,
}

impl Reader {
    fn turn(&mut self, turn: Turn) -> Result<(), Problem> {
        let is_user = match turn.role.as_deref() {
            Some("user") => true,
            Some("assistant") => false,
            Some("system") => {
                return problem("role", "a system's text belongs into the field `system`");
            }
            Some(other) => {
                let expected = "expected `user` or `assistant`";
                return problem("role", format!("{expected}, got `{other}`"));
            }
            None => return problem("role", "it is missing"),
        };
        let blocks = match turn.content {
            None => {
                return problem("content", "expected a string or a list of blocks, got nothing");
            }
            Some(Blocks::List(blocks)) if blocks.is_empty() => {
                return problem("content", "the list of blocks is empty");
            }
            Some(Blocks::Text(text)) => {
                self.say(if is_user { "user" } else { "assistant" }, text);
                return Ok(());
            }
            Some(Blocks::List(blocks)) => blocks,
        };
        for (index, block) in blocks.into_iter().enumerate() {
            let read = if is_user { self.of_user(block) } else { self.of_assistant(block) };
            read.map_err(|(key, problem)| (format!("content[{index}].{key}"), problem))?;
        }
        Ok(())
    }

    fn of_user(&mut self, block: Block) -> Result<(), Problem> {
        match block.kind.as_deref() {
            Some("text") => self.say("user", required("text", block.text)?),
            Some("tool_result") => {
                let id = required("tool_use_id", block.tool_use_id)?;
                if !self.call_ids.contains(&id) {
                    let expected = "expected the `id` of a `tool_use` before this result";
                    return problem("tool_use_id", format!("{expected}, got `{id}`"));
                }
                let said = text(block.content).or_else(|what| problem("content", what))?;
                let answer = ChatMessage::new("tool", said.unwrap_or_default());
                self.messages.push(ChatMessage { tool_call_id: Some(id), ..answer });
            }
            kind => return not_supported(kind, "`text` and `tool_result`", "a user"),
        }
        Ok(())
    }

    fn of_assistant(&mut self, block: Block) -> Result<(), Problem> {
        match block.kind.as_deref() {
            Some("text") => self.say("assistant", required("text", block.text)?),
            Some("thinking") => {
                let thought = required("thinking", block.thinking)?;
                append(&mut self.speaker("assistant").reasoning_content, thought);
            }
            Some("redacted_thinking") => {
                self.speaker("assistant");
            }
            Some("tool_use") => {
                let id = required("id", block.id)?;
                let name = required("name", block.name)?;
                let arguments = arguments(block.input.map(|json| json.0))
                    .or_else(|what| problem("input", what))?;
                self.call_ids.insert(id.clone());
                self.speaker("assistant").tool_calls.push(ToolCall { id, name, arguments });
            }
            kind => {
                return not_supported(kind, "`text`, `thinking` and `tool_use`", "an assistant");
            }
        }
        Ok(())
    }

    fn say(&mut self, role: &str, text: String) {
        append(&mut self.speaker(role).content, text);
    }

    /// The last message, if this one speaks there, or else a new one.
    fn speaker(&mut self, role: &str) -> &mut ChatMessage {
        if self.messages.last().is_none_or(|last| last.role != role) {
            self.messages.push(ChatMessage { role: role.to_owned(), ..ChatMessage::default() });
        }
        self.messages.last_mut().expect("invariant: one was pushed unless there was one")
    }
}

fn append(text: &mut Option<String>, more: String) {
    match text {
        None => *text = Some(more),
        Some(text) => {
            text.push('\n');
            text.push_str(&more);
        }
    }
}

/// The text of a text or of blocks; `None` where there is none.
fn text(content: Option<Content>) -> Result<Option<String>, String> {
    match content {
        None => Ok(None),
        Some(Content::Text(text)) => Ok(Some(text)),
        Some(Content::Parts(parts)) if parts.is_empty() => Ok(None),
        Some(Content::Parts(parts)) => joined(parts).map(Some),
    }
}

fn problem<T>(key: &str, problem: impl Into<String>) -> Result<T, Problem> {
    Err((key.to_owned(), problem.into()))
}

fn required(key: &str, value: Option<String>) -> Result<String, Problem> {
    value.map_or_else(|| problem(key, "it is missing"), Ok)
}

fn not_supported(kind: Option<&str>, supported: &str, who: &str) -> Result<(), Problem> {
    let Some(kind) = kind else { return problem("type", "it is missing") };
    let message = format!(
        "blocks of type `{kind}` are not supported in a message of {who}, only {supported} are"
    );
    problem("type", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::requests::{MessagesRequest, NOT_SUPPORTED};
    use super::*;
    use crate::server::openai::json::parse;

    fn read(body: &str) -> Result<Vec<ChatMessage>, String> {
        let request: MessagesRequest = parse(body.as_bytes(), NOT_SUPPORTED).unwrap();
        conversation(request.turns.system, request.turns.messages)
            .map_err(|error| error.body().error.param.unwrap())
    }

    #[test]
    fn what_one_says_in_a_row_is_one_message() {
        let read = read(
            r#"{"system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}},
                           {"type": "text", "text": "be kind"}],
                "messages": [
                {"role": "user", "content": "a"},
                {"role": "user", "content": [{"type": "text", "text": "b"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "c"},
                    {"type": "tool_use", "id": "i", "name": "f", "input": {"x": 1}},
                    {"type": "tool_use", "id": "j", "name": "g", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "i", "content": "one"},
                    {"type": "tool_result", "tool_use_id": "j", "is_error": true,
                     "content": [{"type": "text", "text": "two"}]},
                    {"type": "tool_result", "tool_use_id": "j"},
                    {"type": "text", "text": "d"}]}]}"#,
        )
        .unwrap();
        let call = |id: &str, name: &str, arguments| ToolCall {
            id: id.into(),
            name: name.into(),
            arguments,
        };
        let spoken = ChatMessage {
            reasoning_content: Some("hm".into()),
            tool_calls: vec![call("i", "f", json!({"x": 1})), call("j", "g", json!({}))],
            ..ChatMessage::new("assistant", "c")
        };
        let result = |id: &str, text: &str| ChatMessage {
            tool_call_id: Some(id.into()),
            ..ChatMessage::new("tool", text)
        };
        let expected = [
            ChatMessage::new("system", "be brief\nbe kind"),
            ChatMessage::new("user", "a\nb"),
            spoken,
            result("i", "one"),
            result("j", "two"),
            result("j", ""),
            ChatMessage::new("user", "d"),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (message, param) in [
            (r#"{"role": "king", "content": "a"}"#, "messages[0].role"),
            (r#"{"role": "system", "content": "a"}"#, "messages[0].role"),
            (r#"{"content": "a"}"#, "messages[0].role"),
            (r#"{"role": "user"}"#, "messages[0].content"),
            (r#"{"role": "user", "content": []}"#, "messages[0].content"),
            (r#"{"role": "user", "content": [{}]}"#, "messages[0].content[0].type"),
            (r#"{"role": "user", "content": [{"type": "text"}]}"#, "messages[0].content[0].text"),
            (
                r#"{"role": "user", "content": [{"type": "text", "text": "a"},
                    {"type": "image", "source": {"type": "url", "url": "x"}}]}"#,
                "messages[0].content[1].type",
            ),
            (
                r#"{"role": "user", "content": [{"type": "document", "source": {}}]}"#,
                "messages[0].content[0].type",
            ),
            (
                r#"{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i"}]}"#,
                "messages[0].content[0].tool_use_id",
            ),
            (
                r#"{"role": "user", "content": [{"type": "tool_use", "id": "i", "name": "f"}]}"#,
                "messages[0].content[0].type",
            ),
            (
                r#"{"role": "assistant", "content": [{"type": "tool_use", "id": "i", "name": "f",
                    "input": [1]}]}"#,
                "messages[0].content[0].input",
            ),
        ] {
            let body = format!(r#"{{"messages": [{message}]}}"#);
            assert_eq!(read(&body), Err(param.to_owned()), "{body}");
        }
        for (body, param) in [
            ("{}", "messages"),
            (r#"{"messages": []}"#, "messages"),
            (
                r#"{"system": [{"type": "image"}], "messages": [{"role": "user", "content": "a"}]}"#,
                "system",
            ),
        ] {
            assert_eq!(read(body), Err(param.to_owned()), "{body}");
        }
    }
}

//! The body of `POST /v1/chat/completions` and its parts.
//!
//! What this module deliberately does not do: it does not say which messages make a conversation.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Json, SamplingFields};
use crate::engine::MAX_LOGPROBS;
use crate::server::openai::json::wire_object;
use crate::server::openai::tools::MAX_TOOLS;
use crate::server::openapi::schema::{OneOf, Pattern, Required};

/// Who may speak.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

wire_object! {
    /// The body of `POST /v1/chat/completions`.
    "a JSON object" => pub(in crate::server::openai) ChatRequest {
        /// The conversation so far.
        messages: Vec<Message> where (Required, 1..),
        /// The most tokens of each answer.
        max_completion_tokens: i64 where 1..,
        /// Send log probabilities.
        logprobs: bool,
        /// With so many of the likeliest tokens; only with `logprobs`.
        top_logprobs: i64 where 0..=MAX_LOGPROBS,
        /// What the model may call.
        tools: Vec<Tool> where 0..=MAX_TOOLS,
        /// `none`, `auto`, `required`, or an object that names a function.
        tool_choice: Json,
        /// Whether one answer may hold several calls.
        parallel_tool_calls: bool,
        /// The deprecated form of `tools`.
        functions: Vec<Function> where 0..=MAX_TOOLS,
        /// The deprecated form of `tool_choice`.
        function_call: Json,
        /// Whether thoughts are sent.
        include_reasoning: bool,
        /// Accepted; it changes nothing.
        verbosity: String,
        service_tier: String where OneOf(&["auto", "default"]),
    }
    flattened template: TemplateFields
}

wire_object! {
    /// How a conversation becomes a prompt.
    "a JSON object" => pub(in crate::server::openai) TemplateFields {
        /// Whether the prompt ends with the beginning of the assistant's answer.
        add_generation_prompt: bool,
        /// Whether the last message is continued instead of answered.
        continue_final_message: bool,
        chat_template: String,
        /// An object of values for the model's template.
        chat_template_kwargs: Json,
        /// Documents that templates may show.
        documents: Vec<Json>,
        /// A name that templates know.
        reasoning_effort: String,
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// One message of a conversation.
    "a message object" => pub(in crate::server::openai) Message {
        role: String where (Required, OneOf(ROLES)),
        content: Content,
        name: String,
        /// The thoughts before the text.
        reasoning_content: String,
        reasoning: String,
        /// Calls of an assistant.
        tool_calls: Vec<Call>,
        /// Which call a message of the role `tool` answers.
        tool_call_id: String,
        function_call: CalledFunction,
    }
}

wire_object! {
    /// One part of a message.
    "a content part object" => pub(in crate::server::openai) Part {
        kind["type"]: String where Required,
        text: String,
        refusal: String,
    }
}

wire_object! {
    /// A call of a tool in an assistant's message.
    "a tool call object" => pub(in crate::server::openai) Call {
        id: String,
        kind["type"]: String,
        function: CalledFunction,
    }
}

wire_object! {
    /// Which function was called with what: JSON, or a text that holds JSON.
    "an object with `name` and `arguments`" => pub(in crate::server::openai) CalledFunction {
        name: String,
        arguments: Json,
    }
}

wire_object! {
    /// What the model may call.
    "a tool object" => pub(in crate::server::openai) Tool {
        kind["type"]: String where (Required, OneOf(&["function"])),
        function: Function where Required,
    }
}

wire_object! {
    /// A function, and the JSON schema of its arguments.
    "a function object" => pub(in crate::server::openai) Function {
        name: String where (Required, Pattern("^[A-Za-z0-9._-]{1,128}$")),
        description: String,
        /// A JSON schema of the arguments.
        parameters: Json,
        strict: bool,
    }
}

/// What a message says.
#[derive(Debug)]
pub(in crate::server::openai) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of content parts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = list.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;
    use crate::server::openai::requests::NOT_SUPPORTED_IN_CHAT;

    #[test]
    fn a_message_is_an_object_with_text_or_parts() {
        let read = |messages: &str| {
            let body = format!(r#"{{"messages": {messages}}}"#);
            parse::<ChatRequest>(body.as_bytes(), NOT_SUPPORTED_IN_CHAT)
        };
        assert!(read(r#"[{"role": "user", "content": "a", "name": "x"}]"#).is_ok());
        assert!(read(r#"[{"role": "user", "content": [{"type": "text", "text": "a"}]}]"#).is_ok());
        for bad in [
            r#""text""#,
            r#"[["user", "hi"]]"#,
            r#"["hi"]"#,
            r#"[{"role": 1}]"#,
            r#"[{"role": "user", "content": 5}]"#,
            r#"[{"role": "user", "content": ["a"]}]"#,
            r#"{"role": "user"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

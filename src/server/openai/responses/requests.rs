//! The body of `POST /v1/responses`.
//!
//! | Field | Meaning here |
//! | --- | --- |
//! | `input` | a text, which is a user's message, or a list of items |
//! | `text.format` | as `response_format`, with the schema one level higher |
//! | `reasoning.effort` | as `reasoning_effort` |
//! | `include` | `message.output_text.logprobs` counts; the rest asks for what is told anyway or is not there |
//! | `store` | default true: held in memory, see [`store`](super::store) |
//!
//! What this module deliberately does not do: it checks nothing that a later step checks.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::engine::MAX_LOGPROBS;
use crate::server::openai::json::{NotSupported, wire_object};
use crate::server::openai::requests::{Content, Json, TemplateFields};
use crate::server::openai::tools::MAX_TOOLS;
use crate::server::openapi::schema::Required;

wire_object! {
    /// The body of `POST /v1/responses`.
    "a JSON object" => pub(in crate::server::openai) ResponsesRequest {
        /// A text, or items.
        input: Input where Required,
        /// What comes first, as a system's message.
        instructions: String,
        /// The most tokens of the answer.
        max_output_tokens: i64 where 1..,
        /// The response that this one goes on from.
        previous_response_id: String,
        /// Whether the response is held.
        store: bool,
        /// What the model may call.
        tools: Vec<FunctionTool> where 0..=MAX_TOOLS,
        /// `none`, `auto`, `required`, or an object that names a function.
        tool_choice: Json,
        parallel_tool_calls: bool,
        text: TextFields,
        reasoning: ReasoningFields,
        include: Vec<String>,
        /// Log probabilities, with so many of the likeliest tokens.
        top_logprobs: i64 where 0..=MAX_LOGPROBS,
        truncation: String,
        service_tier: String,
        metadata: Json,
    }
    flattened template: TemplateFields
}

wire_object! {
    /// How the answer's text is to look.
    "an object with a `format`" => pub(in crate::server::openai) TextFields {
        format: TextFormat,
        verbosity: String,
    }
}

wire_object! {
    /// The form of the answer's text.
    "an object with a `type`" => pub(in crate::server::openai) TextFormat {
        kind["type"]: String,
        name: String,
        schema: Json,
        strict: bool,
    }
}

wire_object! {
    /// How the model is to think.
    "an object with an `effort`" => pub(in crate::server::openai) ReasoningFields {
        effort: String,
        summary: String,
    }
}

wire_object! {
    /// What the model may call.
    "a tool object" => pub(in crate::server::openai) FunctionTool {
        kind["type"]: String,
        name: String,
        description: String,
        parameters: Json,
        strict: bool,
    }
}

wire_object! {
    /// One item of the input: a message, a call, its output, or a thought.
    "an item object" => pub(in crate::server::openai) Item {
        kind["type"]: String,
        role: String,
        content: Content,
        call_id: String,
        name: String,
        arguments: Json,
        output: Content,
        summary: Content,
    }
}

/// What the model is to answer.
#[derive(Debug)]
pub(in crate::server::openai) enum Input {
    Text(String),
    Items(Vec<Item>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InputVisitor;

        impl<'de> Visitor<'de> for InputVisitor {
            type Value = Input;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of items")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Input::Items(items))
            }
        }

        deserializer.deserialize_any(InputVisitor)
    }
}

const fn refuse(field: &'static str, neutral: &'static [&'static str]) -> NotSupported {
    NotSupported { field, neutral }
}

/// Known fields that are not supported, with the values that pass.
pub(in crate::server::openai) const NOT_SUPPORTED: &[&[NotSupported]] = &[&[
    refuse("background", &["false"]),
    refuse("conversation", &[]),
    refuse("prompt", &[]),
    refuse("max_tool_calls", &[]),
    refuse("context_management", &["[]"]),
    refuse("moderation", &[]),
    refuse("logits_processors", &["[]"]),
    refuse("kv_transfer_params", &[]),
]];

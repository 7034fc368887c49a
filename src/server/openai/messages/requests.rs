//! The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`.
//!
//! | Field | Meaning here |
//! | --- | --- |
//! | `max_tokens` | required, but for counting |
//! | `temperature` | 0 to 1, as this dialect has it |
//! | `stop_sequences` | as `stop` |
//! | `thinking` | `enabled` and `adaptive`: the model may think, and thoughts are sent; absent or `disabled`: it is told not to, and none is |
//! | `output_config` | `format`, as `response_format` with a schema; `effort`, as `reasoning_effort` |
//! | `metadata`, `service_tier`, `cache_control`, `budget_tokens`, `context_management` | accepted; they change nothing |
//!
//! What this module deliberately does not do: it checks nothing that a later step checks.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::server::openai::json::{NotSupported, wire_object};
use crate::server::openai::requests::{Content, Json, Stop, TemplateFields};
use crate::server::openai::tools::MAX_TOOLS;
use crate::server::openapi::schema::{OneOf, Pattern, Required};

/// The highest `temperature` of this dialect.
pub(super) const MAX_TEMPERATURE: f64 = 1.0;

wire_object! {
    /// The body of `POST /v1/messages`.
    "a JSON object" => pub(in crate::server::openai) MessagesRequest {
        /// The most tokens of the answer.
        max_tokens: i64 where (Required, 1..),
    }
    flattened turns: TurnsRequest
}

wire_object! {
    /// The body of `POST /v1/messages/count_tokens`.
    "a JSON object" => pub(in crate::server::openai) TurnsRequest {
        /// The conversation so far. An answer goes on with the last message if that is an
        /// assistant's text.
        messages: Vec<Turn> where (Required, 1..),
        /// What comes first.
        system: Content,
        /// Randomness; 0 always takes the likeliest token.
        temperature: f64 where 0.0..=MAX_TEMPERATURE,
        /// Texts that end the answer.
        stop_sequences: Stop,
        /// What the model may call.
        tools: Vec<OfferedTool> where 0..=MAX_TOOLS,
        tool_choice: ToolChoice,
        thinking: Thinking,
        output_config: OutputConfig,
        /// Accepted; it changes nothing.
        metadata: Json,
        /// Accepted; it changes nothing.
        service_tier: String,
    }
    flattened template: TemplateFields
}

wire_object! {
    /// What one of the two says.
    "a message object" => pub(in crate::server::openai) Turn {
        role: String where (Required, OneOf(&["user", "assistant"])),
        content: Blocks where Required,
    }
}

wire_object! {
    /// One block of a message.
    "a content block object" => pub(in crate::server::openai) Block {
        kind["type"]: String where Required,
        text: String,
        thinking: String,
        /// Of a call: its id.
        id: String,
        /// Of a call: the tool.
        name: String,
        /// Of a call: its arguments.
        input: Json,
        /// Of a result: the call.
        tool_use_id: String,
        /// Of a result: what the tool says.
        content: Content,
        /// Accepted; the text has to say it.
        is_error: bool,
    }
}

wire_object! {
    /// What the model may call.
    "a tool object" => pub(in crate::server::openai) OfferedTool {
        kind["type"]: String where OneOf(&["custom"]),
        name: String where (Required, Pattern("^[A-Za-z0-9._-]{1,128}$")),
        description: String,
        /// A JSON schema of the arguments.
        input_schema: Json where Required,
        strict: bool,
    }
}

wire_object! {
    /// Whether the model may or must call something.
    "an object with a `type`" => pub(in crate::server::openai) ToolChoice {
        kind["type"]: String where (Required, OneOf(&["auto", "any", "tool", "none"])),
        /// With the type `tool`: which one.
        name: String,
        /// At most one call.
        disable_parallel_tool_use: bool,
    }
}

wire_object! {
    /// Whether the model thinks first.
    "an object with a `type`" => pub(in crate::server::openai) Thinking {
        kind["type"]: String where (Required, OneOf(&["enabled", "adaptive", "disabled"])),
        /// Accepted; it changes nothing.
        budget_tokens: i64,
    }
}

wire_object! {
    /// How the answer is to be.
    "an object" => pub(in crate::server::openai) OutputConfig {
        format: OutputForm,
        /// A name that templates know.
        effort: String,
    }
}

wire_object! {
    /// The form of the answer's text.
    "an object with a `type` and a `schema`" => pub(in crate::server::openai) OutputForm {
        kind["type"]: String where (Required, OneOf(&["json_schema"])),
        schema: Json where Required,
    }
}

/// What a message says.
#[derive(Debug)]
pub(in crate::server::openai) enum Blocks {
    Text(String),
    List(Vec<Block>),
}

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlocksVisitor;

        impl<'de> Visitor<'de> for BlocksVisitor {
            type Value = Blocks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of content blocks")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Blocks, E> {
                Ok(Blocks::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Blocks, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = list.next_element()? {
                    blocks.push(block);
                }
                Ok(Blocks::List(blocks))
            }
        }

        deserializer.deserialize_any(BlocksVisitor)
    }
}

const fn refuse(field: &'static str, neutral: &'static [&'static str]) -> NotSupported {
    NotSupported { field, neutral }
}

/// Known fields that are not supported, with the values that pass.
pub(in crate::server::openai) const NOT_SUPPORTED: &[&[NotSupported]] = &[&[
    refuse("mcp_servers", &["[]"]),
    refuse("container", &[]),
    refuse("logits_processors", &["[]"]),
    refuse("kv_transfer_params", &[]),
]];

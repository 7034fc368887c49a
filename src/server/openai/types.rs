//! What goes out: every JSON object that `OpenAI`'s API and vLLM's additions to it define here.
//!
//! | Answer | Types |
//! | --- | --- |
//! | whole | [`Completion`], [`ChatCompletion`], [`ModelList`], [`ErrorBody`] |
//! | streamed | [`Completion`], [`ChatChunk`], [`ErrorBody`] |
//!
//! Absent optional objects are left out; `logprobs`, `refusal`, `finish_reason` and `stop_reason`
//! are null where the schema requires the key.
//!
//! What this module deliberately does not do: it decides nothing. What clients send is in
//! `requests`, and log probabilities are in `logprobs`.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::{ChatLogprobs, PromptLogprobs, TextLogprobs};
use crate::engine::{ChoiceEnd, StopMatch};

/// A key that the schema requires and whose value is null.
pub(crate) type Null = ();

/// The schema of [`Null`].
pub(super) fn null() -> utoipa::openapi::Object {
    utoipa::openapi::Object::with_type(utoipa::openapi::schema::Type::Null)
}

/// Serialises to JSON text.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: wire types have string keys and no failing parts")
}

/// Adds `to_json` to the objects that are sent.
macro_rules! sent {
    ($($Name:ty),* $(,)?) => {$(
        impl $Name {
            /// The object as JSON text.
            pub(crate) fn to_json(&self) -> Vec<u8> {
                to_json(self)
            }
        }
    )*};
}
sent!(EmbeddingList<'_>);
sent!(ErrorBody, ModelObject<'_>, ModelList<'_>, Completion<'_>, ChatCompletion<'_>, ChatChunk<'_>);

/// `{"error": {...}}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ErrorObject {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

/// One served model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    pub(crate) max_model_len: usize,
}

/// The served models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList<'a> {
    pub(crate) object: &'static str,
    pub(crate) data: [ModelObject<'a>; 1],
}

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct TokenUsage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
    pub(super) prompt_tokens_details: PromptTokensDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completion_tokens_details: Option<CompletionTokensDetails>,
}

/// What the generated tokens were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct CompletionTokensDetails {
    /// Those that the model thought with.
    pub(super) reasoning_tokens: usize,
}

/// What became of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct PromptTokensDetails {
    /// Those that were in the prefix cache.
    pub(super) cached_tokens: usize,
}

/// Texts as vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingList<'a> {
    pub(super) object: &'static str,
    pub(super) data: Vec<Embedding>,
    pub(super) model: &'a str,
    pub(super) usage: EmbeddingUsage,
}

/// One text as a vector.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the key that clients look for")]
pub(super) struct Embedding {
    pub(super) object: &'static str,
    pub(super) index: usize,
    pub(super) embedding: EmbeddingVector,
}

/// A vector in the form that was asked for.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum EmbeddingVector {
    Float(Vec<f32>),
    Base64(String),
}

/// Tokens in.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingUsage {
    pub(super) prompt_tokens: usize,
    pub(super) total_tokens: usize,
}

/// vLLM's `stop_reason`: which of the request's stops ended a choice.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum StopReason<'a> {
    Token(u32),
    Text(&'a str),
}

impl<'a> StopReason<'a> {
    /// Of a choice that has ended.
    pub(super) fn of(end: &'a ChoiceEnd) -> Option<Self> {
        end.stop.as_ref().map(|stop| match stop {
            StopMatch::Token(token_id) => Self::Token(*token_id),
            StopMatch::Text(text) => Self::Text(text),
        })
    }
}

/// The `usage` key of an answer or of a chunk.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum UsageKey {
    /// Left out: not asked for.
    Absent,
    /// `null`: it comes in the last chunk.
    Later(Null),
    /// Here it is.
    Of(TokenUsage),
}

impl UsageKey {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// A text completion, or one chunk of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Completion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<CompletionChoice<'a>>,
    pub(super) system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "UsageKey::is_absent")]
    #[schema(value_type = Option<TokenUsage>)]
    pub(super) usage: UsageKey,
}

/// One choice of a [`Completion`].
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct CompletionChoice<'a> {
    pub(super) index: usize,
    pub(super) text: Cow<'a, str>,
    pub(super) logprobs: Option<TextLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
    pub(super) stop_reason: Option<StopReason<'a>>,
    /// vLLM's addition, left out unless it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_logprobs: Option<PromptLogprobs>,
    #[serde(flatten)]
    pub(super) ids: TokenIdKeys<'a>,
}

/// vLLM's `return_token_ids`: left out unless they were asked for.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct TokenIdKeys<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<&'a [u32]>,
}

/// A chat completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChatChoice<'a>>,
    pub(super) system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    pub(super) usage: TokenUsage,
    /// vLLM's addition, left out unless it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [u32]>,
}

/// One choice of a [`ChatCompletion`].
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChoice<'a> {
    pub(super) index: usize,
    pub(super) message: AssistantMessage,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
    pub(super) stop_reason: Option<StopReason<'a>>,
    #[serde(flatten)]
    pub(super) ids: TokenIdKeys<'a>,
}

/// What the model said.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AssistantMessage {
    pub(super) role: &'static str,
    /// Null where there are only calls.
    pub(super) content: Option<String>,
    #[schema(schema_with = null)]
    pub(super) refusal: Null,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<ToolCallObject>,
    /// The deprecated form of a call, for those who asked in that form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) function_call: Option<FunctionObject>,
}

/// A call of a tool, or a part of one in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolCallObject {
    /// In streams: which call this is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'static str>,
    pub(super) function: FunctionObject,
}

/// What is called, with what.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FunctionObject {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    pub(super) arguments: String,
}

/// One chunk of a streamed chat completion.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChatChunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChatChunkChoice<'a>>,
    pub(super) system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "UsageKey::is_absent")]
    #[schema(value_type = Option<TokenUsage>)]
    pub(super) usage: UsageKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_token_ids: Option<&'a [u32]>,
}

/// One choice of a [`ChatChunk`].
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct ChatChunkChoice<'a> {
    pub(super) index: usize,
    pub(super) delta: Delta,
    pub(super) logprobs: Option<ChatLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
    pub(super) stop_reason: Option<StopReason<'a>>,
    #[serde(flatten)]
    pub(super) ids: TokenIdKeys<'a>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<ToolCallObject>,
    /// The deprecated form of a call, for those who asked in that form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) function_call: Option<FunctionObject>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_absent_null_or_an_object() {
        let json = |usage| {
            let chunk = ChatChunk {
                id: "i",
                object: "o",
                created: 1,
                model: "m",
                choices: vec![],
                system_fingerprint: "f",
                service_tier: None,
                usage,
                prompt_token_ids: None,
            };
            String::from_utf8(chunk.to_json()).unwrap()
        };
        assert!(!json(UsageKey::Absent).contains("usage"));
        assert!(json(UsageKey::Later(())).ends_with(r#""usage":null}"#));
        assert!(json(UsageKey::Of(TokenUsage::default())).contains(r#""total_tokens":0"#));
    }
}

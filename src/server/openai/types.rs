//! The wire types: every JSON object that `OpenAI`'s API and vLLM's additions to it define here.
//!
//! | Direction | Types |
//! | --- | --- |
//! | in | [`CompletionRequest`], [`ChatRequest`], both with [`SamplingFields`] |
//! | out, whole | [`Completion`], [`ChatCompletion`], [`ModelList`], [`ErrorBody`] |
//! | out, streamed | [`Completion`], [`ChatChunk`], [`ErrorBody`] |
//!
//! Absent optional objects are left out; `logprobs`, `refusal` and `finish_reason` are null where
//! the schema requires the key.
//!
//! What this module deliberately does not do: it checks no ranges and decides nothing.

use std::fmt;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::json::{NotSupported, wire_object};

/// Most prompts of one completion request.
pub const MAX_PROMPTS: usize = 128;
/// Most `stop_token_ids` of one request.
pub(super) const MAX_STOP_TOKEN_IDS: usize = 1024;

wire_object! {
    /// Fields that both kinds of completion share.
    "a JSON object" => SamplingFields {
        model: String,
        max_tokens: i64,
        temperature: f64,
        top_p: f64,
        top_k: i64,
        min_p: f64,
        seed: i64,
        stop: Stop,
        stop_token_ids: TokenIds,
        ignore_eos: bool,
        stream: bool,
        stream_options: StreamOptions,
        add_special_tokens: bool,
    }
}

wire_object! {
    /// The body of `POST /v1/completions`.
    "a JSON object" => CompletionRequest {
        prompt: Prompt,
        echo: bool,
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// The body of `POST /v1/chat/completions`.
    "a JSON object" => ChatRequest {
        messages: Vec<Message>,
        max_completion_tokens: i64,
        add_generation_prompt: bool,
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// What a stream should carry besides text.
    "an object" => StreamOptions {
        include_usage: bool,
    }
}

wire_object! {
    /// One message of a conversation.
    "a message object" => Message {
        role: String,
        content: Content,
        tool_calls: Vec<serde::de::IgnoredAny>,
    }
}

wire_object! {
    /// One part of a message.
    "a content part object" => Part {
        kind["type"]: String,
        text: String,
    }
}

/// The prompt of a completion request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    Texts(Vec<String>),
    TokenIds(Vec<Vec<u32>>),
}

/// Stop strings.
#[derive(Debug, Default)]
pub(super) struct Stop(pub(super) Vec<String>);

/// A list of token ids, not longer than [`MAX_STOP_TOKEN_IDS`].
#[derive(Debug, Default)]
pub(super) struct TokenIds(pub(super) Vec<u32>);

/// What a message says.
#[derive(Debug)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

const fn refuse(field: &'static str, neutral: &'static [&'static str]) -> NotSupported {
    NotSupported { field, neutral }
}

/// Known fields of both endpoints that are not supported, with the values that pass.
const NOT_SUPPORTED: &[NotSupported] = &[
    refuse("n", &["1"]),
    refuse("best_of", &["1"]),
    refuse("use_beam_search", &["false"]),
    refuse("length_penalty", &["1"]),
    refuse("logprobs", &["false"]),
    refuse("prompt_logprobs", &[]),
    refuse("presence_penalty", &["0"]),
    refuse("frequency_penalty", &["0"]),
    refuse("repetition_penalty", &["1"]),
    refuse("logit_bias", &["{}"]),
    refuse("logits_processors", &["[]"]),
    refuse("bad_words", &["[]"]),
    refuse("allowed_token_ids", &[]),
    refuse("min_tokens", &["0"]),
    refuse("include_stop_str_in_output", &["false"]),
    refuse("skip_special_tokens", &["true"]),
    refuse("truncate_prompt_tokens", &[]),
    refuse("return_token_ids", &["false"]),
    refuse("return_tokens_as_token_ids", &["false"]),
    refuse("response_format", &[r#"{"type":"text"}"#]),
    refuse("structured_outputs", &[]),
    refuse("guided_json", &[]),
    refuse("guided_regex", &[]),
    refuse("guided_choice", &[]),
    refuse("guided_grammar", &[]),
    refuse("priority", &["0"]),
    refuse("kv_transfer_params", &[]),
];

/// Those of `POST /v1/completions`.
pub(super) const NOT_SUPPORTED_IN_COMPLETIONS: &[&[NotSupported]] =
    &[NOT_SUPPORTED, &[refuse("prompt_embeds", &[]), refuse("suffix", &["\"\""])]];

/// Those of `POST /v1/chat/completions`.
pub(super) const NOT_SUPPORTED_IN_CHAT: &[&[NotSupported]] = &[
    NOT_SUPPORTED,
    &[
        refuse("top_logprobs", &["0"]),
        refuse("tools", &["[]"]),
        refuse("tool_choice", &["\"none\"", "\"auto\""]),
        refuse("functions", &["[]"]),
        refuse("function_call", &["\"none\"", "\"auto\""]),
        refuse("modalities", &["[]", r#"["text"]"#]),
        refuse("audio", &[]),
        refuse("prediction", &[]),
        refuse("web_search_options", &[]),
        refuse("echo", &["false"]),
        refuse("continue_final_message", &["false"]),
        refuse("documents", &["[]"]),
        refuse("chat_template", &[]),
        refuse("chat_template_kwargs", &["{}"]),
        refuse("mm_processor_kwargs", &["{}"]),
    ],
];

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
        let too_many = || A::Error::custom(format!("expected at most {MAX_PROMPTS} prompts"));
        match list.next_element()? {
            None => Ok(Prompt::Texts(Vec::new())),
            Some(PromptItem::TokenId(first)) => {
                let mut ids = vec![first];
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(Prompt::TokenIds(vec![ids]))
            }
            Some(PromptItem::Text(first)) => {
                let mut texts = vec![first];
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                    if texts.len() > MAX_PROMPTS {
                        return Err(too_many());
                    }
                }
                Ok(Prompt::Texts(texts))
            }
            Some(PromptItem::TokenIds(first)) => {
                let mut prompts = vec![first];
                while let Some(ids) = list.next_element()? {
                    prompts.push(ids);
                    if prompts.len() > MAX_PROMPTS {
                        return Err(too_many());
                    }
                }
                Ok(Prompt::TokenIds(prompts))
            }
        }
    }
}

/// The first element of a list of prompts; the others must be of its kind.
enum PromptItem {
    Text(String),
    TokenId(u32),
    TokenIds(Vec<u32>),
}

impl<'de> Deserialize<'de> for PromptItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = PromptItem;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id (0 to 4294967295) or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptItem, E> {
                Ok(PromptItem::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<PromptItem, E> {
                let out_of_range = |_| E::invalid_value(Unexpected::Unsigned(id), &self);
                u32::try_from(id).map(PromptItem::TokenId).map_err(out_of_range)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptItem, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = list.next_element()? {
                    ids.push(id);
                }
                Ok(PromptItem::TokenIds(ids))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;

        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stop, A::Error> {
                let mut stop = Vec::new();
                while let Some(text) = list.next_element()? {
                    stop.push(text);
                }
                Ok(Stop(stop))
            }
        }

        deserializer.deserialize_any(StopVisitor)
    }
}

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ids = Vec::<u32>::deserialize(deserializer)?;
        if ids.len() > MAX_STOP_TOKEN_IDS {
            let got = ids.len();
            return Err(D::Error::custom(format!(
                "expected at most {MAX_STOP_TOKEN_IDS} token ids, got {got}"
            )));
        }
        Ok(Self(ids))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of content parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
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

/// A key that the schema requires and whose value is null.
pub(crate) type Null = ();

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
sent!(ErrorBody, ModelObject<'_>, ModelList<'_>, Completion<'_>, ChatCompletion<'_>, ChatChunk<'_>);

/// `{"error": {...}}`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ErrorObject {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

/// One served model.
#[derive(Debug, Serialize)]
pub(crate) struct ModelObject<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    pub(crate) max_model_len: usize,
}

/// The served models.
#[derive(Debug, Serialize)]
pub(crate) struct ModelList<'a> {
    pub(crate) object: &'static str,
    pub(crate) data: [ModelObject<'a>; 1],
}

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(super) struct TokenUsage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
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
#[derive(Debug, Serialize)]
pub(super) struct Completion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<CompletionChoice<'a>>,
    #[serde(skip_serializing_if = "UsageKey::is_absent")]
    pub(super) usage: UsageKey,
}

/// One choice of a [`Completion`].
#[derive(Debug, Serialize)]
pub(super) struct CompletionChoice<'a> {
    pub(super) index: usize,
    pub(super) text: &'a str,
    pub(super) logprobs: Null,
    pub(super) finish_reason: Option<&'static str>,
}

/// A chat completion.
#[derive(Debug, Serialize)]
pub(super) struct ChatCompletion<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChatChoice<'a>>,
    pub(super) usage: TokenUsage,
}

/// One choice of a [`ChatCompletion`].
#[derive(Debug, Serialize)]
pub(super) struct ChatChoice<'a> {
    pub(super) index: usize,
    pub(super) message: AssistantMessage<'a>,
    pub(super) logprobs: Null,
    pub(super) finish_reason: &'static str,
}

/// What the model said.
#[derive(Debug, Serialize)]
pub(super) struct AssistantMessage<'a> {
    pub(super) role: &'static str,
    pub(super) content: &'a str,
    pub(super) refusal: Null,
}

/// One chunk of a streamed chat completion.
#[derive(Debug, Serialize)]
pub(super) struct ChatChunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChatChunkChoice<'a>>,
    #[serde(skip_serializing_if = "UsageKey::is_absent")]
    pub(super) usage: UsageKey,
}

/// One choice of a [`ChatChunk`].
#[derive(Debug, Serialize)]
pub(super) struct ChatChunkChoice<'a> {
    pub(super) index: usize,
    pub(super) delta: Delta<'a>,
    pub(super) logprobs: Null,
    pub(super) finish_reason: Option<&'static str>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;

    fn prompt(json: &str) -> Result<Prompt, String> {
        let body = format!(r#"{{"prompt": {json}}}"#);
        parse::<CompletionRequest>(body.as_bytes(), NOT_SUPPORTED_IN_COMPLETIONS)
            .map(|request| request.prompt.unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_prompt_comes_in_four_forms() {
        let texts =
            |texts: &[&str]| Ok(Prompt::Texts(texts.iter().copied().map(String::from).collect()));
        assert_eq!(prompt(r#""a\u0000b""#), texts(&["a\0b"]));
        assert_eq!(prompt(r#"["a", "b"]"#), texts(&["a", "b"]));
        assert_eq!(prompt("[1, 2]"), Ok(Prompt::TokenIds(vec![vec![1, 2]])));
        assert_eq!(prompt("[[1], [2, 3]]"), Ok(Prompt::TokenIds(vec![vec![1], vec![2, 3]])));
        assert_eq!(prompt("[]"), texts(&[]));
        assert_eq!(prompt("[[]]"), Ok(Prompt::TokenIds(vec![vec![]])));
    }

    #[test]
    fn other_prompts_are_refused() {
        for json in [
            "5",
            "true",
            "{}",
            "1.5",
            "[1, \"a\"]",
            "[\"a\", 1]",
            "[[1], 2]",
            "[-1]",
            "[1.5]",
            "[1099511627776]",
            "[[[1]]]",
            "[null]",
            "[{}]",
        ] {
            let error = prompt(json).unwrap_err();
            assert!(error.starts_with("invalid prompt: "), "{json}: {error}");
        }
        let many = format!("[{}\"x\"]", "\"x\",".repeat(3_000));
        assert!(prompt(&many).unwrap_err().contains("at most 128 prompts"));
    }

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

    #[test]
    fn usage_is_absent_null_or_an_object() {
        let json = |usage| {
            let chunk =
                ChatChunk { id: "i", object: "o", created: 1, model: "m", choices: vec![], usage };
            String::from_utf8(chunk.to_json()).unwrap()
        };
        assert!(!json(UsageKey::Absent).contains("usage"));
        assert!(json(UsageKey::Later(())).ends_with(r#""usage":null}"#));
        assert!(json(UsageKey::Of(TokenUsage::default())).contains(r#""total_tokens":0"#));
    }
}

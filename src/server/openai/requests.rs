//! What comes in: every field that `OpenAI`'s API and vLLM's additions to it define for completions.
//!
//! | Endpoint | Body |
//! | --- | --- |
//! | `/v1/completions` | [`CompletionRequest`] with [`SamplingFields`] |
//! | `/v1/chat/completions` | [`ChatRequest`] with [`SamplingFields`] |
//!
//! | Field of this server's own | Meaning |
//! | --- | --- |
//! | `timeout` | seconds after which the request fails if it is not finished |
//! | `deadline` | with the deadline policy: in how many seconds the answer is wanted |
//!
//! What this module deliberately does not do: it checks no ranges and decides nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::json::{NotSupported, wire_object};
use crate::engine::MAX_LOGIT_BIASES;

/// Most prompts of one completion request.
pub const MAX_PROMPTS: usize = 128;
/// Most inputs of one request for embeddings, as `OpenAI` has it.
const MAX_INPUTS: usize = 2048;
/// Most `stop_token_ids` of one request.
pub(super) const MAX_STOP_TOKEN_IDS: usize = 1024;

wire_object! {
    /// Fields that both kinds of completion share.
    "a JSON object" => SamplingFields {
        model: String,
        n: i64,
        best_of: i64,
        max_tokens: i64,
        min_tokens: i64,
        temperature: f64,
        top_p: f64,
        top_k: i64,
        min_p: f64,
        seed: i64,
        presence_penalty: f64,
        frequency_penalty: f64,
        repetition_penalty: f64,
        logit_bias: LogitBias,
        bad_words: Vec<String>,
        allowed_token_ids: Vec<u32>,
        use_beam_search: bool,
        length_penalty: f64,
        early_stopping: bool,
        prompt_logprobs: i64,
        stop: Stop,
        include_stop_str_in_output: bool,
        stop_token_ids: TokenIds,
        ignore_eos: bool,
        stream: bool,
        stream_options: StreamOptions,
        add_special_tokens: bool,
        priority: i64,
        deadline: f64,
        timeout: f64,
        cache_salt: String,
    }
}

wire_object! {
    /// The body of `POST /v1/completions`.
    "a JSON object" => CompletionRequest {
        prompt: Prompt,
        echo: bool,
        logprobs: i64,
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// The body of `POST /v1/chat/completions`.
    "a JSON object" => ChatRequest {
        messages: Vec<Message>,
        max_completion_tokens: i64,
        logprobs: bool,
        top_logprobs: i64,
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

/// What embeddings are wanted of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inputs(pub(super) Prompt);

/// Stop strings.
#[derive(Debug, Default)]
pub(super) struct Stop(pub(super) Vec<String>);

/// A list of token ids, not longer than [`MAX_STOP_TOKEN_IDS`].
#[derive(Debug, Default)]
pub(super) struct TokenIds(pub(super) Vec<u32>);

/// What is added to the logits of tokens, by id.
#[derive(Debug, Default)]
pub(super) struct LogitBias(pub(super) BTreeMap<u32, f64>);

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
    refuse("logits_processors", &["[]"]),
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
    refuse("kv_transfer_params", &[]),
];

/// Those of `POST /v1/completions`.
pub(super) const NOT_SUPPORTED_IN_COMPLETIONS: &[&[NotSupported]] =
    &[NOT_SUPPORTED, &[refuse("prompt_embeds", &[]), refuse("suffix", &["\"\""])]];

/// Those of `POST /v1/chat/completions`.
pub(super) const NOT_SUPPORTED_IN_CHAT: &[&[NotSupported]] = &[
    NOT_SUPPORTED,
    &[
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
        deserializer.deserialize_any(PromptVisitor { max_prompts: MAX_PROMPTS })
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor { max_prompts: MAX_INPUTS }).map(Self)
    }
}

struct PromptVisitor {
    max_prompts: usize,
}

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a list of strings, a list of token ids or a list of such lists")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
        let max_prompts = self.max_prompts;
        let too_many = || A::Error::custom(format!("expected at most {max_prompts} prompts"));
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
                    if texts.len() > max_prompts {
                        return Err(too_many());
                    }
                }
                Ok(Prompt::Texts(texts))
            }
            Some(PromptItem::TokenIds(first)) => {
                let mut prompts = vec![first];
                while let Some(ids) = list.next_element()? {
                    prompts.push(ids);
                    if prompts.len() > max_prompts {
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

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasVisitor;

        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with token ids as keys and numbers as values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut biases = BTreeMap::new();
                while let Some((key, bias)) = map.next_entry::<String, f64>()? {
                    let token_id: u32 = key.parse().map_err(|_| {
                        A::Error::invalid_value(Unexpected::Str(&key), &"a token id as key")
                    })?;
                    biases.insert(token_id, bias);
                    if biases.len() > MAX_LOGIT_BIASES {
                        let problem = format!("expected at most {MAX_LOGIT_BIASES} tokens");
                        return Err(A::Error::custom(problem));
                    }
                }
                Ok(LogitBias(biases))
            }
        }

        deserializer.deserialize_map(BiasVisitor)
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
    fn a_bias_has_token_ids_for_keys() {
        let read = |bias: &str| {
            let body = format!(r#"{{"logit_bias": {bias}}}"#);
            parse::<SamplingFields>(body.as_bytes(), &[]).map(|fields| fields.logit_bias.unwrap().0)
        };
        let two = read(r#"{"7": 1, "8": -2.5, "7": 3}"#).unwrap();
        assert_eq!(
            two,
            [(7, 3.0), (8, -2.5)].into(),
            "of a key that appears twice the last one counts"
        );
        assert_eq!(read("{}").unwrap(), BTreeMap::new());
        for bad in
            [r#"{"x": 1}"#, r#"{"-1": 1}"#, r#"{"1.5": 1}"#, r#"{"1": "2"}"#, "[1]", "[[1, 2]]"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_LOGIT_BIASES).map(|id| format!(r#""{id}": 1"#)).collect();
        assert!(read(&format!("{{{}}}", many.join(","))).is_err());
    }
}

//! What comes in: every field that `OpenAI`'s API and vLLM's additions to it define for completions.
//!
//! | Endpoint | Body |
//! | --- | --- |
//! | `/v1/completions` | [`CompletionRequest`] with [`SamplingFields`] |
//! | `/v1/chat/completions` | [`ChatRequest`] with [`TemplateFields`] and [`SamplingFields`] |
//!
//! Other dialects have bodies of their own, beside their endpoints, and share the last two.
//!
//! | Field of this server's own | Meaning |
//! | --- | --- |
//! | `timeout` | seconds after which the request fails if it is not finished |
//! | `deadline` | with the deadline policy: in how many seconds the answer is wanted |
//!
//! What this module deliberately does not do: it checks no ranges and decides nothing.

mod chat;
mod values;

use super::format::MAX_CHOICES as MAX_FORMAT_CHOICES;
use super::json::{NotSupported, wire_object};
use super::scheduling::MAX_SECONDS;
use crate::engine::{MAX_BAD_WORDS, MAX_CHOICES, MAX_LOGPROBS};
use crate::server::openapi::schema::{Above, OneOf, Pattern, Required};

pub(super) use chat::{
    Call, CalledFunction, ChatRequest, Content, Function, Message, Part, TemplateFields, Tool,
};
pub(super) use values::{Inputs, Json, LogitBias, MAX_INPUTS, Prompt, Stop, TokenIds};

/// Most prompts of one completion request.
pub const MAX_PROMPTS: usize = 128;
/// Most `stop_token_ids` of one request.
pub(super) const MAX_STOP_TOKEN_IDS: usize = 1024;

wire_object! {
    /// Fields that both kinds of completion share.
    "a JSON object" => pub(in crate::server::openai) SamplingFields {
        /// The served model; may be left out.
        model: String,
        /// How many texts.
        n: i64 where 1..=MAX_CHOICES,
        /// How many texts are generated, of which the likeliest `n` are sent.
        best_of: i64 where 1..=MAX_CHOICES,
        /// The most tokens of each text.
        max_tokens: i64 where 1..,
        /// The fewest tokens of each text.
        min_tokens: i64 where 0..,
        /// Randomness; 0 always takes the likeliest token.
        temperature: f64 where 0.0..=100.0,
        /// Only the likeliest tokens whose probabilities sum up to this.
        top_p: f64 where Above(0.0, 1.0),
        /// Only so many of the likeliest tokens; -1 and 0: all.
        top_k: i64 where -1..,
        /// Only tokens at least so likely, compared with the likeliest.
        min_p: f64 where 0.0..=1.0,
        /// The same request with the same seed gives the same texts.
        seed: i64,
        /// Against tokens that the text has.
        presence_penalty: f64 where -2.0..=2.0,
        /// Against tokens, as often as the text has them.
        frequency_penalty: f64 where -2.0..=2.0,
        /// Against tokens that the prompt or the text has; 1: none.
        repetition_penalty: f64 where Above(0.0, f64::from(f32::MAX)),
        /// What is added to the logits of tokens, by id.
        logit_bias: LogitBias,
        /// Words that the text must not have.
        bad_words: Vec<String> where 0..=MAX_BAD_WORDS,
        /// The only tokens that may be generated.
        allowed_token_ids: Vec<u32> where 1..,
        /// Look for the likeliest texts instead of sampling.
        use_beam_search: bool,
        /// With beams: above 0 favours long texts, below short ones.
        length_penalty: f64 where -10.0..=10.0,
        /// With beams: stop once there are enough texts.
        early_stopping: bool,
        /// Log probabilities of the prompt, with so many of the likeliest tokens.
        prompt_logprobs: i64 where 0..=MAX_LOGPROBS,
        /// Texts that end the answer.
        stop: Stop,
        /// Whether the text that ended the answer is part of it.
        include_stop_str_in_output: bool,
        /// Tokens that end the answer.
        stop_token_ids: TokenIds,
        /// Go on after an end-of-text token.
        ignore_eos: bool,
        /// Send the answer while it is generated.
        stream: bool,
        /// What a stream carries besides text; only with `stream`.
        stream_options: StreamOptions,
        /// Whether the tokenizer adds its own tokens to the prompt.
        add_special_tokens: bool,
        /// Where the server schedules by priority: lower runs sooner.
        priority: i64 where i32::MIN..=i32::MAX,
        /// Where the server schedules by deadline: in how many seconds the answer is wanted.
        deadline: f64 where Above(0.0, MAX_SECONDS),
        /// Seconds after which the request fails if it is not finished.
        timeout: f64 where Above(0.0, MAX_SECONDS),
        /// Only requests with the same salt share cached prefixes.
        cache_salt: String where 1..,
        /// The answer's id, after a prefix.
        request_id: String where Pattern("^[A-Za-z0-9._-]{1,64}$"),
        /// Accepted; it changes nothing.
        user: String,
        /// Whether special tokens are left out of texts.
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
        /// Only the last so many tokens of the prompt; -1: as many as fit.
        truncate_prompt_tokens: i64 where -1..,
        /// Whether the ids of tokens are sent, too.
        return_token_ids: bool,
        /// Whether log probabilities name tokens as `token_id:7`.
        return_tokens_as_token_ids: bool,
        /// What form the answer has.
        response_format: ResponseFormat,
        /// What form the answer has.
        structured_outputs: StructuredOutputs,
        /// A JSON schema that the answer follows.
        guided_json: Json,
        /// A regular expression that the whole answer matches.
        guided_regex: String,
        /// Texts of which the answer is one.
        guided_choice: Vec<String> where 1..=MAX_FORMAT_CHOICES,
        /// A grammar in the form of Lark that the answer follows.
        guided_grammar: String,
    }
}

wire_object! {
    /// The body of `POST /v1/completions`.
    "a JSON object" => pub(in crate::server::openai) CompletionRequest {
        /// What is continued: text, texts, token ids, or lists of token ids.
        prompt: Prompt where Required,
        /// Send the prompt, too.
        echo: bool,
        /// Log probabilities, with so many of the likeliest tokens.
        logprobs: i64 where 0..=MAX_LOGPROBS,
        /// Not supported: leave it out or send an empty text.
        suffix: String where OneOf(&[""]),
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// What a stream should carry besides text.
    "an object" => pub(in crate::server::openai) StreamOptions {
        /// Send the counts of tokens as the last chunk.
        include_usage: bool,
        /// And the counts so far in every chunk; only with `include_usage`.
        continuous_usage_stats: bool,
        /// Accepted; it changes nothing.
        include_obfuscation: bool,
    }
}

wire_object! {
    /// `OpenAI`'s form of an answer.
    "an object with a `type`" => pub(in crate::server::openai) ResponseFormat {
        kind["type"]: String where (Required, OneOf(&["text", "json_object", "json_schema"])),
        /// With the type `json_schema`.
        json_schema: NamedSchema,
    }
}

wire_object! {
    /// A schema as `response_format` wraps it. What is generated follows it, `strict` or not.
    "an object with a `schema`" => pub(in crate::server::openai) NamedSchema {
        name: String,
        schema: Json,
        strict: bool,
    }
}

wire_object! {
    /// vLLM's form of an answer: exactly one of these.
    "an object with one of `json`, `regex`, `choice`, `grammar` and `json_object`"
    => pub(in crate::server::openai) StructuredOutputs {
        /// A JSON schema that the answer follows.
        json: Json,
        /// A regular expression that the whole answer matches.
        regex: String,
        /// Texts of which the answer is one.
        choice: Vec<String> where 1..=MAX_FORMAT_CHOICES,
        /// A grammar in the form of Lark.
        grammar: String,
        /// Any JSON object.
        json_object: bool,
        /// Not supported.
        structural_tag: Json,
    }
}

const fn refuse(field: &'static str, neutral: &'static [&'static str]) -> NotSupported {
    NotSupported { field, neutral }
}

/// Known fields of both endpoints that are not supported, with the values that pass.
const NOT_SUPPORTED: &[NotSupported] = &[
    refuse("logits_processors", &["[]"]),
    refuse("kv_transfer_params", &[]),
    refuse("vllm_xargs", &["{}"]),
];

/// Those of `POST /v1/completions`.
pub(super) const NOT_SUPPORTED_IN_COMPLETIONS: &[&[NotSupported]] =
    &[NOT_SUPPORTED, &[refuse("prompt_embeds", &[])]];

/// Those of `POST /v1/chat/completions`.
pub(super) const NOT_SUPPORTED_IN_CHAT: &[&[NotSupported]] = &[
    NOT_SUPPORTED,
    &[
        refuse("modalities", &["[]", r#"["text"]"#]),
        refuse("audio", &[]),
        refuse("prediction", &[]),
        refuse("web_search_options", &[]),
        refuse("store", &["false"]),
        refuse("echo", &["false"]),
        refuse("mm_processor_kwargs", &["{}"]),
    ],
];

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

use super::json::{NotSupported, wire_object};

pub(super) use chat::{
    Call, CalledFunction, ChatRequest, Content, Function, Message, Part, TemplateFields, Tool,
};
pub(super) use values::{Inputs, Json, LogitBias, Prompt, Stop, TokenIds};

/// Most prompts of one completion request.
pub const MAX_PROMPTS: usize = 128;
/// Most `stop_token_ids` of one request.
pub(super) const MAX_STOP_TOKEN_IDS: usize = 1024;

wire_object! {
    /// Fields that both kinds of completion share.
    "a JSON object" => pub(in crate::server::openai) SamplingFields {
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
        request_id: String,
        user: String,
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
        truncate_prompt_tokens: i64,
        return_token_ids: bool,
        return_tokens_as_token_ids: bool,
        response_format: ResponseFormat,
        structured_outputs: StructuredOutputs,
        guided_json: Json,
        guided_regex: String,
        guided_choice: Vec<String>,
        guided_grammar: String,
    }
}

wire_object! {
    /// The body of `POST /v1/completions`.
    "a JSON object" => pub(in crate::server::openai) CompletionRequest {
        prompt: Prompt,
        echo: bool,
        logprobs: i64,
        suffix: String,
    }
    flattened sampling: SamplingFields
}

wire_object! {
    /// What a stream should carry besides text.
    "an object" => pub(in crate::server::openai) StreamOptions {
        include_usage: bool,
        continuous_usage_stats: bool,
        include_obfuscation: bool,
    }
}

wire_object! {
    /// `OpenAI`'s form of an answer.
    "an object with a `type`" => pub(in crate::server::openai) ResponseFormat {
        kind["type"]: String,
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
        json: Json,
        regex: String,
        choice: Vec<String>,
        grammar: String,
        json_object: bool,
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

//! `OpenAI`'s endpoints as the document tells them, and the schemas of what they take.
//!
//! What this module deliberately does not do: it answers nothing, and the schemas of plain structs
//! are made where they are defined.

use serde_json::{Value, json};

use super::embeddings::EmbeddingRequest;
use super::json::NotSupported;
use super::messages::{
    Block, Blocks, MessageTokensCount, MessagesRequest, NOT_SUPPORTED_IN_MESSAGES, TurnsRequest,
};
use super::requests::{
    ChatRequest, CompletionRequest, Content as MessageContent, Inputs, Json, LogitBias, MAX_INPUTS,
    MAX_PROMPTS, MAX_STOP_TOKEN_IDS, NOT_SUPPORTED_IN_CHAT, NOT_SUPPORTED_IN_COMPLETIONS, Part,
    Prompt, Stop, TokenIds,
};
use super::responses::{Input, Item, NOT_SUPPORTED_IN_RESPONSES, ResponsesRequest};
use super::tokenize::{DetokenizeRequest, Detokenized, TokenizeRequest, Tokenized};
use super::types::{ChatChunk, ChatCompletion, Completion, EmbeddingList, ModelList, ModelObject};
use crate::engine::{MAX_LOGIT_BIASES, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS};
use crate::server::openapi::endpoint::{
    Body, Content, Endpoint, Method, OF_COMPLETIONS, OF_NAMED, WITH_KEY,
};
use crate::server::openapi::schema::{Described, Object, Schemas};

const COMPLETIONS: &str = "Completions";
const MESSAGES: &str = "Messages";
const MODELS: &str = "Models";
const RESPONSES: &str = "Responses";

/// All of them.
pub(in crate::server) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        tag: COMPLETIONS,
        summary: "Continue a conversation",
        body: Body::Json(|schemas| body::<ChatRequest>(schemas, NOT_SUPPORTED_IN_CHAT)),
        content: Content::JsonOrEvents(
            Schemas::of_sent::<ChatCompletion<'static>>,
            Schemas::of_sent::<ChatChunk<'static>>,
        ),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/v1/chat/completions", "createChatCompletion")
    },
    Endpoint {
        tag: COMPLETIONS,
        summary: "Continue texts",
        body: Body::Json(|schemas| {
            body::<CompletionRequest>(schemas, NOT_SUPPORTED_IN_COMPLETIONS)
        }),
        content: Content::JsonOrEvents(
            Schemas::of_sent::<Completion<'static>>,
            Schemas::of_sent::<Completion<'static>>,
        ),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/v1/completions", "createCompletion")
    },
    Endpoint {
        tag: "Embeddings",
        summary: "Texts as vectors",
        body: Body::Json(|schemas| body::<EmbeddingRequest>(schemas, &[])),
        content: Content::Json(Schemas::of_sent::<EmbeddingList<'static>>),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/v1/embeddings", "createEmbedding")
    },
    Endpoint {
        tag: RESPONSES,
        summary: "Answer, in the form of responses",
        body: Body::Json(|schemas| body::<ResponsesRequest>(schemas, NOT_SUPPORTED_IN_RESPONSES)),
        content: Content::JsonOrEvents(response, response_event),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/v1/responses", "createResponse")
    },
    Endpoint {
        tag: RESPONSES,
        summary: "A response that is held",
        path_parameters: &[("id", "The response's id.")],
        content: Content::Json(response),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/responses/{id}", "retrieveResponse")
    },
    Endpoint {
        method: Method::Delete,
        tag: RESPONSES,
        summary: "Forget a response",
        path_parameters: &[("id", "The response's id.")],
        content: Content::Json(|_| deleted("response")),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/responses/{id}", "deleteResponse")
    },
    Endpoint {
        tag: MESSAGES,
        summary: "Answer, in the form of Anthropic's messages",
        body: Body::Json(|schemas| body::<MessagesRequest>(schemas, NOT_SUPPORTED_IN_MESSAGES)),
        content: Content::JsonOrEvents(message, message_event),
        errors: OF_COMPLETIONS,
        error: message_error,
        ..Endpoint::post("/v1/messages", "createMessage")
    },
    Endpoint {
        tag: MESSAGES,
        summary: "How many tokens such a conversation has",
        body: Body::Json(|schemas| body::<TurnsRequest>(schemas, NOT_SUPPORTED_IN_MESSAGES)),
        content: Content::Json(Schemas::of_sent::<MessageTokensCount>),
        errors: OF_COMPLETIONS,
        error: message_error,
        ..Endpoint::post("/v1/messages/count_tokens", "countMessageTokens")
    },
    Endpoint {
        tag: "Tokens",
        summary: "Text or a conversation to tokens",
        body: Body::Json(tokenize),
        content: Content::Json(Schemas::of_sent::<Tokenized>),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/tokenize", "tokenize")
    },
    Endpoint {
        tag: "Tokens",
        summary: "Tokens to text",
        body: Body::Json(detokenize),
        content: Content::Json(Schemas::of_sent::<Detokenized>),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/detokenize", "detokenize")
    },
    Endpoint {
        tag: MODELS,
        summary: "The models that are served",
        content: Content::Json(Schemas::of_sent::<ModelList<'static>>),
        errors: WITH_KEY,
        ..Endpoint::get("/v1/models", "listModels")
    },
    Endpoint {
        tag: MODELS,
        summary: "One model",
        path_parameters: &[("id", "What the model is called; it may contain slashes.")],
        content: Content::Json(Schemas::of_sent::<ModelObject<'static>>),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/models/{id}", "retrieveModel")
    },
];

fn tokenize(schemas: &mut Schemas) -> Value {
    let keys = [
        "model",
        "prompt",
        "add_special_tokens",
        "return_token_strs",
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "reasoning_effort",
    ];
    // There is either a prompt or a conversation.
    let mut schema = TokenizeRequest::properties(schemas).only(&keys).into_schema(&[]);
    schema["required"] = json!([]);
    schema
}

fn detokenize(schemas: &mut Schemas) -> Value {
    DetokenizeRequest::properties(schemas).only(&["model", "tokens"]).into_schema(&[])
}

/// What the deletion of an object says.
pub(in crate::server) fn deleted(object: &str) -> Value {
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "object": { "const": object },
            "deleted": { "const": true },
        },
        "required": ["id", "object", "deleted"],
    })
}

fn response(_: &mut Schemas) -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "properties": {
            "id": text,
            "object": { "const": "response" },
            "created_at": { "type": "integer", "minimum": 0 },
            "status": { "enum": ["completed", "incomplete", "failed", "in_progress"] },
            "model": text,
            "output": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "id": text,
                        "type": { "enum": ["message", "reasoning", "function_call"] },
                    },
                    "required": ["id", "type"],
                },
            },
        },
        "required": ["id", "object", "created_at", "status", "model", "output"],
    })
}

fn response_event(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": { "type": "string" },
            "sequence_number": { "type": "integer", "minimum": 0 },
        },
        "required": ["type", "sequence_number"],
    })
}

fn message(_: &mut Schemas) -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "properties": {
            "id": text,
            "type": { "const": "message" },
            "role": { "const": "assistant" },
            "model": text,
            "content": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "type": { "enum": ["thinking", "text", "tool_use"] } },
                    "required": ["type"],
                },
            },
            "stop_reason": { "enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"] },
            "stop_sequence": { "type": ["string", "null"] },
            "usage": {
                "type": "object",
                "properties": {
                    "input_tokens": count,
                    "cache_creation_input_tokens": count,
                    "cache_read_input_tokens": count,
                    "output_tokens": count,
                },
                "required": ["input_tokens", "output_tokens"],
            },
        },
        "required": [
            "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage",
        ],
    })
}

fn message_event(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": { "type": { "type": "string" } },
        "required": ["type"],
    })
}

fn message_error(_: &mut Schemas) -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "properties": {
            "type": { "const": "error" },
            "error": {
                "type": "object",
                "properties": { "type": text, "message": text },
                "required": ["type", "message"],
            },
            "request_id": text,
        },
        "required": ["type", "error"],
    })
}

/// The schema of a body, with the fields that it refuses.
fn body<T: Described>(schemas: &mut Schemas, refused: &[&[NotSupported]]) -> Value {
    if refused.is_empty() {
        return schemas.of::<T>();
    }
    let mut object = Object::default();
    for field in refused.iter().copied().flatten() {
        object.add_refused(field.field, field.neutral);
    }
    json!({ "allOf": [schemas.of::<T>(), object.into_schema(&[])] })
}

/// Implements [`Described`] by an expression.
macro_rules! described {
    ($($Type:ty => |$schemas:ident| $schema:tt,)*) => {$(
        impl Described for $Type {
            fn schema($schemas: &mut Schemas) -> Value {
                json!($schema)
            }
        }
    )*};
}
described! {
    Prompt => |_schemas| (prompts(MAX_PROMPTS, 0)),
    Inputs => |_schemas| (prompts(MAX_INPUTS, 1)),
    Stop => |_schemas| {"oneOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_STOP_STRING_BYTES},
        {"type": "array", "maxItems": MAX_STOP_STRINGS,
         "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_STRING_BYTES}},
    ]},
    TokenIds => |_schemas| {
        "type": "array", "items": (token_id()), "maxItems": MAX_STOP_TOKEN_IDS,
    },
    LogitBias => |_schemas| {
        "type": "object", "propertyNames": {"pattern": "^[0-9]+$"},
        "additionalProperties": {"type": "number"}, "maxProperties": MAX_LOGIT_BIASES,
    },
    Json => |_schemas| {},
    Input => |schemas| {"oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": (schemas.of::<Item>()), "minItems": 1},
    ]},
    Blocks => |schemas| {"oneOf": [
        {"type": "string"},
        {"type": "array", "items": (schemas.of::<Block>()), "minItems": 1},
    ]},
    MessageContent => |schemas| {"oneOf": [
        {"type": "string"},
        {"type": "array", "items": (schemas.of::<Part>())},
    ]},
}

/// Text, texts, token ids, or lists of token ids, none shorter than `min_len`.
fn prompts(max: usize, min_len: usize) -> Value {
    let text = json!({ "type": "string", "minLength": min_len });
    let ids = json!({ "type": "array", "items": token_id(), "minItems": min_len });
    json!({ "oneOf": [
        text,
        { "type": "array", "items": text, "minItems": min_len, "maxItems": max },
        { "type": "array", "items": token_id(), "minItems": 1 },
        { "type": "array", "items": ids, "minItems": 1, "maxItems": max },
    ] })
}

fn token_id() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
}

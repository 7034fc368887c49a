//! `OpenAI`'s endpoints as the document tells them, and the schemas of what they take.
//!
//! What this module deliberately does not do: it answers nothing, and the schemas of plain structs
//! are made where they are defined.

use serde_json::{Value, json};

use super::embeddings::EmbeddingRequest;
use super::json::NotSupported;
use super::requests::{
    ChatRequest, CompletionRequest, Content as MessageContent, Inputs, LogitBias, MAX_INPUTS,
    MAX_PROMPTS, MAX_STOP_TOKEN_IDS, NOT_SUPPORTED_IN_CHAT, NOT_SUPPORTED_IN_COMPLETIONS, Part,
    Prompt, Stop, TokenIds,
};
use super::types::{ChatChunk, ChatCompletion, Completion, EmbeddingList, ModelList, ModelObject};
use crate::engine::{MAX_LOGIT_BIASES, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS};
use crate::server::openapi::endpoint::{Content, Endpoint, OF_COMPLETIONS};
use crate::server::openapi::schema::{Described, Object, Schemas};

const COMPLETIONS: &str = "Completions";
const MODELS: &str = "Models";

/// All of them.
pub(in crate::server) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        tag: COMPLETIONS,
        summary: "Continue a conversation",
        body: Some(|schemas| body::<ChatRequest>(schemas, NOT_SUPPORTED_IN_CHAT)),
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
        body: Some(|schemas| body::<CompletionRequest>(schemas, NOT_SUPPORTED_IN_COMPLETIONS)),
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
        body: Some(|schemas| body::<EmbeddingRequest>(schemas, &[])),
        content: Content::Json(Schemas::of_sent::<EmbeddingList<'static>>),
        errors: OF_COMPLETIONS,
        ..Endpoint::post("/v1/embeddings", "createEmbedding")
    },
    Endpoint {
        tag: MODELS,
        summary: "The models that are served",
        content: Content::Json(Schemas::of_sent::<ModelList<'static>>),
        ..Endpoint::get("/v1/models", "listModels")
    },
    Endpoint {
        tag: MODELS,
        summary: "One model",
        path_parameters: &[("id", "What the model is called; it may contain slashes.")],
        content: Content::Json(Schemas::of_sent::<ModelObject<'static>>),
        errors: &[400, 404, 500],
        ..Endpoint::get("/v1/models/{id}", "retrieveModel")
    },
];

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

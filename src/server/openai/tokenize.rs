//! `POST /tokenize` and `POST /detokenize`: what a prompt is to the model.
//!
//! ```text
//! {"prompt": ..} or {"messages": [..], "tools": [..], ..}   -> {"count", "max_model_len", "tokens"}
//! {"tokens": [..]}                                          -> {"prompt"}
//! ```
//!
//! | Field | Default |
//! | --- | --- |
//! | `add_special_tokens` | true for a prompt, false for messages, as the completions have it |
//! | `add_generation_prompt`, `chat_template_kwargs`, ... | as in `/v1/chat/completions` |
//! | `return_token_strs` | false; with true `token_strs` are the tokens as the vocabulary spells them |
//!
//! What this module deliberately does not do: it generates nothing, and no token is charged.

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::chat;
use super::dialogue::render;
use super::json::{parse, wire_object};
use super::prompt::{check_model, check_token_ids, encode};
use super::requests::{ChatRequest, SamplingFields};
use crate::server::error::ApiError;
use crate::server::openapi::schema::Required;
use crate::server::{ServerState, body};

wire_object! {
    /// The body of `POST /tokenize`.
    "a JSON object" => pub(super) TokenizeRequest {
        prompt: String,
        return_token_strs: bool,
    }
    flattened chat: ChatRequest
}

wire_object! {
    /// The body of `POST /detokenize`.
    "a JSON object" => pub(super) DetokenizeRequest {
        tokens: Vec<u32> where Required,
    }
    flattened sampling: SamplingFields
}

/// What a prompt is to the model.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// The way back.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Detokenized {
    prompt: String,
}

/// `POST /tokenize`.
pub(crate) async fn tokenize(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, request, tokenized).await
}

/// `POST /detokenize`.
pub(crate) async fn detokenize(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(state, request, detokenized).await
}

/// Answers a body off the async threads.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    state: ServerState,
    request: Request,
    read: fn(&ServerState, &[u8]) -> Result<T, ApiError>,
) -> Result<Response, ApiError> {
    let body = body::read(&state, request).await?;
    let worker = state.clone();
    let json = state
        .blocking(move || {
            let answer = read(&worker, body.as_bytes())?;
            serde_json::to_vec(&answer).map_err(|_| ApiError::Internal)
        })
        .await??;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

fn tokenized(state: &ServerState, body: &[u8]) -> Result<Tokenized, ApiError> {
    let request: TokenizeRequest = parse(body, &[])?;
    let fields = &request.chat.template.sampling;
    check_model(state, fields)?;
    let tokens = match (request.prompt, request.chat.messages.is_some()) {
        (Some(prompt), false) => {
            encode(state, "prompt", &prompt, fields.add_special_tokens.unwrap_or(true))?
        }
        (None, true) => {
            let add_special_tokens = fields.add_special_tokens.unwrap_or(false);
            let dialogue = chat::dialogue(request.chat)?;
            let text = render(state, &dialogue)?;
            encode(state, dialogue.param, &text, add_special_tokens)?
        }
        (Some(_), true) => {
            let message = "`prompt` is not allowed together with `messages`";
            return Err(ApiError::invalid("prompt", message));
        }
        (None, false) => {
            let message = "`prompt` is missing, expected a text, or a list of `messages`";
            return Err(ApiError::invalid("prompt", message));
        }
    };
    let spelled = |&id: &u32| state.tokenizer().id_to_token(id).unwrap_or_default();
    let is_spelled = request.return_token_strs.unwrap_or(false);
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: state.engine().max_model_len(),
        token_strs: is_spelled.then(|| tokens.iter().map(spelled).collect()),
        tokens,
    })
}

fn detokenized(state: &ServerState, body: &[u8]) -> Result<Detokenized, ApiError> {
    const PARAM: &str = "tokens";
    let request: DetokenizeRequest = parse(body, &[])?;
    check_model(state, &request.sampling)?;
    let Some(ids) = request.tokens else {
        return Err(ApiError::invalid(PARAM, "`tokens` is missing, expected a list of token ids"));
    };
    check_token_ids(PARAM, &ids, state.engine().vocab_size())?;
    let text = state.tokenizer().decode(&ids, false);
    let invalid = |error| ApiError::invalid(PARAM, format!("invalid {PARAM}: {error}"));
    Ok(Detokenized { prompt: text.map_err(invalid)? })
}

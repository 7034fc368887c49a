//! `POST /v1/responses`, and `GET` and `DELETE /v1/responses/{id}`.
//!
//! ```text
//! previous_response_id -> messages --.
//! instructions ----------------------+--> Dialogue --ready--> Turn --pieces--> items, events
//! input: a text or items ------------'                                          |
//!                                               ResponseStore <--(store: true)--'
//! ```
//!
//! | File | Idea |
//! | --- | --- |
//! | `requests` | what comes in |
//! | `input` | items to messages |
//! | `assembly` | pieces of an answer to items, and the events that tell of them |
//! | `shape` | the response around the items |
//! | `store` | responses that may be asked for again |
//!
//! As `OpenAI` has it, a response goes on from another one by `previous_response_id`, without that
//! one's instructions, for as long as it is held. A stream that breaks off is not held.
//!
//! What this module deliberately does not do: tools that run on a server, work in the background,
//! conversations kept elsewhere. Asking for them is an error that names the field.

mod assembly;
mod input;
mod requests;
mod shape;
mod store;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::dialogue::Dialogue;
use super::format::{self, Format};
use super::generate::{self, Head, Prepared};
use super::json::parse;
use super::logprobs::TokenNames;
use super::requests::{Function, Json};
use super::sampling::Named;
use super::tools::{self, Tools};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::text::ChatMessage;
use requests::{FunctionTool, NOT_SUPPORTED, TextFormat};
use shape::{Echo, Shaped};

pub(in crate::server::openai) use requests::{
    Input, Item, NOT_SUPPORTED as NOT_SUPPORTED_IN_RESPONSES, ResponsesRequest,
};
pub(in crate::server) use store::ResponseStore;

const PARAM: &str = "input";

/// `POST /v1/responses`.
pub(crate) async fn create(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// `GET /v1/responses/{id}`.
pub(crate) async fn retrieve(
    State(state): State<ServerState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::invalid("response_id", error.body_text()))?;
    let stored = state.responses().find(&id).ok_or_else(|| not_held("response_id", &id))?;
    Ok(([(CONTENT_TYPE, "application/json")], stored.json.clone()).into_response())
}

/// `DELETE /v1/responses/{id}`.
pub(crate) async fn delete(
    State(state): State<ServerState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::invalid("response_id", error.body_text()))?;
    if !state.responses().remove(&id) {
        return Err(not_held("response_id", &id));
    }
    Ok(axum::Json(json!({"id": id, "object": "response", "deleted": true})).into_response())
}

fn not_held(param: &'static str, id: &str) -> ApiError {
    let message = format!(
        "no response `{id}` is held here; responses are held in memory, the latest only, and not \
         with `store` false"
    );
    ApiError::NotFound { param: Some(param), message }
}

/// Reads and checks a body. The id of the HTTP request is not that of the response, which nobody
/// else may know.
///
/// # Errors
/// The first field that is wrong, by name.
pub(super) fn prepare(
    state: &ServerState,
    _id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let mut request: ResponsesRequest = parse(body, NOT_SUPPORTED)?;
    check(&request)?;
    let mut echo = Echo::new(&mut request)?;
    let tools = tools_of(
        request.tools.take().unwrap_or_default(),
        request.tool_choice.take().as_ref().map(|json| &json.0),
    )?;
    let previous = match request.previous_response_id.take() {
        None => Vec::new(),
        Some(id) => {
            let stored = state.responses().find(&id);
            let stored = stored.ok_or_else(|| not_held("previous_response_id", &id))?;
            stored.messages.clone()
        }
    };
    let messages = input::append(previous, request.input.take())?;
    let is_stored = request.store.unwrap_or(true);
    let held = if is_stored { messages.clone() } else { Vec::new() };
    let instructions = request.instructions.take();
    let instructions = instructions.map(|text| ChatMessage::new("system", text));
    let logprobs = num_logprobs(&request)?;
    let format = match request.text.and_then(|text| text.format) {
        Some(format) => text_format(&format)?,
        None => Format::of(&request.template.sampling)?,
    };
    let mut fields = request.template;
    if let Some(effort) = request.reasoning.and_then(|reasoning| reasoning.effort) {
        fields.reasoning_effort.get_or_insert(effort);
    }
    let names = TokenNames { tokenizer: state.tokenizer().clone(), is_by_id: false };
    let dialogue = Dialogue {
        messages: instructions.into_iter().chain(messages).collect(),
        tools,
        parallel_tool_calls: echo.parallel_tool_calls,
        max_tokens: Named { param: "max_output_tokens", value: request.max_output_tokens },
        logprobs: Named { param: "top_logprobs", value: logprobs },
        format,
        fields,
        include_reasoning: true,
        param: PARAM,
    };
    let turn = dialogue.ready(state)?;
    let params = &turn.request.params;
    if params.n != 1 {
        return Err(ApiError::invalid("n", "a response has one choice: leave `n` out"));
    }
    echo.sampled_with(params);
    let id = format!("resp_{}", random_id());
    let head = Head::new(state, id, turn.streaming, turn.request.prompt_token_ids.len());
    let has_logprobs = params.logprobs.is_some();
    let store = is_stored.then(|| (state.clone(), held));
    let shape = Shaped::new(head, echo, names, has_logprobs, &turn.listening, store);
    let (requests, streaming) = (vec![turn.request], turn.streaming);
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape })
}

/// 128 bits that nobody can guess.
fn random_id() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}

/// What is neither the conversation's nor the sampler's to check.
fn check(request: &ResponsesRequest) -> Result<(), ApiError> {
    let expect = |param: &str, got: Option<&String>, known: &[&str]| match got {
        Some(got) if !known.contains(&got.as_str()) => {
            let known = known.join("`, `");
            let message = format!("invalid {param}: expected `{known}`, got `{got}`");
            Err(ApiError::invalid(param, message))
        }
        _ => Ok(()),
    };
    // What is too long for the context is refused either way, as `disabled` has it.
    expect("truncation", request.truncation.as_ref(), &["disabled", "auto"])?;
    if request.metadata.as_ref().is_some_and(|json| !json.0.is_object()) {
        return Err(ApiError::invalid("metadata", "invalid metadata: expected an object"));
    }
    Ok(())
}

/// How many of the likeliest tokens are asked for; `None`: no log probabilities at all.
fn num_logprobs(request: &ResponsesRequest) -> Result<Option<i64>, ApiError> {
    let includes = request.include.iter().flatten();
    let is_asked = includes.into_iter().any(|what| what == "message.output_text.logprobs");
    match (is_asked, request.top_logprobs) {
        (true, count) => Ok(Some(count.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "`top_logprobs` is only allowed where `include` has \
                           `message.output_text.logprobs`";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

fn tools_of(all: Vec<FunctionTool>, choice: Option<&Value>) -> Result<Tools, ApiError> {
    let function = |(index, tool): (usize, FunctionTool)| match tool.kind.as_deref() {
        Some("function") => Ok(Function {
            name: tool.name,
            description: tool.description,
            parameters: tool.parameters,
            strict: tool.strict,
        }),
        kind => {
            let param = format!("tools[{index}].type");
            let got = kind.map_or("nothing".to_owned(), |kind| format!("`{kind}`"));
            let problem = "expected `function`, for no other tool runs here";
            let message = format!("invalid {param}: {problem}; got {got}");
            Err(ApiError::invalid(&param, message))
        }
    };
    let functions = all.into_iter().enumerate().map(function).collect::<Result<_, _>>()?;
    let specs = tools::specs(functions, "tools", |index, key| format!("tools[{index}].{key}"))?;
    Tools::choose(specs, choice, "tool_choice")
}

fn text_format(format: &TextFormat) -> Result<Option<Format>, ApiError> {
    const PARAM: &str = "text.format";
    let invalid =
        |problem: &str| Err(ApiError::invalid(PARAM, format!("invalid {PARAM}: {problem}")));
    match (format.kind.as_deref(), &format.schema) {
        (Some("text"), _) => Ok(None),
        (Some("json_object"), _) => Ok(Some(Format::json_object(PARAM))),
        (Some("json_schema"), Some(Json(schema))) => format::schema(PARAM, schema).map(Some),
        (Some("json_schema"), None) => invalid("`schema` is missing"),
        (Some(other), _) => {
            let expected = "expected type `text`, `json_object` or `json_schema`";
            invalid(&format!("{expected}, got `{other}`"))
        }
        (None, _) => invalid("`type` is missing"),
    }
}

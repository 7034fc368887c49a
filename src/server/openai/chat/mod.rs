//! `POST /v1/chat/completions`: renders a conversation with the model's template and continues it.
//!
//! | Field | Meaning here |
//! | --- | --- |
//! | `messages` | see [`messages`] |
//! | `tools`, `tool_choice` | see [`tools`](super::tools) |
//! | `functions`, `function_call` | the same in the deprecated form, which the answer then has, too |
//! | `response_format`, `structured_outputs`, `guided_*` | see [`format`](super::format) |
//! | `max_completion_tokens`, `max_tokens` | the first wins; default: the rest of the context |
//! | `temperature` | the server's default, 1 unless set otherwise |
//! | `logprobs`, `top_logprobs` | whether, and of how many of the likeliest besides the token itself |
//! | `add_generation_prompt` | default true, and false with `continue_final_message` |
//! | `add_special_tokens` | default false: templates write them out |
//! | `service_tier` | `auto` or `default`, and told as `default` |
//! | `user`, `metadata`, `prompt_cache_key`, `safety_identifier`, `verbosity` | accepted; they change nothing |
//!
//! | File | Idea |
//! | --- | --- |
//! | `messages` | messages as they are sent, to messages as templates take them |
//! | `shape` | how answers look |

mod messages;
mod shape;

use axum::extract::{Request, State};
use axum::response::Response;

use super::dialogue::Dialogue;
use super::format::Format;
use super::generate::{self, Head, Prepared};
use super::json::parse;
use super::logprobs::TokenNames;
use super::requests::{ChatRequest, Function, NOT_SUPPORTED_IN_CHAT, Tool};
use super::sampling::Named;
use super::tools::{self, Tools};
use crate::server::ServerState;
use crate::server::error::ApiError;
use shape::Shaped;

use messages::conversation;
pub(super) use messages::{arguments, joined};

const PARAM: &str = "messages";

/// The endpoint.
pub(crate) async fn chat_completions(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// Reads and checks a body; the text is the request's id.
///
/// # Errors
/// The first field that is wrong, by name.
pub(super) fn prepare(
    state: &ServerState,
    id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let request: ChatRequest = parse(body, NOT_SUPPORTED_IN_CHAT)?;
    let is_deprecated = request.functions.is_some() && request.tools.is_none();
    let service_tier = service_tier(request.service_tier.as_deref())?;
    let dialogue = dialogue(request)?;
    let fields = &dialogue.fields.sampling;
    let id = generate::id(fields, "chatcmpl-", id)?;
    let returns_token_ids = fields.return_token_ids.unwrap_or(false);
    let names = TokenNames {
        tokenizer: state.tokenizer().clone(),
        is_by_id: fields.return_tokens_as_token_ids.unwrap_or(false),
    };
    let turn = dialogue.ready(state)?;
    let (params, prompt) = (&turn.request.params, &turn.request.prompt_token_ids);
    let shape = Shaped {
        head: Head::new(state, id, turn.streaming, prompt.len()),
        names,
        service_tier,
        is_deprecated,
        has_logprobs: params.logprobs.is_some(),
        prompt_logprobs: params.prompt_logprobs,
        prompt_token_ids: returns_token_ids.then(|| prompt.clone()),
        listeners: (0..params.n).map(|_| turn.listening.listener()).collect(),
        frame: None,
        listening: turn.listening,
    };
    let (requests, streaming) = (vec![turn.request], turn.streaming);
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape })
}

/// The conversation of a request.
pub(super) fn dialogue(request: ChatRequest) -> Result<Dialogue, ApiError> {
    let logprobs = Named { param: "top_logprobs", value: num_logprobs(&request)? };
    let sampling = &request.template.sampling;
    let max_tokens = match request.max_completion_tokens {
        Some(count) => Named { param: "max_completion_tokens", value: Some(count) },
        None => Named { param: "max_tokens", value: sampling.max_tokens },
    };
    Ok(Dialogue {
        max_tokens,
        logprobs,
        format: Format::of(sampling)?,
        // The deprecated form has room for one call.
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(request.functions.is_none()),
        tools: tools_of(
            request.tools,
            request.tool_choice.as_ref().map(|json| &json.0),
            request.functions,
            request.function_call.as_ref().map(|json| &json.0),
        )?,
        messages: conversation(request.messages)?,
        fields: request.template,
        include_reasoning: request.include_reasoning.unwrap_or(true),
        param: PARAM,
    })
}

fn tools_of(
    tools: Option<Vec<Tool>>,
    choice: Option<&serde_json::Value>,
    functions: Option<Vec<Function>>,
    function_choice: Option<&serde_json::Value>,
) -> Result<Tools, ApiError> {
    let together = |field: &str, other: &str| {
        let message = format!("`{field}` is not allowed together with `{other}`");
        Err(ApiError::invalid(field, message))
    };
    match (tools, functions) {
        (Some(_), Some(_)) => together("functions", "tools"),
        (None, Some(functions)) => {
            let place = |index: usize, key: &str| format!("functions[{index}].{key}");
            let specs = tools::specs(functions, "functions", place)?;
            Tools::choose(specs, function_choice, "function_call")
        }
        (tools, None) => {
            let functions = tools.into_iter().flatten().enumerate().map(function);
            let functions = functions.collect::<Result<Vec<_>, _>>()?;
            let place = |index: usize, key: &str| format!("tools[{index}].function.{key}");
            let specs = tools::specs(functions, "tools", place)?;
            Tools::choose(specs, choice, "tool_choice")
        }
    }
}

fn function((index, tool): (usize, Tool)) -> Result<Function, ApiError> {
    let invalid = |key: &str, problem: &str| {
        let param = format!("tools[{index}].{key}");
        let message = format!("invalid {param}: {problem}");
        Err(ApiError::invalid(&param, message))
    };
    match (tool.kind.as_deref(), tool.function) {
        (Some("function"), Some(function)) => Ok(function),
        (Some("function"), None) => invalid("function", "it is missing"),
        (Some(kind), _) => {
            invalid("type", &format!("expected `function`, got `{kind}`, which is not supported"))
        }
        (None, _) => invalid("type", "it is missing"),
    }
}

/// What the answer tells of the tier, if it was asked for one.
pub(super) fn service_tier(asked: Option<&str>) -> Result<Option<&'static str>, ApiError> {
    match asked {
        None => Ok(None),
        Some("auto" | "default") => Ok(Some("default")),
        Some(other) => {
            let expected = "expected `auto` or `default`, the only tier of this server";
            let message = format!("invalid service_tier: {expected}, got `{other}`");
            Err(ApiError::invalid("service_tier", message))
        }
    }
}

/// How many of the likeliest tokens are asked for; `None`: no log probabilities at all.
fn num_logprobs(request: &ChatRequest) -> Result<Option<i64>, ApiError> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs.unwrap_or(0)) {
        (true, count) => Ok(Some(count)),
        (false, 0) => Ok(None),
        (false, _) => {
            let message = "`top_logprobs` is only allowed together with `logprobs`";
            Err(ApiError::invalid("top_logprobs", message))
        }
    }
}

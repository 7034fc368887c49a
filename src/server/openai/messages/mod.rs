//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's dialect.
//!
//! ```text
//! system, messages: texts or blocks --> Dialogue --ready--> Turn --pieces--> blocks, events
//!                                          `--render--> a count of tokens
//! ```
//!
//! | File | Idea |
//! | --- | --- |
//! | `requests` | what comes in |
//! | `input` | blocks to messages |
//! | `blocks` | pieces of an answer to blocks, and the events that tell of them |
//! | `shape` | the message around the blocks |
//! | `errors` | errors as this dialect tells them |
//!
//! Keys come in `x-api-key`; `anthropic-version` may say what it likes. The sampling fields of the
//! other endpoints are read here, too.
//!
//! What this module deliberately does not do: images, documents, and tools that run on a server.
//! Asking for them is an error that names the field.

mod blocks;
mod errors;
mod input;
mod requests;
mod shape;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use super::dialogue::{Dialogue, render};
use super::format::{self, Format};
use super::generate::{self, Head, Prepared};
use super::json::parse;
use super::prompt::{check_model, encode};
use super::requests::{Function, Json, TemplateFields};
use super::sampling::Named;
use super::tokenize;
use super::tools::{self, Tools};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::text::ChatMessage;
use requests::{MAX_TEMPERATURE, NOT_SUPPORTED, OfferedTool, OutputForm, Thinking, ToolChoice};
use shape::Shaped;

pub(crate) use errors::in_dialect;
pub(in crate::server::openai) use requests::{
    Block, Blocks, MessagesRequest, NOT_SUPPORTED as NOT_SUPPORTED_IN_MESSAGES, TurnsRequest,
};

const PARAM: &str = "messages";
const MAX_TOKENS: &str = "max_tokens";

/// `POST /v1/messages`.
pub(crate) async fn create(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    tokenize::answer(state, request, counted).await
}

/// How long a prompt is.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::server::openai) struct MessageTokensCount {
    input_tokens: usize,
}

fn counted(state: &ServerState, body: &[u8]) -> Result<MessageTokensCount, ApiError> {
    let request: TurnsRequest = parse(body, NOT_SUPPORTED)?;
    check_model(state, &request.template.sampling)?;
    let dialogue = dialogue(request, None)?;
    let text = render(state, &dialogue)?;
    let add_special_tokens = dialogue.fields.sampling.add_special_tokens.unwrap_or(false);
    let tokens = encode(state, dialogue.param, &text, add_special_tokens)?;
    Ok(MessageTokensCount { input_tokens: tokens.len() })
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
    let request: MessagesRequest = parse(body, NOT_SUPPORTED)?;
    let Some(max_tokens) = request.max_tokens else {
        let message = "`max_tokens` is missing, expected a number that is at least 1";
        return Err(ApiError::invalid(MAX_TOKENS, message));
    };
    let has_sequences = request.turns.stop_sequences.is_some();
    let dialogue = dialogue(request.turns, Some(max_tokens))?;
    let id = generate::id(&dialogue.fields.sampling, "msg_", id)?;
    let turn = dialogue.ready(state);
    let turn = turn.map_err(|error| if has_sequences { of_sequences(error) } else { error })?;
    if turn.request.params.n != 1 {
        return Err(ApiError::invalid("n", "a message has one choice: leave `n` out"));
    }
    let num_prompt_tokens = turn.request.prompt_token_ids.len();
    let head = Head::new(state, id, turn.streaming, num_prompt_tokens);
    let shape = Shaped::new(head, num_prompt_tokens, &turn.listening);
    let (requests, streaming) = (vec![turn.request], turn.streaming);
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape })
}

/// The conversation of a request.
fn dialogue(request: TurnsRequest, max_tokens: Option<i64>) -> Result<Dialogue, ApiError> {
    let mut fields = request.template;
    let messages = input::conversation(request.system, request.messages)?;
    if messages.last().is_some_and(is_begun) {
        fields.continue_final_message.get_or_insert(true);
    }
    if let Some(temperature) = request.temperature {
        fields.sampling.temperature = Some(checked_temperature(temperature)?);
    }
    if let Some(stop) = request.stop_sequences {
        fields.sampling.stop = Some(stop);
    }
    let (form, effort) = match request.output_config {
        None => (None, None),
        Some(config) => (config.format, config.effort),
    };
    if let Some(effort) = effort {
        fields.reasoning_effort.get_or_insert(effort);
    }
    let format = match form {
        Some(form) => Some(schema_of(&form)?),
        None => Format::of(&fields.sampling)?,
    };
    let include_reasoning = thinks(request.thinking.as_ref())?;
    tell_template(&mut fields, include_reasoning);
    let choice = request.tool_choice.as_ref();
    let is_single = choice.and_then(|choice| choice.disable_parallel_tool_use).unwrap_or(false);
    Ok(Dialogue {
        messages,
        tools: tools_of(request.tools.unwrap_or_default(), choice)?,
        parallel_tool_calls: !is_single,
        max_tokens: Named { param: MAX_TOKENS, value: max_tokens },
        logprobs: Named { param: "logprobs", value: None },
        format,
        fields,
        include_reasoning,
        param: PARAM,
    })
}

/// Whether the message is the beginning of the answer.
fn is_begun(last: &ChatMessage) -> bool {
    last.role == "assistant" && last.content.is_some() && last.tool_calls.is_empty()
}

fn checked_temperature(temperature: f64) -> Result<f64, ApiError> {
    const PARAM: &str = "temperature";
    if (0.0..=MAX_TEMPERATURE).contains(&temperature) {
        return Ok(temperature);
    }
    let message = format!("invalid {PARAM}: expected 0 to {MAX_TEMPERATURE}, got {temperature}");
    Err(ApiError::invalid(PARAM, message))
}

/// What is wrong with the texts that end the answer, under the name that they have here.
fn of_sequences(error: ApiError) -> ApiError {
    const PARAM: &str = "stop_sequences";
    match error {
        ApiError::Invalid { param: Some(param), message } if param == "stop" => {
            ApiError::invalid(PARAM, message.replacen("stop", PARAM, 1))
        }
        error => error,
    }
}

fn thinks(thinking: Option<&Thinking>) -> Result<bool, ApiError> {
    const PARAM: &str = "thinking.type";
    match thinking.map(|thinking| thinking.kind.as_deref()) {
        None | Some(Some("disabled")) => Ok(false),
        Some(Some("enabled" | "adaptive")) => Ok(true),
        Some(got) => {
            let got = got.map_or("nothing".to_owned(), |got| format!("`{got}`"));
            let expected = "expected `enabled`, `adaptive` or `disabled`";
            Err(ApiError::invalid(PARAM, format!("invalid {PARAM}: {expected}, got {got}")))
        }
    }
}

/// Says whether the model may think by the name that templates know, unless the request does.
fn tell_template(fields: &mut TemplateFields, thinks: bool) {
    let kwargs = fields.chat_template_kwargs.get_or_insert_with(|| Json(json!({})));
    // Anything else is refused later.
    if let Value::Object(kwargs) = &mut kwargs.0 {
        kwargs.entry("enable_thinking").or_insert(thinks.into());
    }
}

fn schema_of(form: &OutputForm) -> Result<Format, ApiError> {
    const PARAM: &str = "output_config.format";
    if let (Some("json_schema"), Some(Json(schema))) = (form.kind.as_deref(), &form.schema) {
        return format::schema(PARAM, schema);
    }
    let expected = "expected the type `json_schema` and a `schema`";
    Err(ApiError::invalid(PARAM, format!("invalid {PARAM}: {expected}")))
}

fn tools_of(offered: Vec<OfferedTool>, choice: Option<&ToolChoice>) -> Result<Tools, ApiError> {
    let place = |index: usize, key: &str| {
        let key = if key == "parameters" { "input_schema" } else { key };
        format!("tools[{index}].{key}")
    };
    let invalid = |param: String, problem: String| {
        Err(ApiError::invalid(&param, format!("invalid {param}: {problem}")))
    };
    let mut functions = Vec::new();
    for (index, tool) in offered.into_iter().enumerate() {
        if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
            let problem = "expected `custom`, for no other tool runs here";
            return invalid(place(index, "type"), format!("{problem}; got `{kind}`"));
        }
        if tool.input_schema.is_none() {
            return invalid(place(index, "input_schema"), "it is missing".to_owned());
        }
        let OfferedTool { name, description, input_schema: parameters, strict, .. } = tool;
        functions.push(Function { name, description, parameters, strict });
    }
    let specs = tools::specs(functions, "tools", place)?;
    Tools::choose(specs, choice.map(wanted).transpose()?.as_ref(), "tool_choice")
}

/// The choice as the other dialects write it.
fn wanted(choice: &ToolChoice) -> Result<Value, ApiError> {
    const PARAM: &str = "tool_choice";
    let invalid =
        |problem: String| Err(ApiError::invalid(PARAM, format!("invalid {PARAM}: {problem}")));
    match (choice.kind.as_deref(), &choice.name) {
        (Some("auto"), _) => Ok(json!("auto")),
        (Some("any"), _) => Ok(json!("required")),
        (Some("none"), _) => Ok(json!("none")),
        (Some("tool"), Some(name)) => Ok(json!({"type": "function", "name": name})),
        (Some("tool"), None) => invalid("a choice of the type `tool` has no `name`".to_owned()),
        (other, _) => {
            let got = other.map_or("nothing".to_owned(), |other| format!("`{other}`"));
            let expected = "expected the type `auto`, `any`, `tool` or `none`";
            invalid(format!("{expected}, got {got}"))
        }
    }
}

#[cfg(test)]
mod tests;

//! `POST /v1/completions`: continues one or several prompts, one choice each.
//!
//! | Field | Default |
//! | --- | --- |
//! | `max_tokens` | 16 |
//! | `temperature` | the server's, 1 unless set otherwise |
//! | `echo` | false; with true the text begins with the prompt |
//! | `add_special_tokens` | true |

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::generate::{self, Answer, Head, Prepared, Shape};
use super::json::parse;
use super::prompt::{check_model, encode};
use super::sampling::{check_token_ids, sampling_params};
use super::types::{
    Completion, CompletionChoice, CompletionRequest, NOT_SUPPORTED_IN_COMPLETIONS, Prompt,
    TokenUsage, UsageKey,
};
use crate::engine::{self, FinishReason};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::server::sse::Event;

/// `max_tokens` of a request that does not say, as `OpenAI` has it.
const DEFAULT_MAX_TOKENS: u64 = 16;
const PARAM: &str = "prompt";

/// The endpoint.
pub(crate) async fn completions(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    generate::endpoint(state, request, prepare).await
}

/// Reads and checks a body; the text is the request's id.
pub(super) fn prepare(
    state: &ServerState,
    id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let request: CompletionRequest = parse(body, NOT_SUPPORTED_IN_COMPLETIONS)?;
    let fields = &request.sampling;
    check_model(state, fields)?;
    let mut defaults = state.options().default_sampling.clone();
    defaults.max_tokens = defaults.max_tokens.or(Some(DEFAULT_MAX_TOKENS));
    let vocab_size = state.engine().vocab_size();
    let max_tokens = ("max_tokens", fields.max_tokens);
    let params = sampling_params(fields, max_tokens, &defaults, vocab_size)?;
    let streaming = generate::streaming(fields)?;

    let prompts = tokens(state, &request)?;
    let echoes = match request.echo {
        Some(true) => echoed(state, request.prompt, &prompts)?,
        _ => vec![String::new(); prompts.len()],
    };
    let requests = prompts
        .into_iter()
        .map(|prompt_token_ids| engine::Request::new(prompt_token_ids, params.clone()))
        .collect();
    let head = Head::new(state, "cmpl", id, streaming);
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape: Shaped { head, echoes } })
}

fn tokens(state: &ServerState, request: &CompletionRequest) -> Result<Vec<Vec<u32>>, ApiError> {
    let empty = || ApiError::invalid(PARAM, "the prompt is empty, expected at least one token");
    let add_special_tokens = request.sampling.add_special_tokens.unwrap_or(true);
    let prompts = match &request.prompt {
        None => {
            let message = "`prompt` is missing, expected a string or a list";
            return Err(ApiError::invalid(PARAM, message));
        }
        Some(Prompt::Texts(texts)) if texts.iter().any(String::is_empty) => return Err(empty()),
        Some(Prompt::Texts(texts)) => texts
            .iter()
            .map(|text| encode(state, PARAM, text, add_special_tokens))
            .collect::<Result<_, _>>()?,
        Some(Prompt::TokenIds(prompts)) => {
            let vocab_size = state.engine().vocab_size();
            for ids in prompts {
                check_token_ids(PARAM, ids, vocab_size)?;
            }
            prompts.clone()
        }
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(empty());
    }
    Ok(prompts)
}

/// The prompts as text.
fn echoed(
    state: &ServerState,
    prompt: Option<Prompt>,
    tokens: &[Vec<u32>],
) -> Result<Vec<String>, ApiError> {
    if let Some(Prompt::Texts(texts)) = prompt {
        return Ok(texts);
    }
    let decode = |ids: &Vec<u32>| state.tokenizer().decode(ids, false);
    tokens
        .iter()
        .map(decode)
        .collect::<Result<_, _>>()
        .map_err(|error| ApiError::invalid(PARAM, format!("prompt cannot be decoded: {error}")))
}

/// The shape of a text completion.
pub(super) struct Shaped {
    head: Head,
    /// What every choice begins with; empty without `echo`.
    echoes: Vec<String>,
}

impl Shaped {
    fn completion<'a>(
        &'a self,
        choices: Vec<CompletionChoice<'a>>,
        usage: UsageKey,
    ) -> Completion<'a> {
        Completion {
            id: &self.head.id,
            object: "text_completion",
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
        }
    }

    fn chunk(&self, index: usize, text: &str, reason: Option<FinishReason>) -> Event {
        let finish_reason = reason.map(FinishReason::as_str);
        let choice = CompletionChoice { index, text, logprobs: (), finish_reason };
        Event::json(&self.completion(vec![choice], self.head.usage_so_far()).to_json())
    }
}

impl Shape for Shaped {
    fn head(&self) -> &Head {
        &self.head
    }

    fn opening(&self, index: usize) -> Option<Event> {
        let echo = self.echoes.get(index).filter(|echo| !echo.is_empty())?;
        Some(self.chunk(index, echo, None))
    }

    fn delta(&self, index: usize, text: &str) -> Event {
        self.chunk(index, text, None)
    }

    fn finish(&self, index: usize, reason: FinishReason) -> Event {
        self.chunk(index, "", Some(reason))
    }

    fn usage(&self, usage: TokenUsage) -> Event {
        Event::json(&self.completion(Vec::new(), UsageKey::Of(usage)).to_json())
    }

    fn whole(&self, answers: &[Answer], usage: TokenUsage) -> Response {
        let texts: Vec<String> = answers
            .iter()
            .zip(&self.echoes)
            .map(|(answer, echo)| format!("{echo}{}", answer.text))
            .collect();
        let choices = answers
            .iter()
            .zip(&texts)
            .enumerate()
            .map(|(index, (answer, text))| CompletionChoice {
                index,
                text,
                logprobs: (),
                finish_reason: Some(answer.reason.as_str()),
            })
            .collect();
        let body = self.completion(choices, UsageKey::Of(usage)).to_json();
        ([(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

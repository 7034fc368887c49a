//! `POST /v1/completions`: continues one or several prompts.
//!
//! | Field | Default |
//! | --- | --- |
//! | `max_tokens` | 16 |
//! | `temperature` | the server's, 1 unless set otherwise |
//! | `logprobs` | none; a number tells of each token so many of the likeliest, and itself |
//! | `echo` | false; with true text and `logprobs` begin with the prompt's |
//! | `add_special_tokens` | true |
//!
//! With `echo`, `max_tokens` may be 0: then the answer is the prompt and nothing more. The engine
//! generates at least one token, which is not shown.

use axum::extract::{Request, State};
use axum::response::Response;

use super::dialogue::compile;
use super::format::Format;
use super::generate::{self, Answer, Frame, Head, OfPrompt, Prepared, Shape};
use super::json::parse;
use super::logprobs::{Offsets, PromptLogprobs, TextLogprobs, TokenNames};
use super::prompt::{check_model, check_token_ids, encode, truncate};
use super::requests::{CompletionRequest, NOT_SUPPORTED_IN_COMPLETIONS, Prompt};
use super::sampling::{Named, Setting, sampling_params};
use super::scheduling;
use super::types::{Completion, CompletionChoice, StopReason, TokenIdKeys, TokenUsage, UsageKey};
use crate::engine::{ChoiceDelta, ChoiceEnd, FinishReason, TokenLogprobs};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::server::sse::EventText;

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
///
/// # Errors
/// The first field that is wrong, by name.
pub(super) fn prepare(
    state: &ServerState,
    id: &str,
    body: &[u8],
) -> Result<Prepared<Shaped>, ApiError> {
    let request: CompletionRequest = parse(body, NOT_SUPPORTED_IN_COMPLETIONS)?;
    let fields = &request.sampling;
    check_model(state, fields)?;
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        let message = "`suffix` is not supported: how a gap is written differs from model to \
                       model; write the model's own marks of it into `prompt`";
        return Err(ApiError::invalid("suffix", message));
    }
    let id = generate::id(fields, "cmpl-", id)?;
    let mut defaults = state.options().default_sampling.clone();
    defaults.max_tokens = defaults.max_tokens.or(Some(DEFAULT_MAX_TOKENS));
    let is_echo = request.echo.unwrap_or(false);
    let is_only_echo = is_echo && fields.max_tokens == Some(0);
    let max_tokens = if is_only_echo { Some(1) } else { fields.max_tokens };
    let mut params = sampling_params(
        fields,
        Named { param: "max_tokens", value: max_tokens },
        Named { param: "logprobs", value: request.logprobs },
        Setting {
            defaults: &defaults,
            tokenizer: state.tokenizer(),
            vocab_size: state.engine().vocab_size(),
        },
    )?;
    let streaming = generate::streaming(fields)?;

    let prompts = tokens(state, &request)?;
    let echoes = if is_echo { echoes(state, &request, &prompts)? } else { Vec::new() };
    let shape = Shaped {
        head: Head::new(state, id, streaming, prompts.iter().map(Vec::len).sum()),
        names: TokenNames {
            tokenizer: state.tokenizer().clone(),
            is_by_id: fields.return_tokens_as_token_ids.unwrap_or(false),
        },
        prompt_token_ids: fields.return_token_ids.unwrap_or(false).then(|| prompts.clone()),
        echoes,
        is_only_echo,
        logprobs: params.logprobs,
        prompt_logprobs: params.prompt_logprobs,
        choices_per_prompt: params.n,
        offsets: (0..prompts.len() * params.n).map(|_| None).collect(),
        frame: None,
    };
    if is_echo {
        params.prompt_logprobs = params.prompt_logprobs.max(params.logprobs);
    }
    let format = Format::of(fields)?;
    let grammar = format.map(|format| compile(state, &format.spec, format.param)).transpose()?;
    let requests = scheduling::requests(fields, prompts, params, grammar)?;
    Ok(Prepared { requests, streaming, prompt_param: PARAM, shape })
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
    prompts.into_iter().map(|ids| truncate(state, &request.sampling, ids)).collect()
}

/// What choices begin with: the prompts as text.
fn echoes(
    state: &ServerState,
    request: &CompletionRequest,
    prompts: &[Vec<u32>],
) -> Result<Vec<Echo>, ApiError> {
    let texts = match &request.prompt {
        Some(Prompt::Texts(texts)) => Some(texts),
        _ => None,
    };
    let echo = |(prompt, ids): (usize, &Vec<u32>)| {
        let text = match texts {
            Some(texts) => texts[prompt].clone(),
            None => state.tokenizer().decode(ids, false).map_err(|error| {
                ApiError::invalid(PARAM, format!("prompt cannot be decoded: {error}"))
            })?,
        };
        Ok(Echo { text, first_token_id: ids[0], hides_special: texts.is_some() })
    };
    prompts.iter().enumerate().map(echo).collect()
}

/// What the choices of one prompt begin with.
struct Echo {
    text: String,
    /// The one token of the prompt that has no log probability.
    first_token_id: u32,
    /// Whether tokens were added to the text that it does not show.
    hides_special: bool,
}

/// The shape of a text completion.
pub(super) struct Shaped {
    head: Head,
    names: TokenNames,
    /// The prompts, where they and all token ids are told.
    prompt_token_ids: Option<Vec<Vec<u32>>>,
    /// By prompt; empty without `echo`.
    echoes: Vec<Echo>,
    /// Whether nothing but the prompt is shown.
    is_only_echo: bool,
    /// How many of the likeliest tokens are told for each token.
    logprobs: Option<usize>,
    /// The same for `prompt_logprobs`.
    prompt_logprobs: Option<usize>,
    choices_per_prompt: usize,
    /// By choice, once it has begun: where its next token begins.
    offsets: Vec<Option<Offsets>>,
    /// Of a stream whose chunks differ in their choices only.
    frame: Option<Frame>,
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
            system_fingerprint: &self.head.fingerprint,
            usage,
        }
    }

    fn chunk(&self, choice: CompletionChoice<'_>, out: &mut EventText) {
        match &self.frame {
            Some(frame) => frame.chunk(&choice, out),
            None => out.json(&self.completion(vec![choice], self.head.usage_so_far())),
        }
    }

    fn echo(&self, choice: usize) -> Option<&Echo> {
        self.echoes.get(choice / self.choices_per_prompt)
    }

    /// The logprobs of the prompt that a choice echoes, so far as there are any.
    fn echoed_logprobs(&self, choice: usize, of_prompt: &OfPrompt) -> Option<TextLogprobs> {
        let num_top = self.logprobs?;
        let mut logprobs = TextLogprobs::default();
        if let Some((echo, of_prompt)) = self.echo(choice).zip(of_prompt.as_deref()) {
            let mut offsets = Offsets::new(self.names.tokenizer.detokenizer(echo.hides_special), 0);
            for entry in of_prompt {
                let token_id = entry.as_ref().map_or(echo.first_token_id, |entry| entry.token_id);
                let entry = entry.as_ref().map(|entry| (entry, num_top));
                logprobs.push(&self.names, token_id, entry, &mut offsets);
            }
        }
        Some(logprobs)
    }

    /// Adds the logprobs of a choice's next tokens.
    fn extend(&mut self, choice: usize, logprobs: &mut TextLogprobs, more: &[TokenLogprobs]) {
        let num_top = self.logprobs.unwrap_or(0);
        let begin = self.echo(choice).map_or(0, |echo| echo.text.chars().count());
        let offsets = self.offsets[choice]
            .get_or_insert_with(|| Offsets::new(self.names.tokenizer.detokenizer(true), begin));
        for entry in more {
            logprobs.push(&self.names, entry.token_id, Some((entry, num_top)), offsets);
        }
    }

    fn whole_choice<'a>(
        &mut self,
        choice: &'a ChoiceDelta,
        of_prompt: &OfPrompt,
        prompt_token_ids: Option<&'a [u32]>,
    ) -> CompletionChoice<'a> {
        let index = choice.index;
        let mut logprobs = self.echoed_logprobs(index, of_prompt);
        if let Some(logprobs) = logprobs.as_mut().filter(|_| !self.is_only_echo) {
            self.extend(index, logprobs, &choice.logprobs);
        }
        let text = match self.echo(index) {
            Some(echo) if self.is_only_echo => echo.text.clone().into(),
            Some(echo) => format!("{}{}", echo.text, choice.text).into(),
            None => choice.text.as_str().into(),
        };
        let end = choice.end.as_ref();
        CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason: end.map(|end| self.reason(end)),
            stop_reason: end.filter(|_| !self.is_only_echo).and_then(StopReason::of),
            prompt_logprobs: self.prompt_logprobs.zip(of_prompt.as_deref()).map(
                |(num_top, logprobs)| PromptLogprobs::new(&self.names.tokenizer, logprobs, num_top),
            ),
            ids: self.ids(prompt_token_ids, &choice.token_ids),
        }
    }

    /// The prompt of a choice, where it is told.
    fn prompt_token_ids(&self, choice: usize) -> Option<&[u32]> {
        let prompts = self.prompt_token_ids.as_ref()?;
        prompts.get(choice / self.choices_per_prompt).map(Vec::as_slice)
    }

    /// The ids of a choice's tokens, where they are told with those of its prompt.
    fn ids<'a>(&self, prompt: Option<&'a [u32]>, token_ids: &'a [u32]) -> TokenIdKeys<'a> {
        let shown = prompt.filter(|_| !self.is_only_echo).map(|_| token_ids);
        TokenIdKeys { prompt_token_ids: prompt, token_ids: shown }
    }

    /// The word for an end. Who asked for no token got as many as asked for.
    fn reason(&self, end: &ChoiceEnd) -> &'static str {
        if self.is_only_echo { FinishReason::Length.as_str() } else { end.reason.as_str() }
    }

    /// What is told of the tokens: what is not shown was not generated.
    fn shown(&self, usage: TokenUsage) -> TokenUsage {
        if self.is_only_echo {
            TokenUsage { completion_tokens: 0, total_tokens: usage.prompt_tokens, ..usage }
        } else {
            usage
        }
    }
}

impl Shape for Shaped {
    fn begin(&mut self, _out: &mut EventText) {
        self.frame = self.head.frame(|usage| self.completion(Vec::new(), usage).to_json());
    }

    fn opening(&mut self, index: usize, of_prompt: &OfPrompt, out: &mut EventText) {
        let Some(echo) = self.echo(index) else { return };
        let text = echo.text.as_str().into();
        let logprobs = self.echoed_logprobs(index, of_prompt);
        let choice = CompletionChoice { index, text, logprobs, ..CompletionChoice::default() };
        self.chunk(choice, out);
    }

    fn delta(&mut self, delta: &ChoiceDelta, out: &mut EventText) {
        self.head.count(delta);
        let has_ids = self.prompt_token_ids.is_some() && !delta.token_ids.is_empty();
        let is_empty = delta.text.is_empty() && delta.logprobs.is_empty() && !has_ids;
        if self.is_only_echo || is_empty {
            return;
        }
        let mut logprobs = self.logprobs.map(|_| TextLogprobs::default());
        if let Some(logprobs) = &mut logprobs {
            self.extend(delta.index, logprobs, &delta.logprobs);
        }
        let (index, text) = (delta.index, delta.text.as_str().into());
        let ids = self.ids(self.prompt_token_ids(index), &delta.token_ids);
        let choice = CompletionChoice { index, text, logprobs, ids, ..CompletionChoice::default() };
        self.chunk(choice, out);
    }

    fn finish(&mut self, index: usize, end: &ChoiceEnd, out: &mut EventText) {
        let choice = CompletionChoice {
            index,
            finish_reason: Some(self.reason(end)),
            stop_reason: StopReason::of(end).filter(|_| !self.is_only_echo),
            ..CompletionChoice::default()
        };
        self.chunk(choice, out);
    }

    fn end(&mut self, usage: TokenUsage, out: &mut EventText) {
        if self.head.has_usage() {
            let usage = UsageKey::Of(self.shown(usage));
            out.json(&self.completion(Vec::new(), usage));
        }
        out.done();
    }

    fn whole(&mut self, answer: &Answer) -> Vec<u8> {
        let prompts = self.prompt_token_ids.take();
        let choices = answer
            .choices
            .iter()
            .map(|choice| {
                let prompt = choice.index / self.choices_per_prompt;
                let ids = prompts.as_ref().map(|prompts| prompts[prompt].as_slice());
                self.whole_choice(choice, &answer.of_prompts[prompt], ids)
            })
            .collect();
        self.completion(choices, UsageKey::Of(self.shown(answer.usage))).to_json()
    }
}

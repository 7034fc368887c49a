//! The one flow behind all endpoints that generate.
//!
//! ```text
//! read body -> admit -> prepare (blocking thread) -> submit -+-> whole  -> one JSON answer
//!    |                                                       `-> stream -> events
//!    `- a ticket, held until the last byte is handed over
//!
//! prompts        0          1          one engine request each
//! choices      0 1 2      3 4 5        with `n` of 3
//! ```
//!
//! Everything that can be refused is refused before the first byte of the answer, so that it has
//! its own HTTP status. What fails later is the last event of the stream.
//!
//! What this module deliberately does not do: it does not know how an answer looks; see [`Shape`].
//! Only [`endpoint`] knows HTTP: [`whole`] is the same answer without it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Span;

use super::requests::SamplingFields;
use super::types::{TokenUsage, UsageKey};
use crate::engine::{
    self, ChoiceDelta, ChoiceEnd, Output, RequestError, ResponseStream, TokenLogprobs, Usage,
};
use crate::server::access::Grant;
use crate::server::error::ApiError;
use crate::server::metrics::RequestRecord;
use crate::server::observe::{RequestTag, is_plain_tag};
use crate::server::sse::{self, EventText, Events};
use crate::server::{ServerState, body};

/// Outputs of several prompts that wait for the client to read.
const FAN_IN_CAPACITY: usize = 16;

/// A longer answer is shaped elsewhere: it takes a while.
const MAX_TOKENS_AT_ONCE: usize = 256;

/// The log probabilities of one prompt's tokens, where they were asked for.
pub(super) type OfPrompt = Option<Vec<Option<TokenLogprobs>>>;

/// How an endpoint's answers look. Choices are numbered over all prompts.
///
/// ```text
/// begin  { opening(choice) { delta } finish(choice) }  end        whole
///                     at any place after begin: failed
/// ```
pub(super) trait Shape: Send + 'static {
    /// Before anything was generated.
    fn begin(&mut self, _out: &mut EventText) {}
    /// Before a choice's first text.
    fn opening(&mut self, choice: usize, of_prompt: &OfPrompt, out: &mut EventText);
    /// More of a choice; its end, if it is there, comes with [`finish`](Self::finish).
    fn delta(&mut self, delta: &ChoiceDelta, out: &mut EventText);
    /// A choice's end.
    fn finish(&mut self, choice: usize, end: &ChoiceEnd, out: &mut EventText);
    /// After all choices have ended: the counts, and what a stream ends with.
    fn end(&mut self, usage: TokenUsage, out: &mut EventText);
    /// The last event of a stream that fails.
    fn failed(&self, error: &ApiError, out: &mut EventText) {
        out.json(&error.body());
    }
    /// An answer that is not streamed, as JSON text.
    fn whole(&mut self, answer: &Answer) -> Vec<u8>;
}

/// The JSON text around the one choice of a chunk. Most of a chunk is the same for all tokens of a
/// request, and writing it once is cheaper than to do so for each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Frame {
    /// `chunk` has no choices.
    fn around(chunk: Vec<u8>) -> Option<Self> {
        // No text within the chunk contains this: its quotation marks would be escaped.
        const CHOICES: &[u8] = b"\"choices\":[";
        let at = chunk.windows(CHOICES.len()).position(|bytes| bytes == CHOICES)?;
        let mut before = chunk;
        let after = before.split_off(at + CHOICES.len());
        Some(Self { before, after })
    }

    /// Adds the chunk of a choice.
    pub(super) fn chunk(&self, choice: &impl Serialize, out: &mut EventText) {
        out.between(&self.before, choice, &self.after);
    }
}

/// What all answers to one request share.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) fingerprint: String,
    streaming: Streaming,
    so_far: TokenUsage,
}

impl Head {
    /// Of the request with this tag, now; its prompts have so many tokens together.
    pub(super) fn new(
        state: &ServerState,
        id: String,
        streaming: Streaming,
        prompt_tokens: usize,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id,
            created: now.map_or(0, |since| since.as_secs()),
            model: state.options().served_model_name.clone(),
            fingerprint: state.fingerprint().to_owned(),
            streaming,
            so_far: TokenUsage { prompt_tokens, ..TokenUsage::default() },
        }
    }

    /// Counts what was generated.
    pub(super) fn count(&mut self, delta: &ChoiceDelta) {
        self.so_far.completion_tokens += delta.token_ids.len();
        self.so_far.total_tokens = self.so_far.prompt_tokens + self.so_far.completion_tokens;
    }

    /// Whether the stream ends with the counts.
    pub(super) fn has_usage(&self) -> bool {
        matches!(self.streaming, Streaming::WithUsage | Streaming::WithUsageSoFar)
    }

    /// What the chunks have around their choices, where that is the same for all.
    pub(super) fn frame(&self, chunk: impl FnOnce(UsageKey) -> Vec<u8>) -> Option<Frame> {
        let usage = self.usage_so_far();
        (!matches!(usage, UsageKey::Of(_))).then(|| Frame::around(chunk(usage))).flatten()
    }

    /// The `usage` of every chunk but the last.
    pub(super) fn usage_so_far(&self) -> UsageKey {
        match self.streaming {
            Streaming::Off | Streaming::On => UsageKey::Absent,
            Streaming::WithUsage => UsageKey::Later(()),
            Streaming::WithUsageSoFar => UsageKey::Of(self.so_far),
        }
    }
}

/// An answer's id: the request's own, if it has one, or that of the HTTP request.
///
/// # Errors
/// An id that is not a word of at most 64 letters, digits, `-`, `_` and `.`.
pub(super) fn id(fields: &SamplingFields, prefix: &str, tag: &str) -> Result<String, ApiError> {
    let own = fields.request_id.as_deref();
    if own.is_some_and(|own| !is_plain_tag(own)) {
        let expected = "expected 1 to 64 letters, digits, `-`, `_` and `.`";
        return Err(ApiError::invalid("request_id", format!("invalid request_id: {expected}")));
    }
    Ok(format!("{prefix}{}", own.unwrap_or(tag)))
}

/// Whether the answer is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streaming {
    Off,
    On,
    /// With the counts as the last chunk.
    WithUsage,
    /// And with the counts so far in every chunk.
    WithUsageSoFar,
}

/// Reads `stream` and `stream_options`, and refuses what cannot be streamed.
pub(super) fn streaming(fields: &SamplingFields) -> Result<Streaming, ApiError> {
    let invalid = |message| Err(ApiError::invalid("stream_options", message));
    let streaming = match (fields.stream.unwrap_or(false), &fields.stream_options) {
        (false, None) => Streaming::Off,
        (false, Some(_)) => {
            return invalid("`stream_options` is only allowed together with `stream`");
        }
        (true, None) => Streaming::On,
        (true, Some(options)) => {
            let is_on = |option: Option<bool>| option == Some(true);
            match (is_on(options.include_usage), is_on(options.continuous_usage_stats)) {
                (true, true) => Streaming::WithUsageSoFar,
                (true, false) => Streaming::WithUsage,
                (false, true) => {
                    return invalid(
                        "`continuous_usage_stats` is only allowed together with `include_usage`",
                    );
                }
                (false, false) => Streaming::On,
            }
        }
    };
    if streaming != Streaming::Off && fields.prompt_logprobs.is_some() {
        let message = "`prompt_logprobs` is not available together with `stream`";
        return Err(ApiError::invalid("prompt_logprobs", message));
    }
    Ok(streaming)
}

/// A request that was read and checked.
pub(super) struct Prepared<S> {
    /// One for each prompt, all with the same number of choices.
    pub(super) requests: Vec<engine::Request>,
    pub(super) streaming: Streaming,
    /// The field that carried the prompt.
    pub(super) prompt_param: &'static str,
    pub(super) shape: S,
}

/// An answer that is not streamed.
pub(super) struct Answer {
    /// Every choice from its beginning to its end.
    pub(super) choices: Vec<ChoiceDelta>,
    /// By prompt.
    pub(super) of_prompts: Vec<OfPrompt>,
    pub(super) usage: TokenUsage,
}

/// Reads a body; the text is the request's id.
type Prepare<S> = fn(&ServerState, &str, &[u8]) -> Result<Prepared<S>, ApiError>;

/// Answers one HTTP request, whose body `prepare` understands.
pub(super) async fn endpoint<S: Shape>(
    state: ServerState,
    request: Request,
    prepare: Prepare<S>,
) -> Result<Response, ApiError> {
    // Refused before the body is sent, but counted only after: a drain does not wait for a client
    // that never finishes its request.
    drop(state.admit()?);
    let tag = request.extensions().get::<RequestTag>().cloned().unwrap_or_default();
    let grant = request.extensions().get::<Grant>().cloned().unwrap_or_default();
    let body = body::read(&state, request).await?;
    let ticket = state.admit()?;
    let worker = state.clone();
    let prepared =
        state.blocking(move || prepare(&worker, tag.as_str(), body.as_bytes())).await??;

    if prepared.streaming == Streaming::Off {
        let answer = whole(&state, &grant, prepared).await?;
        return Ok(([(CONTENT_TYPE, "application/json")], answer).into_response());
    }
    let generation = Generation::submit(&state, &grant, prepared.requests, prepared.prompt_param)?;
    let (keep_alive, shape) = (state.options().keep_alive_interval, prepared.shape);
    let mut panicked = EventText::default();
    shape.failed(&ApiError::Internal, &mut panicked);
    Ok(sse::respond(keep_alive, ticket, panicked, |events| stream(generation, shape, events)))
}

/// Generates a whole answer, as JSON text.
///
/// # Errors
/// The engine refuses one of the prompts or fails it; nothing of the others is left then.
pub(super) async fn whole<S: Shape>(
    state: &ServerState,
    grant: &Grant,
    prepared: Prepared<S>,
) -> Result<Vec<u8>, ApiError> {
    let Prepared { requests, prompt_param, mut shape, .. } = prepared;
    let answer = Generation::submit(state, grant, requests, prompt_param)?.collect().await?;
    let num_tokens: usize = answer.choices.iter().map(|choice| choice.token_ids.len()).sum();
    if num_tokens <= MAX_TOKENS_AT_ONCE {
        return Ok(shape.whole(&answer));
    }
    state.blocking(move || shape.whole(&answer)).await
}

/// Answers a body that lies here already, in one piece.
pub(super) async fn posted<S: Shape>(
    state: &ServerState,
    grant: &Grant,
    id: &str,
    body: Arc<[u8]>,
    prepare: Prepare<S>,
) -> Result<Vec<u8>, ApiError> {
    let (worker, id) = (state.clone(), id.to_owned());
    let prepared = state.blocking(move || prepare(&worker, &id, &body)).await??;
    if prepared.streaming != Streaming::Off {
        return Err(ApiError::invalid("stream", "a batch has no streams: leave `stream` out"));
    }
    whole(state, grant, prepared).await
}

/// Sends a generation as events.
async fn stream<S: Shape>(mut generation: Generation, mut shape: S, events: Events) {
    let mut is_open = vec![false; generation.num_choices()];
    let mut of_prompts: Vec<OfPrompt> = vec![None; generation.num_prompts()];
    let mut sum = TokenUsage::default();
    let mut out = EventText::default();
    shape.begin(&mut out);
    events.send(&mut out).await;
    while let Some(next) = generation.next().await {
        let delta = match next {
            Ok(Step::OfPrompt(prompt, logprobs)) => {
                of_prompts[prompt] = Some(logprobs);
                continue;
            }
            Ok(Step::Finished(usage)) => {
                add(&mut sum, usage);
                continue;
            }
            Ok(Step::Delta(delta)) => delta,
            Err(error) => {
                shape.failed(&error, &mut out);
                return events.send(&mut out).await;
            }
        };
        let choice = delta.index;
        if !std::mem::replace(&mut is_open[choice], true) {
            shape.opening(choice, &of_prompts[generation.prompt_of(choice)], &mut out);
        }
        shape.delta(&delta, &mut out);
        if let Some(end) = &delta.end {
            shape.finish(choice, end, &mut out);
        }
        events.send(&mut out).await;
    }
    shape.end(sum, &mut out);
    events.send(&mut out).await;
}

fn add(sum: &mut TokenUsage, usage: Usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.total_tokens = sum.prompt_tokens + sum.completion_tokens;
    sum.prompt_tokens_details.cached_tokens += usage.cached_tokens;
}

/// What happens next.
enum Step {
    /// The log probabilities of a prompt, before any of its choices.
    OfPrompt(usize, Vec<Option<TokenLogprobs>>),
    /// More of a choice, numbered over all prompts.
    Delta(ChoiceDelta),
    /// All choices of a prompt have ended.
    Finished(Usage),
}

/// The choices of one request while they are generated. Dropping it cancels them.
struct Generation {
    outputs: Outputs,
    /// By prompt.
    records: Vec<RequestRecord>,
    choices_per_prompt: usize,
    num_unfinished: usize,
    /// What is logged of an end belongs to this: the body of a stream is polled in no span.
    span: Span,
}

impl Generation {
    fn submit(
        state: &ServerState,
        grant: &Grant,
        mut requests: Vec<engine::Request>,
        prompt_param: &'static str,
    ) -> Result<Self, ApiError> {
        for request in &mut requests {
            request.priority = grant.priority(request.priority);
        }
        let prompt_tokens: Vec<_> =
            requests.iter().map(|request| request.prompt_token_ids.len()).collect();
        let choices_per_prompt = requests.first().map_or(1, |request| request.params.n);
        let max_tokens = requests.first().and_then(|request| request.params.max_tokens);
        let streams = requests
            .into_iter()
            .map(|request| state.engine().submit(request))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ApiError::from_submit(error, prompt_param))?;
        let record = |prompt_tokens| {
            let charge = grant.charge(prompt_tokens);
            let metrics = Arc::clone(state.metrics());
            RequestRecord::new(metrics, choices_per_prompt, max_tokens, charge)
        };
        let records: Vec<_> = prompt_tokens.into_iter().map(record).collect();
        let num_unfinished = records.len();
        let (outputs, span) = (Outputs::new(streams), Span::current());
        Ok(Self { outputs, records, choices_per_prompt, num_unfinished, span })
    }

    fn num_prompts(&self) -> usize {
        self.records.len()
    }

    fn num_choices(&self) -> usize {
        self.num_prompts() * self.choices_per_prompt
    }

    fn prompt_of(&self, choice: usize) -> usize {
        choice / self.choices_per_prompt
    }

    /// What happens next to any prompt; `None` when all have ended.
    async fn next(&mut self) -> Option<Result<Step, ApiError>> {
        if self.num_unfinished == 0 {
            return None;
        }
        let (prompt, output) = self.outputs.recv().await;
        let record = &mut self.records[prompt];
        Some(match output {
            Output::PromptLogprobs(logprobs) => Ok(Step::OfPrompt(prompt, logprobs)),
            // No completion asks for one.
            Output::Embedding(_) => Err(ApiError::Internal),
            Output::Delta(mut delta) => {
                record.delta(&delta);
                delta.index += prompt * self.choices_per_prompt;
                Ok(Step::Delta(delta))
            }
            Output::Finished(usage) => {
                self.span.in_scope(|| record.finished(&usage));
                self.num_unfinished -= 1;
                Ok(Step::Finished(usage))
            }
            Output::Failed(error) => {
                record.failed();
                self.num_unfinished -= 1;
                Err(self.span.in_scope(|| ApiError::from_request(&error)))
            }
        })
    }

    async fn collect(mut self) -> Result<Answer, ApiError> {
        let choice = |index| ChoiceDelta { index, ..ChoiceDelta::default() };
        let mut answer = Answer {
            choices: (0..self.num_choices()).map(choice).collect(),
            of_prompts: vec![None; self.num_prompts()],
            usage: TokenUsage::default(),
        };
        while let Some(step) = self.next().await.transpose()? {
            match step {
                Step::OfPrompt(prompt, logprobs) => answer.of_prompts[prompt] = Some(logprobs),
                Step::Delta(delta) => append(&mut answer.choices[delta.index], delta),
                Step::Finished(usage) => add(&mut answer.usage, usage),
            }
        }
        Ok(answer)
    }
}

fn append(choice: &mut ChoiceDelta, delta: ChoiceDelta) {
    choice.text.push_str(&delta.text);
    choice.token_ids.extend(delta.token_ids);
    choice.logprobs.extend(delta.logprobs);
    choice.end = delta.end.or(choice.end.take());
}

/// The output of one prompt, or of several as they come.
enum Outputs {
    One(ResponseStream),
    Many {
        receiver: mpsc::Receiver<(usize, Output)>,
        /// One task per prompt; aborted, and their streams dropped, together with this.
        _forwarders: JoinSet<()>,
    },
}

impl Outputs {
    fn new(mut streams: Vec<ResponseStream>) -> Self {
        if streams.len() == 1
            && let Some(stream) = streams.pop()
        {
            return Self::One(stream);
        }
        let (sender, receiver) = mpsc::channel(FAN_IN_CAPACITY);
        let mut forwarders = JoinSet::new();
        for (prompt, stream) in streams.into_iter().enumerate() {
            forwarders.spawn(forward(prompt, stream, sender.clone()));
        }
        Self::Many { receiver, _forwarders: forwarders }
    }

    async fn recv(&mut self) -> (usize, Output) {
        let stopped = || Output::Failed(RequestError::Stopped);
        match self {
            Self::One(stream) => (0, stream.recv().await.unwrap_or_else(stopped)),
            Self::Many { receiver, .. } => receiver.recv().await.unwrap_or_else(|| (0, stopped())),
        }
    }
}

async fn forward(prompt: usize, mut stream: ResponseStream, sender: mpsc::Sender<(usize, Output)>) {
    let mut is_last = false;
    while !is_last {
        let output = stream.recv().await.unwrap_or(Output::Failed(RequestError::Stopped));
        is_last = matches!(output, Output::Finished(_) | Output::Failed(_));
        if sender.send((prompt, output)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Completion, CompletionChoice};
    use super::*;

    #[test]
    fn a_chunk_is_the_same_within_a_frame() {
        let completion = |choices, usage| Completion {
            id: "cmpl-1",
            object: "text_completion",
            created: 1,
            // As if it were the key that is looked for.
            model: r#"a","choices":[]"#,
            choices,
            system_fingerprint: r#""choices":["#,
            usage,
        };
        let choice = || CompletionChoice {
            text: "\n\u{e9}\"".into(),
            finish_reason: Some("stop"),
            ..CompletionChoice::default()
        };
        for usage in [UsageKey::Absent, UsageKey::Later(())] {
            let frame = Frame::around(completion(Vec::new(), usage).to_json()).unwrap();
            let (mut framed, mut whole) = (EventText::default(), EventText::default());
            frame.chunk(&choice(), &mut framed);
            whole.json(&completion(vec![choice()], usage));
            assert_eq!(framed.events(), whole.events());
        }
    }
}

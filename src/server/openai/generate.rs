//! The one flow behind both kinds of completion.
//!
//! ```text
//! read body -> admit -> prepare (blocking thread) -> submit -+-> collect -> one JSON answer
//!    |                                                       `-> stream  -> events
//!    `- a ticket, held until the last byte is handed over
//! ```
//!
//! Everything that can be refused is refused before the first byte of the answer, so that it has
//! its own HTTP status. What fails later is the last event of the stream.
//!
//! What this module deliberately does not do: it does not know how an answer looks; see [`Shape`].

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::types::{SamplingFields, TokenUsage, UsageKey};
use crate::engine::{self, FinishReason, Output, RequestError, ResponseStream, Usage};
use crate::server::error::ApiError;
use crate::server::metrics::RequestRecord;
use crate::server::observe::RequestTag;
use crate::server::sse::{self, Event, Events};
use crate::server::{ServerState, body};

/// Outputs of several prompts that wait for the client to read.
const FAN_IN_CAPACITY: usize = 16;

/// How an endpoint's answers look.
pub(super) trait Shape: Send + Sync + 'static {
    /// What all of them share.
    fn head(&self) -> &Head;
    /// The event before a choice's first text, where there is one.
    fn opening(&self, index: usize) -> Option<Event>;
    /// More text of a choice.
    fn delta(&self, index: usize, text: &str) -> Event;
    /// A choice's end.
    fn finish(&self, index: usize, reason: FinishReason) -> Event;
    /// The counts, after all choices have ended.
    fn usage(&self, usage: TokenUsage) -> Event;
    /// An answer that is not streamed.
    fn whole(&self, answers: &[Answer], usage: TokenUsage) -> Response;
}

/// What all answers to one request share.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    has_usage: bool,
}

impl Head {
    /// Of the request with this tag, now.
    pub(super) fn new(state: &ServerState, prefix: &str, tag: &str, streaming: Streaming) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("{prefix}-{tag}"),
            created: now.map_or(0, |since| since.as_secs()),
            model: state.options().served_model_name.clone(),
            has_usage: streaming == Streaming::WithUsage,
        }
    }

    /// The `usage` of every chunk but the last.
    pub(super) fn usage_so_far(&self) -> UsageKey {
        if self.has_usage { UsageKey::Later(()) } else { UsageKey::Absent }
    }
}

/// Whether the answer is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Streaming {
    Off,
    On,
    /// With the counts as the last chunk.
    WithUsage,
}

/// Reads `stream` and `stream_options`.
pub(super) fn streaming(fields: &SamplingFields) -> Result<Streaming, ApiError> {
    match (fields.stream.unwrap_or(false), &fields.stream_options) {
        (false, None) => Ok(Streaming::Off),
        (false, Some(_)) => {
            let message = "`stream_options` is only allowed together with `stream`";
            Err(ApiError::invalid("stream_options", message))
        }
        (true, Some(options)) if options.include_usage == Some(true) => Ok(Streaming::WithUsage),
        (true, _) => Ok(Streaming::On),
    }
}

/// A request that was read and checked.
pub(super) struct Prepared<S> {
    /// One for each choice.
    pub(super) requests: Vec<engine::Request>,
    pub(super) streaming: Streaming,
    /// The field that carried the prompt.
    pub(super) prompt_param: &'static str,
    pub(super) shape: S,
}

/// One choice of an answer that is not streamed.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) reason: FinishReason,
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
    let body = body::read(&state, request).await?;
    let ticket = state.admit()?;
    let worker = state.clone();
    let prepared =
        state.blocking(move || prepare(&worker, tag.as_str(), body.as_bytes())).await??;

    let mut generation = Generation::submit(&state, prepared.requests, prepared.prompt_param)?;
    let shape = prepared.shape;
    if prepared.streaming == Streaming::Off {
        let (answers, usage) = generation.collect().await?;
        return Ok(shape.whole(&answers, usage));
    }
    let keep_alive = state.options().keep_alive_interval;
    Ok(sse::respond(keep_alive, ticket, |events| stream(generation, shape, events)))
}

/// Answers a body that lies here already, in one piece.
pub(super) async fn whole<S: Shape>(
    state: &ServerState,
    id: &str,
    body: Arc<[u8]>,
    prepare: Prepare<S>,
) -> Result<Response, ApiError> {
    let (worker, id) = (state.clone(), id.to_owned());
    let prepared = state.blocking(move || prepare(&worker, &id, &body)).await??;
    if prepared.streaming != Streaming::Off {
        return Err(ApiError::invalid("stream", "a batch has no streams: leave `stream` out"));
    }
    let mut generation = Generation::submit(state, prepared.requests, prepared.prompt_param)?;
    match generation.collect().await {
        Ok((answers, usage)) => Ok(prepared.shape.whole(&answers, usage)),
        // It was let in, so this says something of the request, and nothing of room for others.
        Err(error @ ApiError::Overloaded { .. }) => Ok(error.into_response()),
        Err(error) => Err(error),
    }
}

/// Sends a generation as events. Stops when the client is gone.
async fn stream<S: Shape>(mut generation: Generation, shape: S, events: Events) {
    // An error here means that nobody reads any more: nothing is left to be done.
    let _ = try_stream(&mut generation, &shape, &events).await;
}

async fn try_stream<S: Shape>(
    generation: &mut Generation,
    shape: &S,
    events: &Events,
) -> Result<(), sse::ClientGone> {
    let mut is_open = vec![false; generation.records.len()];
    let mut sum = TokenUsage::default();
    while let Some(next) = generation.next().await {
        let (index, step) = match next {
            Ok(next) => next,
            Err(error) => return events.send(Event::json(&error.body().to_json())).await,
        };
        if !std::mem::replace(&mut is_open[index], true)
            && let Some(opening) = shape.opening(index)
        {
            events.send(opening).await?;
        }
        match step {
            Step::Text(text) if text.is_empty() => {}
            Step::Text(text) => events.send(shape.delta(index, &text)).await?,
            Step::End(reason, usage) => {
                add(&mut sum, usage);
                events.send(shape.finish(index, reason)).await?;
            }
        }
    }
    if shape.head().has_usage {
        events.send(shape.usage(sum)).await?;
    }
    events.send(Event::done()).await
}

fn add(sum: &mut TokenUsage, usage: Usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.total_tokens = sum.prompt_tokens + sum.completion_tokens;
}

/// What a choice does next.
enum Step {
    Text(String),
    End(FinishReason, Usage),
}

/// The choices of one request while they are generated. Dropping it cancels them.
struct Generation {
    outputs: Outputs,
    records: Vec<RequestRecord>,
    reasons: Vec<FinishReason>,
    num_unfinished: usize,
}

impl Generation {
    fn submit(
        state: &ServerState,
        requests: Vec<engine::Request>,
        prompt_param: &'static str,
    ) -> Result<Self, ApiError> {
        let streams = requests
            .into_iter()
            .map(|request| state.engine().submit(request))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ApiError::from_submit(error, prompt_param))?;
        let records: Vec<_> =
            streams.iter().map(|_| RequestRecord::new(Arc::clone(state.metrics()))).collect();
        let reasons = vec![FinishReason::Stop; records.len()];
        Ok(Self { num_unfinished: records.len(), records, reasons, outputs: Outputs::new(streams) })
    }

    /// The next step of any choice, by index; `None` when all have ended.
    async fn next(&mut self) -> Option<Result<(usize, Step), ApiError>> {
        if self.num_unfinished == 0 {
            return None;
        }
        let (index, output) = self.outputs.recv().await;
        let record = &mut self.records[index];
        Some(match output {
            Output::PromptLogprobs(_) => Ok((index, Step::Text(String::new()))),
            Output::Delta(delta) => {
                record.tokens(delta.token_ids.len());
                if let Some(end) = delta.end {
                    self.reasons[index] = end.reason;
                }
                Ok((index, Step::Text(delta.text)))
            }
            Output::Finished(usage) => {
                let reason = self.reasons[index];
                record.finished(reason, &usage);
                self.num_unfinished -= 1;
                Ok((index, Step::End(reason, usage)))
            }
            Output::Failed(error) => {
                record.failed();
                self.num_unfinished -= 1;
                Err(ApiError::from_request(&error))
            }
        })
    }

    async fn collect(&mut self) -> Result<(Vec<Answer>, TokenUsage), ApiError> {
        let empty = || Answer { text: String::new(), reason: FinishReason::Stop };
        let mut answers: Vec<_> = self.records.iter().map(|_| empty()).collect();
        let mut sum = TokenUsage::default();
        while let Some((index, step)) = self.next().await.transpose()? {
            match step {
                Step::Text(text) => answers[index].text.push_str(&text),
                Step::End(reason, usage) => {
                    answers[index].reason = reason;
                    add(&mut sum, usage);
                }
            }
        }
        Ok((answers, sum))
    }
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
        for (index, stream) in streams.into_iter().enumerate() {
            forwarders.spawn(forward(index, stream, sender.clone()));
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

async fn forward(index: usize, mut stream: ResponseStream, sender: mpsc::Sender<(usize, Output)>) {
    let mut is_last = false;
    while !is_last {
        let output = stream.recv().await.unwrap_or(Output::Failed(RequestError::Stopped));
        is_last = matches!(output, Output::Finished(_) | Output::Failed(_));
        if sender.send((index, output)).await.is_err() {
            return;
        }
    }
}

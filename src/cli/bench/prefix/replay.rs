//! Plays a trace against an engine, and writes down what happened.
//!
//! ```text
//!  queue of conversations  -- front --> worker: next prompt, submit, read --> answer
//!            ^                                                                  |
//!            `--------------------- back, until all is said --------------------'
//! ```
//!
//! There are as many workers as requests at once; each has one request unfinished. So all sessions
//! go on in turn, and with one worker the order is the trace's own.
//!
//! Without sharing each request has a `cache_salt` of its own: nothing that was computed for another
//! can be found, and everything else is as with it.
//!
//! What this module deliberately does not do: it judges nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::trace::{Conversation, Trace};
use crate::engine::{
    EngineHandle, Output, Request, RequestError, ResponseStream, SamplingParams, Usage,
};

/// How a trace is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Play {
    /// Requests at once, at least 1.
    pub(super) concurrency: usize,
    /// Tokens of each answer.
    pub(super) answer_tokens: usize,
    /// Whether requests may use what was computed for others.
    pub(super) is_shared: bool,
}

/// One request that was answered.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) prompt: Vec<u32>,
    pub(super) answer: Vec<u32>,
    /// Tokens of the prompt that were in the cache.
    pub(super) cached_tokens: usize,
    pub(super) time_to_first_token: Duration,
}

/// What happened to the request of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It was submitted.
    Began(usize),
    /// Its last token came.
    Ended(usize),
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// In the order of their submission.
    pub(super) requests: Vec<Served>,
    /// In their order.
    pub(super) events: Vec<Event>,
    pub(super) seconds: f64,
}

impl Replay {
    /// Tokens of all prompts.
    pub(super) fn num_prompt_tokens(&self) -> usize {
        self.requests.iter().map(|request| request.prompt.len()).sum()
    }

    /// Those of them that were in the cache.
    pub(super) fn num_hit_tokens(&self) -> usize {
        self.requests.iter().map(|request| request.cached_tokens).sum()
    }
}

/// Plays the trace to its end on an engine whose cache is emptied first. `advance` is told how many
/// requests are answered.
pub(super) fn replay(
    engine: &EngineHandle,
    trace: &Trace,
    play: Play,
    advance: &(dyn Fn(usize) + Sync),
) -> anyhow::Result<Replay> {
    engine.reset_prefix_cache();
    let queue = trace.sessions.iter().map(|session| Conversation::new(trace, session)).collect();
    let stage =
        Stage { engine, play, advance, state: Mutex::new(State { queue, ..State::default() }) };
    let started = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..play.concurrency).map(|_| scope.spawn(|| stage.work())).collect();
        let mut ended = Ok(());
        for worker in workers {
            let one = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended = ended.and(one);
        }
        ended
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let State { requests, events, .. } =
        stage.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let requests = requests.into_iter().flatten().collect();
    Ok(Replay { requests, events, seconds })
}

/// What workers share.
struct Stage<'a> {
    engine: &'a EngineHandle,
    play: Play,
    advance: &'a (dyn Fn(usize) + Sync),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Conversation>,
    /// By number; none while a request is unfinished.
    requests: Vec<Option<Served>>,
    events: Vec<Event>,
    num_ended: usize,
}

/// A conversation whose next prompt was submitted: the prompt, its number, and what answers it.
type Begun = (Conversation, Vec<u32>, usize, ResponseStream);

impl Stage<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests until there are more workers than conversations.
    fn work(&self) -> anyhow::Result<()> {
        while let Some((mut conversation, prompt, idx, stream)) = self.begin()? {
            let (answer, usage) = read(stream)?;
            let got = answer.len();
            ensure!(
                got == self.play.answer_tokens,
                "expected {} tokens of output, got {got}",
                self.play.answer_tokens
            );
            conversation.answer(&answer);
            let mut state = self.state();
            state.requests[idx] = Some(Served {
                prompt,
                answer,
                cached_tokens: usage.cached_tokens,
                time_to_first_token: usage.time_to_first_token,
            });
            state.events.push(Event::Ended(idx));
            state.queue.push_back(conversation);
            state.num_ended += 1;
            (self.advance)(state.num_ended);
        }
        Ok(())
    }

    /// Submits the next request. Under the lock, so that the order is the engine's.
    fn begin(&self) -> anyhow::Result<Option<Begun>> {
        let mut state = self.state();
        while let Some(mut conversation) = state.queue.pop_front() {
            let Some(prompt) = conversation.next_prompt() else { continue };
            let idx = state.requests.len();
            let salt = (!self.play.is_shared).then(|| idx.to_string());
            let stream = submit(self.engine, prompt.clone(), self.play.answer_tokens, salt)?;
            state.requests.push(None);
            state.events.push(Event::Began(idx));
            return Ok(Some((conversation, prompt, idx, stream)));
        }
        Ok(None)
    }
}

/// Submits a prompt that is answered greedily, with exactly so many tokens.
pub(super) fn submit(
    engine: &EngineHandle,
    prompt_token_ids: Vec<u32>,
    answer_tokens: usize,
    cache_salt: Option<String>,
) -> anyhow::Result<ResponseStream> {
    let params = SamplingParams {
        max_tokens: Some(answer_tokens as u64),
        temperature: 0.0,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    Ok(engine.submit(Request { cache_salt, ..Request::new(prompt_token_ids, params) })?)
}

/// Reads an answer to its end.
pub(super) fn read(mut stream: ResponseStream) -> anyhow::Result<(Vec<u32>, Usage)> {
    let mut answer = Vec::new();
    loop {
        match stream.blocking_recv() {
            Some(Output::Delta(delta)) => answer.extend(delta.token_ids),
            Some(Output::PromptLogprobs(_) | Output::Embedding(_)) => {}
            Some(Output::Finished(usage)) => return Ok((answer, usage)),
            Some(Output::Failed(error)) => return Err(error).context("measuring"),
            None => return Err(RequestError::Stopped).context("measuring"),
        }
    }
}

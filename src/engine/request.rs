//! What goes into the engine and what comes out of it.
//!
//! ```text
//! Request --submit--> [ PromptLogprobs ] Delta(choice 0) Delta(choice 1) Delta(choice 0) ... Finished(Usage)
//!                                                                     or at any place:      Failed(error)
//! ```
//!
//! A choice ends with the delta that carries a [`ChoiceEnd`]; after the last choice's end comes
//! [`Output::Finished`], which is the last message of a request that ended well. A request with
//! [`Request::pooling`] has no choices: one [`Output::Embedding`] comes in their place.

use std::time::Duration;

use crate::text::grammar::{Grammar, MatchError};

use super::death::Death;
use super::pooling::Pooling;
use super::sampling::{InvalidParam, SamplingParams, TokenLogprobs};

/// Number of a request within one engine, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One prompt to continue, in one or more choices.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The prompt, at least one token, each below the vocabulary's size.
    pub prompt_token_ids: Vec<u32>,
    /// How to sample, how many choices, and when to stop.
    pub params: SamplingParams,
    /// With [`SchedulingPolicy::Priority`](super::SchedulingPolicy::Priority): lower runs sooner.
    pub priority: i32,
    /// With [`SchedulingPolicy::Deadline`](super::SchedulingPolicy::Deadline): when the answer is
    /// wanted, from submission on.
    pub deadline: Option<Duration>,
    /// The request fails when it is not finished by then; `None`: the engine's own limit, if any.
    pub timeout: Option<Duration>,
    /// Requests with different salts share no cached prefix.
    pub cache_salt: Option<String>,
    /// What the text of each choice must look like. It ends where the grammar ends: then
    /// `min_tokens` and `ignore_eos` keep it no longer. A stop string or token may end it before.
    pub grammar: Option<Grammar>,
    /// Nothing is generated: the prompt's hidden states are wanted, as one vector. Needs an engine
    /// with [`EngineOptions::has_embeddings`](super::EngineOptions::has_embeddings), and the
    /// default parameters.
    pub pooling: Option<Pooling>,
}

impl Request {
    /// A request with nothing special.
    pub fn new(prompt_token_ids: Vec<u32>, params: SamplingParams) -> Self {
        Self { prompt_token_ids, params, ..Self::default() }
    }
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop string, a stop token, or the end of the grammar.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

impl FinishReason {
    /// The word of `OpenAI`'s `finish_reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// What stopped a choice, where the request named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopMatch {
    /// One of `stop_token_ids`.
    Token(u32),
    /// One of `stop`.
    Text(String),
}

/// How a choice ended.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceEnd {
    /// Why.
    pub reason: FinishReason,
    /// What stopped it; `None` for an end-of-text token of the model, the end of its grammar, and
    /// its length.
    pub stop: Option<StopMatch>,
    /// Sum of the logprobs of its tokens, where they were needed: with `logprobs`, `best_of` and
    /// beam search.
    pub cumulative_logprob: Option<f64>,
}

/// More of one choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChoiceDelta {
    /// Which choice, from 0.
    pub index: usize,
    /// Newly generated text; whole characters only. May be empty while a character is incomplete.
    pub text: String,
    /// The tokens generated since the last delta.
    pub token_ids: Vec<u32>,
    /// With `logprobs`: one for each of `token_ids`.
    pub logprobs: Vec<TokenLogprobs>,
    /// Set in a choice's last delta.
    pub end: Option<ChoiceEnd>,
}

/// What a finished request used, and how long its phases took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were in the prefix cache when the request began.
    pub cached_tokens: usize,
    /// Tokens generated in all its choices, end-of-text tokens included. Choices of `best_of` that
    /// were not returned, and beams that were dropped, do not count.
    pub completion_tokens: usize,
    /// From submission to the first step that computed it.
    pub queue_time: Duration,
    /// From submission to the first generated token.
    pub time_to_first_token: Duration,
    /// From submission to the last generated token.
    pub total_time: Duration,
}

/// One message of a request's output.
#[derive(Clone, Debug)]
pub enum Output {
    /// With `prompt_logprobs`, before the first delta: one for each token of the prompt; the first
    /// token has none.
    PromptLogprobs(Vec<Option<TokenLogprobs>>),
    /// More of one choice.
    Delta(ChoiceDelta),
    /// With `pooling`: the prompt as a vector `[hidden_size]`, of any length.
    Embedding(Vec<f32>),
    /// The last message of a request that ended well.
    Finished(Usage),
    /// The last message of a request that failed; other requests go on.
    Failed(RequestError),
}

/// Why a request that was accepted could not be finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A step failed or produced logits that are not numbers.
    #[error("{0}")]
    Execution(String),
    /// It was not finished in time.
    #[error("the request was not finished within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The text could not follow the request's grammar to its end.
    #[error(transparent)]
    Grammar(#[from] MatchError),
    /// The engine died, and every request with it.
    #[error("the engine died")]
    Died(#[source] Death),
    /// The engine stopped before the request ended.
    #[error("the engine stopped before the request ended")]
    Stopped,
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] InvalidParam),
    /// The prompt leaves no room to generate.
    #[error(
        "the prompt has {prompt_tokens} tokens, but the context holds {max_model_len} and at least one must be left to generate"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the context, prompt and output together.
        max_model_len: usize,
    },
    /// The queue is full: try again later.
    #[error(
        "{num_requests} requests with {num_tokens} prompt tokens are unfinished already; the limit is {limit}"
    )]
    Overloaded {
        /// Requests that are not finished.
        num_requests: usize,
        /// Their prompts' tokens.
        num_tokens: usize,
        /// What the engine takes, in words.
        limit: String,
        /// A guess at when there will be room, from how fast requests end at present.
        retry_after: Duration,
    },
    /// The server is draining: no new requests.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

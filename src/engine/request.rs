//! What goes into the engine and what comes out of it.

use std::time::Duration;

use tokio::sync::mpsc;

use super::death::Death;
use super::sampling_params::{InvalidParam, SamplingParams};

/// Number of a request within one engine, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One prompt to continue.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt, at least one token, each below the vocabulary's size.
    pub prompt_token_ids: Vec<u32>,
    /// How to sample and when to stop.
    pub params: SamplingParams,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop string or a stop token.
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

/// What a finished request used, and how long its phases took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, an end-of-text token included.
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
    /// Newly generated text; whole characters only. May be empty while a character is incomplete.
    Delta {
        /// Text to append.
        text: String,
        /// The tokens generated since the last delta.
        token_ids: Vec<u32>,
    },
    /// The last message of a request that ended well.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// Counts and times.
        usage: Usage,
    },
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
    /// The waiting queue is full: try again later.
    #[error("{waiting} requests are waiting already, the most that are queued")]
    Overloaded {
        /// Length of the queue.
        waiting: usize,
    },
    /// The server is draining: no new requests.
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
}

/// The output of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct ResponseStream {
    id: RequestId,
    receiver: mpsc::Receiver<Output>,
}

impl ResponseStream {
    pub(super) fn new(id: RequestId, receiver: mpsc::Receiver<Output>) -> Self {
        Self { id, receiver }
    }

    /// The request's number.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The next message; `None` after [`Output::Finished`] or [`Output::Failed`].
    pub async fn recv(&mut self) -> Option<Output> {
        self.receiver.recv().await
    }

    /// [`recv`](Self::recv) for a thread outside the async runtime.
    ///
    /// # Panics
    /// When called from within an async context.
    pub fn blocking_recv(&mut self) -> Option<Output> {
        self.receiver.blocking_recv()
    }
}

//! Requests in a file, as `OpenAI`'s batches have them: read, answered, and their results kept so that
//! whoever goes on finds what is done.
//!
//! ```text
//! IN --source--> lines --queue--> those without a result --work--> answers --journal--> OUT
//!                                          ^                                             |
//!                                          '-------------- the next run reads -----------'
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | line | one request, in `OpenAI`'s batch format; its number and digest say which one |
//! | result | one line of OUT; its id names the line that it answers |
//! | journal | OUT, read by the next run to know what is done |
//! | [`Answers`] | whoever answers a request |
//!
//! A run that was ended in whatever way goes on when it is begun again: no line is lost, and none is
//! answered twice. Memory holds the lines in work, and some 60 bytes of every line.
//!
//! | File | Holds |
//! | --- | --- |
//! | `source` | IN to numbered lines |
//! | `line` | a line to a request, and an answer to a result |
//! | `queue` | which lines are still to be answered |
//! | `journal` | OUT, written and read again |
//! | `work` | answering, several at a time |
//!
//! What this module deliberately does not do: it knows no field of a request, no HTTP and no engine.

pub(crate) mod journal;
pub(crate) mod line;
pub(crate) mod queue;
pub(crate) mod source;
pub(crate) mod work;

use std::future::Future;
use std::sync::Arc;

/// What a server would send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// One JSON object, without a line break.
    pub body: Vec<u8>,
}

/// Why a request was not answered now; it is as good as new.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The engine's queue is full for now.
    #[error("{0}")]
    Overloaded(String),
    /// The engine has ended, and takes this and every other request with it.
    #[error("{0}")]
    Stopped(String),
}

/// Whoever answers requests.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// Answers a body that was posted to a path, in one piece.
    fn answer(
        &self,
        path: &str,
        id: &str,
        body: Arc<[u8]>,
    ) -> impl Future<Output = Result<Answered, NoAnswer>> + Send;

    /// Whether nothing is in work, so that one that is full is full for good.
    fn is_idle(&self) -> bool;
}

//! Progress of what takes longer than a blink, for whoever shows it.
//!
//! ```text
//! Progress --begin("fetching ...", Amount::Bytes(n))--> Task --advance_to(k)--> ... --drop--> ended
//! ```
//!
//! What this module deliberately does not do: it shows nothing; the command line does.

use std::fmt;

use crate::telemetry::events::EventLog;

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// Nobody knows.
    Unknown,
    /// So many things.
    Items(u64),
    /// So many bytes.
    Bytes(u64),
}

/// Where progress is shown.
pub(crate) trait Progress: fmt::Debug + Send + Sync {
    /// Begins a task. `what` says what is being done: `loading the model`.
    fn begin(&self, what: &str, amount: Amount) -> Box<dyn Task>;

    /// Where the start's events go, if somebody keeps them.
    fn events(&self) -> Option<&EventLog> {
        None
    }
}

/// Something that is being done; dropping it ends it.
pub(crate) trait Task: Send + Sync {
    /// So much of the amount is done by now.
    fn advance_to(&self, done: u64);
}

/// Shows nothing.
#[derive(Debug)]
pub(crate) struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _amount: Amount) -> Box<dyn Task> {
        Box::new(Hidden)
    }
}

/// A task that nobody sees.
#[derive(Debug)]
pub(crate) struct Hidden;

impl Task for Hidden {
    fn advance_to(&self, _done: u64) {}
}

//! What happens in a cache, told as it happens: the one source of counters, log lines and whatever
//! else somebody wants to know.
//!
//! ```text
//! GraphCache, Layered, gc, starts  --emit-->  Events  --> a log line
//!                                                     `-> every Observer: CacheStats, the caller's own
//! ```
//!
//! What this module deliberately does not do: it remembers nothing; observers do.

use std::fmt;
use std::sync::Arc;

use crate::key::CacheKey;
use crate::store::MissReason;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A graph came from the cache.
    Hit {
        /// Its key.
        key: CacheKey,
        /// Its word for people.
        note: String,
        /// Bytes of the artifact.
        bytes: u64,
        /// What compiling it took once, in milliseconds.
        saved_ms: u64,
    },
    /// There was nothing to use, and nobody else was compiling it.
    Miss {
        /// The key.
        key: CacheKey,
        /// The graph's word for people.
        note: String,
        /// Why.
        reason: MissReason,
    },
    /// A graph was compiled.
    Compiled {
        /// Its key.
        key: CacheKey,
        /// Its word for people.
        note: String,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// An entry was written.
    Stored {
        /// Its key.
        key: CacheKey,
        /// Bytes written.
        bytes: u64,
    },
    /// An entry was not written. The graph is used all the same.
    StoreFailed {
        /// Its key.
        key: CacheKey,
        /// Why.
        error: String,
        /// Whether it is the first time: a full disk is worth one warning, not one per graph.
        is_first: bool,
    },
    /// An entry of a lower layer was copied into the writable one.
    Promoted {
        /// Its key.
        key: CacheKey,
        /// The layer it came from.
        from: String,
        /// Bytes of the artifact.
        bytes: u64,
    },
    /// A layer did not answer as it should; the others were asked.
    LayerFailed {
        /// Which layer.
        place: String,
        /// What went wrong.
        error: String,
    },
    /// A bad entry was moved away.
    Quarantined {
        /// Its key.
        key: CacheKey,
        /// Why.
        reason: String,
    },
    /// An entry was removed to make room.
    Evicted {
        /// Its key.
        key: CacheKey,
        /// Its bytes.
        bytes: u64,
    },
    /// Another process is compiling the graph, still.
    Waiting {
        /// Its key.
        key: CacheKey,
        /// Its word for people.
        note: String,
        /// Who has the lock.
        owner: String,
        /// For how long so far, in milliseconds.
        ms: u64,
    },
    /// Another thread or process was compiling the graph.
    Waited {
        /// Its key.
        key: CacheKey,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Waiting took too long.
    GaveUpWaiting {
        /// The key.
        key: CacheKey,
        /// Who has the lock.
        owner: String,
    },
    /// Whoever held the lock is gone or hangs, and lost it.
    TookOver {
        /// The key.
        key: CacheKey,
        /// Who had it.
        owner: String,
    },
    /// Starts with these entries failed again and again: the entries were quarantined.
    CrashLoop {
        /// How many starts failed.
        num_failed: usize,
        /// The entries.
        keys: Vec<CacheKey>,
    },
    /// A request now needs other graphs than it did: its key does not see what changed.
    RequestChanged {
        /// The request's key.
        key: CacheKey,
        /// What differs.
        what: String,
    },
}

impl Event {
    /// Whether somebody should look at it.
    pub fn is_warning(&self) -> bool {
        match self {
            Self::Miss { reason, .. } => *reason != MissReason::Absent,
            Self::StoreFailed { is_first, .. } => *is_first,
            Self::LayerFailed { .. }
            | Self::Quarantined { .. }
            | Self::GaveUpWaiting { .. }
            | Self::TookOver { .. }
            | Self::CrashLoop { .. }
            | Self::RequestChanged { .. } => true,
            Self::Hit { .. }
            | Self::Compiled { .. }
            | Self::Stored { .. }
            | Self::Promoted { .. }
            | Self::Evicted { .. }
            | Self::Waiting { .. }
            | Self::Waited { .. } => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit { note, bytes, .. } => write!(f, "{note}: from the cache, {bytes} bytes"),
            Self::Miss { note, reason, .. } => write!(f, "{note}: {reason}; compiling it"),
            Self::Compiled { note, ms, .. } => write!(f, "{note}: compiled in {ms} ms"),
            Self::Stored { bytes, .. } => write!(f, "stored, {bytes} bytes"),
            Self::StoreFailed { error, .. } => write!(f, "{error}; the next start compiles again"),
            Self::Promoted { from, bytes, .. } => write!(f, "copied {bytes} bytes from {from}"),
            Self::LayerFailed { place, error } => {
                write!(f, "graph cache {place} is not used: {error}")
            }
            Self::Quarantined { reason, .. } => write!(f, "moved into the quarantine: {reason}"),
            Self::Evicted { bytes, .. } => write!(f, "removed to make room, {bytes} bytes"),
            Self::Waiting { note, owner, ms, .. } => {
                write!(f, "{note}: waiting for {owner}, {} s so far", ms / 1000)
            }
            Self::Waited { ms, .. } => write!(f, "another one compiled it; waited {ms} ms"),
            Self::GaveUpWaiting { owner, .. } => write!(
                f,
                "gave up waiting for {owner} to compile the graph; compiling it here as well. If \
                 that process hangs, end it"
            ),
            Self::TookOver { owner, .. } => {
                write!(f, "{owner} was compiling the graph, but shows no life; compiling it here")
            }
            Self::CrashLoop { num_failed, keys } => write!(
                f,
                "{num_failed} starts in a row failed with the same {} entries; they were moved \
                 into the quarantine and are compiled again",
                keys.len()
            ),
            Self::RequestChanged { what, .. } => write!(
                f,
                "the same request needed other graphs before ({what}); the graphs' own keys decide"
            ),
        }
    }
}

/// Somebody who wants to know.
pub trait Observer: Send + Sync {
    /// Is called when something happened, on the thread where it did. Should not take long.
    fn observe(&self, event: &Event);
}

/// Where events go.
#[derive(Clone, Default)]
pub struct Events {
    observers: Vec<Arc<dyn Observer>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("observers", &self.observers.len()).finish()
    }
}

impl Events {
    /// To these observers and the log.
    pub fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self { observers }
    }

    /// Tells of an event.
    pub fn emit(&self, event: &Event) {
        if event.is_warning() {
            tracing::warn!("{event}");
        } else if matches!(event, Event::Waiting { .. }) {
            tracing::info!("{event}");
        } else {
            tracing::debug!("{event}");
        }
        for observer in &self.observers {
            observer.observe(event);
        }
    }
}

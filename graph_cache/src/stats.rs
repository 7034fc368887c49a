//! Counters of what the cache did, for metrics and summary lines.
//!
//! [`CacheStats`] is counted into by any thread; [`StatsSnapshot`] is what a reader gets. The numbers
//! of one snapshot are each right, but were not all read at the same instant.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the cache was opened.
#[derive(Debug, Default)]
pub struct CacheStats {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) compiles: Counter,
    pub(crate) compile_ms: Counter,
    pub(crate) quarantined: Counter,
    pub(crate) bytes_read: Counter,
    pub(crate) bytes_written: Counter,
    pub(crate) write_failures: Counter,
    pub(crate) lock_timeouts: Counter,
}

impl CacheStats {
    /// The numbers now.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            hits: self.hits.value(),
            misses: self.misses.value(),
            compiles: self.compiles.value(),
            compile_ms: self.compile_ms.value(),
            quarantined: self.quarantined.value(),
            bytes_read: self.bytes_read.value(),
            bytes_written: self.bytes_written.value(),
            write_failures: self.write_failures.value(),
            lock_timeouts: self.lock_timeouts.value(),
        }
    }
}

/// The values of [`CacheStats`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Graphs that came from the cache, or from another thread that compiled them meanwhile.
    pub hits: u64,
    /// Graphs that were not there, or not usable.
    pub misses: u64,
    /// Graphs that were compiled.
    pub compiles: u64,
    /// Time spent in the compiler, in milliseconds.
    pub compile_ms: u64,
    /// Bad entries that were moved away.
    pub quarantined: u64,
    /// Artifact bytes of the hits.
    pub bytes_read: u64,
    /// Bytes stored.
    pub bytes_written: u64,
    /// Compiled graphs that could not be stored.
    pub write_failures: u64,
    /// Times that waiting for another compiler was given up.
    pub lock_timeouts: u64,
}

/// One number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

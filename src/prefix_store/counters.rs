//! What a store counts, and what it warns about once.
//!
//! What this module deliberately does not do: the bytes held are counted where room is made.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters since a store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) saved: Counter,
    pub(super) corrupt: Counter,
    pub(super) evicted: Counter,
    pub(super) errors: Counter,
}

/// Warns the first time; what follows is worth no more than a line for whoever looks for it.
#[derive(Debug, Default)]
pub(super) struct WarnOnce(AtomicBool);

impl WarnOnce {
    pub(super) fn warn(&self, what: impl fmt::Display) {
        if self.0.swap(true, Ordering::Relaxed) {
            tracing::debug!("{what}");
        } else {
            tracing::warn!("{what}");
        }
    }
}

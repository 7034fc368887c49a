//! What the engine thread and everyone else see at once: a few atomics, no lock.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Phase`] | whether new requests are taken; only ever moves forward |
//! | [`Slot`] | one unfinished request's place; dropping it frees the place |
//! | [`Alive`] | held by the engine thread; dropping it, even by a panic, says that the thread is gone |
//!
//! What this module deliberately does not do: it carries no request and no output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use super::stats::Counters;

/// How far the engine is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// New requests are taken.
    Serving = 0,
    /// What is unfinished goes on; nothing new is taken.
    Draining = 1,
    /// The engine ends after the current step.
    Stopping = 2,
}

/// Seen by the engine thread and by every handle.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    num_unfinished: AtomicUsize,
    phase: AtomicU8,
    is_gone: AtomicBool,
}

impl Shared {
    /// The current phase.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Moves on to a phase; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Whether the engine thread runs.
    pub(crate) fn is_alive(&self) -> bool {
        !self.is_gone.load(Ordering::SeqCst)
    }

    /// Requests that hold a place.
    pub(crate) fn num_unfinished(&self) -> usize {
        self.num_unfinished.load(Ordering::SeqCst)
    }

    /// A place among at most `max` unfinished requests.
    pub(crate) fn try_slot(self: &Arc<Self>, max: usize) -> Option<Slot> {
        let take = |count: usize| (count < max).then_some(count + 1);
        // With the phase's order (SeqCst) either the taker of this place sees that the engine
        // drains, or who drains it sees that the place is taken.
        let taken = self.num_unfinished.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.ok().map(|_| Slot(Arc::clone(self)))
    }
}

/// The place of one unfinished request.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.num_unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Held by the engine thread for as long as it works.
#[derive(Debug)]
pub(crate) struct Alive(pub(crate) Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let shared = Arc::new(Shared::default());
        let first = shared.try_slot(2).unwrap();
        let _second = shared.try_slot(2).unwrap();
        assert!(shared.try_slot(2).is_none());
        drop(first);
        assert!(shared.try_slot(2).is_some());
        assert_eq!(shared.num_unfinished(), 1);
    }

    #[test]
    fn phases_only_move_forward() {
        let shared = Shared::default();
        shared.enter(Phase::Stopping);
        shared.enter(Phase::Draining);
        assert_eq!(shared.phase(), Phase::Stopping);
    }
}

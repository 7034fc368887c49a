//! What the engine thread and everyone else see at once: a few atomics, no lock.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Phase`] | whether new requests are taken; only ever moves forward |
//! | [`Slot`] | one unfinished request's place; dropping it frees the place |
//! | [`Alive`] | held by the engine thread; dropping it, even by a panic, says that the thread is gone |
//! | [`Death`] | why it is gone when nobody told it to go; said once, and before any request is told |
//!
//! What this module deliberately does not do: it carries no request and no output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread;

use tokio::sync::watch;

use super::death::Death;
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
    death: watch::Sender<Option<Death>>,
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

    /// Says that the engine dies, unless it did before.
    pub(crate) fn die(&self, death: Death) {
        self.is_gone.store(true, Ordering::SeqCst);
        let is_first = self.death.send_if_modified(|slot| {
            let is_first = slot.is_none();
            slot.get_or_insert_with(|| death.clone());
            is_first
        });
        if is_first {
            tracing::error!(what = death.what, fate = ?death.fate, "the engine died: every request fails");
        }
    }

    /// What the engine died of, if it did.
    pub(crate) fn death(&self) -> Option<Death> {
        self.death.borrow().clone()
    }

    /// Returns when the engine has died, and never if it does not.
    pub(crate) async fn died(&self) -> Death {
        let mut receiver = self.death.subscribe();
        let death = receiver.wait_for(Option::is_some).await.ok().and_then(|death| death.clone());
        match death {
            Some(death) => death,
            // It fails only when the sender is gone, which lives in this struct.
            None => std::future::pending().await,
        }
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
        if thread::panicking() {
            self.0.die(Death::of_panic());
        }
        self.0.is_gone.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::super::death::Fate;
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
    fn the_first_death_is_the_one_that_counts() {
        let shared = Shared::default();
        assert_eq!((shared.is_alive(), shared.death()), (true, None));
        let lost = Death { what: "it smokes".into(), fate: Fate::Lost };
        shared.die(lost.clone());
        shared.die(Death::of_panic());
        assert_eq!((shared.is_alive(), shared.death()), (false, Some(lost)));
    }

    #[test]
    fn phases_only_move_forward() {
        let shared = Shared::default();
        shared.enter(Phase::Stopping);
        shared.enter(Phase::Draining);
        assert_eq!(shared.phase(), Phase::Stopping);
    }
}

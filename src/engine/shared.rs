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
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::death::Death;
use super::stats::{Counters, StepTokens};

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
#[derive(Debug)]
pub(crate) struct Shared {
    started_at: Instant,
    /// When a request ended last, and how long it takes from one end to the next.
    last_end_us: AtomicU64,
    end_interval_us: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) step_tokens: StepTokens,
    num_unfinished: AtomicUsize,
    phase: AtomicU8,
    is_gone: AtomicBool,
    death: watch::Sender<Option<Death>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            started_at: Instant::now(),
            last_end_us: AtomicU64::new(0),
            end_interval_us: AtomicU64::new(0),
            counters: Counters::default(),
            step_tokens: StepTokens::default(),
            num_unfinished: AtomicUsize::new(0),
            phase: AtomicU8::new(0),
            is_gone: AtomicBool::new(false),
            death: watch::Sender::default(),
        }
    }
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

    /// A place among at most `max` unfinished requests, which have at most `max_tokens` prompt
    /// tokens in all; whoever is alone has a place in any case.
    pub(crate) fn try_slot(
        self: &Arc<Self>,
        max: usize,
        num_tokens: usize,
        max_tokens: usize,
    ) -> Option<Slot> {
        let take = |count: usize| (count < max).then_some(count + 1);
        // With the phase's order (SeqCst) either the taker of this place sees that the engine
        // drains, or who drains it sees that the place is taken.
        let taken = self.num_unfinished.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        let before = taken.ok()?;
        // Given back by its drop.
        let slot = Slot { shared: Arc::clone(self), num_tokens };
        let queued = &self.counters.num_queued_tokens;
        let others = queued.fetch_add(num_tokens as u64, Ordering::SeqCst) as usize;
        let has_room = before == 0 || others.saturating_add(num_tokens) <= max_tokens;
        has_room.then_some(slot)
    }

    /// Takes note that a request ended well.
    pub(crate) fn note_end(&self, now: Instant) {
        let now_us = self.micros(now);
        let last_us = self.last_end_us.swap(now_us, Ordering::Relaxed);
        let interval_us = now_us.saturating_sub(last_us);
        let before_us = self.end_interval_us.load(Ordering::Relaxed);
        // The last few requests count most.
        let average_us = if last_us == 0 { 0 } else { (before_us * 7 + interval_us) / 8 };
        self.end_interval_us.store(average_us, Ordering::Relaxed);
    }

    /// When the next place is likely to be free: one second at least, one minute at most.
    pub(crate) fn retry_after(&self) -> Duration {
        let interval = Duration::from_micros(self.end_interval_us.load(Ordering::Relaxed));
        interval.clamp(Duration::from_secs(1), Duration::from_mins(1))
    }

    /// Microseconds since the engine's start.
    pub(crate) fn micros(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started_at);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// The place of one unfinished request.
#[derive(Debug)]
pub(crate) struct Slot {
    shared: Arc<Shared>,
    num_tokens: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let queued = &self.shared.counters.num_queued_tokens;
        queued.fetch_sub(self.num_tokens as u64, Ordering::SeqCst);
        self.shared.num_unfinished.fetch_sub(1, Ordering::SeqCst);
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
        let try_slot = |num_tokens| shared.try_slot(2, num_tokens, 100);
        let first = try_slot(1000).expect("whoever is alone has a place");
        assert!(try_slot(1).is_none(), "too many tokens");
        drop(first);
        let first = try_slot(60).unwrap();
        assert!(try_slot(41).is_none());
        let second = try_slot(40).unwrap();
        assert!(try_slot(0).is_none(), "too many requests");
        drop(first);
        assert!(try_slot(60).is_some());
        drop(second);
        assert_eq!(shared.num_unfinished(), 0);
        assert_eq!(shared.counters.num_queued_tokens.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_place_is_expected_after_about_the_time_between_two_ends() {
        let shared = Shared::default();
        assert_eq!(shared.retry_after(), Duration::from_secs(1));
        let start = Instant::now();
        for second in 1..100 {
            shared.note_end(start + Duration::from_secs(4 * second));
        }
        let seconds = shared.retry_after().as_secs_f64();
        assert!((3.5..4.5).contains(&seconds), "{seconds}");
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

//! One compiler per key among the threads of this process.
//!
//! ```text
//! first thread:   join -> Lead ---- works ---- publish(bytes)
//! other threads:  join ........... waits ........... -> Shared(bytes)
//! leader fails:   Lead dropped, and the next of the waiting threads leads
//! ```
//!
//! What this module deliberately does not do: a failure is not shared or remembered, and neither are
//! bytes once nobody waits for them.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::entry::Artifact;
use crate::key::CacheKey;

/// The compiled graphs that threads are working on or waiting for.
#[derive(Debug, Default)]
pub(crate) struct SingleFlight {
    flights: Mutex<HashMap<CacheKey, Arc<Flight>>>,
}

#[derive(Debug, Default)]
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Running,
    Done(Arc<Artifact>),
    Failed,
}

/// What a thread that joined has to do.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// Do the work, then publish it.
    Lead(Lead<'a>),
    /// Another thread did it.
    Shared(Arc<Artifact>),
    /// Another thread is still at it.
    TimedOut,
}

/// The duty to do the work. Dropping it without publishing hands it to another thread.
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    owner: &'a SingleFlight,
    key: CacheKey,
    flight: Arc<Flight>,
}

impl SingleFlight {
    /// Leads, or waits for the thread that does, until `deadline`.
    pub(crate) fn join(&self, key: CacheKey, deadline: Instant) -> Turn<'_> {
        loop {
            let flight = {
                let mut flights = lock(&self.flights);
                if let Some(flight) = flights.get(&key) {
                    Arc::clone(flight)
                } else {
                    let flight = Arc::<Flight>::default();
                    flights.insert(key, Arc::clone(&flight));
                    return Turn::Lead(Lead { owner: self, key, flight });
                }
            };
            match flight.wait(deadline) {
                State::Done(bytes) => return Turn::Shared(bytes),
                State::Failed => {}
                State::Running => return Turn::TimedOut,
            }
        }
    }
}

impl Flight {
    /// The state once it is not running, or running when the deadline passed.
    fn wait(&self, deadline: Instant) -> State {
        let mut state = lock(&self.state);
        loop {
            match &*state {
                State::Done(bytes) => return State::Done(Arc::clone(bytes)),
                State::Failed => return State::Failed,
                State::Running => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return State::Running;
            }
            (state, _) =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Lead<'_> {
    /// Hands the bytes to the threads that wait for them.
    pub(crate) fn publish(self, bytes: Arc<Artifact>) {
        *lock(&self.flight.state) = State::Done(bytes);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Out of the map first: a thread that sees the failure must not find this flight again.
        lock(&self.owner.flights).remove(&self.key);
        let mut state = lock(&self.flight.state);
        if matches!(*state, State::Running) {
            *state = State::Failed;
        }
        self.flight.changed.notify_all();
    }
}

/// A panic elsewhere leaves both maps and states whole, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);

    fn artifact() -> Artifact {
        Artifact::single("a", vec![42]).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn waiting_threads_share_what_the_leader_made() {
        let flights = SingleFlight::default();
        let Turn::Lead(lead) = flights.join(KEY, late()) else {
            panic!("the first must lead");
        };
        assert!(matches!(flights.join(KEY, soon()), Turn::TimedOut));
        let other = CacheKey::from_bytes([2; 32]);
        assert!(matches!(flights.join(other, soon()), Turn::Lead(_)));
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| match flights.join(KEY, late()) {
                        Turn::Shared(made) => assert_eq!(*made, artifact()),
                        // It came after the publication, so it leads: that is right too.
                        turn => assert!(matches!(turn, Turn::Lead(_)), "{turn:?}"),
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(20));
            lead.publish(Arc::new(artifact()));
            for thread in waiting {
                thread.join().unwrap();
            }
        });
        assert!(lock(&flights.flights).is_empty());
    }

    #[test]
    fn when_the_leader_fails_or_panics_another_leads() {
        let flights = SingleFlight::default();
        thread::scope(|scope| {
            let Turn::Lead(lead) = flights.join(KEY, late()) else {
                panic!("the first must lead");
            };
            let next = scope.spawn(|| matches!(flights.join(KEY, late()), Turn::Lead(_)));
            let failing = scope.spawn(move || {
                let _lead = lead;
                panic!("this panic is part of the test");
            });
            assert!(failing.join().is_err());
            assert!(next.join().unwrap());
        });
        assert!(lock(&flights.flights).is_empty());
    }
}

//! The limit on how many requests of all clients together are in the server at once.
//!
//! What this module deliberately does not do: no queue; the engine has one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No limit.
const OPEN: u64 = u64::MAX;

/// How many may be inside, and how many are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    max: AtomicU64,
    inside: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { max: AtomicU64::new(OPEN), inside: AtomicU64::new(0) }
    }
}

/// One that is inside; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Counts>);

impl Gate {
    /// The limit; `None`: there is none.
    pub(crate) fn max(&self) -> Option<u64> {
        Some(self.0.max.load(Ordering::SeqCst)).filter(|max| *max != OPEN)
    }

    /// From now on this many; whoever is inside stays.
    pub(crate) fn set_max(&self, max: Option<u64>) {
        self.0.max.store(max.unwrap_or(OPEN), Ordering::SeqCst);
    }

    /// How many are inside.
    pub(crate) fn num_inside(&self) -> u64 {
        self.0.inside.load(Ordering::SeqCst)
    }

    /// Lets one in, if there is room.
    pub(crate) fn enter(&self) -> Option<Inside> {
        let before = self.0.inside.fetch_add(1, Ordering::SeqCst);
        let inside = Inside(Arc::clone(&self.0));
        (before < self.0.max.load(Ordering::SeqCst)).then_some(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_inside_as_may_be() {
        let gate = Gate::default();
        let open: Vec<_> = (0..100).map(|_| gate.enter().unwrap()).collect();
        gate.set_max(Some(2));
        assert!(gate.enter().is_none());
        drop(open);
        let two = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.enter().is_none());
        assert_eq!((gate.num_inside(), gate.max()), (2, Some(2)));
        drop(two);
        assert!(gate.enter().is_some());
        gate.set_max(None);
        assert_eq!((gate.num_inside(), gate.max()), (0, None));
    }
}

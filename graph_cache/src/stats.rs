//! Counters of what the cache did, for metrics and summary lines: an observer of its events.
//!
//! [`CacheStats`] is counted into by any thread; [`StatsSnapshot`] is what a reader gets. The numbers
//! of one snapshot are each right, but were not all read at the same instant.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::events::{Event, Observer};
use crate::store::MissReason;

/// Counters since the cache was opened.
#[derive(Debug, Default)]
pub struct CacheStats {
    hits: Counter,
    misses_absent: Counter,
    misses_bad: Counter,
    misses_unreadable: Counter,
    misses_untrusted: Counter,
    misses_other_format: Counter,
    compiles: Counter,
    compile_ms: Counter,
    saved_ms: Counter,
    quarantined: Counter,
    evicted: Counter,
    promoted: Counter,
    bytes_read: Counter,
    bytes_written: Counter,
    write_failures: Counter,
    lock_wait_ms: Counter,
    lock_timeouts: Counter,
    takeovers: Counter,
    layer_failures: Counter,
    crash_loops: Counter,
}

/// The values of [`CacheStats`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Graphs that came from the cache, or from another thread that compiled them meanwhile.
    pub hits: u64,
    /// Misses of graphs that nobody had compiled.
    pub misses_absent: u64,
    /// Misses because an entry was not what was written.
    pub misses_bad: u64,
    /// Misses because an entry could not be read.
    pub misses_unreadable: u64,
    /// Misses because an entry is not trusted.
    pub misses_untrusted: u64,
    /// Misses because an entry is of another version's format.
    pub misses_other_format: u64,
    /// Graphs that were compiled.
    pub compiles: u64,
    /// Time spent in the compiler, in milliseconds.
    pub compile_ms: u64,
    /// Time that the compiler once took for the graphs that came from the cache, in milliseconds.
    pub saved_ms: u64,
    /// Bad entries that were moved away.
    pub quarantined: u64,
    /// Entries that were removed to make room.
    pub evicted: u64,
    /// Entries that were copied from a lower layer into the writable one.
    pub promoted: u64,
    /// Artifact bytes of the hits.
    pub bytes_read: u64,
    /// Bytes stored.
    pub bytes_written: u64,
    /// Compiled graphs that could not be stored.
    pub write_failures: u64,
    /// Time spent waiting for other compilers, in milliseconds.
    pub lock_wait_ms: u64,
    /// Times that waiting for another compiler was given up.
    pub lock_timeouts: u64,
    /// Times that a lock was taken from an owner that showed no life.
    pub takeovers: u64,
    /// Times that a layer did not answer as it should.
    pub layer_failures: u64,
    /// Times that starts failed so often that their entries were moved away.
    pub crash_loops: u64,
}

impl CacheStats {
    /// The numbers now.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            hits: self.hits.value(),
            misses_absent: self.misses_absent.value(),
            misses_bad: self.misses_bad.value(),
            misses_unreadable: self.misses_unreadable.value(),
            misses_untrusted: self.misses_untrusted.value(),
            misses_other_format: self.misses_other_format.value(),
            compiles: self.compiles.value(),
            compile_ms: self.compile_ms.value(),
            saved_ms: self.saved_ms.value(),
            quarantined: self.quarantined.value(),
            evicted: self.evicted.value(),
            promoted: self.promoted.value(),
            bytes_read: self.bytes_read.value(),
            bytes_written: self.bytes_written.value(),
            write_failures: self.write_failures.value(),
            lock_wait_ms: self.lock_wait_ms.value(),
            lock_timeouts: self.lock_timeouts.value(),
            takeovers: self.takeovers.value(),
            layer_failures: self.layer_failures.value(),
            crash_loops: self.crash_loops.value(),
        }
    }
}

impl Observer for CacheStats {
    fn observe(&self, event: &Event) {
        match event {
            Event::Hit { bytes, saved_ms, .. } => {
                self.hits.add(1);
                self.bytes_read.add(*bytes);
                self.saved_ms.add(*saved_ms);
            }
            Event::Miss { reason, .. } => match reason {
                MissReason::Absent => self.misses_absent.add(1),
                MissReason::Bad(_) => self.misses_bad.add(1),
                MissReason::Unreadable(_) => self.misses_unreadable.add(1),
                MissReason::Untrusted(_) => self.misses_untrusted.add(1),
                MissReason::OtherFormat(_) => self.misses_other_format.add(1),
            },
            Event::Compiled { ms, .. } => {
                self.compiles.add(1);
                self.compile_ms.add(*ms);
            }
            Event::Stored { bytes, .. } => self.bytes_written.add(*bytes),
            Event::StoreFailed { .. } => self.write_failures.add(1),
            Event::Promoted { .. } => self.promoted.add(1),
            Event::LayerFailed { .. } => self.layer_failures.add(1),
            Event::Quarantined { .. } => self.quarantined.add(1),
            Event::Evicted { .. } => self.evicted.add(1),
            Event::Waited { ms, .. } => self.lock_wait_ms.add(*ms),
            Event::GaveUpWaiting { .. } => self.lock_timeouts.add(1),
            Event::TookOver { .. } => self.takeovers.add(1),
            Event::CrashLoop { .. } => self.crash_loops.add(1),
            Event::Waiting { .. } | Event::RequestChanged { .. } => {}
        }
    }
}

impl StatsSnapshot {
    /// Graphs that were not there, or not usable.
    pub fn misses(&self) -> u64 {
        self.misses_by_reason().iter().map(|(_, count)| count).sum()
    }

    /// The misses by the label of their reason, as metrics have it.
    pub fn misses_by_reason(&self) -> [(&'static str, u64); 5] {
        [
            ("absent", self.misses_absent),
            ("bad", self.misses_bad),
            ("unreadable", self.misses_unreadable),
            ("untrusted", self.misses_untrusted),
            ("other_format", self.misses_other_format),
        ]
    }
}

/// As in `3 from cache (saved 41.0 s), 1 compiled (2.1 s), 1 quarantined`.
impl fmt::Display for StatsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        write!(f, "{} from cache (saved {:.1} s)", self.hits, seconds(self.saved_ms))?;
        write!(f, ", {} compiled ({:.1} s)", self.compiles, seconds(self.compile_ms))?;
        for (count, what) in [
            (self.promoted, "copied from layers"),
            (self.misses_bad, "bad"),
            (self.misses_unreadable, "unreadable"),
            (self.misses_untrusted, "not trusted"),
            (self.misses_other_format, "of another version"),
            (self.quarantined, "quarantined"),
            (self.evicted, "evicted"),
            (self.write_failures, "not stored"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if self.lock_wait_ms > 0 {
            write!(f, ", waited {:.1} s for other processes", seconds(self.lock_wait_ms))?;
        }
        Ok(())
    }
}

/// One number that only grows.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyFields;

    #[test]
    fn what_happened_is_counted_and_summed_up() {
        let (key, note) = (KeyFields::new().key(), String::new());
        let stats = CacheStats::default();
        for event in [
            Event::Hit { key, note: note.clone(), bytes: 10, saved_ms: 1500 },
            Event::Miss { key, note: note.clone(), reason: MissReason::Bad("x".to_owned()) },
            Event::Miss { key, note: note.clone(), reason: MissReason::Absent },
            Event::Compiled { key, note, ms: 200 },
            Event::Waited { key, ms: 300 },
        ] {
            stats.observe(&event);
        }
        let snapshot = stats.snapshot();
        assert_eq!((snapshot.hits, snapshot.misses(), snapshot.bytes_read), (1, 2, 10));
        assert_eq!(
            snapshot.to_string(),
            "1 from cache (saved 1.5 s), 1 compiled (0.2 s), 1 bad, waited 0.3 s for other processes"
        );
    }
}

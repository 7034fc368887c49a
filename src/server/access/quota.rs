//! A quota of tokens per UTC day, by a wall clock that may be wrong.
//!
//! ```text
//! wall clock  | 23 Nov | 24 Nov | 3 Dec 2036 | 24 Nov | 3 Dec 2036 | ...
//!                      ^        ^            ^        ^
//!                   new day  new day      another day, but 20 hours have not passed since
//!                            (the last)   the last new day: what was used stays used
//! ```
//!
//! A day is another one when its number differs, later or earlier: a clock that was set back locks
//! nobody out until it has caught up. A new day is begun at most once in [`DAY_AT_LEAST`] of
//! monotonic time, so that a clock that is set to and fro gives back no quota beyond that; and it is
//! begun as soon as that time has passed, so that nobody waits longer.
//!
//! What this module deliberately does not do: it keeps no history; see [`usage`](super::usage).

use std::time::Duration;

use super::clock::Now;

/// Least time between two beginnings of a day. Less than a day, for clocks are corrected.
pub(crate) const DAY_AT_LEAST: Duration = Duration::from_hours(20);

/// What was used today.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DayQuota {
    day: u64,
    used: u64,
    next_day_at: Duration,
}

impl DayQuota {
    /// Of a server that starts now and knows from before how much was used today.
    pub(crate) fn resumed(now: Now, used: u64) -> Self {
        Self { day: now.day(), used, next_day_at: Duration::ZERO }
    }

    fn begin_day_if_due(&mut self, now: Now) {
        if self.day != now.day() && now.since_start >= self.next_day_at {
            let next_day_at = now.since_start.saturating_add(DAY_AT_LEAST);
            *self = Self { day: now.day(), used: 0, next_day_at };
        }
    }

    /// What is left of `limit` today.
    pub(crate) fn left(&mut self, limit: u64, now: Now) -> u64 {
        self.begin_day_if_due(now);
        limit.saturating_sub(self.used)
    }

    /// How long until the next day begins.
    pub(crate) fn until_reset(&self, now: Now) -> Duration {
        if self.day == now.day() {
            let earliest = self.next_day_at.saturating_sub(now.since_start);
            now.until_tomorrow().max(earliest)
        } else {
            self.next_day_at.saturating_sub(now.since_start)
        }
    }

    /// Uses some, whether or not it is left.
    pub(crate) fn charge(&mut self, now: Now, count: u64) {
        self.begin_day_if_due(now);
        self.used = self.used.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::clock::DAY_SECONDS;
    use super::*;

    const TEN_YEARS: u64 = 3652 * DAY_SECONDS;
    const START: u64 = 20_780 * DAY_SECONDS;

    fn at(hours: u64, unix: u64) -> Now {
        Now { since_start: Duration::from_hours(hours), unix }
    }

    #[test]
    fn every_midnight_gives_the_quota_back() {
        // One hour before midnight.
        let start = START - 3600;
        let mut quota = DayQuota::resumed(at(0, start), 0);
        for day in 0..5 {
            let now = |hour: u64| at(24 * day + hour, start + (24 * day + hour) * 3600);
            assert_eq!(quota.left(10, now(1)), 10, "day {day}");
            quota.charge(now(2), 10);
            assert_eq!(quota.left(10, now(23)), 0);
        }
    }

    #[test]
    fn a_clock_that_jumps_gives_back_once_and_locks_nobody_out() {
        for jumped in [START + TEN_YEARS, START - TEN_YEARS] {
            let mut quota = DayQuota::resumed(at(0, START), 10);
            assert_eq!(quota.left(10, at(0, START)), 0);
            assert_eq!(quota.left(10, at(1, jumped)), 10);
            quota.charge(at(1, jumped), 10);
            for flip in 0..10 {
                let unix = if flip % 2 == 0 { START } else { jumped };
                let now = at(2, unix);
                assert_eq!(quota.left(10, now), 0);
                assert!(quota.until_reset(now) <= Duration::from_hours(24));
            }
            // The clock stays wrong or right: the next day begins after 20 hours at the latest.
            assert_eq!(quota.left(10, at(21, START)), 10);
        }
    }

    proptest! {
        #[test]
        fn what_is_given_back_is_bounded_by_time_whatever_the_clock_says(
            steps in prop::collection::vec((0_u64..8 * 3600, any::<u64>()), 1..100),
        ) {
            let (limit, mut used, mut elapsed) = (10_u64, 0_u64, 0_u64);
            let mut quota = DayQuota::resumed(Now::default(), 0);
            for (wait, unix) in steps {
                elapsed += wait;
                let now = Now { since_start: Duration::from_secs(elapsed), unix };
                let left = quota.left(limit, now);
                quota.charge(now, left);
                used += left;
                let days = 2 + elapsed / DAY_AT_LEAST.as_secs();
                prop_assert!(used <= limit * days, "{} in {} s", used, elapsed);
            }
        }
    }
}

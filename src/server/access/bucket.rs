//! Token buckets in whole numbers: so many at once, so many per second after that.
//!
//! ```text
//! burst ----.                 .------      a bucket is the time at which it is full again;
//!            \      .--------'             taking one moves that time one period on
//!             \    /
//! 0 -----------\--/-----------------
//! below 0       \/   charged for what was used before it was known
//! ```
//!
//! Two ways to use one: [`Bucket::take`] asks for one thing and is refused when there is none, and
//! [`Bucket::check`] followed by [`Bucket::charge`] lets work begin while anything is left and pays
//! for it when its cost is known. The second way may go below nothing; the debt is worked off at
//! the same rate.
//!
//! What this module deliberately does not do: it reads no clock.

use std::time::Duration;

const PS_PER_SECOND: u128 = 1_000_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Time that one takes to come back, rounded up; at least 1.
    period_ps: u128,
    /// Most at once; at least 1.
    burst: u64,
}

impl Rate {
    /// So many per second, which is above 0, and at most `burst` at once.
    pub(crate) fn per_second(rate: f64, burst: u64) -> Self {
        // A float beyond the integer's range becomes its largest value, no number becomes 0.
        let period_ps = (PS_PER_SECOND as f64 / rate).ceil() as u128;
        Self { period_ps: period_ps.clamp(1, PS_PER_SECOND * 1_000_000_000), burst: burst.max(1) }
    }

    /// So many per minute, all of them at once if need be.
    pub(crate) fn per_minute(count: u64) -> Self {
        let count = count.max(1);
        Self { period_ps: (60 * PS_PER_SECOND).div_ceil(u128::from(count)), burst: count }
    }

    /// The most that a bucket holds.
    pub(crate) fn burst(self) -> u64 {
        self.burst
    }

    fn capacity_ps(self) -> u128 {
        self.period_ps.saturating_mul(u128::from(self.burst))
    }
}

/// How full one bucket is; a new one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    full_at_ps: u128,
}

fn ps(time: Duration) -> u128 {
    time.as_nanos() * 1000
}

/// Rounded up: who comes back then does not come too early.
fn duration(ps: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ps.div_ceil(1000)).unwrap_or(u64::MAX))
}

impl Bucket {
    fn missing_ps(self, now: Duration) -> u128 {
        self.full_at_ps.saturating_sub(ps(now))
    }

    /// How many may be taken now.
    pub(crate) fn available(self, rate: Rate, now: Duration) -> u64 {
        let left = rate.capacity_ps().saturating_sub(self.missing_ps(now)) / rate.period_ps;
        u64::try_from(left).unwrap_or(rate.burst)
    }

    /// Until it is full.
    pub(crate) fn until_full(self, now: Duration) -> Duration {
        duration(self.missing_ps(now))
    }

    /// Whether there is at least one.
    ///
    /// # Errors
    /// How long it takes until there is.
    pub(crate) fn check(self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let needed = self.missing_ps(now).saturating_add(rate.period_ps);
        match needed.saturating_sub(rate.capacity_ps()) {
            0 => Ok(()),
            wait => Err(duration(wait)),
        }
    }

    /// Takes this many, whether or not they are there.
    pub(crate) fn charge(&mut self, rate: Rate, now: Duration, count: u64) {
        let cost = rate.period_ps.saturating_mul(u128::from(count));
        self.full_at_ps = self.full_at_ps.max(ps(now)).saturating_add(cost);
    }

    /// Takes one that is there.
    ///
    /// # Errors
    /// How long it takes until one is.
    pub(crate) fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.check(rate, now)?;
        self.charge(rate, now, 1);
        Ok(())
    }

    /// The same bucket under another rate: what was used stays used.
    pub(crate) fn rescaled(self, old: Rate, new: Rate, now: Duration) -> Self {
        let used = self.missing_ps(now).div_ceil(old.period_ps);
        Self { full_at_ps: ps(now).saturating_add(used.saturating_mul(new.period_ps)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_one_per_period() {
        let rate = Rate::per_second(2.0, 3);
        let mut bucket = Bucket::default();
        let at = Duration::from_millis;
        for left in [3, 2, 1] {
            assert_eq!(bucket.available(rate, at(0)), left);
            bucket.take(rate, at(0)).unwrap();
        }
        assert_eq!(bucket.take(rate, at(0)), Err(at(500)));
        assert_eq!(bucket.take(rate, at(499)), Err(at(1)));
        assert_eq!(bucket.take(rate, at(500)), Ok(()));
        assert_eq!(bucket.until_full(at(500)), at(1500));
        assert_eq!(bucket.available(rate, Duration::MAX), 3);
    }

    #[test]
    fn a_debt_is_worked_off_at_the_rate() {
        let rate = Rate::per_minute(60);
        let mut bucket = Bucket::default();
        bucket.charge(rate, Duration::ZERO, 100);
        assert_eq!(bucket.available(rate, Duration::ZERO), 0);
        assert_eq!(bucket.check(rate, Duration::ZERO), Err(Duration::from_secs(41)));
        assert_eq!(bucket.check(rate, Duration::from_secs(41)), Ok(()));
    }

    #[test]
    fn a_new_rate_forgets_nothing_that_was_used() {
        let (old, new) = (Rate::per_minute(100), Rate::per_minute(1000));
        let mut bucket = Bucket::default();
        bucket.charge(old, Duration::ZERO, 90);
        let bucket = bucket.rescaled(old, new, Duration::ZERO);
        assert_eq!(bucket.available(new, Duration::ZERO), 910);
    }

    #[test]
    fn absurd_numbers_saturate() {
        for rate in [
            Rate::per_minute(u64::MAX),
            Rate::per_second(f64::MIN_POSITIVE, u64::MAX),
            Rate::per_second(f64::INFINITY, 0),
            Rate::per_second(f64::NAN, 1),
        ] {
            let mut bucket = Bucket::default();
            bucket.charge(rate, Duration::MAX, u64::MAX);
            bucket.charge(rate, Duration::MAX, u64::MAX);
            let _ = (bucket.check(rate, Duration::ZERO), bucket.available(rate, Duration::ZERO));
            let _ = bucket.rescaled(rate, Rate::per_minute(1), Duration::ZERO);
        }
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_times_time(
            rate in 0.01_f64..1000.0,
            burst in 1_u64..50,
            steps in prop::collection::vec((0_u64..2_000_000_000, 1_usize..20), 1..200),
        ) {
            let of = Rate::per_second(rate, burst);
            let mut bucket = Bucket::default();
            let (mut now, mut taken) = (Duration::ZERO, 0_u64);
            for (wait, tries) in steps {
                now += Duration::from_nanos(wait);
                for _ in 0..tries {
                    let before = bucket.available(of, now);
                    let took = bucket.take(of, now);
                    prop_assert_eq!(took.is_ok(), before > 0);
                    taken += u64::from(took.is_ok());
                }
                let most = burst as f64 + rate * now.as_secs_f64();
                prop_assert!(taken as f64 <= most + 1e-6, "{} > {}", taken, most);
            }
        }

        #[test]
        fn whoever_waits_as_told_is_served(
            rate in 0.01_f64..1000.0,
            burst in 1_u64..50,
            debt in 0_u64..10_000,
            start in 0_u64..1_000_000_000_000,
        ) {
            let of = Rate::per_second(rate, burst);
            let mut bucket = Bucket::default();
            let mut now = Duration::from_nanos(start);
            bucket.charge(of, now, debt);
            if let Err(wait) = bucket.take(of, now) {
                prop_assert!(debt >= burst);
                // Not a moment earlier, either.
                let early = wait.saturating_sub(Duration::from_nanos(2));
                prop_assert!(bucket.check(of, now + early).is_err() || early.is_zero());
                now += wait;
                prop_assert_eq!(bucket.take(of, now), Ok(()));
            }
        }
    }
}

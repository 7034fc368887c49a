//! What is known of a key beyond its entry: buckets, running requests, what was used.
//!
//! ```text
//! admit:  concurrency -> tokens of the day -> tokens of the minute -> one request taken
//!         the first that refuses says how long to wait; only what passed all of them is counted
//! charge: tokens are paid when they are known, also where that is more than was left
//! ```
//!
//! A request is let in while any token is left, and pays for what it really used. A key can so use
//! more than its limit by what it has running, and pays that back before it is let in again.
//! Reserving the most that a request could use would refuse most of what fits.
//!
//! One lock per key guards all of it, so that limits hold exactly under any concurrency. A ledger
//! belongs to a name and outlives entries: neither new limits nor a new key give anything back.
//!
//! What this module deliberately does not do: it knows no time but what it is told, and no HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bucket::{Bucket, Rate};
use super::clock::Now;
use super::entry::KeyEntry;
use super::quota::DayQuota;
use super::usage::{Days, Refusal, Usage, trim};

/// When to come back after too many at once: nobody knows when one of them ends.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// Where a limit stands, for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until all of it is there again.
    pub(crate) reset: Duration,
}

/// Where the limits of a key stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) requests: Option<Window>,
    /// Of the minute's and the day's the one with less left.
    pub(crate) tokens: Option<Window>,
}

/// Why a request was not let in, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) limit: Refusal,
    pub(crate) retry_after: Duration,
}

/// How much of what a key may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    requests: Option<Rate>,
    max_running: Option<u64>,
    tokens: Option<Rate>,
    tokens_per_day: Option<u64>,
}

impl From<&KeyEntry> for Limits {
    fn from(entry: &KeyEntry) -> Self {
        Self {
            requests: entry.request_rate(),
            max_running: entry.max_concurrent_requests,
            tokens: entry.token_rate(),
            tokens_per_day: entry.tokens_per_day,
        }
    }
}

/// One name's counters.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    limits: Limits,
    requests: Bucket,
    tokens: Bucket,
    quota: DayQuota,
    num_running: u64,
    /// Since the server's start.
    total: Usage,
    days: Days,
}

impl Counters {
    fn today(&mut self, now: Now) -> &mut Usage {
        let today = now.day();
        self.days.entry(today).or_default();
        trim(&mut self.days, today);
        self.days.entry(today).or_default()
    }

    fn check(&mut self, now: Now) -> Result<(), Limited> {
        let (limits, at) = (self.limits, now.since_start);
        let limited = |limit, retry_after| Err(Limited { limit, retry_after });
        if limits.max_running.is_some_and(|max| self.num_running >= max) {
            return limited(Refusal::MaxConcurrentRequests, CONCURRENCY_RETRY);
        }
        if limits.tokens_per_day.is_some_and(|limit| self.quota.left(limit, now) == 0) {
            return limited(Refusal::TokensPerDay, self.quota.until_reset(now));
        }
        if let Some(rate) = limits.tokens
            && let Err(wait) = self.tokens.check(rate, at)
        {
            return limited(Refusal::TokensPerMinute, wait);
        }
        if let Some(rate) = limits.requests
            && let Err(wait) = self.requests.take(rate, at)
        {
            return limited(Refusal::RequestsPerSecond, wait);
        }
        Ok(())
    }

    fn standing(&mut self, now: Now) -> Standing {
        let limits = self.limits;
        let window = |bucket: Bucket, rate: Rate| Window {
            limit: rate.burst(),
            remaining: bucket.available(rate, now.since_start),
            reset: bucket.until_full(now.since_start),
        };
        let minute = limits.tokens.map(|rate| window(self.tokens, rate));
        let day = limits.tokens_per_day.map(|limit| Window {
            limit,
            remaining: self.quota.left(limit, now),
            reset: self.quota.until_reset(now),
        });
        Standing {
            requests: limits.requests.map(|rate| window(self.requests, rate)),
            tokens: minute.into_iter().chain(day).min_by_key(|window| window.remaining),
        }
    }
}

impl Ledger {
    /// Of a name that used this much before the server's start.
    pub(crate) fn resumed(now: Now, days: Days) -> Self {
        let used_today = days.get(&now.day()).map_or(0, Usage::tokens);
        let quota = DayQuota::resumed(now, used_today);
        Self(Mutex::new(Counters { quota, days, ..Counters::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request in, if the limits do, and says where they stand after it.
    pub(crate) fn admit(self: &Arc<Self>, now: Now) -> (Standing, Result<Running, Limited>) {
        let mut counters = self.lock();
        let checked = counters.check(now);
        let standing = counters.standing(now);
        match checked {
            Ok(()) => {
                counters.num_running += 1;
                counters.total.requests += 1;
                counters.today(now).requests += 1;
                (standing, Ok(Running(Arc::clone(self))))
            }
            Err(limited) => {
                counters.total.refused(limited.limit);
                counters.today(now).refused(limited.limit);
                (standing, Err(limited))
            }
        }
    }

    /// Notes a request that was refused for anything but a limit.
    pub(crate) fn refuse(&self, refusal: Refusal, now: Now) {
        let mut counters = self.lock();
        counters.total.refused(refusal);
        counters.today(now).refused(refusal);
    }

    /// Notes a request that no limit holds back, for it is one of an admin's.
    pub(crate) fn count_request(&self, now: Now) {
        let mut counters = self.lock();
        counters.total.requests += 1;
        counters.today(now).requests += 1;
    }

    /// Pays for tokens; nothing but the tokens of `used` is looked at.
    pub(crate) fn charge(&self, now: Now, used: &Usage) {
        let mut counters = self.lock();
        counters.total.add(used);
        counters.today(now).add(used);
        if let Some(rate) = counters.limits.tokens {
            counters.tokens.charge(rate, now.since_start, used.tokens());
        }
        counters.quota.charge(now, used.tokens());
    }

    /// Goes on under these limits: what was used stays used.
    pub(crate) fn set_limits(&self, new: Limits, now: Now) {
        let mut counters = self.lock();
        let old = std::mem::replace(&mut counters.limits, new);
        let rescaled = |bucket: Bucket, old: Option<Rate>, new: Option<Rate>| match (old, new) {
            (Some(old), Some(new)) if old != new => bucket.rescaled(old, new, now.since_start),
            _ => bucket,
        };
        counters.requests = rescaled(counters.requests, old.requests, new.requests);
        counters.tokens = rescaled(counters.tokens, old.tokens, new.tokens);
    }

    /// What was used since the start.
    pub(crate) fn total(&self) -> Usage {
        self.lock().total.clone()
    }

    /// What was used by day.
    pub(crate) fn days(&self) -> Days {
        self.lock().days.clone()
    }

    /// Requests that run now.
    pub(crate) fn num_running(&self) -> u64 {
        self.lock().num_running
    }
}

/// One request that runs; dropping it gives its place back.
#[derive(Debug)]
pub(crate) struct Running(Arc<Ledger>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().num_running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::digest::Digest;
    use super::*;

    fn entry() -> KeyEntry {
        KeyEntry::new("a", Digest::of(b"a"))
    }

    fn at(seconds: u64) -> Now {
        Now { since_start: Duration::from_secs(seconds), unix: 1_795_408_215 + seconds }
    }

    fn tokens(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens, ..Usage::default() }
    }

    #[test]
    fn without_limits_everything_is_let_in_and_counted() {
        let ledger = Arc::new(Ledger::default());
        for _ in 0..1000 {
            let (standing, admitted) = ledger.admit(at(0));
            assert_eq!(standing, Standing::default());
            admitted.unwrap();
        }
        assert_eq!((ledger.total().requests, ledger.num_running()), (1000, 0));
    }

    fn limited_by(ledger: &Arc<Ledger>, entry: &KeyEntry, now: Now) -> (Standing, Limited) {
        ledger.set_limits(entry.into(), now);
        let (standing, admitted) = ledger.admit(now);
        (standing, admitted.unwrap_err())
    }

    #[test]
    fn each_limit_refuses_with_its_name_and_its_time() {
        let limited = |limit, seconds| Limited { limit, retry_after: Duration::from_secs(seconds) };
        let ledger = Arc::new(Ledger::resumed(at(0), Days::new()));
        let rate = KeyEntry { requests_per_second: Some(0.5), ..entry() };
        ledger.set_limits((&rate).into(), at(0));
        ledger.admit(at(0)).1.unwrap();
        let refused = limited_by(&ledger, &rate, at(0)).1;
        assert_eq!(refused, limited(Refusal::RequestsPerSecond, 2));

        let one = KeyEntry { max_concurrent_requests: Some(1), ..entry() };
        ledger.set_limits((&one).into(), at(0));
        let running = ledger.admit(at(0)).1.unwrap();
        let refused = limited_by(&ledger, &one, at(0)).1;
        assert_eq!(refused, limited(Refusal::MaxConcurrentRequests, 1));
        drop(running);
        ledger.admit(at(0)).1.unwrap();

        let minute = KeyEntry { tokens_per_minute: Some(60), ..entry() };
        ledger.set_limits((&minute).into(), at(0));
        ledger.charge(at(0), &tokens(50, 69));
        let (standing, refused) = limited_by(&ledger, &minute, at(0));
        assert_eq!(refused, limited(Refusal::TokensPerMinute, 60));
        let reset = Duration::from_secs(119);
        assert_eq!(standing.tokens, Some(Window { limit: 60, remaining: 0, reset }));
        ledger.admit(at(60)).1.unwrap();

        let day = KeyEntry { tokens_per_day: Some(119), ..entry() };
        let refused = limited_by(&ledger, &day, at(0)).1;
        assert_eq!(refused, limited(Refusal::TokensPerDay, at(0).until_tomorrow().as_secs()));
        assert_eq!(ledger.total().num_refused(true), 4);
    }

    #[test]
    fn of_two_limits_of_tokens_the_tighter_is_told() {
        let ledger = Arc::new(Ledger::resumed(at(0), Days::new()));
        for (per_day, told) in [(59, 59), (60, 60), (61, 60)] {
            let both =
                KeyEntry { tokens_per_minute: Some(60), tokens_per_day: Some(per_day), ..entry() };
            ledger.set_limits((&both).into(), at(0));
            assert_eq!(ledger.admit(at(0)).0.tokens.unwrap().remaining, told);
        }
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let ledger = Arc::new(Ledger::default());
        let both = KeyEntry {
            requests_per_second: Some(1.0),
            burst: Some(5),
            max_concurrent_requests: Some(1),
            ..entry()
        };
        ledger.set_limits((&both).into(), at(0));
        let _running = ledger.admit(at(0)).1.unwrap();
        for _ in 0..10 {
            let (standing, refused) = limited_by(&ledger, &both, at(0));
            assert_eq!(refused.limit, Refusal::MaxConcurrentRequests);
            assert_eq!(standing.requests.unwrap().remaining, 4);
        }
    }

    #[test]
    fn the_day_goes_on_after_a_restart() {
        let first = Ledger::default();
        first.charge(at(0), &tokens(60, 30));
        let second = Arc::new(Ledger::resumed(at(1), first.days()));
        let limited = KeyEntry { tokens_per_day: Some(90), ..entry() };
        let refused = limited_by(&second, &limited, at(1)).1;
        assert_eq!(refused.limit, Refusal::TokensPerDay);
        assert_eq!(second.total().tokens(), 0, "a total is of one process");
    }

    #[test]
    fn new_limits_give_nothing_back() {
        let ledger = Arc::new(Ledger::default());
        let minute = |limit| KeyEntry { tokens_per_minute: Some(limit), ..entry() };
        ledger.set_limits((&minute(100)).into(), at(0));
        ledger.charge(at(0), &tokens(100, 0));
        ledger.set_limits((&minute(101)).into(), at(0));
        assert_eq!(ledger.admit(at(0)).0.tokens.unwrap().remaining, 1);
    }

    #[test]
    fn many_threads_get_exactly_what_there_is() {
        let ledger = Arc::new(Ledger::default());
        let limits = KeyEntry {
            requests_per_second: Some(1.0),
            burst: Some(100),
            max_concurrent_requests: Some(60),
            ..entry()
        };
        ledger.set_limits((&limits).into(), at(0));
        // All of them hold what they get until all have asked.
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || -> Vec<Running> {
                    (0..50).filter_map(|_| ledger.admit(at(0)).1.ok()).collect()
                })
            })
            .collect();
        let held: Vec<Running> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!((held.len(), ledger.num_running()), (60, 60));
        drop(held);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                thread::spawn(move || (0..50).filter(|_| ledger.admit(at(0)).1.is_ok()).count())
            })
            .collect();
        let admitted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((admitted, ledger.num_running()), (40, 0));
    }
}

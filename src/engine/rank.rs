//! Whose turn it is: one number for each request, given once.
//!
//! A rank is a virtual deadline in microseconds since the engine's start. Lower runs first. What a
//! policy prefers gets an earlier one, but never by more than a bounded time: since a rank does
//! not change and the clock goes on, everybody is in front at last, and nobody starves.
//!
//! | Policy | Rank |
//! | --- | --- |
//! | [`Fcfs`](SchedulingPolicy::Fcfs) | arrival |
//! | [`Priority`](SchedulingPolicy::Priority) | arrival + priority x 10 s; priorities of -1000 to 1000 count |
//! | [`ShortestFirst`](SchedulingPolicy::ShortestFirst) | arrival + 1 ms for each token of prompt and `max_tokens`, up to 60 s |
//! | [`Deadline`](SchedulingPolicy::Deadline) | arrival + the request's deadline, 60 s for one without, at most an hour |
//!
//! What this module deliberately does not do: it reads no clock.

use std::time::Duration;

use super::request::RequestId;

/// How many microseconds one step of priority is worth.
const PRIORITY_STEP_US: i64 = 10_000_000;
/// Priorities beyond it count as it.
const MAX_PRIORITY: i32 = 1000;
/// How many microseconds one token is worth.
const TOKEN_US: u64 = 1000;
/// The most that a long request is put back.
const MAX_TOKENS_US: u64 = 60_000_000;
/// The deadline of a request that has none.
const DEFAULT_DEADLINE: Duration = Duration::from_mins(1);
/// Deadlines beyond it count as it.
const MAX_DEADLINE: Duration = Duration::from_hours(1);
/// Where the clock of ranks begins, so that priorities may go before it.
const ORIGIN_US: i64 = MAX_PRIORITY as i64 * PRIORITY_STEP_US;

/// Which requests run first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// In order of arrival.
    #[default]
    Fcfs,
    /// Lower `priority` first; one step of it is worth ten seconds of waiting.
    Priority,
    /// Short requests first.
    ShortestFirst,
    /// The earliest deadline first.
    Deadline,
}

/// What ranks depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RankFacts {
    /// Since the engine's start.
    pub(crate) arrival: Duration,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Duration>,
    /// Prompt tokens and the most that are generated.
    pub(crate) num_tokens: usize,
}

/// A request's turn. Requests of equal turn go in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    turn_us: u64,
    id: RequestId,
    /// Sequences of one request go in order, too.
    choice: u32,
}

impl SchedulingPolicy {
    /// The rank of a request's first sequence.
    pub(crate) fn rank(self, id: RequestId, facts: &RankFacts) -> Rank {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let arrival = micros(facts.arrival).saturating_add(ORIGIN_US as u64);
        let turn_us = match self {
            Self::Fcfs => arrival,
            Self::Priority => {
                let priority = facts.priority.clamp(-MAX_PRIORITY, MAX_PRIORITY);
                arrival.saturating_add_signed(i64::from(priority) * PRIORITY_STEP_US)
            }
            Self::ShortestFirst => {
                let work = (facts.num_tokens as u64).saturating_mul(TOKEN_US);
                arrival.saturating_add(work.min(MAX_TOKENS_US))
            }
            Self::Deadline => {
                let deadline = facts.deadline.unwrap_or(DEFAULT_DEADLINE).min(MAX_DEADLINE);
                arrival.saturating_add(micros(deadline))
            }
        };
        Rank { turn_us, id, choice: 0 }
    }
}

impl Rank {
    /// The rank of another sequence of the same request.
    pub(crate) fn of_choice(self, choice: u32) -> Self {
        Self { choice, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(policy: SchedulingPolicy, id: u64, change: impl FnOnce(&mut RankFacts)) -> Rank {
        let arrival = Duration::from_millis(id);
        let mut facts = RankFacts { arrival, priority: 0, deadline: None, num_tokens: 1 };
        change(&mut facts);
        policy.rank(RequestId(id), &facts)
    }

    #[test]
    fn each_policy_prefers_what_it_says() {
        use SchedulingPolicy::{Deadline, Fcfs, Priority, ShortestFirst};
        let plain = |policy| rank(policy, 1, |facts| facts.num_tokens = 10);
        assert!(plain(Fcfs) < rank(Fcfs, 2, |facts| facts.priority = -5));
        assert!(plain(Priority) > rank(Priority, 2, |facts| facts.priority = -5));
        assert!(plain(Priority) < rank(Priority, 2, |facts| facts.priority = 1));
        assert!(plain(ShortestFirst) > rank(ShortestFirst, 2, |facts| facts.num_tokens = 0));
        let soon = |facts: &mut RankFacts| facts.deadline = Some(Duration::from_secs(1));
        assert!(plain(Deadline) > rank(Deadline, 2, soon));
    }

    #[test]
    fn nobody_is_preferred_for_ever() {
        for policy in [
            SchedulingPolicy::Fcfs,
            SchedulingPolicy::Priority,
            SchedulingPolicy::ShortestFirst,
            SchedulingPolicy::Deadline,
        ] {
            let worst = rank(policy, 1, |facts| {
                facts.priority = i32::MAX;
                facts.deadline = Some(Duration::MAX);
                facts.num_tokens = usize::MAX;
            });
            let best_of_later = rank(policy, 2, |facts| {
                facts.arrival = Duration::from_mins(500);
                facts.priority = i32::MIN;
                facts.deadline = Some(Duration::ZERO);
                facts.num_tokens = 0;
            });
            assert!(worst < best_of_later, "{policy:?}");
        }
    }

    #[test]
    fn requests_of_one_moment_go_in_order_of_arrival() {
        let facts =
            RankFacts { arrival: Duration::ZERO, priority: 0, deadline: None, num_tokens: 1 };
        let [first, second] = [1, 2].map(|id| SchedulingPolicy::Fcfs.rank(RequestId(id), &facts));
        assert!(first < second && first < first.of_choice(1) && first.of_choice(9) < second);
    }
}

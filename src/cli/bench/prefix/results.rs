//! What replays come to: hits beside the most possible, and times side by side.
//!
//! What this module deliberately does not do: it measures nothing.

use std::fmt;

use serde_json::{Value, json};

use super::oracle;
use super::replay::Replay;
use crate::cli::bench::{Samples, table};

/// A replay, and what the engine counted meanwhile.
pub(super) struct Counted {
    pub(super) replay: Replay,
    pub(super) num_evictions: u64,
    pub(super) num_preemptions: u64,
}

/// How long requests took, one sample per run.
#[derive(Debug, Default)]
struct Times {
    median: Samples,
    p90: Samples,
    seconds: Samples,
}

impl Times {
    fn add(&mut self, replay: &Replay) {
        let mut sorted: Vec<f64> =
            replay.requests.iter().map(|one| one.time_to_first_token.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let p90 = sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1));
        self.p90.0.push(p90.copied().unwrap_or(f64::NAN));
        self.median.0.push(Samples(sorted).spread()[0]);
        self.seconds.0.push(replay.seconds);
    }

    fn to_json(&self) -> Value {
        json!({
            "time_to_first_token_median_seconds": self.median.to_json(),
            "time_to_first_token_p90_seconds": self.p90.to_json(),
            "seconds": self.seconds.to_json(),
        })
    }
}

/// Samples of every figure, one per run.
#[derive(Debug, Default)]
pub(super) struct Results {
    prompt_tokens: Samples,
    hit_tokens: Samples,
    hit_rate: Samples,
    most_unlimited: Samples,
    most_bounded: Samples,
    share_of_unlimited: Samples,
    share_of_bounded: Samples,
    evicted_blocks: Samples,
    preemptions: Samples,
    with: Times,
    without: Times,
    speedup_median: Samples,
    speedup_p90: Samples,
    speedup_overall: Samples,
}

impl Results {
    /// Adds a run.
    pub(super) fn add(
        &mut self,
        with: &Counted,
        without: &Counted,
        block_size: usize,
        num_blocks: usize,
    ) {
        let (shared, alone) = (&with.replay, &without.replay);
        let (num_prompt, num_hit) = (shared.num_prompt_tokens(), shared.num_hit_tokens());
        let unlimited = oracle::most_hits(shared, block_size, None);
        let bounded = oracle::most_hits(shared, block_size, Some(num_blocks));
        self.prompt_tokens.0.push(num_prompt as f64);
        self.hit_tokens.0.push(num_hit as f64);
        self.hit_rate.0.push(share(num_hit, num_prompt));
        self.most_unlimited.0.push(unlimited as f64);
        self.most_bounded.0.push(bounded as f64);
        self.share_of_unlimited.0.push(share(num_hit, unlimited));
        self.share_of_bounded.0.push(share(num_hit, bounded));
        self.evicted_blocks.0.push(with.num_evictions as f64);
        self.preemptions.0.push(with.num_preemptions as f64);
        self.with.add(shared);
        self.without.add(alone);
        let speedup = |of: fn(&Times) -> &Samples| {
            let newest = |times| of(times).0.last().copied().unwrap_or(f64::NAN);
            newest(&self.without) / newest(&self.with).max(1e-9)
        };
        let [median, p90, overall] = [
            speedup(|times| &times.median),
            speedup(|times| &times.p90),
            speedup(|times| &times.seconds),
        ];
        self.speedup_median.0.push(median);
        self.speedup_p90.0.push(p90);
        self.speedup_overall.0.push(overall);
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens.to_json(),
            "hit_tokens": self.hit_tokens.to_json(),
            "hit_rate": self.hit_rate.to_json(),
            "most_hit_tokens_unlimited": self.most_unlimited.to_json(),
            "most_hit_tokens_bounded": self.most_bounded.to_json(),
            "share_of_most_unlimited": self.share_of_unlimited.to_json(),
            "share_of_most_bounded": self.share_of_bounded.to_json(),
            "evicted_blocks": self.evicted_blocks.to_json(),
            "preemptions": self.preemptions.to_json(),
            "with": self.with.to_json(),
            "without": self.without.to_json(),
            "speedup": {
                "time_to_first_token_median": self.speedup_median.to_json(),
                "time_to_first_token_p90": self.speedup_p90.to_json(),
                "overall": self.speedup_overall.to_json(),
            },
        })
    }
}

/// Of nothing, nothing is all there is.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("tokens of prompts", &self.prompt_tokens, 1.0),
            ("hit tokens", &self.hit_tokens, 1.0),
            ("hit rate, %", &self.hit_rate, 1e2),
            ("of the most with unlimited memory, %", &self.share_of_unlimited, 1e2),
            ("of the most with these blocks, %", &self.share_of_bounded, 1e2),
            ("first token, median, ms: with", &self.with.median, 1e3),
            ("  without", &self.without.median, 1e3),
            ("  times as fast", &self.speedup_median, 1.0),
            ("first token, p90, ms: with", &self.with.p90, 1e3),
            ("  without", &self.without.p90, 1e3),
            ("  times as fast", &self.speedup_p90, 1.0),
            ("all requests, s: with", &self.with.seconds, 1.0),
            ("  without", &self.without.seconds, 1.0),
            ("  times as fast", &self.speedup_overall, 1.0),
        ];
        table(&figures).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::bench::prefix::replay::{Event, Served};

    /// Two requests, the second of which had `cached_tokens` of the first.
    fn counted(cached_tokens: usize, milliseconds: [u64; 2]) -> Counted {
        let served = |prompt: &[u32], cached_tokens, milliseconds| Served {
            prompt: prompt.to_vec(),
            answer: vec![9],
            cached_tokens,
            time_to_first_token: Duration::from_millis(milliseconds),
        };
        let requests = vec![
            served(&[1, 2, 3, 4], 0, milliseconds[0]),
            served(&[1, 2, 3, 4, 9, 5], cached_tokens, milliseconds[1]),
        ];
        let events = vec![Event::Began(0), Event::Ended(0), Event::Began(1), Event::Ended(1)];
        let replay = Replay { requests, events, seconds: 2.0 };
        Counted { replay, num_evictions: 0, num_preemptions: 0 }
    }

    #[test]
    fn hits_are_told_as_shares_and_times_side_by_side() {
        let mut results = Results::default();
        results.add(&counted(3, [40, 20]), &counted(0, [40, 80]), 3, 100);
        assert_eq!(results.hit_rate.0, [0.3]);
        // One block of three tokens, and one of the next: the answer's token was not computed.
        assert_eq!(
            (&results.most_unlimited.0[..], &results.share_of_bounded.0[..]),
            (&[4.0][..], &[0.75][..])
        );
        assert_eq!(
            (&results.with.p90.0[..], &results.speedup_p90.0[..]),
            (&[0.04][..], &[2.0][..])
        );
        assert_eq!(results.speedup_median.0, [2.0]);
        let text = results.to_string();
        assert!(text.contains("of the most with these blocks, %"), "{text}");
    }

    #[test]
    fn nothing_of_nothing_is_all() {
        assert_eq!((share(0, 0), share(1, 4)), (1.0, 0.25));
    }
}

//! What came of a simulated run.
//!
//! ```text
//! arrival       first step        first token                          last token
//!    |--- queue ---|-- prefill --------|--- itl ---|--- itl --- .. --------|
//!    |--------------- ttft ------------|-------- tpot x (tokens - 1) ------|
//!    |------------------------------- e2e ---------------------------------|
//! ```
//!
//! Throughput is counted from the first arrival to the last token: filling and draining the batch
//! are in it, and weigh less the more requests there are.
//!
//! What this module deliberately does not do: it has no form; JSON, tables and plots are others'.

use super::super::buckets::Bucket;

/// What came of a simulated run. All times are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Requests that came and were finished.
    pub num_requests: usize,
    /// Those whose lengths were cut to what a sequence may have.
    pub num_clipped: usize,
    /// From the first arrival to the last token.
    pub duration: f64,
    /// Tokens of all prompts, cached ones included.
    pub num_prompt_tokens: u64,
    /// Tokens of all answers.
    pub num_output_tokens: u64,
    /// From arrival to the first token.
    pub ttft: Spread,
    /// Between two tokens of a request, averaged over the request; of requests with two or more.
    pub tpot: Spread,
    /// Between two tokens of a request, each for itself.
    pub itl: Spread,
    /// From arrival to the last token.
    pub e2e: Spread,
    /// From arrival to the first step.
    pub queue: Spread,
    /// Of a step, from its launch to the next one's.
    pub step: Spread,
    /// Requests that had arrived and were not finished, averaged over time.
    pub mean_unfinished: f64,
    /// Sequences in the running batch, averaged over time.
    pub mean_running: f64,
    /// Share of the time that the device worked.
    pub busy_share: f64,
    /// Steps.
    pub num_steps: u64,
    /// Launches that they took.
    pub num_launches: u64,
    /// Sequences of a step, on average.
    pub mean_step_seqs: f64,
    /// Tokens of a step, on average.
    pub mean_step_tokens: f64,
    /// Share of the computed rows that only filled buckets.
    pub padding_share: f64,
    /// Sequences that lost their blocks, and computed them again.
    pub num_preemptions: u64,
    /// Share of the KV blocks that were held, averaged over time.
    pub mean_kv_use: f64,
    /// The largest share of them that was held.
    pub peak_kv_use: f64,
    /// Share of the prompts' tokens that came from the prefix cache.
    pub hit_share: f64,
    /// What ran in which bucket, in the order of the buckets.
    pub buckets: Vec<BucketUse>,
}

/// How values spread; all 0 when there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// The average.
    pub mean: f64,
    /// The median: like the others the smallest value that so many are not above.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// What ran in one bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketUse {
    /// The bucket.
    pub bucket: Bucket,
    /// Launches.
    pub num_launches: u64,
    /// Tokens in them.
    pub num_tokens: u64,
    /// Rows besides.
    pub num_padded_tokens: u64,
    /// Time that they took.
    pub seconds: f64,
}

impl Report {
    /// Finished requests a second.
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.num_requests as f64)
    }

    /// Tokens of answers a second.
    pub fn output_tokens_per_second(&self) -> f64 {
        self.per_second(self.num_output_tokens as f64)
    }

    /// Tokens of prompts and answers a second.
    pub fn total_tokens_per_second(&self) -> f64 {
        self.per_second((self.num_prompt_tokens + self.num_output_tokens) as f64)
    }

    fn per_second(&self, count: f64) -> f64 {
        if self.duration > 0.0 { count / self.duration } else { 0.0 }
    }
}

impl Spread {
    /// That of values in any order, which are sorted.
    pub(super) fn of(values: &mut [u64]) -> Self {
        values.sort_unstable();
        let Some(last) = values.len().checked_sub(1) else { return Self::default() };
        let percentile = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100);
            super::seconds(values[rank.saturating_sub(1).min(last)])
        };
        let sum: u128 = values.iter().map(|&value| u128::from(value)).sum();
        let mean = sum as f64 / 1e9 / values.len() as f64;
        Self { mean, p50: percentile(50), p90: percentile(90), p99: percentile(99) }
    }
}

impl BucketUse {
    /// Nothing yet.
    pub(super) fn new(bucket: &Bucket) -> Self {
        let bucket = bucket.clone();
        Self { bucket, num_launches: 0, num_tokens: 0, num_padded_tokens: 0, seconds: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let mut values: Vec<u64> = (1..=200).rev().map(|value| value * 1_000_000_000).collect();
        let spread = Spread::of(&mut values);
        assert_eq!(spread, Spread { mean: 100.5, p50: 100.0, p90: 180.0, p99: 198.0 });
        let one = Spread::of(&mut [2_000_000_000]);
        assert_eq!(one, Spread { mean: 2.0, p50: 2.0, p90: 2.0, p99: 2.0 });
        assert_eq!(Spread::of(&mut []), Spread::default());
    }
}

//! What came of a batch, in numbers.
//!
//! ```text
//! 100 lines: 97 answered, 3 failed (40 of them before); 5120 prompt and 960 generated tokens,
//! 231.4 generated tokens/s, 62.5% of the prompts from the prefix cache
//! ```
//!
//! Lines are those of all runs that wrote to the output; tokens and times those of this one.
//!
//! What this module deliberately does not do: it prints nothing.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::batch::journal::Done;
use crate::batch::line::ResultLine;
use crate::engine::EngineStats;

/// Counts so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Results of earlier runs.
    num_before: u64,
    num_now: u64,
    /// Of all runs.
    pub(super) num_failed: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// Prompt tokens that were looked for in the prefix cache.
    prefix_query_tokens: u64,
    /// Those that were there.
    prefix_hit_tokens: u64,
}

impl Counts {
    /// Begins with the results of earlier runs.
    pub(super) fn new(done: &Done) -> Self {
        Self { num_before: done.len(), num_failed: done.num_failed, ..Self::default() }
    }

    /// One more result.
    pub(super) fn add(&mut self, result: &ResultLine) {
        self.num_now += 1;
        self.num_failed += u64::from(result.is_failed);
        self.prompt_tokens += result.usage.prompt_tokens;
        self.completion_tokens += result.usage.completion_tokens;
    }

    /// What the engine counted in its prefix cache.
    pub(super) fn prefix_cache(&mut self, stats: &EngineStats) {
        self.prefix_query_tokens = stats.prefix_query_tokens;
        self.prefix_hit_tokens = stats.prefix_hit_tokens;
    }

    /// Lines that have a result.
    pub(super) fn num_done(&self) -> u64 {
        self.num_before + self.num_now
    }

    fn tokens_per_second(&self, time: Duration) -> f64 {
        let seconds = time.as_secs_f64();
        if seconds > 0.0 { self.completion_tokens as f64 / seconds } else { 0.0 }
    }

    /// The share of prompt tokens that had not to be computed; `None`: none was looked for.
    fn prefix_cache_hit_share(&self) -> Option<f64> {
        let (hit, query) = (self.prefix_hit_tokens as f64, self.prefix_query_tokens as f64);
        (self.prefix_query_tokens > 0).then(|| hit / query)
    }

    /// For people.
    pub(super) fn to_line(&self, time: Duration) -> String {
        let (done, failed) = (self.num_done(), self.num_failed);
        let plural = if done == 1 { "" } else { "s" };
        let mut line = format!("{done} line{plural}: {} answered, {failed} failed", done - failed);
        // Writing to a string cannot fail.
        if self.num_before > 0 {
            let _ = write!(line, " ({} of them before)", self.num_before);
        }
        let (prompt, generated) = (self.prompt_tokens, self.completion_tokens);
        let rate = self.tokens_per_second(time);
        let _ = write!(
            line,
            "; {prompt} prompt and {generated} generated tokens, {rate:.1} generated tokens/s"
        );
        if let Some(share) = self.prefix_cache_hit_share() {
            let _ = write!(line, ", {:.1}% of the prompts from the prefix cache", share * 100.0);
        }
        line
    }

    /// For scripts.
    pub(super) fn to_json(&self, time: Duration, is_complete: bool) -> Value {
        json!({
            "complete": is_complete,
            "lines": self.num_done(),
            "answered": self.num_done() - self.num_failed,
            "failed": self.num_failed,
            "lines_before": self.num_before,
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
                "cached_tokens": self.prefix_hit_tokens,
            },
            "seconds": time.as_secs_f64(),
            "tokens_per_second": self.tokens_per_second(time),
            "prefix_cache_hit_share": self.prefix_cache_hit_share(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::line::Usage;

    fn result(is_failed: bool) -> ResultLine {
        let usage = Usage { prompt_tokens: 8, completion_tokens: 5 };
        ResultLine { text: Vec::new(), is_failed, usage }
    }

    #[test]
    fn the_line_says_what_people_look_for() {
        let mut counts = Counts { num_before: 1, ..Counts::default() };
        counts.add(&result(false));
        let second = Duration::from_secs(1);
        assert_eq!(
            counts.to_line(second),
            "2 lines: 2 answered, 0 failed (1 of them before); 8 prompt and 5 generated tokens, 5.0 generated tokens/s"
        );
        counts.num_before = 0;
        counts.add(&result(true));
        counts.prefix_cache(&EngineStats {
            prefix_query_tokens: 16,
            prefix_hit_tokens: 4,
            ..EngineStats::default()
        });
        assert_eq!(
            counts.to_line(second),
            "2 lines: 1 answered, 1 failed; 16 prompt and 10 generated tokens, 10.0 generated tokens/s, 25.0% of the prompts from the prefix cache"
        );
        let json = counts.to_json(second, true);
        assert_eq!((&json["lines"], &json["failed"]), (&json!(2), &json!(1)));
        assert_eq!(json["prefix_cache_hit_share"], json!(0.25));
    }

    #[test]
    fn nothing_done_in_no_time_is_no_division_by_zero() {
        let counts = Counts::default();
        let json = counts.to_json(Duration::ZERO, true);
        assert_eq!(
            (&json["tokens_per_second"], &json["prefix_cache_hit_share"]),
            (&json!(0.0), &Value::Null)
        );
    }
}

//! Which request runs when, and which work is not done twice.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | policy | which of the waiting requests is the next |
//! | prefix cache | what was computed for prompts that begin alike |
//! | speculation | tokens that are guessed and checked several at a time; the output stays the same |
//!
//! What this module deliberately does not do: it loads no model that guesses.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// Most prompt tokens that wait, where nothing was asked for: 256 requests of 16,384.
pub const DEFAULT_MAX_NUM_QUEUED_TOKENS: usize = 1 << 22;

/// Which request runs first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchedulingPolicy {
    /// Who came first.
    #[default]
    Fcfs,
    /// The lowest `priority` of a request; each unit counts as ten seconds of waiting.
    Priority,
    /// Short requests before long ones, prompt and longest answer together, unless these have
    /// waited long.
    #[value(alias = "shortest-first")]
    Shortest,
    /// The earliest `deadline` of a request.
    Deadline,
}

/// How tokens are guessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeculationMethod {
    /// As what followed the same tokens earlier in the text, of which at least `min` and at most
    /// `max` are looked for.
    Ngram {
        /// Fewest tokens that must occur again.
        min: usize,
        /// Most tokens that are looked for.
        max: usize,
    },
    /// By a small model.
    Draft {
        /// Its folder or file.
        model: PathBuf,
    },
}

/// Guessing several tokens ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeculationConfig {
    /// Tokens to guess each time.
    pub num_tokens: usize,
    /// How.
    pub method: SpeculationMethod,
}

/// How requests share the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulingConfig {
    /// Which request runs first.
    pub policy: SchedulingPolicy,
    /// Most prompt tokens of requests that are not finished, beyond what the KV cache holds; a
    /// request beyond is refused.
    pub max_num_queued_tokens: usize,
    /// A request fails if it is not finished by then; `None`: no limit.
    pub request_timeout: Option<Duration>,
    /// Whether prompts that begin alike share what was computed.
    pub is_prefix_cache_on: bool,
    /// Most tokens of one prompt in one step; 0: no limit.
    pub long_prefill_token_threshold: usize,
}

impl Default for SchedulingConfig {
    fn default() -> Self {
        Self {
            policy: SchedulingPolicy::default(),
            max_num_queued_tokens: DEFAULT_MAX_NUM_QUEUED_TOKENS,
            request_timeout: None,
            is_prefix_cache_on: true,
            long_prefill_token_threshold: 0,
        }
    }
}

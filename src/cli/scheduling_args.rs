//! Flags about which request runs when, and about work that is not done twice; for commands that
//! run many requests.
//!
//! ```text
//! --scheduling-policy, limits of the queue, --request-timeout   who runs, who waits, who is refused
//! --no-enable-prefix-caching                                    prompts that begin alike
//! --long-prefill-token-threshold                                long prompts beside short ones
//! ```
//!
//! What this module deliberately does not do: what graphs depend on is in `model_args`, for every
//! command with a model.

use std::time::Duration;

use clap::Args;

use super::values;
use crate::config::{DEFAULT_MAX_NUM_QUEUED_TOKENS, SchedulingConfig, SchedulingPolicy};

const MAX_TOKENS: u64 = 1 << 40;

/// How requests share the device.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scheduling options")]
pub(crate) struct SchedulingArgs {
    /// Which request runs first.
    #[arg(long, value_name = "NAME", env = "CAIRN_SCHEDULING_POLICY", value_enum, default_value_t)]
    scheduling_policy: SchedulingPolicy,

    /// Most prompt tokens of requests that wait, beyond what the KV cache holds; a request beyond
    /// gets status 429.
    #[arg(long, value_name = "TOKENS", env = "CAIRN_MAX_NUM_QUEUED_TOKENS")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_TOKENS), allow_hyphen_values = true)]
    #[arg(default_value_t = DEFAULT_MAX_NUM_QUEUED_TOKENS)]
    max_num_queued_tokens: usize,

    /// Seconds after which a request fails if it is not finished [default: no limit].
    #[arg(long, value_name = "SECONDS", env = "CAIRN_REQUEST_TIMEOUT")]
    #[arg(value_parser = values::positive_seconds, allow_hyphen_values = true)]
    request_timeout: Option<Duration>,

    /// Use again what was computed for prompts that begin alike; this is the default.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    enable_prefix_caching: bool,

    /// Compute every prompt from its beginning.
    #[arg(long, env = "CAIRN_NO_ENABLE_PREFIX_CACHING", value_parser = values::switch())]
    #[arg(overrides_with = "enable_prefix_caching")]
    no_enable_prefix_caching: bool,

    /// Most tokens of one prompt in one step, so that short prompts get past long ones; 0: no limit.
    #[arg(long, value_name = "TOKENS", env = "CAIRN_LONG_PREFILL_TOKEN_THRESHOLD")]
    #[arg(value_parser = values::whole::<usize>(0..=MAX_TOKENS), allow_hyphen_values = true)]
    #[arg(default_value_t = 0)]
    long_prefill_token_threshold: usize,
}

impl SchedulingArgs {
    /// What the flags mean.
    pub(crate) fn config(&self) -> SchedulingConfig {
        SchedulingConfig {
            policy: self.scheduling_policy,
            max_num_queued_tokens: self.max_num_queued_tokens,
            request_timeout: self.request_timeout,
            // A flag wins over the other one's variable.
            is_prefix_cache_on: self.enable_prefix_caching || !self.no_enable_prefix_caching,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        scheduling: SchedulingArgs,
    }

    fn config(flags: &[&str]) -> SchedulingConfig {
        Flags::try_parse_from([&["cairn"], flags].concat()).unwrap().scheduling.config()
    }

    #[test]
    fn nothing_typed_is_the_default() {
        assert_eq!(config(&[]), SchedulingConfig::default());
    }

    #[test]
    fn the_last_word_about_the_prefix_cache_counts() {
        let is_on = |flags: &[&str]| config(flags).is_prefix_cache_on;
        assert!(!is_on(&["--no-enable-prefix-caching"]));
        assert!(is_on(&["--no-enable-prefix-caching", "--enable-prefix-caching"]));
        assert!(!is_on(&["--enable-prefix-caching", "--no-enable-prefix-caching"]));
    }

    #[test]
    fn a_policy_and_limits_arrive() {
        let got = config(&[
            "--scheduling-policy",
            "deadline",
            "--max-num-queued-tokens",
            "9",
            "--request-timeout",
            "1.5",
            "--long-prefill-token-threshold",
            "7",
        ]);
        let expected = SchedulingConfig {
            policy: SchedulingPolicy::Deadline,
            max_num_queued_tokens: 9,
            request_timeout: Some(Duration::from_millis(1500)),
            long_prefill_token_threshold: 7,
            ..SchedulingConfig::default()
        };
        assert_eq!(got, expected);
    }
}

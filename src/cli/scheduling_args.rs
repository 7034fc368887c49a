//! Flags about which request runs when, and about work that is not done twice.
//!
//! ```text
//! --scheduling-policy, limits of the queue, --request-timeout   who runs, who waits, who is refused
//! --no-enable-prefix-caching                                    prompts that begin alike
//! --long-prefill-token-threshold                                long prompts beside short ones
//! --speculative-..                                              several tokens a step
//! ```
//!
//! What this module deliberately does not do: sizes of a step are `model_args`', since graphs depend
//! on them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::Usage;
use super::values;
use crate::config::{
    DEFAULT_MAX_NUM_QUEUED_TOKENS, SchedulingConfig, SchedulingPolicy, SpeculationConfig,
    SpeculationMethod,
};

const MAX_TOKENS: u64 = 1 << 40;
const MAX_SPECULATIVE_TOKENS: u64 = 64;
const MAX_PROMPT_LOOKUP: u64 = 64;

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

    /// Guess several tokens ahead and check them in one step; the output stays the same [default:
    /// off].
    #[arg(long, value_name = "METHOD", env = "CAIRN_SPECULATIVE_METHOD", value_enum)]
    speculative_method: Option<Method>,

    /// Tokens to guess each time.
    #[arg(long, value_name = "N", env = "CAIRN_NUM_SPECULATIVE_TOKENS", default_value_t = 4)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_SPECULATIVE_TOKENS))]
    #[arg(allow_hyphen_values = true)]
    num_speculative_tokens: usize,

    /// Fewest tokens that must occur again for what followed them to be a guess.
    #[arg(long, value_name = "N", env = "CAIRN_PROMPT_LOOKUP_MIN", default_value_t = 2)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_PROMPT_LOOKUP), allow_hyphen_values = true)]
    prompt_lookup_min: usize,

    /// Most tokens that are looked for.
    #[arg(long, value_name = "N", env = "CAIRN_PROMPT_LOOKUP_MAX", default_value_t = 4)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_PROMPT_LOOKUP), allow_hyphen_values = true)]
    prompt_lookup_max: usize,

    /// The small model that guesses, with the same tokens as the large one: a folder or a .gguf
    /// file.
    #[arg(long, value_name = "PATH", env = "CAIRN_SPECULATIVE_MODEL")]
    speculative_model: Option<PathBuf>,
}

/// Who guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Method {
    /// What followed the same tokens earlier in the text.
    Ngram,
    /// A small model.
    Draft,
}

impl SchedulingArgs {
    /// What the flags mean.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub(crate) fn config(&self) -> Result<SchedulingConfig, Usage> {
        Ok(SchedulingConfig {
            policy: self.scheduling_policy,
            max_num_queued_tokens: self.max_num_queued_tokens,
            request_timeout: self.request_timeout,
            is_prefix_cache_on: !self.no_enable_prefix_caching,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            speculation: self.speculation()?,
        })
    }

    fn speculation(&self) -> Result<Option<SpeculationConfig>, Usage> {
        let (min, max) = (self.prompt_lookup_min, self.prompt_lookup_max);
        let method = match (self.speculative_method, &self.speculative_model) {
            (None, None) => return Ok(None),
            (Some(Method::Ngram), None) if min > max => {
                return Err(Usage(format!(
                    "`--prompt-lookup-min` is {min}, more than `--prompt-lookup-max`, {max}"
                )));
            }
            (Some(Method::Ngram), None) => SpeculationMethod::Ngram { min, max },
            (Some(Method::Ngram), Some(_)) => {
                let problem = "`--speculative-model` goes with `--speculative-method draft`";
                return Err(Usage(problem.to_owned()));
            }
            (Some(Method::Draft), None) => {
                let problem = "`--speculative-method draft` needs `--speculative-model`";
                return Err(Usage(problem.to_owned()));
            }
            (Some(Method::Draft) | None, Some(model)) => {
                SpeculationMethod::Draft { model: model.clone() }
            }
        };
        Ok(Some(SpeculationConfig { num_tokens: self.num_speculative_tokens, method }))
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

    fn config(flags: &[&str]) -> Result<SchedulingConfig, String> {
        let flags = Flags::try_parse_from([&["cairn"], flags].concat()).unwrap();
        flags.scheduling.config().map_err(|Usage(problem)| problem)
    }

    #[test]
    fn nothing_typed_is_the_default() {
        assert_eq!(config(&[]), Ok(SchedulingConfig::default()));
    }

    #[test]
    fn the_last_word_about_the_prefix_cache_counts() {
        let is_on = |flags: &[&str]| config(flags).unwrap().is_prefix_cache_on;
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
        assert_eq!(got, Ok(expected));
    }

    #[test]
    fn guesses_come_from_the_text_or_from_a_model() {
        let method = |flags: &[&str]| config(flags).map(|config| config.speculation.unwrap());
        let ngram = method(&["--speculative-method", "ngram", "--prompt-lookup-max", "3"]).unwrap();
        assert_eq!(ngram.method, SpeculationMethod::Ngram { min: 2, max: 3 });
        let draft = method(&["--speculative-model", "m", "--num-speculative-tokens", "7"]).unwrap();
        assert_eq!(draft.method, SpeculationMethod::Draft { model: "m".into() });
        assert_eq!(draft.num_tokens, 7);
        for (flags, problem) in [
            (&["--speculative-method", "draft"][..], "needs `--speculative-model`"),
            (&["--speculative-method", "ngram", "--speculative-model", "m"], "goes with"),
            (&["--speculative-method", "ngram", "--prompt-lookup-min", "5"], "more than"),
        ] {
            let got = config(flags).unwrap_err();
            assert!(got.contains(problem), "{flags:?}: {got}");
        }
    }
}

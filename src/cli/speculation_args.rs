//! Flags about guessing tokens ahead. They change how many rows of logits a graph gives, so whoever
//! compiles graphs has to know them.
//!
//! | `--speculative-method` | Guesses |
//! | --- | --- |
//! | `ngram` | what followed the same tokens earlier in the text |
//! | `draft` | what `--speculative-model` would say |
//!
//! What this module deliberately does not do: it loads no model.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::failure::Usage;
use super::values;
use crate::config::{SpeculationConfig, SpeculationMethod};

const MAX_SPECULATIVE_TOKENS: u64 = 64;
const MAX_PROMPT_LOOKUP: u64 = 64;

/// Whether and how to guess.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Speculation options")]
pub(crate) struct SpeculationArgs {
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

impl SpeculationArgs {
    /// What the flags mean.
    ///
    /// # Errors
    /// Flags that do not go together.
    pub(crate) fn config(&self) -> Result<Option<SpeculationConfig>, Usage> {
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
        speculation: SpeculationArgs,
    }

    fn config(flags: &[&str]) -> Result<Option<SpeculationConfig>, String> {
        let flags = Flags::try_parse_from([&["cairn"], flags].concat()).unwrap();
        flags.speculation.config().map_err(|Usage(problem)| problem)
    }

    #[test]
    fn guesses_come_from_the_text_or_from_a_model() {
        let method = |flags: &[&str]| config(flags).map(Option::unwrap);
        assert_eq!(config(&[]), Ok(None));
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

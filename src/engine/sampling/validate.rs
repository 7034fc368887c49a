//! The ranges of sampling parameters.
//!
//! ```text
//! validate()                  what can be said of the numbers themselves
//! validate_for(vocab_size)    that, and that every token id names a token
//! ```
//!
//! Where vLLM's ranges (`vllm/sampling_params.py`) are narrower, the wider one is on purpose: `n`
//! may be above 1 without randomness, and a temperature may be above 2.
//!
//! What this module deliberately does not do: it corrects nothing.

use std::fmt;
use std::ops::RangeInclusive;

use super::params::{
    BeamParams, MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_CHOICES, MAX_LOGIT_BIASES, MAX_LOGPROBS,
    MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, SamplingParams,
};

/// A parameter that cannot be honoured, by name, with what was expected and got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidParam {
    /// The request field, for example `temperature`.
    pub param: &'static str,
    /// What was expected and what was got.
    pub message: String,
}

impl fmt::Display for InvalidParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}", self.param, self.message)
    }
}

impl std::error::Error for InvalidParam {}

type Checked = Result<(), InvalidParam>;

impl SamplingParams {
    /// Checks every field's range.
    ///
    /// # Errors
    /// The first field that is out of range, by name.
    pub fn validate(&self) -> Checked {
        self.check_lengths()?;
        self.check_numbers()?;
        self.check_lists()?;
        self.beam.map_or(Ok(()), |beam| self.check_beam(beam))
    }

    /// Checks every field's range, and that token ids are below the vocabulary's size.
    ///
    /// # Errors
    /// The first field that is out of range, by name.
    pub fn validate_for(&self, vocab_size: usize) -> Checked {
        self.validate()?;
        let biased = self.logit_bias.iter().map(|(token_id, _)| token_id);
        known("logit_bias", biased, vocab_size)?;
        known("bad_words", self.bad_words.iter().flatten(), vocab_size)?;
        known("stop_token_ids", &self.stop_token_ids, vocab_size)?;
        let allowed = self.allowed_token_ids.as_deref().unwrap_or_default();
        known("allowed_token_ids", allowed, vocab_size)?;
        at_most("allowed_token_ids", allowed.len(), vocab_size, "tokens")
    }

    /// How many texts, and how long.
    fn check_lengths(&self) -> Checked {
        in_range("n", self.n, 1..=MAX_CHOICES)?;
        if let Some(best_of) = self.best_of {
            in_range("best_of", best_of, self.n..=MAX_CHOICES)?;
        }
        let Some(max_tokens) = self.max_tokens else { return Ok(()) };
        if max_tokens == 0 {
            return fail("max_tokens", "expected at least 1, got 0".into());
        }
        if self.min_tokens as u64 > max_tokens {
            let got = self.min_tokens;
            return fail(
                "min_tokens",
                format!("expected at most max_tokens, {max_tokens}, got {got}"),
            );
        }
        Ok(())
    }

    fn check_numbers(&self) -> Checked {
        in_range("temperature", self.temperature, 0.0..=100.0)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let got = self.top_p;
            return fail("top_p", format!("expected above 0 and at most 1, got {got}"));
        }
        in_range("min_p", self.min_p, 0.0..=1.0)?;
        if self.top_k == Some(0) {
            return fail("top_k", "expected at least 1, or -1 for all, got 0".into());
        }
        in_range("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            let got = self.repetition_penalty;
            return fail(
                "repetition_penalty",
                format!("expected a finite number above 0, got {got}"),
            );
        }
        in_range("logprobs", self.logprobs.unwrap_or(0), 0..=MAX_LOGPROBS)?;
        in_range("prompt_logprobs", self.prompt_logprobs.unwrap_or(0), 0..=MAX_LOGPROBS)
    }

    fn check_lists(&self) -> Checked {
        at_most("logit_bias", self.logit_bias.len(), MAX_LOGIT_BIASES, "tokens")?;
        if let Some((token_id, bias)) = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            return fail(
                "logit_bias",
                format!("expected finite numbers, got {bias} for token {token_id}"),
            );
        }
        at_most("bad_words", self.bad_words.len(), MAX_BAD_WORDS, "sequences")?;
        for word in &self.bad_words {
            sized("bad_words", word.len(), MAX_BAD_WORD_TOKENS, "sequences", "tokens")?;
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return fail("allowed_token_ids", "expected at least one token, got none".into());
        }
        at_most("stop", self.stop.len(), MAX_STOP_STRINGS, "strings")?;
        for stop in &self.stop {
            sized("stop", stop.len(), MAX_STOP_STRING_BYTES, "strings", "bytes")?;
        }
        Ok(())
    }

    fn check_beam(&self, beam: BeamParams) -> Checked {
        in_range("beam_width", beam.width, 1..=MAX_CHOICES)?;
        in_range("length_penalty", beam.length_penalty, -10.0..=10.0)?;
        if self.n > beam.width {
            let (width, got) = (beam.width, self.n);
            return fail("n", format!("expected at most the beam width, {width}, got {got}"));
        }
        match self.best_of {
            Some(best_of) if best_of != beam.width => fail(
                "best_of",
                format!("expected the beam width, {}, or nothing, got {best_of}", beam.width),
            ),
            _ => Ok(()),
        }
    }
}

fn fail(param: &'static str, message: String) -> Checked {
    Err(InvalidParam { param, message })
}

/// Numbers that are no numbers are in no range.
fn in_range<T: PartialOrd + fmt::Display>(
    param: &'static str,
    got: T,
    range: RangeInclusive<T>,
) -> Checked {
    if range.contains(&got) {
        return Ok(());
    }
    fail(param, format!("expected {} to {}, got {got}", range.start(), range.end()))
}

fn at_most(param: &'static str, got: usize, max: usize, things: &str) -> Checked {
    if got <= max {
        return Ok(());
    }
    fail(param, format!("expected at most {max} {things}, got {got}"))
}

/// One entry of a list, such as a string of bytes.
fn sized(param: &'static str, got: usize, max: usize, entries: &str, parts: &str) -> Checked {
    if (1..=max).contains(&got) {
        return Ok(());
    }
    fail(param, format!("expected {entries} of 1 to {max} {parts}, got {got}"))
}

fn known<'a>(
    param: &'static str,
    token_ids: impl IntoIterator<Item = &'a u32>,
    vocab_size: usize,
) -> Checked {
    let mut token_ids = token_ids.into_iter();
    match token_ids.find(|token_id| **token_id as usize >= vocab_size) {
        None => Ok(()),
        Some(token_id) => fail(
            param,
            format!("expected token ids below {vocab_size}, the vocabulary's size, got {token_id}"),
        ),
    }
}

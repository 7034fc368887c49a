//! The sampler: one function from a row of logits, parameters, history and one random number to a
//! token, and its two relatives that choose nothing.
//!
//! ```text
//! row --sound?--> processors --> temperature 0:  the largest logit, the lowest id among equals
//!  |                        '--> otherwise:      min_p, top_k, top_p (filters.rs) --> draw
//!  '--> log probabilities of the token
//! ```
//!
//! The result depends on the arguments alone: not on the batch, and not on what was sampled before.
//! Among tokens of equal logit the lower id is the likelier one, so `top_k` keeps exactly k tokens.
//! Nothing below the k largest logits then matters any more, `top_p` included: [`wanted`] says where
//! that lets a device keep the rest, and a row without the rest gives the same token.
//!
//! What this module deliberately does not do: it keeps no state from one token to the next.

use crate::backend::Wanted;

use super::error::SampleError;
use super::filters::Filters;
use super::largest::Largest;
use super::logprobs::{self, TokenLogprobs};
use super::params::SamplingParams;
use super::processors::{self, History};
use super::row::{CheckedRow, Row};
use super::weights::log_sum_exp;

/// Most candidates that are asked of a device; with more, it may as well hand out all logits.
pub(super) const MAX_WANTED: usize = 64;

/// How much of a row the sampler needs to choose a token for those parameters.
pub(crate) fn wanted(params: &SamplingParams) -> Wanted {
    let needs_all =
        params.changes_logits() || params.num_token_logprobs().is_some() || params.beam.is_some();
    match params.top_k {
        _ if needs_all => Wanted::Logits,
        _ if params.temperature <= 0.0 => Wanted::Argmax,
        Some(1) => Wanted::Argmax,
        Some(top_k) if top_k as usize <= MAX_WANTED => Wanted::TopK(top_k as usize),
        // Without `top_k`, `min_p` and `top_p` may keep any number of tokens.
        _ => Wanted::Logits,
    }
}

/// What serves two rows of one launch.
pub(crate) fn both(one: Wanted, other: Wanted) -> Wanted {
    match (one, other) {
        (Wanted::Argmax, more) | (more, Wanted::Argmax) => more,
        (Wanted::TopK(one), Wanted::TopK(other)) => Wanted::TopK(one.max(other)),
        (Wanted::Logits, _) | (_, Wanted::Logits) => Wanted::Logits,
    }
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampled {
    /// The token.
    pub(crate) token_id: u32,
    /// How likely it was, if the parameters ask for that.
    pub(crate) logprob: Option<TokenLogprobs>,
}

/// Chooses tokens; keeps only its buffers.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// A row after the processors.
    processed: Vec<f32>,
    filters: Filters,
    largest: Largest,
    weights: Vec<f32>,
    beam_candidates: Vec<(u32, f64)>,
}

impl Sampler {
    /// The next token, one of the row. `random`, in [0, 1), is asked for only when something is
    /// drawn.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] when a logit of the row is NaN or infinite,
    /// [`SampleError::NothingAllowed`] when the parameters forbid every token,
    /// [`SampleError::Partial`] when the row is less than [`wanted`].
    pub(crate) fn sample(
        &mut self,
        row: Row<'_>,
        params: &SamplingParams,
        history: History<'_>,
        random: impl FnOnce() -> f64,
    ) -> Result<Sampled, SampleError> {
        let (raw, changed) = change(row, params, history, &mut self.processed)?;
        let token_id = if params.temperature <= 0.0 {
            changed.argmax
        } else {
            if params.top_k.is_none() {
                row.all()?;
            }
            let candidates = self.filters.apply(changed, params, &mut self.largest);
            candidates.draw(random()).unwrap_or(changed.argmax)
        };
        let (largest, weights) = (&mut self.largest, &mut self.weights);
        let logprob = params
            .num_token_logprobs()
            .map(|num_top| logprobs::of_token(raw, token_id, num_top, largest, weights))
            .transpose()?;
        Ok(Sampled { token_id, logprob })
    }

    /// How likely a given token is after a row of the prompt.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] when a logit of the row is NaN or infinite,
    /// [`SampleError::UnknownToken`] when the token is beyond the row.
    pub(crate) fn logprobs_of(
        &mut self,
        row: &[f32],
        token_id: u32,
        num_top: usize,
    ) -> Result<TokenLogprobs, SampleError> {
        let row = Row::Logits(row).checked()?;
        logprobs::of_token(row, token_id, num_top, &mut self.largest, &mut self.weights)
    }

    /// The k likeliest continuations of a beam, likeliest first, the lower id among equals, with
    /// their log probabilities among the tokens that the parameters allow. The temperature, and
    /// what else serves drawing, has no say.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub(crate) fn beam_candidates(
        &mut self,
        row: Row<'_>,
        params: &SamplingParams,
        history: History<'_>,
        k: usize,
    ) -> Result<&[(u32, f64)], SampleError> {
        let (_, changed) = change(row, params, history, &mut self.processed)?;
        let log_sum = log_sum_exp(changed, &mut self.weights)?;
        let keys = self.largest.of(changed.row, k).iter();
        self.beam_candidates.clear();
        self.beam_candidates
            .extend(keys.map(|key| (key.token_id(), f64::from(key.logit()) - log_sum)));
        Ok(&self.beam_candidates)
    }

    /// The tokens that [`sample`](Self::sample) would draw from, and the shares they have.
    #[cfg(test)]
    pub(super) fn distribution(
        &mut self,
        row: Row<'_>,
        params: &SamplingParams,
        history: History<'_>,
    ) -> Result<Vec<(u32, f64)>, SampleError> {
        let (_, changed) = change(row, params, history, &mut self.processed)?;
        let candidates = self.filters.apply(changed, params, &mut self.largest);
        let sum: f64 = candidates.iter().map(|(_, weight)| f64::from(weight)).sum();
        Ok(candidates
            .iter()
            .map(|(token_id, weight)| (token_id, f64::from(weight) / sum))
            .collect())
    }
}

/// The row as the model gave it, and as the parameters change it.
fn change<'a>(
    row: Row<'a>,
    params: &SamplingParams,
    history: History<'_>,
    processed: &'a mut Vec<f32>,
) -> Result<(CheckedRow<'a>, CheckedRow<'a>), SampleError> {
    let raw = row.checked()?;
    if !processors::is_needed(params, &history) {
        return Ok((raw, raw));
    }
    processors::apply(params, &history, row.all()?, processed);
    Ok((raw, Row::Logits(processed).maximised()?))
}

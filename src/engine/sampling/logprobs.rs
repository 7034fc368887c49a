//! How likely a token was, and which were the likeliest, by the model's own logits.
//!
//! ```text
//! log probability = logit - log(sum over all tokens of exp(logit))
//! rank            = tokens whose logit is at least the token's own: 1 is the likeliest
//! ```
//!
//! As in vLLM (`v1/sample/sampler.py`, `logprobs_mode="raw_logprobs"`), nothing that a request asks
//! for changes them: neither temperature, nor filters, nor penalties, nor forbidden tokens.
//!
//! What this module deliberately does not do: texts of tokens.

use super::error::SampleError;
use super::largest::Largest;
use super::row::CheckedRow;
use super::weights::log_sum_exp;

/// The log probability of a chosen or given token, and of the likeliest ones in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen, or that the prompt has there.
    pub token_id: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// How many tokens are at least as likely, itself included.
    pub rank: u32,
    /// Token ids and log probabilities of the likeliest, as many as were asked for, likeliest
    /// first; the token itself may be one of them.
    pub top: Vec<(u32, f32)>,
}

/// Looks at a row as the model gave it. Changes `weights`.
pub(super) fn of_token(
    row: CheckedRow<'_>,
    token_id: u32,
    num_top: usize,
    largest: &mut Largest,
    weights: &mut Vec<f32>,
) -> Result<TokenLogprobs, SampleError> {
    let logits = row.row.all()?;
    let Some(&logit) = logits.get(token_id as usize) else {
        return Err(SampleError::UnknownToken { token_id, vocab_size: logits.len() });
    };
    let log_sum = log_sum_exp(row, weights)?;
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let rank = logits.iter().map(|other| u32::from(*other >= logit)).sum();
    let top = largest.of(row.row, num_top);
    let top = top.iter().map(|key| (key.token_id(), logprob(key.logit()))).collect();
    Ok(TokenLogprobs { token_id, logprob: logprob(logit), rank, top })
}

//! What a request changes about its logits before a token is chosen, greedily or not.
//!
//! ```text
//! raw logits -> allowed_token_ids -> grammar -> bad_words -> min_tokens -> logit_bias -> penalties
//!     |             forbid           forbid      forbid       forbid         add      (penalties.rs)
//!     '--> log probabilities (logprobs.rs)
//! ```
//!
//! The order is that of vLLM (`v1/sample/sampler.py`). A forbidden token has the logit minus
//! infinity, and nothing brings it back. Where a grammar lets a text only end, it may end, whatever
//! `min_tokens` says.
//!
//! What this module deliberately does not do: it reads no text; whoever has a tokenizer makes token
//! ids of words.

use crate::text::grammar::Mask;

use super::params::{MAX_ABS_LOGIT_BIAS, SamplingParams};
use super::penalties::{self, TokenCounts};

/// What came before the token that is to be chosen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History<'a> {
    /// The prompt's tokens.
    pub(crate) prompt: &'a [u32],
    /// What was generated so far.
    pub(crate) output: &'a [u32],
    /// Both of them, counted. Saves counting where a penalty is asked for, and changes no result:
    /// counts of another output are not used.
    pub(crate) counts: Option<&'a TokenCounts>,
    /// The tokens that end this sequence; forbidden until `min_tokens` are generated.
    pub(crate) stop_token_ids: &'a [u32],
    /// What the request's grammar allows here, if it has one.
    pub(crate) mask: Option<&'a Mask>,
}

impl History<'_> {
    fn is_too_short(&self, params: &SamplingParams) -> bool {
        self.output.len() < params.min_tokens && !self.can_only_end()
    }

    /// The grammar allows nothing but the end.
    fn can_only_end(&self) -> bool {
        self.mask.is_some_and(|mask| {
            let ends = self.stop_token_ids.iter().filter(|token_id| mask.allows(**token_id));
            ends.count() >= mask.num_allowed()
        })
    }

    /// The tokens that would complete a bad word. Only generated tokens begin one.
    fn ends_of_bad_words(&self, params: &SamplingParams) -> impl Iterator<Item = u32> {
        let ends = params.bad_words.iter().filter_map(|word| word.split_last());
        ends.filter(|(_, begin)| self.output.ends_with(begin)).map(|(end, _)| *end)
    }
}

/// Whether the parameters change any logit of the next token.
pub(super) fn is_needed(params: &SamplingParams, history: &History<'_>) -> bool {
    params.allowed_token_ids.is_some()
        || history.mask.is_some()
        || !params.logit_bias.is_empty()
        || params.has_penalties()
        || (history.is_too_short(params) && !history.stop_token_ids.is_empty())
        || history.ends_of_bad_words(params).next().is_some()
}

/// Writes the changed logits of a finite row to `processed`.
pub(super) fn apply(
    params: &SamplingParams,
    history: &History<'_>,
    raw: &[f32],
    processed: &mut Vec<f32>,
) {
    processed.clear();
    match &params.allowed_token_ids {
        Some(allowed) => {
            processed.resize(raw.len(), f32::NEG_INFINITY);
            for token_id in allowed.iter().map(|token_id| *token_id as usize) {
                if let Some(logit) = raw.get(token_id) {
                    processed[token_id] = *logit;
                }
            }
        }
        None => processed.extend_from_slice(raw),
    }
    if let Some(mask) = history.mask {
        mask.apply(processed);
    }
    for token_id in history.ends_of_bad_words(params) {
        forbid(processed, token_id);
    }
    if history.is_too_short(params) {
        for token_id in history.stop_token_ids {
            forbid(processed, *token_id);
        }
    }
    for (token_id, bias) in &params.logit_bias {
        if let Some(logit) = processed.get_mut(*token_id as usize) {
            *logit += bias.clamp(-MAX_ABS_LOGIT_BIAS, MAX_ABS_LOGIT_BIAS);
        }
    }
    if params.has_penalties() {
        let is_current = |counts: &&TokenCounts| counts.num_output_tokens() == history.output.len();
        if let Some(counts) = history.counts.filter(is_current) {
            penalties::apply(params, counts, processed);
        } else {
            let counts = TokenCounts::new(history.prompt, history.output);
            penalties::apply(params, &counts, processed);
        }
    }
}

/// An id beyond the row is forbidden anyway.
fn forbid(logits: &mut [f32], token_id: u32) {
    if let Some(logit) = logits.get_mut(token_id as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

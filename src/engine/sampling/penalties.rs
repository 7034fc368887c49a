//! Penalties for tokens that were there before.
//!
//! | Penalty | Counts | Effect on the logit |
//! | --- | --- | --- |
//! | repetition `r` | prompt and output, once | above zero: divided by `r`; otherwise multiplied by it |
//! | frequency `f` | output, each time | minus `f` for each time |
//! | presence `p` | output, once | minus `p` |
//!
//! In that order; the formulas are those of `vllm/model_executor/layers/utils.py`, whose repetition
//! penalty is the one of Keskar et al., CTRL (arXiv:1909.05858), section 4.1.
//!
//! [`TokenCounts`] knows which tokens were there, so that a step costs no more than there are
//! different ones of them:
//!
//! ```text
//! prompt   [ 3 | 17 | 40 ]                    different ids, shared by all choices and beams
//! output   { 17: 2 times, in the prompt | 99: 1 time, new }
//! ```
//!
//! What this module deliberately does not do: it holds no tokens in their order.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::params::SamplingParams;

/// Which tokens a sequence consists of, and how often. A cache: it says nothing that the tokens do
/// not.
#[derive(Clone, Debug)]
pub(crate) struct TokenCounts {
    /// Sorted, each once.
    prompt: Arc<[u32]>,
    output: FxHashMap<u32, Count>,
    num_output_tokens: usize,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    times: u32,
    is_in_prompt: bool,
}

impl TokenCounts {
    /// Counts the tokens of a sequence.
    pub(crate) fn new(prompt: &[u32], output: &[u32]) -> Self {
        let mut prompt = prompt.to_vec();
        prompt.sort_unstable();
        prompt.dedup();
        let mut counts =
            Self { prompt: prompt.into(), output: FxHashMap::default(), num_output_tokens: 0 };
        for token_id in output {
            counts.push(*token_id);
        }
        counts
    }

    /// Takes note of a generated token.
    pub(crate) fn push(&mut self, token_id: u32) {
        let prompt = &self.prompt;
        let new = || Count { times: 0, is_in_prompt: prompt.binary_search(&token_id).is_ok() };
        self.output.entry(token_id).or_insert_with(new).times += 1;
        self.num_output_tokens += 1;
    }

    /// Generated tokens, each time.
    pub(crate) fn num_output_tokens(&self) -> usize {
        self.num_output_tokens
    }
}

/// Applies the penalties of the parameters to a row of logits.
pub(super) fn apply(params: &SamplingParams, counts: &TokenCounts, logits: &mut [f32]) {
    let repetition = params.repetition_penalty;
    #[expect(clippy::float_cmp, reason = "1 is the value that means no penalty")]
    let repeats_are_penalised = repetition != 1.0;
    if repeats_are_penalised {
        let repeat = |logit: f32| if logit > 0.0 { logit / repetition } else { logit * repetition };
        let new = counts.output.iter().filter(|(_, count)| !count.is_in_prompt);
        for token_id in counts.prompt.iter().chain(new.map(|(token_id, _)| token_id)) {
            change(logits, *token_id, repeat);
        }
    }
    for (token_id, count) in &counts.output {
        let frequency = params.frequency_penalty * count.times as f32;
        change(logits, *token_id, |logit| logit - frequency - params.presence_penalty);
    }
}

/// Changes a logit, unless the token is forbidden; what would be infinite stays finite, so that no
/// token is forbidden or certain by a penalty. An id beyond the row has no logit.
fn change(logits: &mut [f32], token_id: u32, change: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token_id as usize)
        && *logit > f32::NEG_INFINITY
    {
        *logit = change(*logit).clamp(f32::MIN, f32::MAX);
    }
}

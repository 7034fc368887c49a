//! The limits an engine is started with, and why it may refuse them.

use std::time::Duration;

use super::rank::SchedulingPolicy;

/// Limits of one engine, and what it does within them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Longest sequence in tokens, prompt and output together; at least 2.
    pub max_model_len: usize,
    /// Most sequences in one step.
    pub max_num_seqs: usize,
    /// Most tokens in one step.
    pub max_num_batched_tokens: usize,
    /// Tokens in one KV block.
    pub block_size: usize,
    /// Blocks in the KV pool; enough for one sequence of `max_model_len`.
    pub num_blocks: usize,
    /// Most requests beyond `max_num_seqs` that may be unfinished; one more is refused.
    pub max_num_queued_reqs: usize,
    /// Most prompt tokens of unfinished requests, beyond those that the KV cache holds; a request
    /// that would add more is refused, unless it is alone.
    pub max_num_queued_tokens: usize,
    /// Which requests run first.
    pub policy: SchedulingPolicy,
    /// Whether prompts that begin alike share what was computed for them.
    pub is_prefix_cache_on: bool,
    /// A request fails when it is not finished by then, unless it brings a limit of its own.
    pub request_timeout: Option<Duration>,
    /// Most prompt tokens of one request in one step, so that a long prompt leaves room for
    /// others; 0: as many as the step holds.
    pub long_prefill_token_threshold: usize,
    /// Guessing several tokens ahead; `None`: off.
    pub speculation: Option<Speculation>,
    /// Whether there are graphs for [`Request::pooling`](super::Request::pooling).
    pub has_embeddings: bool,
}

/// Guessing the next tokens and checking them in one step. The output is the same as without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Most tokens that are guessed at once; at least 1.
    pub num_tokens: usize,
    /// Where the guesses come from.
    pub method: SpeculativeMethod,
}

/// Where guesses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeculativeMethod {
    /// The text itself: what followed the last few tokens when they occurred before.
    Ngram {
        /// Fewest tokens that must occur before; at least 1.
        min: usize,
        /// Most tokens that are looked for.
        max: usize,
    },
    /// A smaller model with the same vocabulary.
    Draft,
}

impl Default for EngineOptions {
    /// Small limits, for one request at a time; a real engine's follow from its model and device.
    fn default() -> Self {
        Self {
            max_model_len: 2048,
            max_num_seqs: 1,
            max_num_batched_tokens: 512,
            block_size: 16,
            num_blocks: 128,
            max_num_queued_reqs: 256,
            max_num_queued_tokens: usize::MAX,
            policy: SchedulingPolicy::Fcfs,
            is_prefix_cache_on: true,
            request_timeout: None,
            long_prefill_token_threshold: 0,
            speculation: None,
            has_embeddings: false,
        }
    }
}

/// More guesses than that are hardly ever right.
const MAX_SPECULATIVE_TOKENS: usize = 64;
const MAX_LOOKUP_TOKENS: usize = 64;

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A limit is out of range.
    #[error("invalid {name}: expected {expected}, got {got}")]
    InvalidOption {
        /// The field.
        name: &'static str,
        /// The range.
        expected: String,
        /// The value.
        got: usize,
    },
    /// The KV cache cannot hold a single sequence of the full length.
    #[error(
        "the KV cache has {num_blocks} blocks of {block_size} tokens, but one sequence of {max_model_len} tokens needs {needed}"
    )]
    KvCacheTooSmall {
        /// Blocks in the pool.
        num_blocks: usize,
        /// Tokens in a block.
        block_size: usize,
        /// Longest sequence in tokens.
        max_model_len: usize,
        /// Blocks that it needs.
        needed: usize,
    },
    /// No loaded graph is large enough for the largest step.
    #[error(
        "no loaded graph holds a step of {num_tokens} tokens in {num_seqs} sequences with {max_blocks} KV blocks each"
    )]
    NoBucket {
        /// Tokens of the largest step.
        num_tokens: u64,
        /// Sequences of the largest step.
        num_seqs: u64,
        /// Blocks of the longest sequence.
        max_blocks: u64,
    },
    /// Speculation wants a draft model and there is none.
    #[error("speculation with a draft model needs one, and none was loaded")]
    NoDraftModel,
    /// The draft model knows fewer tokens.
    #[error(
        "the draft model has {got} tokens, but the model has {expected}: both need the same vocabulary"
    )]
    DraftVocabulary {
        /// Tokens of the model.
        expected: usize,
        /// Tokens of the draft model.
        got: usize,
    },
    /// The engine thread could not be started.
    #[error("the engine thread could not be started")]
    Thread(#[source] std::io::Error),
}

impl EngineOptions {
    /// Checks every field's range, and that the KV cache holds one sequence of the full length, so
    /// that the earliest request can always get on.
    pub(crate) fn validate(&self) -> Result<(), EngineError> {
        // Graph inputs are `i32`: positions, counts and slots must fit.
        let max = i32::MAX as usize;
        in_range("max_model_len", self.max_model_len, 2, max)?;
        in_range("max_num_seqs", self.max_num_seqs, 1, max)?;
        in_range("max_num_batched_tokens", self.max_num_batched_tokens, 1, max)?;
        in_range("block_size", self.block_size, 1, max)?;
        in_range("num_blocks", self.num_blocks, 1, max / self.block_size)?;
        if let Some(Speculation { num_tokens, method }) = self.speculation {
            in_range("num_speculative_tokens", num_tokens, 1, MAX_SPECULATIVE_TOKENS)?;
            if let SpeculativeMethod::Ngram { min, max } = method {
                in_range("prompt_lookup_max", max, 1, MAX_LOOKUP_TOKENS)?;
                in_range("prompt_lookup_min", min, 1, max)?;
            }
        }
        let needed = self.max_model_len.div_ceil(self.block_size);
        if needed > self.num_blocks {
            return Err(EngineError::KvCacheTooSmall {
                num_blocks: self.num_blocks,
                block_size: self.block_size,
                max_model_len: self.max_model_len,
                needed,
            });
        }
        Ok(())
    }

    /// Rows of logits that one sequence may have in a step where each has its own launch.
    pub fn max_logits_per_seq(&self) -> usize {
        1 + self.speculation.map_or(0, |speculation| speculation.num_tokens)
    }

    /// Rows of logits in one step.
    pub(crate) fn max_num_logits(&self) -> usize {
        let rows = self.max_num_seqs.saturating_mul(self.max_logits_per_seq());
        rows.min(self.max_num_batched_tokens)
    }

    /// Most prompt tokens of one sequence in one step.
    pub(crate) fn max_chunk(&self) -> usize {
        match self.long_prefill_token_threshold {
            0 => self.max_num_batched_tokens,
            threshold => threshold,
        }
    }

    /// Blocks that admission leaves free: one in a hundred, so that those who run can grow.
    pub(crate) fn watermark(&self) -> usize {
        self.num_blocks / 100
    }

    /// Most prompt tokens that may be unfinished at once.
    pub(crate) fn max_unfinished_tokens(&self) -> usize {
        (self.num_blocks * self.block_size).saturating_add(self.max_num_queued_tokens)
    }

    /// Most requests that may be unfinished at once.
    pub(crate) fn max_unfinished(&self) -> usize {
        self.max_num_seqs.saturating_add(self.max_num_queued_reqs)
    }
}

pub(crate) fn in_range(
    name: &'static str,
    got: usize,
    min: usize,
    max: usize,
) -> Result<(), EngineError> {
    if (min..=max).contains(&got) {
        return Ok(());
    }
    Err(EngineError::InvalidOption { name, expected: format!("{min} to {max}"), got })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> EngineOptions {
        EngineOptions {
            max_model_len: 33,
            max_num_seqs: 1,
            max_num_batched_tokens: 1,
            block_size: 16,
            num_blocks: 3,
            max_num_queued_reqs: 0,
            ..EngineOptions::default()
        }
    }

    #[test]
    fn names_the_option_that_is_out_of_range() {
        let message = |change: fn(&mut EngineOptions)| {
            let mut options = good();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        good().validate().unwrap();
        assert!(message(|o| o.max_model_len = 1).starts_with("invalid max_model_len: expected 2"));
        assert!(message(|o| o.max_num_seqs = 0).starts_with("invalid max_num_seqs: expected 1"));
        assert!(message(|o| o.max_num_batched_tokens = 0).contains("max_num_batched_tokens"));
        assert!(message(|o| o.block_size = 0).starts_with("invalid block_size: expected 1"));
        assert!(message(|o| o.num_blocks = usize::MAX).starts_with("invalid num_blocks"));
        assert_eq!(
            message(|o| o.num_blocks = 2),
            "the KV cache has 2 blocks of 16 tokens, but one sequence of 33 tokens needs 3"
        );
    }
}

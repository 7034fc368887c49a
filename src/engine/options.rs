//! The limits an engine is started with, and why it may refuse them.

/// Limits of one engine.
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
}

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

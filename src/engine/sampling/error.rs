//! Why no token could be chosen from a row of logits.
//!
//! | Error | Whose fault |
//! | --- | --- |
//! | [`NotFinite`](SampleError::NotFinite) | the model's or the device's |
//! | [`NothingAllowed`](SampleError::NothingAllowed) | the request's |
//! | [`Partial`](SampleError::Partial), [`UnknownToken`](SampleError::UnknownToken) | the caller's |
//!
//! What this module deliberately does not do: it decides no fate; one sequence fails, the rest go on.

/// Why no token could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SampleError {
    /// The model gave a value that is not a finite number.
    #[error("the model produced logits that are not finite numbers: {logit} for token {token_id}")]
    NotFinite {
        /// The first such token.
        token_id: u32,
        /// Its value.
        logit: f32,
    },
    /// The request's own rules leave no token.
    #[error(
        "no token is allowed next: allowed_token_ids, bad_words, min_tokens and the grammar \
         together forbid all {vocab_size} tokens; allow more of them"
    )]
    NothingAllowed {
        /// Logits in the row.
        vocab_size: usize,
    },
    /// Only the largest logits are at hand where all are needed.
    #[error(
        "expected all logits of a row, got the {num_logits} largest: ask the device for as much \
         as the sampling parameters need"
    )]
    Partial {
        /// How many are at hand.
        num_logits: usize,
    },
    /// A token id beyond the row.
    #[error("expected a token id below the {vocab_size} logits of the row, got {token_id}")]
    UnknownToken {
        /// The id.
        token_id: u32,
        /// Logits in the row.
        vocab_size: usize,
    },
}

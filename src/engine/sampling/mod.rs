//! Sampling: from a row of logits to the next token, the way the request asked for.
//!
//! ```text
//! Request --SamplingParams--> validate ...................... once, at the door
//!
//! Row + History --processors--> penalties --> argmax          every token
//!      |                              '-----> filters --> draw <-- uniform(seed, token index)
//!      |                              '-----> candidates --> BeamSearch
//!      '--> TokenLogprobs
//! ```
//!
//! | File | Idea |
//! | --- | --- |
//! | `params`, `validate` | what a request may ask for |
//! | `sampler` | the one function that chooses a token |
//! | `row`, `largest`, `weights` | fast loops over a row: maximum, k largest, exponentials, a draw |
//! | `processors`, `penalties` | what changes logits, by what came before |
//! | `filters` | `min_p`, `top_k`, `top_p` |
//! | `logprobs` | what is told about a token |
//! | `beam` | which beams go on, and which texts were best |
//! | `random` | seeds and numbers |
//! | `error` | why there is no token |
//!
//! Every result is a pure function of the arguments: of one row, one request's parameters, its own
//! tokens and one number made from its seed. That is what makes seeded output independent of the
//! batch, and speculation exact.
//!
//! What this module deliberately does not do: stop strings, which need text, and it touches no
//! device.

mod beam;
mod error;
mod filters;
mod largest;
mod logprobs;
mod params;
mod penalties;
mod processors;
mod random;
mod row;
mod sampler;
mod validate;
mod weights;

#[cfg(test)]
mod tests;

pub(crate) use beam::{BeamSearch, BeamStep, Hypothesis};
pub use logprobs::TokenLogprobs;
pub use params::{
    BeamParams, MAX_ABS_LOGIT_BIAS, MAX_BAD_WORD_TOKENS, MAX_BAD_WORDS, MAX_CHOICES,
    MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, SamplingParams,
};
pub(crate) use penalties::TokenCounts;
pub(crate) use processors::History;
pub(crate) use random::{choice_seed, uniform};
pub(crate) use row::Row;
pub(crate) use sampler::{Sampled, Sampler, both, wanted};
pub use validate::InvalidParam;

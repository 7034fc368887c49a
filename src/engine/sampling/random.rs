//! The random numbers of sampling, as functions of a seed and a place.
//!
//! ```text
//! key = seed, 8 bytes | domain, 8 bytes | 0 ...      ChaCha8, words counted from the key's start
//!   domain 0: word 2 i, 2 i + 1  ->  the number for token i            (uniform)
//!   domain 1: word 2 c, 2 c + 1  ->  the seed of choice c, c > 0       (choice_seed)
//! ```
//!
//! A number thus depends on nothing but its request's seed, its choice and its token's index: not
//! on what else is running, what ran before, or in which order.
//!
//! What this module deliberately does not do: it keeps no state, and invents no seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Numbers for tokens.
const TOKENS: u64 = 0;
/// Seeds for choices.
const CHOICES: u64 = 1;

/// The random number in [0, 1) for the token of that index in a choice with that seed.
pub(crate) fn uniform(seed: u64, token_idx: u64) -> f64 {
    // The upper 53 bits: every multiple of 2^-53 below 1 is equally likely.
    (bits(seed, TOKENS, token_idx) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The seed of one of several choices for the same prompt. The first choice has the request's own,
/// so that it is the same text however many choices are asked for.
pub(crate) fn choice_seed(seed: u64, choice_idx: u64) -> u64 {
    if choice_idx == 0 { seed } else { bits(seed, CHOICES, choice_idx) }
}

fn bits(seed: u64, domain: u64, idx: u64) -> u64 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&domain.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    // Two 32-bit words a number.
    rng.set_word_pos(2 * u128::from(idx));
    rng.next_u64()
}

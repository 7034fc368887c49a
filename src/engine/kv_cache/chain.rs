//! Names for the contents of blocks: hashes that chain, and the salts that they start from.
//!
//! What the K and V of a token are depends on all tokens before it. So a block is not named by its
//! own tokens alone:
//!
//! ```text
//! salt, seed --> hash 0 --> hash 1 --> hash 2          hash i = f(hash i-1, tokens of block i)
//!                  |          |          |
//!              [ 5 9 2 7 ][ 1 1 4 8 ][ 3 3 0 6 ]
//! ```
//!
//! A hash only says where to look. Whether a block is the wanted one is decided by comparing the
//! tokens and the identity of the block before it, and in the end the salt: see `prefix_index`.
//! That is why a fast function of 64 bits is enough. The seed keeps a client from choosing tokens
//! that all fall into one bucket; it changes no result.
//!
//! What this module deliberately does not do: it decides no hit.

use sha2::{Digest as _, Sha256};

/// From the hash of the block before, or of the root, and the tokens of a block to its hash.
pub(super) type HashFn = fn(u64, &[u32]) -> u64;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const INCREMENT: u64 = 0xd1b5_4a32_d192_ed03;

/// The [`HashFn`] in use: multiplies to 128 bits and folds them, two tokens at a time.
pub(super) fn hash_block(parent: u64, tokens: &[u32]) -> u64 {
    let (pairs, rest) = tokens.as_chunks::<2>();
    let pairs = pairs.iter().map(|&[low, high]| u64::from(low) | u64::from(high) << 32);
    let words = pairs.chain(rest.iter().map(|&token| u64::from(token)));
    words.fold(parent, |hash, word| {
        // Without the increment, zeros would go on as zeros.
        let product = u128::from(hash.wrapping_add(INCREMENT) ^ word) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    })
}

/// Who may share with whom: 128 bits of the SHA-256 of a `cache_salt`, zero without one.
///
/// Nobody can find two salts with the same bits, and nobody can find one for given bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Salt([u32; 4]);

impl Salt {
    /// The bits for a `cache_salt`; the empty one is a salt as well.
    pub(super) fn new(salt: Option<&str>) -> Self {
        let Some(salt) = salt else { return Self::default() };
        let digest =
            Sha256::new().chain_update(b"cairn cache_salt\0").chain_update(salt).finalize();
        let word = |idx: usize| {
            let bytes = [0, 1, 2, 3].map(|byte| digest[idx * 4 + byte]);
            u32::from_le_bytes(bytes)
        };
        Self([0, 1, 2, 3].map(word))
    }

    /// The hash that the first block of a sequence is chained to.
    pub(super) fn root_hash(self, hash_fn: HashFn, seed: u64) -> u64 {
        hash_fn(seed, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn order_place_and_zeros_all_change_a_hash() {
        // Within one cache all blocks have one length, so a zero at the end is never confused.
        let contents: [&[u32]; 7] =
            [&[], &[0], &[0, 0, 0], &[0, 0, 1], &[1, 2, 3], &[2, 1, 3], &[3, 2, 1]];
        let hashes: HashSet<u64> = contents
            .iter()
            .flat_map(|tokens| [0, 1].map(|seed| hash_block(seed, tokens)))
            .collect();
        assert_eq!(hashes.len(), 14);
    }

    #[test]
    fn hashes_of_similar_blocks_spread_over_the_buckets() {
        let buckets: HashSet<u64> =
            (0..4096).map(|token| hash_block(7, &[1, 2, token, 4]) % 4096).collect();
        // Of 4096 random throws, 63% of the places are hit.
        assert!(buckets.len() > 2400, "{} of 4096 buckets", buckets.len());
    }

    #[test]
    fn no_salt_and_the_empty_salt_differ() {
        let salts = [None, Some(""), Some("a"), Some("b")].map(Salt::new);
        assert_eq!(salts.iter().collect::<HashSet<_>>().len(), 4);
        assert_eq!(Salt::new(Some("a")), salts[2]);
    }
}

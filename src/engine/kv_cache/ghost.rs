//! Hashes of blocks that were cached once and are no more, so that a miss can be explained.
//!
//! ```text
//! sets of 4, newest first      [ 81c3 04fe 9a10 .... ]  <- insert(hash): to the front of its set,
//!                              [ .... .... .... .... ]     the oldest of the four is forgotten
//! ```
//!
//! About as many hashes are remembered as there are blocks: a miss on one of them would have been a
//! hit with twice the memory. The answers only feed counters, so a wrong one in 2^64 is no harm.
//!
//! What this module deliberately does not do: it remembers no tokens and serves no hit.

const NUM_WAYS: usize = 4;
/// No hash. A block whose hash this is would not be remembered.
const EMPTY: u64 = 0;

/// A bounded memory of hashes.
#[derive(Debug)]
pub(super) struct Ghost {
    /// A power of two of them.
    sets: Vec<[u64; NUM_WAYS]>,
}

impl Ghost {
    /// Room for at least `capacity` hashes.
    pub(super) fn new(capacity: usize) -> Self {
        Self { sets: vec![[EMPTY; NUM_WAYS]; capacity.div_ceil(NUM_WAYS).next_power_of_two()] }
    }

    fn set_idx(&self, hash: u64) -> usize {
        hash as usize & (self.sets.len() - 1)
    }

    /// Remembers a hash as the newest of its set.
    pub(super) fn insert(&mut self, hash: u64) {
        let idx = self.set_idx(hash);
        let set = &mut self.sets[idx];
        let end = set.iter().position(|&other| other == hash).unwrap_or(NUM_WAYS - 1);
        set[..=end].rotate_right(1);
        set[0] = hash;
    }

    /// Whether the hash is remembered.
    pub(super) fn contains(&self, hash: u64) -> bool {
        hash != EMPTY && self.sets[self.set_idx(hash)].contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_a_set_is_forgotten() {
        let mut ghost = Ghost::new(4);
        for hash in [1, 2, 3, 4, 2, 5] {
            ghost.insert(hash);
        }
        assert_eq!(ghost.sets, [[5, 2, 4, 3]]);
        assert!(!ghost.contains(1) && ghost.contains(2));
    }

    #[test]
    fn nothing_is_remembered_at_first() {
        let ghost = Ghost::new(9);
        assert_eq!(ghost.sets.len(), 4);
        assert!(!ghost.contains(0) && !ghost.contains(8));
    }
}

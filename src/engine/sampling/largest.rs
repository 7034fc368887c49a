//! The k largest logits of a row, without sorting the row.
//!
//! ```text
//! row      | 64 logits | 64 logits | 64 logits | ...          a maximum for each block
//! bound    the k-th largest of the maxima: at least k logits reach it
//! keys     whatever reaches the bound, packed for sorting  -->  select k  -->  sort
//!
//! key      [ logit as an ordered integer, inverted : 32 | token id : 32 ]   smallest = likeliest
//! ```
//!
//! Forbidden tokens, at minus infinity, are never among the largest.
//!
//! What this module deliberately does not do: probabilities.

use super::row::{BLOCK, Row, max_of, pairs};

/// More keys than this are cut to k before they are sorted.
const SORTED_AT_ONCE: usize = 256;

/// A token and its logit as one integer: the likelier, the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    pub(super) fn new(token_id: u32, logit: f32) -> Self {
        // Plus zero, since minus zero is no other logit than zero.
        let bits = (logit + 0.0).to_bits();
        let is_negative = bits >> 31 == 1;
        // Descending: of a negative number the bits already are.
        let descending = if is_negative { bits } else { bits ^ 0x7fff_ffff };
        Self(u64::from(descending) << 32 | u64::from(token_id))
    }

    pub(super) fn token_id(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn logit(self) -> f32 {
        let descending = (self.0 >> 32) as u32;
        let is_negative = descending >> 31 == 1;
        f32::from_bits(if is_negative { descending } else { descending ^ 0x7fff_ffff })
    }
}

/// Finds largest logits; keeps only its buffers.
#[derive(Debug, Default)]
pub(super) struct Largest {
    keys: Vec<Key>,
    maxima: Vec<f32>,
}

impl Largest {
    /// The k largest of a row, or all where there are fewer, likeliest first: an order that a whole
    /// row and its largest entries agree on.
    pub(super) fn of(&mut self, row: Row<'_>, k: usize) -> &[Key] {
        self.keys.clear();
        match row {
            Row::Logits(logits) => self.gather(logits, k),
            Row::Top { values, indices } => {
                self.keys.extend(pairs(values, indices).map(|(id, logit)| Key::new(id, logit)));
            }
        }
        // Few keys come from a device in order already, and a selection would undo it.
        if k < self.keys.len() && self.keys.len() > SORTED_AT_ONCE {
            self.keys.select_nth_unstable(k);
            self.keys.truncate(k);
        }
        self.keys.sort_unstable();
        self.keys.truncate(k);
        &self.keys
    }

    /// Keys of at least the k largest.
    fn gather(&mut self, logits: &[f32], k: usize) {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(BLOCK).map(max_of));
        let bound = self.kth_largest_maximum(k);
        for (block_idx, block) in logits.chunks(BLOCK).enumerate() {
            if max_of(block) < bound {
                continue;
            }
            for (token_id, &logit) in ((block_idx * BLOCK) as u32..).zip(block) {
                if logit >= bound && logit > f32::NEG_INFINITY {
                    self.keys.push(Key::new(token_id, logit));
                }
            }
        }
    }

    /// Minus infinity if there are no k blocks. Permutes the maxima.
    fn kth_largest_maximum(&mut self, k: usize) -> f32 {
        if k == 0 || k > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        *self.maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_holds_its_token_and_logit() {
        for logit in [f32::MIN, -2.5, -f32::MIN_POSITIVE, 0.0, 1.0, f32::MAX, f32::NEG_INFINITY] {
            let key = Key::new(77, logit);
            assert_eq!((key.token_id(), key.logit().to_bits()), (77, logit.to_bits()));
        }
        assert_eq!(Key::new(5, -0.0), Key::new(5, 0.0));
    }

    proptest! {
        #[test]
        fn the_largest_are_those_that_sorting_finds(
            logits in prop::collection::vec(
                prop_oneof![
                    (-6_i32..6).prop_map(|logit| logit as f32 * 0.5),
                    -3.0_f32..3.0,
                    Just(f32::NEG_INFINITY),
                ],
                0..1000,
            ),
            k in prop_oneof![0_usize..20, 0_usize..1200],
        ) {
            let mut expected: Vec<u32> = (0..logits.len() as u32)
                .filter(|id| logits[*id as usize] > f32::NEG_INFINITY)
                .collect();
            let logit = |id: &u32| logits[*id as usize];
            expected.sort_by(|a, b| logit(b).partial_cmp(&logit(a)).unwrap().then(a.cmp(b)));
            expected.truncate(k);
            let mut largest = Largest::default();
            let got: Vec<u32> =
                largest.of(Row::Logits(&logits), k).iter().map(|key| key.token_id()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

//! Which tokens may come next, as bits.

use llguidance::toktrie::SimpleVob;

/// Tokens of one word of bits.
const WORD: usize = u32::BITS as usize;

/// Which tokens may come next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>,
}

impl Mask {
    /// The bits that the library set. Tokens that stand for the same bytes as another one are
    /// allowed where that one is.
    pub(super) fn new(bits: &SimpleVob, twins: &[(u32, u32)]) -> Self {
        let mut mask = Self { words: bits.as_slice().to_vec() };
        // A set's spare bits may be anything.
        mask.words.truncate(bits.len().div_ceil(WORD));
        if let (Some(last), rest @ 1..) = (mask.words.last_mut(), bits.len() % WORD) {
            *last &= (1 << rest) - 1;
        }
        for &(twin, of) in twins {
            if mask.allows(of) {
                mask.allow(twin);
            }
        }
        mask
    }

    /// A mask of those tokens.
    #[cfg(test)]
    pub(crate) fn of(token_ids: &[u32]) -> Self {
        let mut mask = Self::default();
        for &token_id in token_ids {
            let num_words = token_id as usize / WORD + 1;
            mask.words.resize(num_words.max(mask.words.len()), 0);
            mask.allow(token_id);
        }
        mask
    }

    fn allow(&mut self, token_id: u32) {
        if let Some(word) = self.words.get_mut(token_id as usize / WORD) {
            *word |= 1 << (token_id as usize % WORD);
        }
    }

    /// Whether a token may come next.
    pub fn allows(&self, token_id: u32) -> bool {
        let word = self.words.get(token_id as usize / WORD).copied().unwrap_or(0);
        word >> (token_id as usize % WORD) & 1 == 1
    }

    /// How many tokens may come next.
    pub fn num_allowed(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Makes the logits of all other tokens minus infinity; whatever is beyond the mask is no token.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(WORD).zip(words) {
            match word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    // Without a jump for each token, which nobody could predict.
                    for (idx, logit) in logits.iter_mut().enumerate() {
                        let is_allowed = word >> idx & 1 == 1;
                        *logit = if is_allowed { *logit } else { f32::NEG_INFINITY };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_or_beyond_the_mask_is_forbidden() {
        let mask = Mask::of(&[0, 33, 40]);
        let mut logits = vec![1.0; 100];
        mask.apply(&mut logits);
        let left: Vec<usize> = (0..100).filter(|idx| logits[*idx] > 0.0).collect();
        assert_eq!(left, [0, 33, 40]);
        assert!(mask.allows(33) && !mask.allows(32) && !mask.allows(u32::MAX));
        assert_eq!(mask.num_allowed(), 3);
    }

    #[test]
    fn twins_are_allowed_together_and_spare_bits_never() {
        let mut bits = SimpleVob::alloc(40);
        bits.set_all(true);
        assert_eq!(Mask::new(&bits, &[]).num_allowed(), 40);
        let mut bits = SimpleVob::alloc(40);
        bits.allow_token(3);
        let mask = Mask::new(&bits, &[(39, 3), (38, 4)]);
        assert!(mask.allows(3) && mask.allows(39) && !mask.allows(38));
    }
}

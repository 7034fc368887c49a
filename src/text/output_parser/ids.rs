//! Names of calls, from a seed.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Makes one name after the other; those of different seeds differ.
#[derive(Clone, Debug)]
pub(super) struct CallIds {
    state: u64,
}

impl CallIds {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// As `OpenAI` writes them, or nine characters, which is all that Mistral's templates take.
    pub(super) fn next(&mut self, is_short: bool) -> String {
        let (prefix, len) = if is_short { ("", 9) } else { ("call_", 24) };
        let characters = (0..len).map(|_| {
            let index = self.random() % ALPHABET.len() as u64;
            char::from(ALPHABET[index as usize])
        });
        prefix.chars().chain(characters).collect()
    }

    /// `SplitMix64`: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

//! Prompts after which the CPU backend has no doubt which token is the likeliest.
//!
//! Attention on Ascend computes in f16 or bf16, so a logit differs a little, and between two that
//! are nearly equal another one wins. With random weights that happens within a few hundred tokens.
//! So prompts are drawn until every step has a clear winner; the draws are the same each time.
//!
//! ```text
//! gap of a step = largest logit - second largest
//! ```

use std::collections::HashSet;
use std::path::Path;

use cairn::model::WeightPolicy;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::common::{Runner, Setup};

/// A gap that attention in f16 leaves open: at least twice what was ever seen to change hands.
pub(crate) const CLEAR_F16: f32 = 0.01;
/// The same where everything is computed in f16, not attention alone.
pub(crate) const CLEAR_ALL_F16: f32 = 0.05;
/// And in bf16, which has three bits less.
pub(crate) const CLEAR_BF16: f32 = 0.15;
/// Tokens of an answer that is not a mere loop.
const MIN_DISTINCT: usize = 8;
const MAX_DRAWS: usize = 300;

/// A prompt, and what the CPU backend makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Greedy {
    pub(crate) prompt: String,
    pub(crate) tokens: Vec<u32>,
    /// How many of the tokens were clear.
    pub(crate) num_clear: usize,
}

impl Greedy {
    fn is_no_loop(&self) -> bool {
        let distinct: HashSet<&u32> = self.tokens.iter().collect();
        distinct.len() >= MIN_DISTINCT.min(self.tokens.len() / 2)
    }
}

/// A model on the CPU, and random prompts for it.
pub(crate) struct Oracle {
    runner: Runner,
    random: ChaCha8Rng,
}

impl Oracle {
    /// For sequences of up to `max_len` tokens. The tokens of the model's prompts are bytes.
    pub(crate) fn open(model: &Path, max_len: usize) -> Self {
        let setup = Setup { policy: WeightPolicy::AsStored, ..Setup::default() };
        Self {
            runner: Runner::open(model, max_len, setup),
            random: ChaCha8Rng::seed_from_u64(max_len as u64),
        }
    }

    /// The greedy continuation of a prompt, up to the first token that is not clear by that gap;
    /// that one is the last.
    pub(crate) fn greedy(&mut self, prompt: &str, num_tokens: usize, clear: f32) -> Greedy {
        let mut greedy = Greedy { prompt: prompt.to_owned(), tokens: Vec::new(), num_clear: 0 };
        let mut next: Vec<u32> = prompt.bytes().map(|byte| u32::from(byte) + 3).collect();
        self.runner.reset();
        while greedy.tokens.len() < num_tokens {
            let logits = self.runner.logits(&next).pop().unwrap();
            let (token, gap) = best(&logits);
            greedy.tokens.push(token);
            if gap < clear {
                break;
            }
            greedy.num_clear += 1;
            next = vec![token];
        }
        greedy
    }

    /// A random prompt of that length.
    pub(crate) fn prompt(&mut self, len: usize) -> String {
        (0..len).map(|_| char::from(b' ' + (self.random.next_u32() % 95) as u8)).collect()
    }

    /// One of that length without any doubt in its continuation.
    pub(crate) fn clear(&mut self, len: usize, num_tokens: usize, gap: f32) -> Greedy {
        (0..MAX_DRAWS)
            .map(|_| {
                let prompt = self.prompt(len);
                self.greedy(&prompt, num_tokens, gap)
            })
            .find(|greedy| greedy.num_clear == num_tokens && greedy.is_no_loop())
            .unwrap_or_else(|| panic!("no clear prompt of {len} bytes in {MAX_DRAWS} draws"))
    }
}

/// The token with the largest logit, and its gap.
fn best(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        second = second.max(best.1.min(logit));
        if logit > best.1 {
            best = (token, logit);
        }
    }
    (best.0, best.1 - second)
}

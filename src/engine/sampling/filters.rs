//! From logits and parameters to the tokens that may be drawn, and to one of them.
//!
//! | Step | Keeps |
//! | --- | --- |
//! | `min_p` | tokens at least `min_p` times as likely as the likeliest |
//! | `top_k` | the k likeliest of those |
//! | `top_p` | the fewest of those, likeliest first, whose share of their probability reaches `top_p` |
//!
//! ```text
//! top_k:                 k largest logits -> weigh -> min_p -> top_p -> draw
//! no top_k:    weigh the row -> min_p -> draw from the row, or
//!                                        gather what top_p could keep -> top_p -> draw
//! ```
//!
//! Steps may change places where that changes no result: `min_p` and `top_k` both keep the
//! likeliest, so the order of the two does not matter.
//!
//! `top_p` sorts nothing but the few tokens around its border. Tokens lighter than `1 - top_p` of the
//! average cannot be needed: all of them together weigh less than `1 - top_p` of the whole. Among
//! the others the border is found by halving the range of weights it must lie in: what is heavier
//! than its middle reaches the goal, or does not.
//!
//! What this module deliberately does not do: it asks for no random number, it is given one.

use super::largest::{Key, Largest};
use super::params::SamplingParams;
use super::row::{BLOCK, CheckedRow, Row, max_of, sum_of};
use super::sampler::MAX_WANTED;
use super::weights::{Weigher, draw};

/// So few are all sorted.
const SORTED_AT_ONCE: usize = 64;
/// Each halves the range of weights around the border of `top_p`. What is left of twenty octaves is
/// a fiftieth of one, and few tokens' weights are as equal as that.
const NUM_HALVINGS: u32 = 10;

/// A weight and its token as one integer: the heavier, the smaller; the lower id among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heavier(u64);

impl Heavier {
    /// The bits of numbers that are not negative are ordered as the numbers are.
    fn new(token_id: u32, weight: f32) -> Self {
        Self(u64::from(!weight.to_bits()) << 32 | u64::from(token_id))
    }

    fn weight(self) -> f32 {
        f32::from_bits(!((self.0 >> 32) as u32))
    }
}

/// The tokens that may be drawn, in an order that depends on the row and the parameters alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidates<'a> {
    /// `None`: a weight's index is its token.
    token_ids: Option<&'a [u32]>,
    /// As many; some may be zero.
    weights: &'a [f32],
}

impl Candidates<'_> {
    /// The token at `random`, in [0, 1). `None` only if no weight is above zero.
    pub(super) fn draw(self, random: f64) -> Option<u32> {
        let idx = draw(self.weights, random)?;
        Some(self.token_ids.map_or(idx as u32, |token_ids| token_ids[idx]))
    }

    /// The tokens that have a weight, and it.
    #[cfg(test)]
    pub(super) fn iter(self) -> impl Iterator<Item = (u32, f32)> {
        let token_id = move |idx: usize| self.token_ids.map_or(idx as u32, |ids| ids[idx]);
        let all = self.weights.iter().enumerate().map(move |(idx, w)| (token_id(idx), *w));
        all.filter(|(_, weight)| *weight > 0.0)
    }
}

/// Applies the filters; keeps only its buffers.
#[derive(Debug, Default)]
pub(super) struct Filters {
    row_weights: Vec<f32>,
    token_ids: Vec<u32>,
    weights: Vec<f32>,
    by_weight: Vec<Heavier>,
}

impl Filters {
    /// What may be drawn from a row. The temperature is above zero.
    pub(super) fn apply(
        &mut self,
        row: CheckedRow<'_>,
        params: &SamplingParams,
        largest: &mut Largest,
    ) -> Candidates<'_> {
        let weigher = Weigher::new(row.max, params.temperature, params.min_p);
        let top_p = f64::from(params.top_p);
        let top_k = params.top_k.map_or(usize::MAX, |top_k| top_k as usize);
        let sum = match row.row {
            // A `top_k` for which a device may give the largest only is never taken for none, or
            // candidates would have another order then.
            Row::Logits(logits) if top_k >= logits.len().max(MAX_WANTED + 1) => {
                let sum = weigher.weigh_all(logits, &mut self.row_weights);
                if params.top_p >= 1.0 {
                    return Candidates { token_ids: None, weights: &self.row_weights };
                }
                // Rounded down, so that it is no border itself.
                let average = sum / logits.len() as f64;
                let least = (1.0 - top_p) * average * 0.999;
                self.gather((least as f32).max(f32::MIN_POSITIVE));
                sum
            }
            row => self.weigh_largest(largest.of(row, top_k), weigher),
        };
        if params.top_p < 1.0 {
            self.keep_top_p(top_p * sum);
        }
        Candidates { token_ids: Some(&self.token_ids), weights: &self.weights }
    }

    /// Makes tokens candidates, in their order, and says what they weigh.
    fn weigh_largest(&mut self, keys: &[Key], weigher: Weigher) -> f64 {
        self.token_ids.clear();
        self.token_ids.extend(keys.iter().map(|key| key.token_id()));
        self.weights.clear();
        self.weights.extend(keys.iter().map(|key| weigher.weigh(key.logit())));
        sum_of(&self.weights, |weight| weight)
    }

    /// Makes the tokens of the row candidates that weigh at least `least`, which is above zero.
    fn gather(&mut self, least: f32) {
        self.token_ids.clear();
        self.weights.clear();
        for (block_idx, block) in self.row_weights.chunks(BLOCK).enumerate() {
            if max_of(block) < least {
                continue;
            }
            // Without a branch, which could not be foretold: what is too light is written over.
            let mut num_kept = 0;
            let (mut token_ids, mut weights) = ([0; BLOCK], [0.0; BLOCK]);
            for (token_id, &weight) in ((block_idx * BLOCK) as u32..).zip(block) {
                token_ids[num_kept] = token_id;
                weights[num_kept] = weight;
                num_kept += usize::from(weight >= least);
            }
            self.token_ids.extend_from_slice(&token_ids[..num_kept]);
            self.weights.extend_from_slice(&weights[..num_kept]);
        }
    }

    /// Leaves the fewest candidates, heaviest first, that together weigh `goal`; the others no
    /// longer weigh anything.
    fn keep_top_p(&mut self, goal: f64) {
        let (low, high) = border(&self.weights, goal);
        let candidates = || self.token_ids.iter().copied().zip(self.weights.iter().copied());
        let at_border = candidates().filter(|(_, weight)| (low..high).contains(&weight.to_bits()));
        self.by_weight.clear();
        self.by_weight.extend(at_border.map(|(id, weight)| Heavier::new(id, weight)));
        self.by_weight.sort_unstable();

        let mut sum = sum_from(&self.weights, high);
        let mut reaches_goal = |candidate: &Heavier| {
            sum += f64::from(candidate.weight());
            sum >= goal
        };
        // Without one, rounding has let all of them weigh less: all are needed.
        let last = self.by_weight.iter().copied().find(|candidate| reaches_goal(candidate));
        let last = last.unwrap_or(Heavier::new(u32::MAX, 0.0));
        for (token_id, weight) in self.token_ids.iter().zip(&mut self.weights) {
            let is_needed = Heavier::new(*token_id, *weight) <= last;
            *weight = if is_needed { *weight } else { 0.0 };
        }
    }
}

/// Bits of two weights: all that weigh at least the second do not weigh `goal` together; those that
/// weigh at least the first do, if any do. Few lie between them.
fn border(weights: &[f32], goal: f64) -> (u32, u32) {
    let bits = |weight: &f32| weight.to_bits();
    // No weight is above 1. The bits of numbers that are not negative are ordered as they are.
    let mut high = 1.0_f32.to_bits() + 1;
    if weights.len() <= SORTED_AT_ONCE {
        return (0, high);
    }
    let mut low = weights.iter().map(bits).min().unwrap_or(0);
    for _ in 0..NUM_HALVINGS {
        let middle = low.midpoint(high);
        if sum_from(weights, middle) >= goal {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low, high)
}

/// What the weights from that one on weigh together.
fn sum_from(weights: &[f32], least_bits: u32) -> f64 {
    let least = f32::from_bits(least_bits);
    sum_of(weights, |weight| if weight >= least { weight } else { 0.0 })
}

//! From logits to weights, and from weights to one of them.
//!
//! ```text
//! weight = exp((logit - max) / temperature)        the likeliest token has 1, a forbidden one 0
//!
//! random |------------------------------>|          a share of the sum of all weights
//!        |  w0  | w1 |      w2      |  w3   | ...   the weight it falls into is drawn
//! ```
//!
//! The exponential is our own: single precision, and nothing but additions and multiplications, so
//! that it takes vector registers, and so that it is the same to the last bit on every machine,
//! which the one of a mathematical library is not. Sums are in double precision, in an order that
//! depends on the number of weights alone.
//!
//! What this module deliberately does not do: it knows no token ids and no parameters.

use super::error::SampleError;
use super::row::{BLOCK, CheckedRow, sum_of};

/// Exponents below this give a weight of zero: together such tokens weigh less than a vocabulary of
/// them times 10^-37.
const LEAST_EXPONENT: f32 = -87.0;
/// Slightly above `exp(LEAST_EXPONENT)`.
const LEAST_WEIGHT: f32 = 1.7e-38;

/// `exp(x)` for `LEAST_EXPONENT <= x <= 0` to about one unit in the last place; 1 for zero.
///
/// With n the integer next to x / ln 2: exp(x) = 2^n exp(r), r = x - n ln 2, |r| <= ln 2 / 2, and
/// exp(r) is its Taylor polynomial, whose first term left out is below 2^-27.
#[expect(clippy::excessive_precision, reason = "the two halves of ln 2 are written as they are")]
fn exp(x: f32) -> f32 {
    /// Added to a small number, this leaves it rounded to an integer, in the last bits.
    const ROUND: f32 = 12_582_912.0;
    /// So few bits that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_400_5e-4;
    /// Reciprocals of the factorials from 6 to 2, after the one of 7.
    const TERMS: [f32; 5] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let tail = TERMS.iter().fold(1.0 / 5040.0, |sum, term| sum * r + term);
    let exp_r = 1.0 + (r + r * r * tail);
    // n moved into the place of the exponent, whose bias is 127.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    exp_r * power
}

/// How logits become weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weigher {
    max: f32,
    /// One over the temperature.
    scale: f32,
    /// Lower weights become zero.
    least: f32,
}

impl Weigher {
    /// For a row whose largest logit is `max`, which is finite; the temperature is above zero.
    /// Tokens less than `min_p` times as likely as the likeliest get no weight.
    pub(super) fn new(max: f32, temperature: f32, min_p: f32) -> Self {
        // Finite, so that zero times it is zero.
        let scale = (1.0 / temperature).min(f32::MAX);
        Self { max, scale, least: min_p.max(LEAST_WEIGHT) }
    }

    /// The weight of a finite logit that is not above the largest, or of minus infinity.
    pub(super) fn weigh(self, logit: f32) -> f32 {
        let exponent = (logit - self.max) * self.scale;
        let weight = exp(if exponent > LEAST_EXPONENT { exponent } else { LEAST_EXPONENT });
        if weight >= self.least { weight } else { 0.0 }
    }

    /// The weights of many logits, in the place of what `weights` held, and their sum.
    pub(super) fn weigh_all(self, logits: &[f32], weights: &mut Vec<f32>) -> f64 {
        weights.resize(logits.len(), 0.0);
        let mut sum = 0.0;
        for (block, logits) in weights.chunks_mut(BLOCK).zip(logits.chunks(BLOCK)) {
            for (weight, logit) in block.iter_mut().zip(logits) {
                *weight = self.weigh(*logit);
            }
            sum += sum_of(block, |weight| weight);
        }
        sum
    }
}

/// The logarithm of the sum of the exponentials of all logits. Changes `weights`.
///
/// # Errors
/// [`SampleError::Partial`] when the row is not all of them.
pub(super) fn log_sum_exp(row: CheckedRow<'_>, weights: &mut Vec<f32>) -> Result<f64, SampleError> {
    let sum = Weigher::new(row.max, 1.0, 0.0).weigh_all(row.row.all()?, weights);
    Ok(f64::from(row.max) + sum.ln())
}

/// The index of the weight at `random`, in [0, 1), of the cumulative distribution. `None` only if
/// no weight is above zero.
pub(super) fn draw(weights: &[f32], random: f64) -> Option<usize> {
    let sum = |block| sum_of(block, |weight| weight);
    let total: f64 = weights.chunks(BLOCK).map(sum).sum();
    let mut left = random * total;
    for (block_idx, block) in weights.chunks(BLOCK).enumerate() {
        let block_sum = sum(block);
        if left >= block_sum {
            left -= block_sum;
            continue;
        }
        for (idx, weight) in block.iter().enumerate() {
            left -= f64::from(*weight);
            if left < 0.0 {
                return Some(block_idx * BLOCK + idx);
            }
        }
    }
    // Rounding left a crumb: it belongs to the last token that has any probability.
    weights.iter().rposition(|weight| *weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_the_last_places() {
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        for step in 0..870_000_u32 {
            let x = step as f32 * -1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 1.5e-7, "exp({x}) is off by {error}");
        }
    }

    #[test]
    fn a_forbidden_token_weighs_nothing() {
        for temperature in [f32::from_bits(1), 1.0, 100.0] {
            let weigher = Weigher::new(-3.0, temperature, 0.0);
            assert_eq!(weigher.weigh(f32::NEG_INFINITY).to_bits(), 0);
            assert_eq!(weigher.weigh(-3.0).to_bits(), 1.0_f32.to_bits());
        }
    }

    #[test]
    fn every_random_number_draws_a_token_with_a_weight() {
        let weights: Vec<f32> =
            (0..200_u16).map(|idx| if idx % 3 == 0 { 0.0 } else { f32::from(idx) }).collect();
        for random in [0.0, 0.3, 1.0 - f64::EPSILON / 2.0] {
            assert!(weights[draw(&weights, random).unwrap()] > 0.0);
        }
        assert_eq!(draw(&weights, 0.0), Some(1));
        assert_eq!(draw(&[0.0; 70], 0.5), None);
        assert_eq!(draw(&[], 0.5), None);
    }
}

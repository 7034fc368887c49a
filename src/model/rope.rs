//! Rotary position embeddings: the tables of cosines and sines that the graph takes as weights.
//!
//! Position `p` turns the `i`-th pair of a head's elements by the angle `p * inv_freq[i]`
//! (`RoFormer`, arXiv 2104.09864, section 3.4.2), where `inv_freq[i] = theta ^ (-2 i / head_dim)`,
//! stretched for long contexts in one of these ways:
//!
//! | scaling | `inv_freq[i]` becomes | source |
//! | --- | --- | --- |
//! | none | itself | `RoFormer` |
//! | linear | divided by `factor` | position interpolation, arXiv 2306.15595 |
//! | llama3 | divided by `factor` where the wavelength is long, a mixture in between | Llama 3.1's `apply_scaling` |
//! | yarn | a mixture by the number of rotations; tables times `attention_factor` | arXiv 2309.00071, section 3 |
//! | frequency factors | divided by `factors[i]` | `rope_freqs.weight` of GGUF files |
//!
//! Every step is rounded to f32 where Transformers' `modeling_rope_utils.py` does, since an angle
//! is a large number times a frequency and shows each bit of it. Powers, cosines and sines are
//! computed in f64 and rounded once, which is what f32 functions approximate.
//!
//! It does not rotate anything, and does not know which elements form a pair: that is
//! [`RopeStyle`](super::config::RopeStyle), an attribute of the rope op.

use super::config::{RopeConfig, RopeScaling};

/// Cosines and sines, `[num_positions, head_dim / 2]` each, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// Cosine of each angle, times the attention factor.
    pub cos: Vec<f32>,
    /// Sine of each angle, times the attention factor.
    pub sin: Vec<f32>,
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RopeError {
    /// The tables do not fit into memory.
    #[error(
        "rope tables of {num_positions} positions and {pairs} frequencies do not fit into memory"
    )]
    OutOfMemory {
        /// Rows asked for.
        num_positions: usize,
        /// Columns asked for.
        pairs: usize,
    },
    /// The divisors of the frequencies are not one for each.
    #[error("frequency factors do not match: expected {expected}, half a head, got {got}")]
    FrequencyFactors {
        /// Half a head.
        expected: usize,
        /// How many there are.
        got: usize,
    },
}

/// The tables of positions 0 to `num_positions - 1`.
///
/// # Errors
/// Tables that do not fit into memory, or frequency factors that are not one per pair.
pub fn rope_tables(
    config: &RopeConfig,
    head_dim: usize,
    num_positions: usize,
) -> Result<RopeTables, RopeError> {
    let frequencies = inverse_frequencies(config, head_dim)?;
    let attention_factor = match config.scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
        _ => 1.0,
    };
    let pairs = frequencies.len();
    let mut cos = reserve(num_positions, pairs)?;
    let mut sin = reserve(num_positions, pairs)?;
    for position in 0..num_positions {
        for &frequency in &frequencies {
            let angle = f64::from(position as f32 * frequency);
            cos.push(angle.cos() as f32 * attention_factor);
            sin.push(angle.sin() as f32 * attention_factor);
        }
    }
    Ok(RopeTables { cos, sin })
}

fn reserve(num_positions: usize, pairs: usize) -> Result<Vec<f32>, RopeError> {
    let out_of_memory = || RopeError::OutOfMemory { num_positions, pairs };
    let len = num_positions.checked_mul(pairs).ok_or_else(out_of_memory)?;
    let mut table = Vec::new();
    table.try_reserve_exact(len).map_err(|_| out_of_memory())?;
    Ok(table)
}

/// The angle of one step for each pair, `[head_dim / 2]`.
fn inverse_frequencies(config: &RopeConfig, head_dim: usize) -> Result<Vec<f32>, RopeError> {
    let mut frequencies: Vec<f32> =
        (0..head_dim / 2).map(|pair| 1.0 / wavelength_base(config.theta, pair, head_dim)).collect();
    match &config.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            for frequency in &mut frequencies {
                *frequency /= *factor as f32;
            }
        }
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let stretch = Llama3 {
                factor: factor as f32,
                low: low_freq_factor,
                high: high_freq_factor,
                context: original_max_position_embeddings as f64,
            };
            for frequency in &mut frequencies {
                *frequency = stretch.apply(*frequency);
            }
        }
        &RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor: _,
        } => {
            let ramp = YarnRamp::new(
                config.theta,
                head_dim,
                original_max_position_embeddings,
                (beta_fast, beta_slow),
                truncate,
            );
            for (pair, frequency) in frequencies.iter_mut().enumerate() {
                let base = wavelength_base(config.theta, pair, head_dim);
                let stretched = 1.0 / (factor as f32 * base);
                let keep = 1.0 - ramp.at(pair);
                *frequency = stretched * (1.0 - keep) + *frequency * keep;
            }
        }
        RopeScaling::FrequencyFactors(factors) => {
            if factors.len() != frequencies.len() {
                return Err(RopeError::FrequencyFactors {
                    expected: frequencies.len(),
                    got: factors.len(),
                });
            }
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= factor;
            }
        }
    }
    Ok(frequencies)
}

/// `theta ^ (2 pair / head_dim)`: the wavelength of a pair in units of 2 pi positions.
fn wavelength_base(theta: f64, pair: usize, head_dim: usize) -> f32 {
    let exponent = (2 * pair) as f32 / head_dim as f32;
    f64::from(theta as f32).powf(f64::from(exponent)) as f32
}

/// Llama 3.1's stretching, of one frequency at a time.
struct Llama3 {
    factor: f32,
    low: f64,
    high: f64,
    context: f64,
}

impl Llama3 {
    fn apply(&self, frequency: f32) -> f32 {
        let wavelength = std::f32::consts::TAU / frequency;
        if wavelength > (self.context / self.low) as f32 {
            return frequency / self.factor;
        }
        if wavelength < (self.context / self.high) as f32 {
            return frequency;
        }
        let smooth =
            (self.context as f32 / wavelength - self.low as f32) / (self.high - self.low) as f32;
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// `YaRN`'s ramp over the pairs: 0 where a frequency stays, 1 where it is divided.
struct YarnRamp {
    low: f64,
    high: f64,
}

impl YarnRamp {
    fn new(
        theta: f64,
        head_dim: usize,
        original_max_position_embeddings: usize,
        (beta_fast, beta_slow): (f64, f64),
        truncate: bool,
    ) -> Self {
        // The pair that makes so many rotations in the original context: the inverse of its
        // wavelength, section 3.2.
        let pair_of = |rotations: f64| {
            let wavelength = original_max_position_embeddings as f64 / rotations;
            head_dim as f64 * (wavelength / std::f64::consts::TAU).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        if (low..=low).contains(&high) {
            high += 0.001;
        }
        Self { low, high }
    }

    fn at(&self, pair: usize) -> f32 {
        let ramp = (pair as f32 - self.low as f32) / (self.high - self.low) as f32;
        ramp.clamp(0.0, 1.0)
    }
}

/// The factor on cos and sin that `YaRN` recommends for a stretching by `factor` (equation 22 of
/// the paper), or the quotient that `mscale` and `mscale_all_dim` ask for.
pub fn yarn_attention_factor(factor: f64, mscale: Option<(f64, f64)>) -> f64 {
    let recommended = |mscale: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    };
    match mscale {
        Some((mscale, mscale_all_dim)) => recommended(mscale) / recommended(mscale_all_dim),
        None => recommended(1.0),
    }
}

#[cfg(test)]
mod tests;

//! One row of logits, whole or its largest entries, and the two questions that every row is asked:
//! is it sound, and which token is the likeliest.
//!
//! ```text
//! Row::Logits   [ 0.1 | 2.5 | -1.0 | 2.5 | ... ]      by token id, as a graph gives them
//! Row::Top      values [2.5, 2.5]  indices [3, 1]     what a device kept of them
//! ```
//!
//! Among tokens of equal logit the lower id is the likelier one, for a device as for us; zero and
//! minus zero are equal.
//!
//! What this module deliberately does not do: it changes no logit.

use super::error::SampleError;

/// Logits that are looked at together: a few vector registers' worth.
pub(super) const BLOCK: usize = 64;
/// Values side by side in one loop, so that the compiler can use vector registers.
const LANES: usize = 8;

/// What is known of one row of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    /// All of them, by token id.
    Logits(&'a [f32]),
    /// The largest, in any order: those that [`wanted`](super::wanted) named, or more.
    Top {
        /// The logits.
        values: &'a [f32],
        /// Their token ids: as many, and none twice.
        indices: &'a [i32],
    },
}

impl<'a> Row<'a> {
    /// The logits by token id.
    ///
    /// # Errors
    /// [`SampleError::Partial`] when only the largest are known.
    pub(super) fn all(self) -> Result<&'a [f32], SampleError> {
        match self {
            Self::Logits(logits) => Ok(logits),
            Self::Top { values, .. } => Err(SampleError::Partial { num_logits: values.len() }),
        }
    }

    /// A row as the model gave it, looked through once.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] for the first logit that is NaN or infinite,
    /// [`SampleError::NothingAllowed`] for an empty row.
    pub(super) fn checked(self) -> Result<CheckedRow<'a>, SampleError> {
        match self {
            Self::Logits(logits) if !is_finite(logits) => {
                Err(not_finite((0..).zip(logits.iter().copied())))
            }
            Self::Top { values, indices } if !is_finite(values) => {
                Err(not_finite(pairs(values, indices)))
            }
            sound => sound.maximised(),
        }
    }

    /// The same for a row whose logits are finite, or minus infinity for forbidden tokens.
    ///
    /// # Errors
    /// [`SampleError::NothingAllowed`] when all are forbidden.
    pub(super) fn maximised(self) -> Result<CheckedRow<'a>, SampleError> {
        let (vocab_size, largest) = match self {
            Self::Logits(logits) => (logits.len(), argmax(logits)),
            Self::Top { values, indices } => {
                let likelier = |best: (u32, f32), next: (u32, f32)| {
                    let is_likelier = next.1 > best.1 || (next.1 >= best.1 && next.0 < best.0);
                    if is_likelier { next } else { best }
                };
                (values.len(), pairs(values, indices).reduce(likelier))
            }
        };
        let (argmax, max) = largest.ok_or(SampleError::NothingAllowed { vocab_size })?;
        Ok(CheckedRow { row: self, argmax, max })
    }
}

/// A row without NaN in which at least one token is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckedRow<'a> {
    pub(super) row: Row<'a>,
    /// The lowest id of the largest logit.
    pub(super) argmax: u32,
    /// The largest logit, which is finite.
    pub(super) max: f32,
}

/// Token ids and logits of the largest.
pub(super) fn pairs(values: &[f32], indices: &[i32]) -> impl Iterator<Item = (u32, f32)> {
    indices.iter().map(|&token_id| token_id as u32).zip(values.iter().copied())
}

/// The lowest id of the largest logit, and that logit. `None` if all are forbidden.
fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let mut max = f32::NEG_INFINITY;
    let mut max_at = 0;
    for (block_idx, block) in logits.chunks(BLOCK).enumerate() {
        let block_max = max_of(block);
        if block_max > max {
            (max, max_at) = (block_max, block_idx * BLOCK);
        }
    }
    let is_max = |logit: &f32| *logit >= max && *logit > f32::NEG_INFINITY;
    let offset = logits[max_at..].iter().position(is_max)?;
    Some(((max_at + offset) as u32, max))
}

/// The largest, or minus infinity of none.
pub(super) fn max_of(logits: &[f32]) -> f32 {
    // Written out, for `f32::max` also looks out for NaN.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Whether no value is NaN or infinite.
fn is_finite(values: &[f32]) -> bool {
    // Zero times a finite number is zero; times any other it is NaN, which a sum keeps.
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * 0.0;
        }
    }
    lanes.iter().chain(rest).all(|value| value.is_finite())
}

/// The error for the first such entry.
fn not_finite(mut entries: impl Iterator<Item = (u32, f32)>) -> SampleError {
    let first = entries.find(|(_, logit)| !logit.is_finite());
    let (token_id, logit) = first.expect("invariant: one of the entries is not finite");
    SampleError::NotFinite { token_id, logit }
}

/// The sum of what `value` makes of the items. The order of summation depends on their number alone.
pub(super) fn sum_of<T: Copy>(items: &[T], value: impl Fn(T) -> f32) -> f64 {
    let (chunks, rest) = items.as_chunks::<LANES>();
    let mut lanes = [0.0_f64; LANES];
    for chunk in chunks {
        for (lane, item) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value(*item));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|item| f64::from(value(*item))).sum::<f64>()
}

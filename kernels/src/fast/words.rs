//! Activations as products want them, and the products themselves.
//!
//! A *word* is what one instruction multiplies: an f32, a pair of bf16, or four bytes, of as many
//! columns. Weights have theirs in panels, activations in *tiles*: `[tiles][words][tokens of a tile]`.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use std::cell::RefCell;

use super::packed::Packed;
use super::quants::BLOCK;
use super::simd::{Detected, Kernel, Simd};
use crate::operands::{Arithmetic, Matrix};
use crate::pool::Pool;

/// How words are multiplied.
pub(super) trait Products: Copy {
    /// `sum + w x` for each lane: `w` are sixteen little-endian words.
    fn add<S: Simd>(s: S, w: &[u8; 64], x: u32, sum: S::V) -> S::V;
}

macro_rules! products {
    ($(#[$doc:meta])* $name:ident, |$s:ident, $w:ident, $x:ident, $sum:ident| $add:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Products for $name {
            #[inline(always)]
            fn add<S: Simd>($s: S, $w: &[u8; 64], $x: u32, $sum: S::V) -> S::V {
                $add
            }
        }
    };
}

products!(
    /// A word is an f32.
    F32Products, |s, w, x, sum| s.mul_add(s.load_f32(w), s.splat(f32::from_bits(x)), sum)
);
products!(
    /// A word is two bf16.
    Bf16Products, |s, w, x, sum| s.dot_bf16(w, x, sum)
);
products!(
    /// A word is four bytes; sums are the bits of an i32.
    I8Products, |s, w, x, sum| s.dot_i8(w, x, sum)
);

impl Arithmetic {
    /// Columns of a word.
    pub(super) fn columns(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::I8 => 4,
        }
    }
}

/// Activations in tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// Zeros beyond the rows and the columns.
    pub(super) tiles: &'a [u32],
    /// For bytes: what each row was divided by.
    pub(super) scales: &'a [f32],
    pub(super) rows: usize,
    /// Tokens of a tile.
    pub(super) tile: usize,
}

impl<'a> Words<'a> {
    /// Packs activations for a weight into tiles of a height, in memory that is kept.
    pub(super) fn new(
        isa: Detected,
        pool: &Pool,
        weight: &Packed,
        x: Matrix<'_>,
        tile: usize,
        words: &'a mut Vec<u32>,
        scales: &'a mut Vec<f32>,
    ) -> Self {
        let arithmetic = weight.arithmetic();
        let num_words = weight.columns.next_multiple_of(BLOCK) / arithmetic.columns();
        scales.clear();
        if arithmetic == Arithmetic::I8 {
            scales.extend((0..x.rows).map(|row| isa.dispatch(Scale { row: x.row(row) })));
        }
        words.resize(x.rows.div_ceil(tile) * tile * num_words, 0);
        let row_scales = scales.as_slice();
        pool.for_chunks(words, (tile * num_words).max(1), |idx, words| {
            let rows = tile.min(x.rows - idx * tile);
            let convert = |m: usize, words: &mut [u32]| {
                let row = idx * tile + m;
                let scale = row_scales.get(row).copied().unwrap_or(1.0);
                isa.dispatch(Convert { arithmetic, row: x.row(row), scale, words });
            };
            if tile == 1 {
                return convert(0, words);
            }
            ROWS.with_borrow_mut(|buffer| {
                buffer.clear();
                buffer.resize(words.len(), 0);
                for (m, row) in buffer.chunks_exact_mut(num_words).enumerate().take(rows) {
                    convert(m, row);
                }
                for (k, words) in words.chunks_exact_mut(tile).enumerate() {
                    for (m, word) in words.iter_mut().enumerate() {
                        *word = buffer[m * num_words + k];
                    }
                }
            });
        });
        Self { tiles: words, scales, rows: x.rows, tile }
    }

    /// Words of a token.
    pub(super) fn num_words(&self) -> usize {
        self.tiles.len() / self.rows.next_multiple_of(self.tile)
    }
}

thread_local! {
    /// Words of a tile, row by row.
    static ROWS: RefCell<Vec<u32>> = RefCell::default();
}

/// [`i8_scale`] with vectors.
struct Scale<'a> {
    row: &'a [f32],
}

impl Kernel for Scale<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        i8_scale(self.row)
    }
}

/// A row as words, with zeros beyond it.
struct Convert<'a> {
    arithmetic: Arithmetic,
    row: &'a [f32],
    scale: f32,
    words: &'a mut [u32],
}

impl Kernel for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        /// Adding 1.5 * 2^23 leaves the nearest whole number in the low bits, ties to even.
        const ROUND: f32 = 12_582_912.0;
        let Self { arithmetic, row, scale, words } = self;
        words[row.len() / arithmetic.columns()..].fill(0);
        match arithmetic {
            Arithmetic::F32 => {
                for (word, value) in words.iter_mut().zip(row) {
                    *word = value.to_bits();
                }
            }
            Arithmetic::Bf16 => {
                for (half, value) in bytemuck::cast_slice_mut::<_, u16>(words).iter_mut().zip(row) {
                    *half = bf16_bits(*value);
                }
            }
            Arithmetic::I8 => {
                for (byte, value) in bytemuck::cast_slice_mut::<_, u8>(words).iter_mut().zip(row) {
                    let nearest = (value / scale + ROUND).to_bits();
                    *byte = nearest.wrapping_add(I8_ZERO.cast_unsigned()) as u8;
                }
            }
        }
    }
}

/// The nearest bf16, ties to even, without a branch.
#[inline(always)]
pub(super) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Rounding could turn what is not a number into infinity.
    let kept = bits >> 16 | 0x40;
    (if value.is_nan() { kept } else { rounded }) as u16
}

/// Activations as bytes are unsigned: this stands for zero.
pub(super) const I8_ZERO: i32 = 128;

/// What a row is divided by to become signed bytes: its largest number becomes 127.
#[inline(always)]
pub(super) fn i8_scale(values: &[f32]) -> f32 {
    let mut largest = 0;
    for value in values {
        // Magnitudes are in the order of their bits; what is not a number is above all.
        largest = largest.max(value.to_bits() & (u32::MAX >> 1));
    }
    let largest = f32::from_bits(largest);
    match largest {
        // Then no result is a number.
        largest if !largest.is_finite() => f32::NAN,
        0.0 => 1.0,
        largest => largest / 127.0,
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn numbers_are_rounded_as_half_rounds_them() {
        for idx in 0..2_000_000_u32 {
            let value = f32::from_bits(idx.wrapping_mul(2_654_435_761));
            assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits(), "{value:e}");
        }
    }
}

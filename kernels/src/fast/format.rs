//! Packed formats: how the weights of 32 rows lie, and how they become vectors.
//!
//! A *panel* is 32 rows of a weight, a *block* is 32 of their columns. A vector is 16 rows at one
//! column, so that a sum over columns needs no lane of another, and the rows of a panel are summed
//! side by side. A panel's blocks follow each other, so a product reads memory from front to back.
//!
//! | Format | Of | A block, in bytes |
//! | --- | --- | --- |
//! | [`F16`] | f16 | numbers `[32 columns][32 rows]` |
//! | [`BF16`] | bf16 | pairs of columns `[16][32 rows]` |
//! | [`Q8`] | `q8_0`, `q5_0` | f16 `d[32]`, i8 `[32 columns][32 rows]` |
//! | [`Q8W`] | `q5_1`, `q5_k`, `q6_k` | for each half of the columns f32 `d[32] m[32]`, then i8 as above |
//! | [`Q4`] | `q4_0` | f16 `d[32]`, words of 8 columns `[4][32 rows]` |
//! | [`Q4M`] | `q4_1` | f16 `d[32] m[32]`, words as above |
//! | [`Q4W`] | `q4_k` | f32 `d[32] m[32]`, words as above |
//!
//! What is multiplied as it is (f32, pairs of bf16, four bytes) lies in words: see
//! [`words`](super::words).
//!
//! The value of a quant is `q * d + m`, rounded once: bit for bit what
//! [`dequantise`](crate::dequantise()) gives.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use super::quants::BLOCK;
use super::simd::{LANES, Simd};

/// Rows of a panel.
pub(super) const PANEL: usize = 2 * LANES;

/// A packed format with a vector decoder.
pub(super) trait Format: Copy {
    /// The bytes of a block of a panel.
    type Block: Copy;
    /// What the 16 rows of a vector share over a block.
    type Scales<V: Copy>: Copy;

    /// A panel's bytes as blocks.
    fn blocks(panel: &[u8]) -> &[Self::Block];

    /// The scales of vector `v` (0 or 1) of a block.
    fn scales<S: Simd>(s: S, block: &Self::Block, v: usize) -> Self::Scales<S::V>;

    /// Vector `v` of the weights of column `8 * chunk + J`.
    fn weights<S: Simd, const J: usize>(
        s: S,
        block: &Self::Block,
        v: usize,
        chunk: usize,
        scales: Self::Scales<S::V>,
    ) -> S::V;
}

/// `N` bytes of a block; the compiler sees that they are there.
#[inline(always)]
fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..start + N].try_into().expect("invariant: the block's layout")
}

macro_rules! packed_format {
    (
        $(#[$doc:meta])* $name:ident, $bytes:literal,
        scales: |$s:ident, $block:ident, $v:ident| -> $scales:ty $make:block,
        weights: |$scale:ident, $chunk:ident| $weights:block
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Format for $name {
            type Block = [u8; $bytes];
            type Scales<V: Copy> = $scales;

            #[inline(always)]
            fn blocks(panel: &[u8]) -> &[Self::Block] {
                panel.as_chunks().0
            }

            #[inline(always)]
            #[allow(unused_variables, reason = "plain formats have no scales")]
            fn scales<S: Simd>($s: S, $block: &Self::Block, $v: usize) -> Self::Scales<S::V> {
                $make
            }

            #[inline(always)]
            #[allow(unused_variables, reason = "plain formats have no scales")]
            fn weights<S: Simd, const J: usize>(
                $s: S,
                $block: &Self::Block,
                $v: usize,
                $chunk: usize,
                $scale: Self::Scales<S::V>,
            ) -> S::V {
                $weights
            }
        }
    };
}

packed_format!(
    /// f16.
    F16, 2048,
    scales: |s, block, v| -> () {},
    weights: |scales, chunk| { s.load_f16(at(block, ((8 * chunk + J) * 2 + v) * 32)) }
);
packed_format!(
    /// bf16, two columns to a word.
    BF16, 2048,
    scales: |s, block, v| -> () {},
    weights: |scales, chunk| {
        let (low, high) = s.bf16_pairs(at(block, ((4 * chunk + J / 2) * 2 + v) * 64));
        if J.is_multiple_of(2) { low } else { high }
    }
);
packed_format!(
    /// Signed bytes with an f16 scale.
    Q8, 1088,
    scales: |s, block, v| -> V { s.load_f16(at(block, v * 32)) },
    weights: |scales, chunk| {
        s.mul(s.load_i8(at(block, 64 + ((8 * chunk + J) * 2 + v) * 16)), scales)
    }
);
packed_format!(
    /// Signed bytes with an f32 scale and minimum for each half of the columns.
    Q8W, 1536,
    scales: |s, block, v| -> [(V, V); 2] {
        let scale = |idx: usize| s.load_f32(at(block, idx * 128 + v * 64));
        [(scale(0), scale(1)), (scale(2), scale(3))]
    },
    weights: |scales, chunk| {
        let (d, m) = scales[chunk / 2];
        s.mul_add(s.load_i8(at(block, 512 + ((8 * chunk + J) * 2 + v) * 16)), d, m)
    }
);
packed_format!(
    /// Nibbles with an f16 scale; 8 stands for zero.
    Q4, 576,
    scales: |s, block, v| -> (V, V) {
        let d = s.load_f16(at(block, v * 32));
        (d, s.mul(d, s.splat(-8.0)))
    },
    weights: |scales, chunk| {
        s.mul_add(s.nibble::<J>(at(block, 64 + (2 * chunk + v) * 64)), scales.0, scales.1)
    }
);
packed_format!(
    /// Nibbles with an f16 scale and minimum.
    Q4M, 640,
    scales: |s, block, v| -> (V, V) {
        (s.load_f16(at(block, v * 32)), s.load_f16(at(block, 64 + v * 32)))
    },
    weights: |scales, chunk| {
        s.mul_add(s.nibble::<J>(at(block, 128 + (2 * chunk + v) * 64)), scales.0, scales.1)
    }
);
packed_format!(
    /// Nibbles with an f32 scale and minimum.
    Q4W, 768,
    scales: |s, block, v| -> (V, V) {
        (s.load_f32(at(block, v * 64)), s.load_f32(at(block, 128 + v * 64)))
    },
    weights: |scales, chunk| {
        s.mul_add(s.nibble::<J>(at(block, 256 + (2 * chunk + v) * 64)), scales.0, scales.1)
    }
);

/// Calls `$body` for the eight columns of a chunk, with their number as the constant `$j`.
macro_rules! for_each_column {
    ($j:ident => $body:block) => {
        for_each_column!(@ $j $body 0 1 2 3 4 5 6 7)
    };
    (@ $j:ident $body:block $($number:literal)*) => {
        $({
            const $j: usize = $number;
            $body
        })*
    };
}
pub(super) use for_each_column;

const _: () = assert!(BLOCK == 32 && PANEL == 32, "the layouts above");

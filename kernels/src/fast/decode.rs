//! Weight formats as vectors: how 32 elements of a row become two vectors of f32.
//!
//! The arithmetic is that of `weights::dequantise`: the products of scales and quants are exact in
//! f32, so fused and separate rounding agree. Formats without a decoder here are dequantised row by
//! row into f32 first.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use super::simd::Simd;

/// Elements that one call decodes.
pub(super) const CHUNK: usize = 32;

/// A format with a vector decoder.
pub(super) trait Decode: Copy {
    /// The bytes of 32 elements.
    type Block: Copy;

    /// A row as blocks; what is left over (only in plain formats) is the tail.
    fn blocks(row: &[u8]) -> (&[Self::Block], &[u8]);

    /// 32 elements in order.
    fn decode<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2];

    /// One element of a tail.
    fn tail(bytes: &[u8], idx: usize) -> f32;
}

macro_rules! plain_format {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $half:literal, $load:ident, $tail:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Decode for $name {
            type Block = [u8; $bytes * CHUNK];

            #[inline(always)]
            fn blocks(row: &[u8]) -> (&[Self::Block], &[u8]) {
                row.as_chunks()
            }

            #[inline(always)]
            fn decode<S: Simd>(s: S, block: &Self::Block) -> [S::V; 2] {
                let (halves, _) = block.as_chunks::<$half>();
                [s.$load(&halves[0]), s.$load(&halves[1])]
            }

            #[inline(always)]
            fn tail(bytes: &[u8], idx: usize) -> f32 {
                let (elements, _) = bytes.as_chunks::<$bytes>();
                $tail(elements[idx])
            }
        }
    };
}

plain_format!(
    /// Little-endian f32.
    F32, 4, 64, load_f32, f32::from_le_bytes
);
plain_format!(
    /// Little-endian bf16.
    BF16, 2, 32, load_bf16, |bytes| half::bf16::from_le_bytes(bytes).to_f32()
);
plain_format!(
    /// Little-endian f16.
    F16, 2, 32, load_f16, |bytes| half::f16::from_le_bytes(bytes).to_f32()
);

macro_rules! block_format {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, |$s:ident, $block:ident| $decode:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl Decode for $name {
            type Block = [u8; $bytes];

            #[inline(always)]
            fn blocks(row: &[u8]) -> (&[Self::Block], &[u8]) {
                (row.as_chunks().0, &[])
            }

            #[inline(always)]
            fn decode<S: Simd>($s: S, $block: &Self::Block) -> [S::V; 2] {
                $decode
            }

            #[inline(always)]
            fn tail(_bytes: &[u8], _idx: usize) -> f32 {
                0.0
            }
        }
    };
}

/// `N` bytes of a block; the compiler sees that they are there.
#[inline(always)]
fn at<const N: usize>(block: &[u8], start: usize) -> &[u8; N] {
    block[start..start + N].try_into().expect("invariant: the block's layout")
}

block_format!(
    /// `d: f16, q: [i8; 32]`; element `i` is `d q[i]`.
    Q8, 34, |s, block| {
        let d = s.splat(s.f16(*at(block, 0)));
        [s.mul(d, s.load_i8(at(block, 2))), s.mul(d, s.load_i8(at(block, 18)))]
    }
);
block_format!(
    /// `d: f16, q: [u4; 32]`; element `i` is `d (q[i] - 8)`; low halves first.
    Q4, 18, |s, block| {
        let scale = s.f16(*at(block, 0));
        let (d, m) = (s.splat(scale), s.splat(-8.0 * scale));
        let (low, high) = s.load_nibbles(at(block, 2));
        [s.mul_add(d, low, m), s.mul_add(d, high, m)]
    }
);
block_format!(
    /// `d: f16, m: f16, q: [u4; 32]`; element `i` is `d q[i] + m`; low halves first.
    Q4M, 20, |s, block| {
        let (d, m) = (s.splat(s.f16(*at(block, 0))), s.splat(s.f16(*at(block, 2))));
        let (low, high) = s.load_nibbles(at(block, 4));
        [s.mul_add(d, low, m), s.mul_add(d, high, m)]
    }
);

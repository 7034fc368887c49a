//! Vectors as plain arrays, for any processor.

use super::Simd;

/// No special instructions: plain arrays.
#[derive(Clone, Copy, Debug)]
pub(in crate::fast) struct Portable;

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    for (idx, lane) in lanes.iter_mut().enumerate() {
        *lane = f(idx);
    }
    lanes
}

impl Simd for Portable {
    type V = [f32; 16];
    const IS_WIDE: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> [f32; 16] {
        *values
    }

    #[inline(always)]
    fn store(self, vector: [f32; 16], values: &mut [f32; 16]) {
        *values = vector;
    }

    #[inline(always)]
    fn store_f32(self, vector: [f32; 16], bytes: &mut [u8; 64]) {
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(vector) {
            *bytes = value.to_le_bytes();
        }
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        // Without the instruction, a fused multiply-add is a slow function call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            map(|idx| a[idx].mul_add(b[idx], c[idx]))
        } else {
            map(|idx| a[idx] * b[idx] + c[idx])
        }
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        map(|idx| a[idx] * b[idx])
    }

    #[inline(always)]
    fn load_f32(self, bytes: &[u8; 64]) -> [f32; 16] {
        let words = bytes.as_chunks::<4>().0;
        map(|idx| f32::from_le_bytes(words[idx]))
    }

    #[inline(always)]
    fn load_f16(self, bytes: &[u8; 32]) -> [f32; 16] {
        let words = bytes.as_chunks::<2>().0;
        map(|idx| half::f16::from_le_bytes(words[idx]).to_f32())
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8; 16]) -> [f32; 16] {
        map(|idx| f32::from(bytes[idx].cast_signed()))
    }

    #[inline(always)]
    fn nibble<const J: usize>(self, words: &[u8; 64]) -> [f32; 16] {
        let words = words.as_chunks::<4>().0;
        map(|idx| (u32::from_le_bytes(words[idx]) >> (4 * J) & 15) as f32)
    }

    #[inline(always)]
    fn bf16_pairs(self, words: &[u8; 64]) -> ([f32; 16], [f32; 16]) {
        let words = words.as_chunks::<4>().0;
        let word = |idx: usize| u32::from_le_bytes(words[idx]);
        (
            map(|idx| f32::from_bits(word(idx) << 16)),
            map(|idx| f32::from_bits(word(idx) & 0xffff_0000)),
        )
    }

    #[inline(always)]
    fn dot_i8(self, a: &[u8; 64], b: u32, c: [f32; 16]) -> [f32; 16] {
        let (words, b) = (a.as_chunks::<4>().0, b.to_le_bytes());
        map(|idx| {
            let products = words[idx].iter().zip(b);
            let sum: i32 = products.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b)).sum();
            f32::from_bits(c[idx].to_bits().wrapping_add(sum.cast_unsigned()))
        })
    }

    #[inline(always)]
    fn i32_to_f32(self, bits: [f32; 16]) -> [f32; 16] {
        map(|idx| bits[idx].to_bits().cast_signed() as f32)
    }
}

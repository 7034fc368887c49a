//! What every element type means: blocks of bytes to f32, written to be read.
//!
//! This is the reference. It defines the numbers that the fast kernels must give, and it is
//! bit-exact with `gguf.quants.dequantize` of the `gguf` Python package, which in turn follows
//! `ggml-quants.c`. Every product and sum below is rounded to f32 on its own, in that order.
//!
//! All numbers are little-endian. `d` and `m` are f16; a nibble is half a byte, `lo` its low half
//! and `hi` its high half. Offsets are in bytes from the start of a block.
//!
//! Blocks of 32 weights, `w[0..32]`; the low nibbles are the first 16 weights:
//!
//! ```text
//! q8_0, 34 bytes   0 d   2 q[32] as i8                              w[i] = q[i] * d
//! q4_0, 18 bytes   0 d   2 n[16]                                    w[i] = d * (q - 8)
//! q4_1, 20 bytes   0 d   2 m   4 n[16]                              w[i] = d * q + m
//! q5_0, 22 bytes   0 d   2 h as u32   6 n[16]                       w[i] = d * (q - 16)
//! q5_1, 24 bytes   0 d   2 m   4 h as u32   8 n[16]                 w[i] = d * q + m
//!
//!                  q of w[i]      = lo(n[i])                        i in 0..16
//!                  q of w[i + 16] = hi(n[i])
//!                  q5: + 16 when bit i (i + 16) of h is set
//! ```
//!
//! Blocks of 256 weights in 8 sub-blocks of 32, each with a 6-bit scale and minimum, `s` and `t`:
//!
//! ```text
//! q4_k, 144 bytes  0 d   2 dmin   4 scales[12]   16 n[128]
//! q5_k, 176 bytes  0 d   2 dmin   4 scales[12]   16 h[32]   48 n[128]
//!
//!                  w of sub-block j = (d * s[j]) * q - (dmin * t[j])
//!                  q of w[64 c + i]      = lo(n[32 c + i])          c in 0..4, i in 0..32
//!                  q of w[64 c + i + 32] = hi(n[32 c + i])
//!                  q5: + 16 when bit j of h[i] is set               j = sub-block, i in it
//!
//! scales           0     1     2     3     4     5     6     7     8     9     10    11
//! bits 0..4       [s0  ][s1  ][s2  ][s3  ][t0  ][t1  ][t2  ][t3  ][s4  ][s5  ][s6  ][s7  ]
//! bits 4..6       [ "  ][ "  ][ "  ][ "  ][ "  ][ "  ][ "  ][ "  ][t4  ][t5  ][t6  ][t7  ]
//! bits 6..8       [s4hi][s5hi][s6hi][s7hi][t4hi][t5hi][t6hi][t7hi][ "  ][ "  ][ "  ][ "  ]
//! ```
//!
//! Blocks of 256 weights in 16 sub-blocks of 16, each with an 8-bit signed scale:
//!
//! ```text
//! q6_k, 210 bytes  0 l[128]   128 h[64]   192 s[16] as i8   208 d
//!
//!                  w of sub-block j = (d * s[j]) * (q - 32)
//!                  for each half c in 0..2 (128 weights, 64 of l, 32 of h), i in 0..32:
//!                  q of w[128 c + i]      = lo(l[64 c + i])      | bits 0..2 of h[32 c + i] << 4
//!                  q of w[128 c + i + 32] = lo(l[64 c + i + 32]) | bits 2..4 of h[32 c + i] << 4
//!                  q of w[128 c + i + 64] = hi(l[64 c + i])      | bits 4..6 of h[32 c + i] << 4
//!                  q of w[128 c + i + 96] = hi(l[64 c + i + 32]) | bits 6..8 of h[32 c + i] << 4
//! ```
//!
//! What this module deliberately does not do: it is not fast, and it does not quantise.

use half::{bf16, f16};

use crate::DType;

/// The bytes are not the blocks of so many elements.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{elements} elements of {dtype} do not lie in {bytes} bytes ({} elements are {} bytes)",
    dtype.block_elements(),
    dtype.block_bytes()
)]
pub struct BlockSizeMismatch {
    /// Element type.
    pub dtype: DType,
    /// Elements that were asked for.
    pub elements: usize,
    /// Bytes that were given.
    pub bytes: usize,
}

/// Writes the values of `bytes`, which are whole blocks of `dtype`, to `out`.
///
/// An i32 becomes the nearest f32.
///
/// # Errors
/// When `out` is not whole blocks, or `bytes` is not as long as they are; `out` is then unchanged.
pub fn dequantise(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockSizeMismatch> {
    if dtype.row_bytes(out.len()) != Some(bytes.len()) {
        return Err(BlockSizeMismatch { dtype, elements: out.len(), bytes: bytes.len() });
    }
    match dtype {
        DType::F32 => each_value(bytes, out, f32::from_le_bytes),
        DType::F16 => each_value(bytes, out, |word| f16::from_le_bytes(word).to_f32()),
        DType::BF16 => each_value(bytes, out, |word| bf16::from_le_bytes(word).to_f32()),
        DType::I32 => each_value(bytes, out, |word| i32::from_le_bytes(word) as f32),
        DType::Q8_0 => each_block(bytes, out, q8_0),
        DType::Q4_0 => each_block(bytes, out, q4_0),
        DType::Q4_1 => each_block(bytes, out, q4_1),
        DType::Q5_0 => each_block(bytes, out, q5_0),
        DType::Q5_1 => each_block(bytes, out, q5_1),
        DType::Q4K => each_block(bytes, out, q4_k),
        DType::Q5K => each_block(bytes, out, q5_k),
        DType::Q6K => each_block(bytes, out, q6_k),
    }
    Ok(())
}

/// Scale and minimum of sub-block `idx` (0 to 7) of a [`DType::Q4K`] or [`DType::Q5K`] block, both
/// 0 to 63, from the 12 bytes that pack them.
///
/// # Panics
/// When `idx` is not below 8.
pub const fn q4_k_scale_min(scales: &[u8; 12], idx: usize) -> (u8, u8) {
    assert!(idx < 8, "a block has 8 sub-blocks");
    if idx < 4 {
        return (scales[idx] & 0x3f, scales[idx + 4] & 0x3f);
    }
    let low = scales[idx + 4];
    let scale = (low & 0x0f) | ((scales[idx - 4] >> 6) << 4);
    let min = (low >> 4) | ((scales[idx] >> 6) << 4);
    (scale, min)
}

/// Where the f16 scales and minima of a block lie: a block has a value that is not finite exactly
/// when one of them is not, and then it has no other. None for plain types.
pub const fn f16_offsets(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::I32 => &[],
        DType::Q8_0 | DType::Q4_0 | DType::Q5_0 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q6K => &[208],
    }
}

fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block_to_values: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let blocks = bytes.as_chunks().0;
    for (block, values) in blocks.iter().zip(out.as_chunks_mut().0) {
        block_to_values(block, values);
    }
}

fn each_value<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    word_to_value: impl Fn([u8; BYTES]) -> f32,
) {
    each_block(bytes, out, |word, [value]| *value = word_to_value(*word));
}

/// The f16 at byte `at` of a block.
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn lo(byte: u8) -> u8 {
    byte & 0x0f
}

fn hi(byte: u8) -> u8 {
    byte >> 4
}

/// 16 when bit `idx` of `bits` is set, else 0: the fifth bit of a quant.
fn fifth(bits: u32, idx: usize) -> u8 {
    ((bits >> idx) as u8 & 1) << 4
}

fn q8_0(block: &[u8; 34], w: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (w, &q) in w.iter_mut().zip(&block[2..]) {
        *w = f32::from(q.cast_signed()) * d;
    }
}

fn q4_0(block: &[u8; 18], w: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (i, &n) in block[2..].iter().enumerate() {
        w[i] = d * (f32::from(lo(n)) - 8.0);
        w[i + 16] = d * (f32::from(hi(n)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], w: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (i, &n) in block[4..].iter().enumerate() {
        w[i] = d * f32::from(lo(n)) + m;
        w[i + 16] = d * f32::from(hi(n)) + m;
    }
}

fn q5_0(block: &[u8; 22], w: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let h = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (i, &n) in block[6..].iter().enumerate() {
        w[i] = d * (f32::from(lo(n) | fifth(h, i)) - 16.0);
        w[i + 16] = d * (f32::from(hi(n) | fifth(h, i + 16)) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], w: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let h = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, &n) in block[8..].iter().enumerate() {
        w[i] = d * f32::from(lo(n) | fifth(h, i)) + m;
        w[i + 16] = d * f32::from(hi(n) | fifth(h, i + 16)) + m;
    }
}

/// The scale and the minimum of each sub-block of a `q4_k` or `q5_k` block, multiplied out.
fn k_scales(block: &[u8]) -> [(f32, f32); 8] {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let scales = block[4..16].as_array().expect("invariant: 4..16 are 12 bytes");
    std::array::from_fn(|idx| {
        let (scale, min) = q4_k_scale_min(scales, idx);
        (d * f32::from(scale), dmin * f32::from(min))
    })
}

fn q4_k(block: &[u8; 144], w: &mut [f32; 256]) {
    let scales = k_scales(block);
    for (c, n) in block[16..].chunks_exact(32).enumerate() {
        let [(d0, m0), (d1, m1)] = [scales[2 * c], scales[2 * c + 1]];
        for (i, &n) in n.iter().enumerate() {
            w[64 * c + i] = d0 * f32::from(lo(n)) - m0;
            w[64 * c + i + 32] = d1 * f32::from(hi(n)) - m1;
        }
    }
}

fn q5_k(block: &[u8; 176], w: &mut [f32; 256]) {
    let scales = k_scales(block);
    let (h, n) = block[16..].split_at(32);
    for (c, n) in n.chunks_exact(32).enumerate() {
        let [(d0, m0), (d1, m1)] = [scales[2 * c], scales[2 * c + 1]];
        for (i, &n) in n.iter().enumerate() {
            let h = u32::from(h[i]);
            w[64 * c + i] = d0 * f32::from(lo(n) | fifth(h, 2 * c)) - m0;
            w[64 * c + i + 32] = d1 * f32::from(hi(n) | fifth(h, 2 * c + 1)) - m1;
        }
    }
}

fn q6_k(block: &[u8; 210], w: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    let sub_block_scale = |idx: usize| d * f32::from(block[192 + idx].cast_signed());
    for (c, w) in w.chunks_exact_mut(128).enumerate() {
        let l = &block[64 * c..][..64];
        let h = &block[128 + 32 * c..][..32];
        for i in 0..32 {
            let quants = [
                lo(l[i]) | (h[i] & 3) << 4,
                lo(l[i + 32]) | (h[i] >> 2 & 3) << 4,
                hi(l[i]) | (h[i] >> 4 & 3) << 4,
                hi(l[i + 32]) | (h[i] >> 6) << 4,
            ];
            for (quarter, q) in quants.into_iter().enumerate() {
                let at = 32 * quarter + i;
                w[at] = sub_block_scale(8 * c + at / 16) * (f32::from(q) - 32.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_that_is_not_whole_blocks_is_refused() {
        for dtype in DType::ALL {
            let mut out = vec![7.0; dtype.block_elements()];
            let bytes = vec![0; dtype.block_bytes() + 1];
            let error = dequantise(dtype, &bytes, &mut out).unwrap_err();
            assert!(error.to_string().contains(dtype.name()), "{error}");
            assert!(out.iter().all(|&w| w.to_bits() == 7.0_f32.to_bits()));
            if dtype.is_quantised() {
                assert!(dequantise(dtype, &bytes[2..], &mut out[1..]).is_err());
            }
        }
    }

    #[test]
    fn packed_scales_come_apart_bit_by_bit() {
        // All ones in one place at a time: s[j] and t[j] are set by exactly the bits drawn above.
        for idx in 0..8 {
            let mut scales = [0_u8; 12];
            let mut mins = [0_u8; 12];
            if idx < 4 {
                scales[idx] = 0x3f;
                mins[idx + 4] = 0x3f;
            } else {
                (scales[idx + 4], scales[idx - 4]) = (0x0f, 0xc0);
                (mins[idx + 4], mins[idx]) = (0xf0, 0xc0);
            }
            for other in 0..8 {
                let full = if other == idx { 63 } else { 0 };
                assert_eq!(q4_k_scale_min(&scales, other), (full, 0));
                assert_eq!(q4_k_scale_min(&mins, other), (0, full));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_blocks_never_panic_and_are_finite_exactly_when_their_scales_are(
            dtype in proptest::sample::select(DType::ALL.to_vec()),
            bytes in proptest::collection::vec(any::<u8>(), 1024),
        ) {
            let blocks = bytes.len() / dtype.block_bytes();
            let bytes = &bytes[..blocks * dtype.block_bytes()];
            let mut out = vec![0.0; blocks * dtype.block_elements()];
            prop_assert!(dequantise(dtype, bytes, &mut out).is_ok());
            if dtype.is_quantised() {
                let values = out.chunks_exact(dtype.block_elements());
                for (block, values) in bytes.chunks_exact(dtype.block_bytes()).zip(values) {
                    let finite = f16_offsets(dtype).iter().all(|&at| f16_at(block, at).is_finite());
                    prop_assert!(values.iter().all(|w| w.is_finite() == finite));
                }
            }
        }

        #[test]
        fn arbitrary_lengths_never_panic(
            dtype in proptest::sample::select(DType::ALL.to_vec()),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            elements in 0_usize..600,
        ) {
            let mut out = vec![0.0; elements];
            let fits = dtype.row_bytes(elements) == Some(bytes.len());
            prop_assert_eq!(dequantise(dtype, &bytes, &mut out).is_ok(), fits);
        }
    }
}

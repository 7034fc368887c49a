//! Block formats taken apart: what 32 elements of a row are made of.

use half::f16;

use crate::{DType, q4_k_scale_min};

/// Elements that are taken together.
pub(super) const BLOCK: usize = 32;

/// 32 elements: element `i` is `q[i] * d[i / 16] + m[i / 16]`, rounded once, which is the number that
/// [`dequantise`](crate::dequantise()) gives: its products are exact wherever something is added to
/// them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quants {
    pub(super) q: [i8; BLOCK],
    pub(super) d: [f32; 2],
    pub(super) m: [f32; 2],
}

/// The elements of a row from `BLOCK * idx` on; zeros for a type that has no blocks.
pub(super) fn quants(dtype: DType, row: &[u8], idx: usize) -> Quants {
    let bytes = dtype.block_bytes();
    let per_block = dtype.block_elements() / BLOCK;
    if per_block == 0 {
        return Quants::default();
    }
    let (block, part) = (&row[idx / per_block * bytes..][..bytes], idx % per_block);
    let f16_at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let mut quants = Quants::default();
    let q = &mut quants.q;
    match dtype {
        DType::Q8_0 => {
            quants.d = [f16_at(0); 2];
            for (q, &byte) in q.iter_mut().zip(&block[2..]) {
                *q = byte.cast_signed();
            }
        }
        DType::Q4_0 => {
            let d = f16_at(0);
            (quants.d, quants.m) = ([d; 2], [-8.0 * d; 2]);
            split_nibbles(&block[2..18], q);
        }
        DType::Q4_1 => {
            (quants.d, quants.m) = ([f16_at(0); 2], [f16_at(2); 2]);
            split_nibbles(&block[4..20], q);
        }
        DType::Q5_0 => {
            quants.d = [f16_at(0); 2];
            split_nibbles(&block[6..22], q);
            add_fifth_bits(&block[2..6], q);
            for q in q {
                *q -= 16;
            }
        }
        DType::Q5_1 => {
            (quants.d, quants.m) = ([f16_at(0); 2], [f16_at(2); 2]);
            split_nibbles(&block[8..24], q);
            add_fifth_bits(&block[4..8], q);
        }
        DType::Q4K | DType::Q5K => {
            let scales = block[4..16].as_array().expect("invariant: 4..16 are 12 bytes");
            let (scale, min) = q4_k_scale_min(scales, part);
            quants.d = [f16_at(0) * f32::from(scale); 2];
            quants.m = [-(f16_at(2) * f32::from(min)); 2];
            let nibbles = if dtype == DType::Q4K { &block[16..] } else { &block[48..] };
            let nibbles = &nibbles[part / 2 * 32..][..32];
            for (i, q) in q.iter_mut().enumerate() {
                *q = (nibbles[i] >> (part % 2 * 4) & 15).cast_signed();
                if dtype == DType::Q5K {
                    *q |= ((block[16 + i] >> part & 1) << 4).cast_signed();
                }
            }
        }
        DType::Q6K => {
            let (half, quarter) = (part / 4, part % 4);
            let low = &block[64 * half + quarter % 2 * 32..][..32];
            let high = &block[128 + 32 * half..][..32];
            for (i, q) in q.iter_mut().enumerate() {
                let bits = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
                *q = bits.cast_signed() - 32;
            }
            let scale = |sub: usize| f32::from(block[192 + 2 * part + sub].cast_signed());
            quants.d = [f16_at(208) * scale(0), f16_at(208) * scale(1)];
        }
        DType::F32 | DType::F16 | DType::BF16 | DType::I32 => {}
    }
    quants
}

/// The low nibbles are the first 16 elements.
fn split_nibbles(bytes: &[u8], q: &mut [i8; BLOCK]) {
    for (i, byte) in bytes.iter().enumerate() {
        q[i] = (byte & 15).cast_signed();
        q[i + 16] = (byte >> 4).cast_signed();
    }
}

fn add_fifth_bits(bytes: &[u8], q: &mut [i8; BLOCK]) {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((bytes[i / 8] >> (i % 8) & 1) << 4).cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dequantise;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_taken_apart_has_the_same_values(
            bytes in proptest::collection::vec(any::<u8>(), 2 * 256),
        ) {
            for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
                let blocks = bytes.len() / dtype.block_bytes();
                let row = &bytes[..blocks * dtype.block_bytes()];
                let mut expected = vec![0.0; blocks * dtype.block_elements()];
                dequantise(dtype, row, &mut expected).unwrap();
                for (idx, expected) in expected.chunks_exact(BLOCK).enumerate() {
                    let Quants { q, d, m } = quants(dtype, row, idx);
                    for (i, &expected) in expected.iter().enumerate() {
                        let got = f32::from(q[i]).mul_add(d[i / 16], m[i / 16]);
                        let is_near = (got - expected).abs() <= 0.0;
                        let same = is_near || !got.is_finite() && !expected.is_finite();
                        prop_assert!(same, "{dtype} {idx} {i}: {got} {expected}");
                    }
                }
            }
        }
    }
}

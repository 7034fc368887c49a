//! Numbers in bf16 that are the same on every machine.
//!
//! bf16 is the upper half of f32: one sign, eight bits of exponent, seven of fraction.

use crate::ir::DType;
use crate::weights::{Bytes, Tensor};

/// The bits of the bf16 that is nearest, of two the even one.
pub(super) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    (bits.wrapping_add(0x7fff + odd) >> 16) as u16
}

pub(super) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A matrix in bf16.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    columns: usize,
    bits: Vec<u16>,
}

impl Matrix {
    /// Each element by its row and column.
    pub(super) fn new(
        rows: usize,
        columns: usize,
        mut value: impl FnMut(usize, usize) -> f32,
    ) -> Self {
        let bits = (0..rows * columns).map(|idx| to_bf16(value(idx / columns, idx % columns)));
        Self { columns, bits: bits.collect() }
    }

    /// The bits of a row.
    pub(super) fn row(&self, row: usize) -> &[u16] {
        &self.bits[row * self.columns..][..self.columns]
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        from_bf16(self.bits[row * self.columns + column]).into()
    }

    /// A weight of that name.
    pub(super) fn tensor(&self, name: &str) -> Tensor {
        let bytes: Vec<u8> = self.bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        Tensor {
            name: name.to_owned(),
            dtype: DType::BF16,
            shape: vec![self.bits.len() / self.columns, self.columns],
            bytes: Bytes::copied_from(&bytes),
        }
    }
}

/// Numbers from -1 to 1 that look random (splitmix64; Steele, Lea and Flood 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = (z ^ (z >> 31)) >> 40;
        bits as f32 / (1 << 23) as f32 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_then_to_the_even_one() {
        for (value, expected) in
            [(256.0, 256.0), (257.0, 256.0), (259.0, 260.0), (258.5, 258.0), (-257.0, -256.0)]
        {
            assert!((from_bf16(to_bf16(value)) - expected).abs() < f32::EPSILON, "{value}");
        }
        let mut random = Random(1);
        let values: Vec<f32> = (0..1000).map(|_| random.next()).collect();
        assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        assert!(values.iter().sum::<f32>().abs() < 60.0);
    }
}

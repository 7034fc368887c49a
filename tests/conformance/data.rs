//! Numbers and tensors: the same ones every time.

use cairn::ir::DType;
use cairn::weights::{Bytes, Tensor};
use half::f16;

/// Every type that a weight matrix may have.
pub(crate) const WEIGHT_TYPES: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

/// Those that activations may have beside f32.
pub(crate) const NARROW_TYPES: [DType; 2] = [DType::F16, DType::BF16];

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    /// Those of that seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From -1 to 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Those that the type can hold.
    pub(crate) fn floats_in(&mut self, dtype: DType, n: usize) -> Vec<f32> {
        rounded(dtype, self.floats(n))
    }
}

/// A tensor of that type with values of about -1 to 1; blocks are made of random bytes.
pub(crate) fn tensor(name: &str, dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut numbers = Numbers::new(seed);
    let elements = shape.iter().product();
    if !dtype.is_quantised() {
        let tensor = Tensor::from_f32(name, shape.to_vec(), numbers.floats(elements)).unwrap();
        return tensor.convert(dtype);
    }
    let mut bytes: Vec<u8> =
        (0..dtype.tensor_bytes(shape).unwrap()).map(|_| numbers.next() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &(at, size) in scales(dtype) {
            let scale = f16::from_f32(size * numbers.float());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    Tensor::new(name, dtype, shape.to_vec(), Bytes::copied_from(&bytes)).unwrap()
}

/// Where a block has its f16 scales, and how large they may be for values of about 1.
fn scales(dtype: DType) -> &'static [(usize, f32)] {
    match dtype {
        DType::Q8_0 => &[(0, 1.0 / 128.0)],
        DType::Q4_0 => &[(0, 1.0 / 8.0)],
        DType::Q5_0 => &[(0, 1.0 / 16.0)],
        DType::Q4_1 => &[(0, 1.0 / 16.0), (2, 0.5)],
        DType::Q5_1 => &[(0, 1.0 / 32.0), (2, 0.5)],
        DType::Q4K => &[(0, 1.0 / 945.0), (2, 1.0 / 63.0)],
        DType::Q5K => &[(0, 1.0 / 1953.0), (2, 1.0 / 63.0)],
        DType::Q6K => &[(208, 1.0 / 4096.0)],
        DType::F32 | DType::F16 | DType::BF16 | DType::I32 => &[],
    }
}

/// The nearest numbers that the type can hold.
pub(crate) fn rounded(dtype: DType, values: Vec<f32>) -> Vec<f32> {
    let tensor = Tensor::from_f32("rounded", vec![values.len()], values).unwrap();
    tensor.convert(dtype).to_f32_vec()
}

/// The rows of a matrix in f64.
pub(crate) fn rows_of(tensors: &[Tensor]) -> Vec<Vec<f64>> {
    tensors
        .iter()
        .flat_map(|tensor| {
            let values = tensor.to_f32_vec();
            let rows = values.chunks_exact(tensor.row_elements());
            rows.map(|row| row.iter().map(|&value| value.into()).collect()).collect::<Vec<_>>()
        })
        .collect()
}

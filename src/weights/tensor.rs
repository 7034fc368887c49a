//! A tensor: what it is called, what it is, and its bytes.
//!
//! ```text
//! shape [2, 3, 4]    row-major: 6 rows of 4 elements, one after the other
//!        outer  '-- a row: contiguous, whole blocks of the dtype
//! ```
//!
//! What this deliberately does not do: no arithmetic and no views with strides; a tensor is dense.

use half::{bf16, f16};

use super::bytes::Bytes;
use super::error::WeightsError;
use super::table::tensor_bytes;
use crate::ir::DType;
use cairn_kernels::{dequantise, f16_offsets};

/// A dense tensor; cheap to clone.
///
/// Made by [`Checkpoint::tensor`](super::Checkpoint::tensor), [`Tensor::new`] or
/// [`Tensor::from_f32`], `bytes` is exactly as long as `shape` and `dtype` need. Whoever changes
/// the fields keeps that.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name as in Transformers' checkpoints.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first; row-major. Empty for a scalar. No size is 0.
    pub shape: Vec<usize>,
    /// The elements, row by row.
    pub bytes: Bytes,
}

impl Tensor {
    /// A tensor of these bytes, or `None` when they are not as long as the shape needs.
    pub fn new(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        bytes: Bytes,
    ) -> Option<Self> {
        (tensor_bytes(dtype, &shape) == Ok(bytes.len())).then(|| Self {
            name: name.into(),
            dtype,
            shape,
            bytes,
        })
    }

    /// An f32 tensor of these values, row-major, or `None` when there are not as many as the shape
    /// needs.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) -> Option<Self> {
        Self::new(name, DType::F32, shape, Bytes::from(values))
    }

    /// Number of rows: the product of all axes but the last; 1 for a vector or a scalar.
    pub fn rows(&self) -> usize {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer].iter().product()
    }

    /// Elements of one row: the last axis; 1 for a scalar.
    pub fn row_elements(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of one row.
    ///
    /// # Panics
    /// When the fields do not fit each other.
    pub fn row_bytes(&self) -> usize {
        self.dtype
            .row_bytes(self.row_elements())
            .expect("invariant: a tensor's rows are whole blocks")
    }

    /// The tensor itself if it has that shape.
    ///
    /// # Errors
    /// [`WeightsError::WrongShape`] with both shapes, also when only the axes are in another order.
    pub fn with_shape(self, expected: &[usize]) -> Result<Self, WeightsError> {
        if self.shape == expected {
            return Ok(self);
        }
        Err(WeightsError::WrongShape {
            name: self.name,
            expected: expected.to_vec(),
            got: self.shape,
        })
    }

    /// Every element as f32, row-major.
    ///
    /// # Panics
    /// When the fields do not fit each other.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.elements()];
        dequantise(self.dtype, &self.bytes, &mut values)
            .expect("invariant: a tensor's bytes are as long as its shape needs");
        values
    }

    /// The tensor with its elements as `to`, rounded to nearest, ties to even; itself when they are
    /// that already.
    ///
    /// # Panics
    /// When `to` is neither f32, f16 nor bf16, or the fields do not fit each other.
    pub fn convert(&self, to: DType) -> Self {
        if to == self.dtype {
            return self.clone();
        }
        let values = self.to_f32_vec();
        let bytes = match to {
            DType::F32 => Bytes::from(values),
            DType::F16 => half_words(&values, |value| f16::from_f32(value).to_bits()),
            DType::BF16 => half_words(&values, |value| bf16::from_f32(value).to_bits()),
            DType::I32
            | DType::Q8_0
            | DType::Q4_0
            | DType::Q4_1
            | DType::Q5_0
            | DType::Q5_1
            | DType::Q4K
            | DType::Q5K
            | DType::Q6K => panic!("tensors are converted to f32, f16 or bf16, not to {to}"),
        };
        Self { name: self.name.clone(), dtype: to, shape: self.shape.clone(), bytes }
    }

    /// Row and column of the first element that is infinite or not a number.
    pub fn first_non_finite(&self) -> Option<(usize, usize)> {
        let block = match self.dtype {
            DType::F32 => position(&self.bytes, |word| f32::from_le_bytes(*word).is_finite()),
            DType::F16 => position(&self.bytes, |word| f16::from_le_bytes(*word).is_finite()),
            DType::BF16 => position(&self.bytes, |word| bf16::from_le_bytes(*word).is_finite()),
            DType::I32 => None,
            DType::Q8_0 | DType::Q4_0 | DType::Q5_0 | DType::Q4_1 | DType::Q5_1 => {
                self.first_non_finite_block()
            }
            DType::Q4K | DType::Q5K | DType::Q6K => self.first_non_finite_block(),
        }?;
        let element = block * self.dtype.block_elements();
        Some((element / self.row_elements(), element % self.row_elements()))
    }

    fn first_non_finite_block(&self) -> Option<usize> {
        let offsets = f16_offsets(self.dtype);
        self.bytes.chunks_exact(self.dtype.block_bytes()).position(|block| {
            let is_finite =
                |&at: &usize| f16::from_le_bytes([block[at], block[at + 1]]).is_finite();
            !offsets.iter().all(is_finite)
        })
    }
}

/// Index of the first word that is not `fine`.
fn position<const N: usize>(bytes: &[u8], fine: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
    bytes.as_chunks().0.iter().position(|word| !fine(word))
}

fn half_words(values: &[f32], to_bits: impl Fn(f32) -> u16) -> Bytes {
    let words: Vec<u16> = values.iter().map(|&value| to_bits(value)).collect();
    Bytes::copied_from(bytemuck::cast_slice(&words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantised(dtype: DType, blocks: usize) -> Vec<u8> {
        vec![0; blocks * dtype.block_bytes()]
    }

    #[test]
    fn rows_are_the_product_of_all_axes_but_the_last() {
        let tensor = |shape: &[usize]| {
            Tensor::from_f32("t", shape.to_vec(), vec![0.0; shape.iter().product()]).unwrap()
        };
        assert_eq!((tensor(&[]).rows(), tensor(&[]).row_elements()), (1, 1));
        assert_eq!((tensor(&[5]).rows(), tensor(&[5]).row_elements()), (1, 5));
        assert_eq!((tensor(&[2, 3, 4]).rows(), tensor(&[2, 3, 4]).row_elements()), (6, 4));
        assert_eq!(tensor(&[2, 3]).row_bytes(), 12);
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused() {
        assert!(Tensor::from_f32("t", vec![2, 2], vec![0.0; 3]).is_none());
        assert!(Tensor::from_f32("t", vec![usize::MAX, 2], vec![]).is_none());
        let bytes = Bytes::copied_from(&quantised(DType::Q4_0, 1));
        assert!(Tensor::new("t", DType::Q4_0, vec![2, 16], bytes).is_none());
    }

    #[test]
    fn a_transposed_shape_is_told_apart() {
        let tensor = Tensor::from_f32("q", vec![2, 3], vec![0.0; 6]).unwrap();
        assert!(tensor.clone().with_shape(&[2, 3]).is_ok());
        let error = tensor.with_shape(&[3, 2]).unwrap_err();
        assert_eq!(error.to_string(), "tensor `q` has shape [2, 3], expected [3, 2]");
    }

    #[test]
    fn conversion_rounds_to_nearest_even_and_keeps_what_is_not_finite() {
        let values =
            vec![1.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1e30, f32::NAN, f32::NEG_INFINITY];
        let tensor = Tensor::from_f32("t", vec![6], values).unwrap();
        let rounded = tensor.convert(DType::BF16).to_f32_vec();
        assert_eq!(&rounded[..3], &[1.0, 1.0, 1.0 + 4.0 / 256.0]);
        assert!(rounded[3].is_finite() && rounded[4].is_nan() && rounded[5] == f32::NEG_INFINITY);
        let half = tensor.convert(DType::F16);
        assert_eq!((half.dtype, half.bytes.len()), (DType::F16, 12));
        assert_eq!(half.first_non_finite(), Some((0, 3)));
        assert_eq!(half.convert(DType::F32).to_f32_vec()[..3], tensor.to_f32_vec()[..3]);
    }

    #[test]
    fn converting_to_the_own_type_copies_nothing() {
        let tensor = Tensor::from_f32("t", vec![1], vec![1.0]).unwrap();
        let same = tensor.convert(DType::F32);
        assert!(std::ptr::eq(tensor.bytes.as_ptr(), same.bytes.as_ptr()));
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_every_type() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut values = vec![1.0; 12];
            let fine = Tensor::from_f32("t", vec![3, 4], values.clone()).unwrap().convert(dtype);
            assert_eq!(fine.first_non_finite(), None);
            (values[6], values[9]) = (f32::NAN, f32::INFINITY);
            let bad = Tensor::from_f32("t", vec![3, 4], values).unwrap().convert(dtype);
            assert_eq!(bad.first_non_finite(), Some((1, 2)));
        }
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
            let shape = vec![2, 2 * dtype.block_elements()];
            for &at in f16_offsets(dtype) {
                let mut bytes = quantised(dtype, 4);
                let fine =
                    Tensor::new("t", dtype, shape.clone(), Bytes::copied_from(&bytes)).unwrap();
                assert_eq!(fine.first_non_finite(), None);
                let infinite = f16::INFINITY.to_le_bytes();
                bytes[3 * dtype.block_bytes() + at..][..2].copy_from_slice(&infinite);
                let bad =
                    Tensor::new("t", dtype, shape.clone(), Bytes::copied_from(&bytes)).unwrap();
                assert_eq!(bad.first_non_finite(), Some((1, dtype.block_elements())));
                assert_eq!(
                    bad.to_f32_vec().iter().position(|v| !v.is_finite()),
                    Some(3 * dtype.block_elements())
                );
            }
        }
    }
}

//! What both formats' tables of tensors have in common: one entry per tensor, and the rules that
//! every entry obeys.

use std::ops::Range;

use crate::ir::DType;

/// Most axes of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// Where a tensor lies in its file, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorEntry {
    /// As the file has it.
    pub(super) name: String,
    pub(super) dtype: StoredDType,
    /// Outermost axis first; no axis is 0, and the number of elements fits a `usize`.
    pub(super) shape: Vec<usize>,
    /// Bytes of the file; within it.
    pub(super) range: Range<usize>,
}

/// An element type as a file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredDType {
    /// One of ours: the entry's range has exactly the bytes that the shape needs.
    Known(DType),
    /// One that is not ours: fine until somebody asks for the tensor.
    Foreign(String),
}

/// Checks a shape from a file: rank, no axis of size 0, a number of elements that fits.
pub(super) fn check_shape(dims: &[u64]) -> Result<Vec<usize>, String> {
    if dims.len() > MAX_RANK {
        return Err(format!("has {} axes, at most {MAX_RANK} are supported", dims.len()));
    }
    if dims.contains(&0) {
        return Err(format!("has an axis of size 0: shape {dims:?}"));
    }
    let shape: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    shape
        .filter(|shape| {
            shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim)).is_some()
        })
        .ok_or_else(|| format!("has more elements than can be counted: shape {dims:?}"))
}

/// Bytes of a tensor of one of our types, or why there is no such tensor.
pub(super) fn tensor_bytes(dtype: DType, shape: &[usize]) -> Result<usize, String> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_elements()) {
        return Err(format!(
            "has rows of {row} elements, but {dtype} needs whole blocks of {}",
            dtype.block_elements()
        ));
    }
    dtype
        .tensor_bytes(shape)
        .ok_or_else(|| format!("has more bytes than can be counted: shape {shape:?} of {dtype}"))
}

/// A name that occurs more than once, if there is one.
pub(super) fn first_duplicate<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.array_windows().find(|[a, b]| a == b).map(|[name, _]| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_no_tensor_has_are_refused() {
        assert_eq!(check_shape(&[]), Ok(vec![]));
        assert_eq!(check_shape(&[2, 3]), Ok(vec![2, 3]));
        assert!(check_shape(&[1; 9]).unwrap_err().contains("9 axes"));
        assert!(check_shape(&[3, 0]).unwrap_err().contains("size 0"));
        assert!(check_shape(&[1 << 33, 1 << 33]).unwrap_err().contains("more elements"));
        assert!(tensor_bytes(DType::Q4K, &[3, 128]).unwrap_err().contains("blocks of 256"));
        assert!(tensor_bytes(DType::F32, &[usize::MAX / 2]).unwrap_err().contains("more bytes"));
    }
}

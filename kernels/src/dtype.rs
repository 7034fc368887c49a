//! Element types of tensors, plain and block-quantised.

use std::fmt;

/// Element type of a tensor.
///
/// The quantised types are the block formats of the GGUF file format (`ggml-quants`): a row is a
/// sequence of blocks, each holding [`DType::block_elements`] weights in [`DType::block_bytes`]
/// bytes, so a row's length must be a multiple of the block. Their byte layouts are drawn in
/// `weights::dequantise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the names of the formats")]
pub enum DType {
    F32,
    F16,
    BF16,
    I32,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
}

impl DType {
    /// Every type, in the order of the canonical codes.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The name used in text form and in messages, for example `f32` or `q4_k`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// The type of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// A number that never changes meaning: it is part of canonical bytes and of cached artifacts.
    pub const fn code(self) -> u8 {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::BF16 => 3,
            Self::I32 => 4,
            Self::Q8_0 => 5,
            Self::Q4_0 => 6,
            Self::Q4_1 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
            Self::Q4K => 10,
            Self::Q5K => 11,
            Self::Q6K => 12,
        }
    }

    /// The type of that [`code`](Self::code).
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.code() == code)
    }

    /// Elements in one block; 1 for plain types.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::I32 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block; the element size for plain types.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether elements come in blocks with shared scales.
    pub const fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }

    /// Whether values are floating point that arithmetic ops accept directly.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of a row of `elements` weights, or `None` when the row is not whole blocks or the
    /// size overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Bytes of a dense tensor of that shape (row-major, last axis in blocks), or `None` when the
    /// last axis is not whole blocks or the size overflows.
    pub fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let (last, outer) = match shape.split_last() {
            Some((last, outer)) => (*last, outer),
            None => (1, shape),
        };
        outer.iter().try_fold(self.row_bytes(last)?, |bytes, &dim| bytes.checked_mul(dim))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_unique_and_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_none() {
        assert_eq!(DType::Q4_1.row_bytes(64), Some(40));
        assert_eq!(DType::Q4_1.row_bytes(33), None);
        assert_eq!(DType::F32.tensor_bytes(&[usize::MAX, 2]), None);
        assert_eq!(DType::F32.tensor_bytes(&[]), Some(4));
    }
}

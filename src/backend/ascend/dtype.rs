//! Element types as GE and ACL count them: two numberings for the same types.
//!
//! | Where | Numbering |
//! | --- | --- |
//! | `TensorDescriptor.dtype` in an `.air` file | [`GeDType::proto`] |
//! | attributes such as `dst_type`, `aclDataType`, `ge::DataType` | [`GeDType::acl`] |
//!
//! Putting one where the other belongs gives the wrong type without an error.

use crate::ir::DType;

/// An element type of GE.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the variants are the names of the types")]
pub enum GeDType {
    F32,
    F16,
    BF16,
    I8,
    I32,
    I64,
    U8,
    Bool,
}

impl GeDType {
    /// Every type.
    pub const ALL: [Self; 8] =
        [Self::F32, Self::F16, Self::BF16, Self::I8, Self::I32, Self::I64, Self::U8, Self::Bool];

    /// The number in a descriptor of `ge.proto`.
    pub const fn proto(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::I8 => 3,
            Self::U8 => 4,
            Self::I32 => 7,
            Self::I64 => 8,
            Self::Bool => 11,
            Self::BF16 => 27,
        }
    }

    /// The number of `ge::DataType` and `aclDataType`.
    pub const fn acl(self) -> i32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::I8 => 2,
            Self::I32 => 3,
            Self::U8 => 4,
            Self::I64 => 9,
            Self::Bool => 12,
            Self::BF16 => 27,
        }
    }

    /// The type of that [`proto`](Self::proto) number.
    pub fn from_proto(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.proto() == number)
    }

    /// The type of that [`acl`](Self::acl) number.
    pub fn from_acl(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.acl() == number)
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name in CANN's operator tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::Bool => "bool",
        }
    }

    /// The same type of the IR; `None` for block-quantised types, which GE does not know.
    pub const fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            DType::I32 => Some(Self::I32),
            DType::Q8_0
            | DType::Q4_0
            | DType::Q4_1
            | DType::Q5_0
            | DType::Q5_1
            | DType::Q4K
            | DType::Q5K
            | DType::Q6K => None,
        }
    }
}

impl std::fmt::Display for GeDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

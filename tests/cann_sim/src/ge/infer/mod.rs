//! Types and shapes of outputs, operator by operator.
//!
//! | Module | Operators |
//! | --- | --- |
//! | `elementwise` | `Add` `Sub` `Mul` `RealDiv` `Exp` `Sigmoid` `Swish` `SwiGlu` `Cast` `SoftmaxV2` |
//! | `norm` | `RmsNorm` `AddRmsNorm` |
//! | `matmul` | `MatMulV2` `BatchMatMulV2` |
//! | `shaping` | `Reshape` `Transpose` `Split*` `Concat*` `SliceD` `StridedSlice` |
//! | `select` | `GatherV2` `ScatterNdUpdate` `ArgMaxV2` `TopKV2` |
//! | `rope` | `RotaryMul` `RotaryPositionEmbedding` `ApplyRotaryPosEmb` |
//! | `attention` | `FusedInferAttentionScore` |
//!
//! A [`Fault::Shape`] is what the real shape function fails on (`EZ9999`). A [`Fault::Strict`] is
//! what the kernel's documents forbid and no compiler looks at, or what the simulator cannot run.

mod attention;
mod elementwise;
mod matmul;
mod norm;
mod rope;
mod select;
mod shaping;

use std::collections::BTreeMap;

use super::graph::{Attr, DataType, Desc};
use super::version::CannVersion;

/// Why an operator cannot be inferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The shape function fails.
    Shape(String),
    /// A rule that only the documents know.
    Strict(String),
}

/// What inference gives.
pub type Inferred = Result<Vec<Desc>, Fault>;

/// A fault of the shape function.
macro_rules! shape_fault {
    ($($arg:tt)*) => { $crate::ge::infer::Fault::Shape(format!($($arg)*)) };
}
/// A rule of the documents that is broken.
macro_rules! strict_fault {
    ($($arg:tt)*) => { $crate::ge::infer::Fault::Strict(format!($($arg)*)) };
}
use {shape_fault, strict_fault};

/// Returns the fault unless the condition holds.
pub(crate) fn ensure(holds: bool, fault: impl FnOnce() -> Fault) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(fault()) }
}

/// An input as inference sees it.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// With its number if it is part of a dynamic input.
    pub name: &'a str,
    /// Which input of the prototype it is (a part of).
    pub port: usize,
    /// Its type.
    pub desc: &'a Desc,
    /// Its value, if it is a constant.
    pub value: Option<&'a [u8]>,
}

/// A node whose outputs are to be inferred.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Operator.
    pub op: &'a str,
    /// Inputs that are fed, in order.
    pub inputs: &'a [Operand<'a>],
    /// Attributes, defaults filled in.
    pub attrs: &'a BTreeMap<String, Attr>,
    /// Outputs that the node says it has.
    pub num_outputs: usize,
    /// Toolkit.
    pub cann: CannVersion,
}

/// Infers the outputs of a node.
///
/// # Errors
/// [`Fault`], also for an operator that the simulator does not know.
pub fn infer(call: &Call<'_>) -> Inferred {
    match call.op {
        "Add" | "Sub" | "Mul" | "RealDiv" => elementwise::binary(call),
        "Exp" | "Sigmoid" | "Swish" | "Identity" | "TensorMove" => elementwise::unary(call),
        "SwiGlu" => elementwise::swi_glu(call),
        "Cast" => elementwise::cast(call),
        "SoftmaxV2" => elementwise::softmax(call),
        "RmsNorm" => norm::rms_norm(call),
        "AddRmsNorm" => norm::add_rms_norm(call),
        "MatMulV2" => matmul::mat_mul(call),
        "BatchMatMulV2" => matmul::batch_mat_mul(call),
        "Reshape" => shaping::reshape(call),
        "Transpose" => shaping::transpose(call),
        "SplitVD" | "SplitV" => shaping::split(call),
        "ConcatD" | "ConcatV2" => shaping::concat(call),
        "SliceD" => shaping::slice(call),
        "StridedSlice" => shaping::strided_slice(call),
        "GatherV2" => select::gather(call),
        "ScatterNdUpdate" => select::scatter_nd_update(call),
        "ArgMaxV2" => select::arg_max(call),
        "TopKV2" => select::top_k(call),
        "RotaryMul" => rope::rotary_mul(call),
        "RotaryPositionEmbedding" => rope::rotary_position_embedding(call),
        "ApplyRotaryPosEmb" => rope::apply_rotary_pos_emb(call),
        "FusedInferAttentionScore" => attention::infer(call),
        op => Err(strict_fault!("the simulator has no kernel for {op}")),
    }
}

/// The inputs whose values the compiler needs.
pub fn needs_value(op: &str, input: &str) -> bool {
    matches!(
        (op, input),
        ("GatherV2", "axis")
            | ("Reshape", "shape")
            | ("Transpose", "perm")
            | ("SplitV", "size_splits" | "split_dim")
            | ("ConcatV2", "concat_dim")
            | ("StridedSlice", "begin" | "end" | "strides")
            | ("ArgMaxV2", "dimension")
            | ("TopKV2", "k")
    )
}

/// Whether the kernel picks its work by the value of that input (`TILING_ON_AICPU`).
pub fn tiling_depends(op: &str, input: &str) -> bool {
    op == "FusedInferAttentionScore"
        && matches!(input, "actual_seq_lengths" | "actual_seq_lengths_kv")
}

impl<'a> Call<'a> {
    /// The input of that name, if it is fed.
    pub(crate) fn optional(&self, name: &str) -> Option<&'a Desc> {
        self.inputs.iter().find(|input| input.name == name).map(|input| input.desc)
    }

    /// The input of that name.
    pub(crate) fn input(&self, name: &str) -> Result<&'a Desc, Fault> {
        self.optional(name).ok_or_else(|| shape_fault!("input {name} is not fed"))
    }

    /// The parts of a dynamic input.
    pub(crate) fn dynamic(&self, port: usize) -> Vec<&'a Desc> {
        self.inputs.iter().filter(|input| input.port == port).map(|input| input.desc).collect()
    }

    /// The values of an integer constant.
    pub(crate) fn const_ints(&self, name: &str) -> Result<Vec<i64>, Fault> {
        let input = self.inputs.iter().find(|input| input.name == name);
        let input = input.ok_or_else(|| shape_fault!("input {name} is not fed"))?;
        let value = input.value.ok_or_else(|| {
            shape_fault!("the value of input {name} is not known when the graph is compiled")
        })?;
        let ints = match input.desc.dtype {
            DataType::Int32 => value
                .chunks_exact(4)
                .map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                .collect(),
            DataType::Int64 => value
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().expect("invariant: a chunk of 8")))
                .collect(),
            other => return Err(shape_fault!("input {name} is {}, not integers", other.name())),
        };
        Ok(ints)
    }

    /// The value of an integer constant with one element.
    pub(crate) fn const_int(&self, name: &str) -> Result<i64, Fault> {
        match self.const_ints(name)?[..] {
            [value] => Ok(value),
            ref values => Err(shape_fault!("input {name} has {} elements, not 1", values.len())),
        }
    }

    /// An integer attribute.
    pub(crate) fn int(&self, name: &str) -> Result<i64, Fault> {
        match self.attrs.get(name) {
            Some(Attr::Int(value)) => Ok(*value),
            other => Err(shape_fault!("attribute {name} is {other:?}, not an integer")),
        }
    }

    /// A truth value.
    pub(crate) fn bool(&self, name: &str) -> Result<bool, Fault> {
        match self.attrs.get(name) {
            Some(Attr::Bool(value)) => Ok(*value),
            other => Err(shape_fault!("attribute {name} is {other:?}, not a truth value")),
        }
    }

    /// A list of integers.
    pub(crate) fn ints(&self, name: &str) -> Result<&'a [i64], Fault> {
        match self.attrs.get(name) {
            Some(Attr::ListInt(values)) => Ok(values),
            other => Err(shape_fault!("attribute {name} is {other:?}, not a list of integers")),
        }
    }
}

/// An axis of a tensor of that rank; negative ones count from the end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, Fault> {
    let rank_signed = rank as i64;
    let axis = if axis < 0 { axis.checked_add(rank_signed) } else { Some(axis) };
    axis.filter(|axis| (0..rank_signed).contains(axis))
        .map(|axis| axis as usize)
        .ok_or_else(|| shape_fault!("an axis is out of range for rank {rank}"))
}

/// A size from a file.
pub(crate) fn size_of(value: i64) -> Result<usize, Fault> {
    usize::try_from(value).map_err(|_| shape_fault!("a size is {value}"))
}

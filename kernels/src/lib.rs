//! Element types of tensors, and the kernels that a CPU computes with.
//!
//! ```text
//! DType, dequantise      what the bytes of a tensor mean
//! operands               what a kernel is given
//! reference              each kernel in plain loops: the definition
//! fast                   each kernel for the processor at hand: the same numbers, sooner
//! Pool                   the threads that the fast ones compute on
//! Roofline               what they could do at most
//! ```
//!
//! What this crate deliberately does not do: it knows no graph, no file and no request.

mod dequantise;
mod dtype;
mod fast;
mod operands;
mod pool;
mod reference;
mod roofline;

pub use dequantise::{BlockSizeMismatch, dequantise, f16_offsets, q4_k_scale_min};
pub use dtype::DType;
pub use fast::{Fast, Packed, instructions};
pub use operands::{
    Arithmetic, AttentionArgs, Binary, CacheShape, Kernels, LinearWeight, Matrix, Query, RopeArgs,
    RopeStyle, RowBytes, WeightRows,
};
pub use pool::{Columns, Pool};
pub use reference::{Reference, copy, gather_rows, round};
pub use roofline::Roofline;

//! Runs a graph by the documented meaning of its operators.
//!
//! Tensors are stored in their own types; every operator computes in f32 and rounds its results to
//! nearest even. Nothing is kept from one run to the next.
//!
//! | Module | What |
//! | --- | --- |
//! | `run` | where values are, node after node, updates in place |
//! | `values`, `call`, `threads` | bytes as numbers; what a kernel is given; ranges of work |
//! | `matmul`, `norm`, `rope`, `attention`, `elementwise` | the numbers |
//! | `gather`, `scatter`, `shape_ops`, `reduce` | rows, slices, maxima |
//!
//! Where the definition of an operator leaves something open, such as the order among equals or the
//! contents of padding, the choice here is the least convenient one. What it deliberately does not
//! do: it does not check what the compiler checks, such as which types an operator takes on a chip.

mod attention;
mod call;
mod elementwise;
mod gather;
mod matmul;
mod norm;
mod reduce;
mod rope;
mod run;
mod scatter;
mod shape_ops;
mod threads;
mod values;

use crate::ge::graph::GeGraph;

/// What an input of a run is bound to.
#[derive(Debug)]
pub enum Binding<'a> {
    /// A `Data` node's tensor: little-endian, row-major, at least as long as its type says.
    Read(&'a [u8]),
    /// A `RefData` node's tensor, which operators may change in place.
    Update(&'a mut [u8]),
}

/// What the device would report as an exception of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{node} ({op}): {what}")]
pub struct KernelError {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What was wrong, such as an index out of range.
    pub what: String,
}

/// Runs the graph once: `inputs` by their `index` attribute, `outputs` in the order of `NetOutput`.
///
/// # Errors
/// What a kernel would fail on, such as an index out of range. `RefData` may have changed by then.
pub fn run(
    graph: &GeGraph,
    inputs: &mut [Binding<'_>],
    outputs: &mut [&mut [u8]],
) -> Result<(), KernelError> {
    let mut run = run::Run::new(graph, inputs)?;
    run.run()?;
    run.copy_outputs(outputs)
}

/// Whether a node of that operator can be run.
pub fn is_supported(op: &str) -> bool {
    let is_node = matches!(op, "Data" | "RefData" | "Const" | "Constant" | "NetOutput");
    let is_placed = matches!(op, "Reshape" | "ScatterNdUpdate" | "ApplyRotaryPosEmb");
    is_node || is_placed || kernel(op).is_some()
}

type Kernel = fn(&call::Call<'_>) -> Result<Vec<values::Buffer>, values::Fault>;

/// What computes the outputs of an operator from its inputs.
fn kernel(op: &str) -> Option<Kernel> {
    Some(match op {
        "GatherV2" => gather::gather,
        "RmsNorm" => norm::rms_norm,
        "AddRmsNorm" => norm::add_rms_norm,
        "SoftmaxV2" => norm::softmax,
        "MatMulV2" | "MatMulV3" => matmul::mat_mul,
        "BatchMatMulV2" => matmul::batch_mat_mul,
        "RotaryMul" => rope::rotary_mul,
        "RotaryPositionEmbedding" => rope::rotary_position_embedding,
        "FusedInferAttentionScore" => attention::fused_infer_attention_score,
        "Add" => elementwise::add,
        "Sub" => elementwise::sub,
        "Mul" => elementwise::mul,
        "RealDiv" => elementwise::real_div,
        "Sigmoid" => elementwise::sigmoid,
        "Swish" => elementwise::swish,
        "Exp" => elementwise::exp,
        "SwiGlu" => elementwise::swi_glu,
        "Cast" => elementwise::cast,
        "ArgMaxV2" => reduce::arg_max,
        "TopKV2" => reduce::top_k,
        "SplitVD" => shape_ops::split_vd,
        "SplitV" => shape_ops::split_v,
        "ConcatD" => shape_ops::concat_d,
        "ConcatV2" => shape_ops::concat_v2,
        "Transpose" => shape_ops::transpose,
        "SliceD" => shape_ops::slice_d,
        "StridedSlice" => shape_ops::strided_slice,
        "Identity" | "TensorMove" => shape_ops::copy,
        _ => return None,
    })
}

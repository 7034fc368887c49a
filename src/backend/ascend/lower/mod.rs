//! From a verified graph without open sizes to a GE graph.
//!
//! ```text
//! Verified<Graph> --plan--> layout, roles of inputs, slices --emit--> ModelDef + IoTable
//! ```
//!
//! | Module | What it decides or writes |
//! | --- | --- |
//! | `plan` | what is live, types; gathers what the next three say |
//! | `layout` | how sequences lie in a step, and the attention operator's rules |
//! | `roles` | what each input of the IR becomes |
//! | `slices` | which slices share a split |
//! | `emit` | the one match over [`Op`](crate::ir::Op) |
//! | `attention`, `rope` | the nodes of those |
//! | `text` | one line for each node, for people |
//!
//! | IR | GE |
//! | --- | --- |
//! | `input`, `weight`; `state` | `Data`; `RefData` with one block more, which takes padding |
//! | `gather` | `GatherV2`, `Cast` |
//! | `linear` | `MatMulV2` |
//! | `silu_mul` of two halves | `SwiGlu` |
//! | `silu`, `mul`, `add` | `Swish`, `Mul`, `Add` |
//! | `rms_norm`, `add_rms_norm` | `RmsNorm`, `AddRmsNorm` |
//! | `slice` | `SplitVD` |
//! | `rope` | `RotaryMul` or `RotaryPositionEmbedding`, tables widened by `ConcatD` |
//! | `kv_write` | `ScatterNdUpdate`, in place |
//! | `paged_attention` | `FusedInferAttentionScore` |
//! | the result | itself; and of a matrix `ArgMaxV2` and `TopKV2` of its rows |
//!
//! Names of nodes come from places in the graph, never from names of values, so graphs with equal
//! canonical bytes become equal bytes.
//!
//! What this deliberately does not do: it converts no element type that the IR did not ask for,
//! but for the query, the cache's new rows and the result; and it checks no node: `validate` does.

mod attention;
mod emit;
mod layout;
mod plan;
mod roles;
mod rope;
mod slices;
#[cfg(test)]
mod tests;
mod text;

pub use layout::batching;
pub use text::text;

use prost::Message;

use super::artifact::IoTable;
use super::proto::ModelDef;
use super::target::Target;
use crate::backend::BackendError;
use crate::ir::{Graph, Node, Verified};

/// `atc` reads a file into memory of at most this size.
const MAX_MODEL_BYTES: usize = i32::MAX as usize;

/// A graph in GE's terms, and which of its inputs is what.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The graph.
    pub model: ModelDef,
    /// Its inputs and outputs.
    pub io: IoTable,
}

impl Lowered {
    /// The bytes of an `.air` file.
    pub fn air(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }
}

/// Writes a graph for a target.
///
/// # Errors
/// [`BackendError::Unsupported`] for a graph that has open sizes, that has not exactly one result,
/// or that the operators cannot express; the message names the rule and the value.
pub fn lower(graph: &Verified<Graph>, target: &Target) -> Result<Lowered, BackendError> {
    let plan = plan::Plan::new(graph, target)?;
    let lowered = emit::emit(graph, &plan)?;
    match lowered.model.encoded_len() {
        bytes if bytes > MAX_MODEL_BYTES => {
            Err(unsupported(format!("a graph of {bytes} bytes: up to {MAX_MODEL_BYTES}")))
        }
        _ => Ok(lowered),
    }
}

fn unsupported(what: String) -> BackendError {
    BackendError::Unsupported { backend: super::NAME, what }
}

/// The same, with the place of a node.
fn unsupported_at(graph: &Graph, node: &Node, what: String) -> BackendError {
    let place =
        node.outputs.first().map(|&id| format!(" (value %{}, {})", id.0, graph.value(id).name));
    unsupported(what + &place.unwrap_or_default())
}

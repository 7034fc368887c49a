//! What has to be known about the whole graph before its first node is written.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | live | a node that the result needs, or that writes a cache, or that such a node needs |
//! | [`Plan`] | layout, type of every value, liveness, uses, what each input becomes |
//!
//! What this deliberately does not do: it writes nothing.

use super::super::artifact::{InputSpec, StepLayout};
use super::super::dtype::GeDType;
use super::super::ge_graph::TensorType;
use super::super::target::Target;
use super::layout::{Attention, layout_of};
use super::roles::inputs;
use super::slices::Slices;
use super::unsupported;
use crate::backend::BackendError;
use crate::ir::{Dim, Graph, Node, Op, ValueId};

/// More than any device has, and few enough that no product of sizes overflows.
const MAX_TENSOR_BYTES: u64 = 1 << 48;

/// What has to be known about the whole graph.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: StepLayout,
    /// Rows of the queries; 0 without attention.
    pub(super) num_tokens: u64,
    /// The input with `query_ends`, counted as in the IR.
    pub(super) query_ends: Option<u32>,
    /// By value.
    pub(super) types: Vec<TensorType>,
    /// By node.
    pub(super) is_live: Vec<bool>,
    /// By value: how many live nodes use it.
    pub(super) num_uses: Vec<u32>,
    /// In the order of the IR graph: the inputs that remain.
    pub(super) inputs: Vec<(ValueId, InputSpec)>,
    pub(super) slices: Slices,
}

impl Plan {
    pub(super) fn new(graph: &Graph, target: &Target) -> Result<Self, BackendError> {
        let &[result] = graph.outputs() else {
            let what =
                format!("a graph of {} results: it needs exactly one", graph.outputs().len());
            return Err(unsupported(what));
        };
        let ids = (0..graph.values().len() as u32).map(ValueId);
        let types = ids.map(|id| tensor_type(graph, id)).collect::<Result<Vec<_>, _>>()?;
        let is_live = live(graph, result);
        let nodes: Vec<(usize, &Node)> =
            graph.nodes().iter().enumerate().filter(|(idx, _)| is_live[*idx]).collect();
        let mut num_uses = vec![0; graph.values().len()];
        for id in nodes.iter().flat_map(|(_, node)| &node.inputs).chain([&result]) {
            num_uses[id.0 as usize] += 1;
        }
        let attentions: Vec<Attention<'_>> =
            nodes.iter().filter_map(|(_, node)| Attention::of(graph, &types, node)).collect();
        let layout = layout_of(&attentions, target)?;
        let first = attentions.first();
        let num_tokens = first.map_or(0, |attention| attention.num_tokens);
        let query_ends = first.and_then(|attention| {
            let position = graph.inputs().position(|id| id == attention.query_ends());
            position.map(|position| position as u32)
        });
        let inputs = inputs(graph, &types, &nodes, layout)?;
        let slices = Slices::of(graph, &types, &nodes);
        Ok(Self { layout, num_tokens, query_ends, types, is_live, num_uses, inputs, slices })
    }

    /// Whether some sequence may have several queries.
    pub(super) fn needs_causal_mask(&self) -> bool {
        matches!(self.layout, StepLayout::Prefill | StepLayout::Packed)
    }

    pub(super) fn ty(&self, id: ValueId) -> &TensorType {
        &self.types[id.0 as usize]
    }
}

/// The type of a value, which must be one that GE has.
fn tensor_type(graph: &Graph, id: ValueId) -> Result<TensorType, BackendError> {
    let place = || format!("(value %{}, {})", id.0, graph.value(id).name);
    let ty = graph.ty(id);
    let size = |dim: &Dim| match *dim {
        Dim::Fixed(size) => Ok(size),
        Dim::Symbolic(symbol) => Err(unsupported(format!(
            "{} with the open size {symbol}: it needs static shapes {}",
            ty.shape,
            place()
        ))),
    };
    let shape = ty.shape.dims().iter().map(size).collect::<Result<Vec<u64>, _>>()?;
    let dtype = GeDType::of(ty.dtype).ok_or_else(|| {
        unsupported(format!(
            "block-quantised weights, here {}: use the checkpoint in f16 or bf16 {}",
            ty.dtype,
            place()
        ))
    })?;
    let bytes = shape.iter().try_fold(dtype.size() as u64, |bytes, &dim| bytes.checked_mul(dim));
    if bytes.is_none_or(|bytes| bytes > MAX_TENSOR_BYTES) {
        return Err(unsupported(format!("a tensor of the size {} {}", ty.shape, place())));
    }
    Ok(TensorType::new(dtype, shape))
}

/// By node, whether it is live.
fn live(graph: &Graph, result: ValueId) -> Vec<bool> {
    let mut is_needed = vec![false; graph.values().len()];
    is_needed[result.0 as usize] = true;
    let mut is_live = vec![false; graph.nodes().len()];
    for (live, node) in is_live.iter_mut().zip(graph.nodes()).rev() {
        *live = matches!(node.op, Op::KvWrite)
            || node.outputs.iter().any(|id| is_needed[id.0 as usize]);
        if *live {
            node.inputs.iter().for_each(|id| is_needed[id.0 as usize] = true);
        }
    }
    is_live
}

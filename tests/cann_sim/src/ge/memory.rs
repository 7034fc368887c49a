//! How much device memory a graph needs.
//!
//! ```text
//! memory_size = zero copy (inputs and outputs of the graph) + workspace (everything else)
//! ```
//!
//! Tensors of the workspace lie where their lifetimes do not overlap: first fit in the order of
//! execution. The real assigner is cleverer; the shape of the result is the same. A tensor written
//! in place has the memory of what it changes.

use super::graph::{Edge, GeGraph};

/// Addresses are multiples of this.
const ALIGN: u64 = 512;

/// Bytes of the parts of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Inputs, outputs and workspace.
    pub total: u64,
    /// Inputs and outputs.
    pub zero_copy: u64,
    /// Constants, which are not part of `total`.
    pub weights: u64,
}

/// The memory of a graph.
pub fn plan(graph: &GeGraph) -> Memory {
    let bytes = |edge: Edge| (graph.desc(edge).num_bytes() as u64).max(1).next_multiple_of(ALIGN);
    let inputs = graph.inputs.iter().map(|&node| bytes(Edge { node, output: 0 }));
    let outputs = graph.outputs.iter().map(|&edge| bytes(edge));
    let zero_copy = inputs.chain(outputs).fold(0, u64::saturating_add);
    let constants = (0..graph.nodes.len()).filter(|&node| graph.nodes[node].op == "Const");
    let weights =
        constants.map(|node| bytes(Edge { node, output: 0 })).fold(0, u64::saturating_add);
    Memory { total: zero_copy.saturating_add(workspace(graph, &bytes)), zero_copy, weights }
}

/// A tensor in the workspace.
struct Block {
    offset: u64,
    end: u64,
    /// The last node that takes it.
    last_use: usize,
}

fn workspace(graph: &GeGraph, bytes: &impl Fn(Edge) -> u64) -> u64 {
    let last_uses = last_uses(graph);
    let mut live: Vec<Block> = Vec::new();
    let mut peak = 0;
    for (index, node) in graph.nodes.iter().enumerate() {
        if node.is_data() || node.op == "Const" {
            continue;
        }
        for (output, &last_use) in last_uses[index].iter().enumerate() {
            let edge = Edge { node: index, output };
            if node.is_ref_output(output) || graph.outputs.contains(&edge) {
                continue;
            }
            let size = bytes(edge);
            let at = live.iter().scan(0, |end, block| {
                let gap = (*end, block.offset);
                *end = block.end;
                Some(gap)
            });
            let fits = at.enumerate().find(|(_, (from, to))| to - from >= size);
            let (position, offset) = fits.map_or_else(
                || (live.len(), live.last().map_or(0, |block| block.end)),
                |(position, (from, _))| (position, from),
            );
            let end = offset.saturating_add(size);
            peak = peak.max(end);
            live.insert(position, Block { offset, end, last_use });
        }
        live.retain(|block| block.last_use > index);
    }
    peak
}

/// For each output the last node that takes it; its own node if none does.
fn last_uses(graph: &GeGraph) -> Vec<Vec<usize>> {
    let nodes = graph.nodes.iter().enumerate();
    let mut last: Vec<Vec<usize>> =
        nodes.clone().map(|(index, node)| vec![index; node.outputs.len()]).collect();
    // Backwards, so that what is written in place hands its own last use on.
    for (index, node) in nodes.rev() {
        for input in &node.inputs {
            let position = node.output_names.iter().position(|name| *name == input.name);
            let used = position.map_or(index, |output| last[index][output].max(index));
            let entry = &mut last[input.edge.node][input.edge.output];
            *entry = (*entry).max(used);
        }
    }
    last
}

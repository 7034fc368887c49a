//! Joins pairs of ops that backends have one kernel for.

use super::rewrite::Rewrite;
use crate::ir::{Graph, Node, NodeId, Op, ValueId};

/// `rms_norm(a + b)` becomes `add_rms_norm`, which still gives the sum to its other users;
/// `silu(gate) * up` becomes `silu_mul` when nothing else uses the activation.
pub(super) fn fuse_elementwise(graph: &Graph) -> Graph {
    let definitions = graph.definitions();
    let use_counts = graph.use_counts();
    // By add node: the norm that takes its sum. The pair is emitted at the add's place, which is
    // sound because the norm's weight is a source and can move up with it.
    let mut norm_of: Vec<Option<NodeId>> = vec![None; graph.nodes().len()];
    let mut is_absorbed = vec![false; graph.nodes().len()];
    let defining = |id: ValueId| definitions[id.0 as usize].map(|node| node.0 as usize);

    for (idx, node) in graph.nodes().iter().enumerate() {
        if let Op::RmsNorm { .. } = node.op
            && let Some(add) = defining(node.inputs[0])
            && is_plain_add(graph, &graph.nodes()[add])
            && norm_of[add].is_none()
            && let Some(weight) = defining(node.inputs[1])
            && matches!(graph.nodes()[weight].op, Op::Weight { .. })
        {
            norm_of[add] = Some(NodeId(idx as u32));
            is_absorbed[idx] = true;
        }
    }

    let mut rewrite = Rewrite::new(graph);
    let mut is_emitted = vec![false; graph.nodes().len()];
    for (idx, node) in graph.nodes().iter().enumerate() {
        if is_absorbed[idx] || is_emitted[idx] {
            continue;
        }
        if let Some(norm) = norm_of[idx] {
            let norm = &graph.nodes()[norm.0 as usize];
            let Op::RmsNorm { eps } = norm.op else { continue };
            let weight = defining(norm.inputs[1]).expect("invariant: found above");
            if weight > idx && !is_emitted[weight] {
                rewrite.keep(&graph.nodes()[weight]);
                is_emitted[weight] = true;
            }
            let inputs = [node.inputs[0], node.inputs[1], norm.inputs[1]];
            let outputs = [node.outputs[0], norm.outputs[0]];
            rewrite.emit(Op::AddRmsNorm { eps }, &inputs, &outputs);
        } else if let Some((gate, up)) = silu_mul(graph, node, &defining, &use_counts) {
            rewrite.emit(Op::SiluMul, &[gate, up], &node.outputs);
        } else {
            rewrite.keep(node);
        }
    }
    rewrite.finish()
}

/// An add whose operands already have the shape of the sum: `add_rms_norm` does not broadcast.
fn is_plain_add(graph: &Graph, node: &Node) -> bool {
    matches!(node.op, Op::Add) && graph.ty(node.inputs[0]) == graph.ty(node.inputs[1])
}

/// Gate and up of a `mul` of a `silu` that nothing else uses.
fn silu_mul(
    graph: &Graph,
    node: &Node,
    defining: &dyn Fn(ValueId) -> Option<usize>,
    use_counts: &[u32],
) -> Option<(ValueId, ValueId)> {
    if !matches!(node.op, Op::Mul) || graph.ty(node.inputs[0]) != graph.ty(node.inputs[1]) {
        return None;
    }
    let [a, b] = [node.inputs[0], node.inputs[1]];
    [(a, b), (b, a)].into_iter().find_map(|(activation, up)| {
        let silu = &graph.nodes()[defining(activation)?];
        let is_only_use = use_counts[activation.0 as usize] == 1;
        (matches!(silu.op, Op::Silu) && is_only_use).then(|| (silu.inputs[0], up))
    })
}

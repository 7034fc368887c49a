//! Joins projections of the same input into one with a fused weight.

use super::rewrite::Rewrite;
use crate::ir::{DType, Dim, Graph, Node, Op, Shape, ValueId, ValueType, WeightPart};

/// Linear nodes that share their input and whose weights have the same dtype become one linear
/// with the weights concatenated by rows, followed by slices: q, k, v and gate, up. One pass over
/// the input instead of several, and one region of parallel work.
///
/// A weight that something else uses too (tied embeddings) stays as it is.
pub(super) fn fuse_linear(graph: &Graph) -> Graph {
    let definitions = graph.definitions();
    let use_counts = graph.use_counts();
    let weight_of = |node: &Node| -> Option<&Node> {
        let id = *node.inputs.get(1)?;
        let weight = &graph.nodes()[definitions[id.0 as usize]?.0 as usize];
        let is_own = use_counts[id.0 as usize] == 1;
        (matches!(node.op, Op::Linear) && matches!(weight.op, Op::Weight { .. }) && is_own)
            .then_some(weight)
    };

    // Groups by (input, dtype of the weight), in order of their first node.
    let mut groups: Vec<((ValueId, DType), Vec<usize>)> = Vec::new();
    for (idx, node) in graph.nodes().iter().enumerate() {
        let Some(weight) = weight_of(node).filter(|_| rows(graph, node).is_some()) else {
            continue;
        };
        let key = (node.inputs[0], graph.ty(weight.outputs[0]).dtype);
        match groups.iter_mut().find(|(of, _)| *of == key) {
            Some((_, members)) => members.push(idx),
            None => groups.push((key, vec![idx])),
        }
    }

    let mut group_of: Vec<Option<usize>> = vec![None; graph.nodes().len()];
    for (group, (_, members)) in groups.iter().enumerate() {
        let mut rows = members.iter().map(|&member| rows(graph, &graph.nodes()[member]));
        let has_total = rows.try_fold(0_u64, |sum, rows| sum.checked_add(rows?)).is_some();
        if members.len() > 1 && has_total {
            for &member in members {
                group_of[member] = Some(group);
            }
        }
    }

    let mut rewrite = Rewrite::new(graph);
    for (idx, node) in graph.nodes().iter().enumerate() {
        match group_of[idx] {
            None => rewrite.keep(node),
            Some(group) if groups[group].1[0] == idx => {
                let members: Vec<(&Node, &Node)> = groups[group]
                    .1
                    .iter()
                    .filter_map(|&member| {
                        let node = &graph.nodes()[member];
                        weight_of(node).map(|weight| (node, weight))
                    })
                    .collect();
                emit_fused(&mut rewrite, &members);
            }
            // Emitted with the group's first node: only the shared input is needed for it.
            Some(_) => {}
        }
    }
    rewrite.finish()
}

/// Rows of a linear's weight, which are the columns of its result.
fn rows(graph: &Graph, linear: &Node) -> Option<u64> {
    match graph.ty(linear.inputs[1]).shape.0[0] {
        Dim::Fixed(rows) => Some(rows),
        Dim::Symbolic(_) => None,
    }
}

/// One fused weight, one linear, and a slice for each of the old results.
fn emit_fused(rewrite: &mut Rewrite<'_>, members: &[(&Node, &Node)]) {
    let graph = rewrite.old;
    let mut parts: Vec<WeightPart> = Vec::new();
    let mut rows_of = Vec::new();
    for (node, weight) in members {
        if let Op::Weight { parts: own } = &weight.op {
            parts.extend(own.iter().cloned());
        }
        rows_of.extend(rows(graph, node));
    }
    let first = graph.ty(members[0].1.outputs[0]);
    let total: u64 = rows_of.iter().sum();
    let ty =
        ValueType { dtype: first.dtype, shape: Shape::new([Dim::Fixed(total), first.shape.0[1]]) };
    let names: Vec<&str> =
        members.iter().map(|(_, weight)| graph.value(weight.outputs[0]).name.as_str()).collect();
    let weight = rewrite.builder.source(&names.join("|"), Op::Weight { parts }, ty);

    let input = rewrite.get(members[0].0.inputs[0]);
    let names: Vec<&str> =
        members.iter().map(|(node, _)| graph.value(node.outputs[0]).name.as_str()).collect();
    let fused = rewrite
        .builder
        .op(&names.join("|"), Op::Linear, &[input, weight])
        .expect("invariant: every member fits the shared input");
    let mut start = 0;
    for ((node, _), len) in members.iter().zip(rows_of) {
        let name = &graph.value(node.outputs[0]).name;
        let slice = rewrite
            .builder
            .op(name, Op::Slice { start, len }, &[fused])
            .expect("invariant: the slices cover the fused result");
        rewrite.map(node.outputs[0], slice);
        start += len;
    }
}

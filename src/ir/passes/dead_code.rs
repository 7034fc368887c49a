//! Drops nodes whose results nothing uses.

use super::rewrite::Rewrite;
use crate::ir::{Graph, Op};

/// Keeps what the outputs depend on, every input and state, and every write to a state: those are
/// effects.
pub(super) fn dead_code(graph: &Graph) -> Graph {
    let mut is_live = vec![false; graph.values().len()];
    for id in graph.outputs() {
        is_live[id.0 as usize] = true;
    }
    let mut keep = vec![false; graph.nodes().len()];
    for (idx, node) in graph.nodes().iter().enumerate().rev() {
        let is_effect = matches!(node.op, Op::Input | Op::State | Op::KvWrite);
        keep[idx] = is_effect || node.outputs.iter().any(|id| is_live[id.0 as usize]);
        if keep[idx] {
            for id in &node.inputs {
                is_live[id.0 as usize] = true;
            }
        }
    }
    let mut rewrite = Rewrite::new(graph);
    for (node, keep) in graph.nodes().iter().zip(keep) {
        if keep {
            rewrite.keep(node);
        }
    }
    rewrite.finish()
}

//! Tensors that are changed in place.
//!
//! ```text
//! RefData k --> ScatterNdUpdate.var --(the same memory)--> FusedInferAttentionScore.key0
//! ```
//!
//! Every pair of nodes that touch one tensor, one of them writing, must have a path between them.

use std::collections::BTreeMap;

use super::error::GeError;
use super::graph::Edge;
use super::order;
use super::prepare::Draft;

/// The tensor that first held the memory of an output.
fn root(drafts: &[Draft], mut edge: Edge) -> Edge {
    while let Some(source) = drafts[edge.node].node.ref_input(edge.output) {
        edge = source;
    }
    edge
}

/// Who touches the memory of a tensor.
#[derive(Default)]
struct Access {
    all: Vec<usize>,
    writers: Vec<usize>,
}

/// Checks every tensor that is changed in place.
///
/// # Errors
/// [`GeError::Strict`] for two nodes without an order between them.
pub(super) fn check(drafts: &[Draft], successors: &[Vec<usize>]) -> Result<(), GeError> {
    let mut accesses: BTreeMap<(usize, usize), Access> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        let node = &draft.node;
        // What NetOutput takes is read after all kernels.
        for input in node.inputs.iter().filter(|_| node.op != "NetOutput") {
            let root = root(drafts, input.edge);
            let access = accesses.entry((root.node, root.output)).or_default();
            access.all.push(index);
            if node.output_names.contains(&input.name) {
                access.writers.push(index);
            }
        }
    }
    for ((tensor, _), access) in accesses {
        if access.writers.is_empty() {
            continue;
        }
        check_order(drafts, successors, &drafts[tensor].node.name, &access)?;
    }
    Ok(())
}

fn check_order(
    drafts: &[Draft],
    successors: &[Vec<usize>],
    tensor: &str,
    access: &Access,
) -> Result<(), GeError> {
    let after: BTreeMap<usize, Vec<bool>> =
        access.all.iter().map(|&index| (index, order::reachable(successors, index))).collect();
    for &writer in &access.writers {
        for &other in access.all.iter().filter(|&&other| other != writer) {
            if !after[&writer][other] && !after[&other][writer] {
                let (writer, other) = (&drafts[writer].node.name, &drafts[other].node.name);
                return Err(GeError::Strict(format!(
                    "{writer} changes {tensor} in place and {other} takes it, without an order \
                     between them"
                )));
            }
        }
    }
    Ok(())
}

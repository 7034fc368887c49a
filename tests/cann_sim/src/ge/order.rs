//! In which order nodes run, and whether that order is enough for tensors changed in place.
//!
//! A `RefData` may be read and written by several nodes. GE orders them only as far as edges do,
//! and says nothing where they do not: two that touch the same memory without a path between them
//! run in any order.

use std::collections::BTreeSet;

use super::error::GeError;

/// Nodes that take something of each node, by data or by order.
pub(super) fn successors(
    num_nodes: usize,
    edges: impl Iterator<Item = (usize, usize)>,
) -> Vec<Vec<usize>> {
    let mut successors = vec![Vec::new(); num_nodes];
    for (from, to) in edges {
        successors[from].push(to);
    }
    successors
}

/// Nodes such that each comes after those it depends on; first in the file is first otherwise.
///
/// # Errors
/// [`GeError::Internal`] for a cycle.
pub(super) fn topological(successors: &[Vec<usize>]) -> Result<Vec<usize>, GeError> {
    let mut open = vec![0_usize; successors.len()];
    for &to in successors.iter().flatten() {
        open[to] += 1;
    }
    let mut ready: BTreeSet<usize> = (0..open.len()).filter(|&node| open[node] == 0).collect();
    let mut order = Vec::with_capacity(open.len());
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for &to in &successors[node] {
            open[to] -= 1;
            if open[to] == 0 {
                ready.insert(to);
            }
        }
    }
    if order.len() < successors.len() {
        return Err(GeError::Internal("exist closed loop in graph".to_owned()));
    }
    Ok(order)
}

/// Nodes that run after `from` whatever happens.
pub(super) fn reachable(successors: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut seen = vec![false; successors.len()];
    let mut stack = successors[from].clone();
    while let Some(node) = stack.pop() {
        if !std::mem::replace(&mut seen[node], true) {
            stack.extend(&successors[node]);
        }
    }
    seen
}

//! Puts nodes into an order that follows from what they compute, so that two graphs that differ only
//! in the order of independent nodes become the same graph, and get the same key.
//!
//! ```text
//! sources, as they are declared: inputs, weights and states are bound in that order
//! then each output's operands, depth first, and the output
//! then writes that no output needs, in the order of their states
//! ```
//!
//! A write to a cache comes after what reads it before the write. What nothing needs is left out.

use super::rewrite::Rewrite;
use crate::ir::{Graph, Op, ValueId};

pub(super) fn order(graph: &Graph) -> Graph {
    let mut rewrite = Rewrite::new(graph);
    let mut walk = Walk::new(graph);
    for (idx, node) in graph.nodes().iter().enumerate() {
        let is_bound = matches!(node.op, Op::Input | Op::Weight { .. } | Op::State);
        if is_bound {
            walk.is_done[idx] = true;
            rewrite.keep(node);
        }
    }
    let outputs = graph.outputs().iter().map(|id| walk.maker_of[id.0 as usize]);
    let roots: Vec<usize> = outputs.chain(walk.last_writes()).collect();
    for root in roots {
        walk.visit(root, &mut |idx| rewrite.keep(&graph.nodes()[idx]));
    }
    rewrite.finish()
}

/// A way through the graph that visits each node once, after all that it needs.
struct Walk<'a> {
    graph: &'a Graph,
    /// The node that makes a value.
    maker_of: Vec<usize>,
    /// The nodes that use a value, in order.
    users_of: Vec<Vec<usize>>,
    is_done: Vec<bool>,
}

impl<'a> Walk<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut maker_of = vec![usize::MAX; graph.values().len()];
        let mut users_of = vec![Vec::new(); graph.values().len()];
        for (idx, node) in graph.nodes().iter().enumerate() {
            for id in &node.outputs {
                maker_of[id.0 as usize] = idx;
            }
            for id in &node.inputs {
                users_of[id.0 as usize].push(idx);
            }
        }
        Self { graph, maker_of, users_of, is_done: vec![false; graph.nodes().len()] }
    }

    /// The last write to each state that is written, in the order of the states.
    fn last_writes(&self) -> Vec<usize> {
        let states = self.graph.nodes().iter().filter(|node| matches!(node.op, Op::State));
        let lasts = states.filter_map(|state| {
            let mut last = None;
            let mut cache = state.outputs[0];
            while let Some(write) = self.write_to(cache) {
                last = Some(write);
                cache = self.graph.nodes()[write].outputs[0];
            }
            last
        });
        lasts.collect()
    }

    /// The node that writes to a cache; there is at most one.
    fn write_to(&self, cache: ValueId) -> Option<usize> {
        let is_write = |idx: &&usize| matches!(self.graph.nodes()[**idx].op, Op::KvWrite);
        self.users_of[cache.0 as usize].iter().find(is_write).copied()
    }

    /// What has to come before a node: its operands and, for a write, what reads the cache as it
    /// was.
    fn needs(&self, idx: usize) -> impl DoubleEndedIterator<Item = usize> {
        let node = &self.graph.nodes()[idx];
        let mut needed: Vec<usize> =
            node.inputs.iter().map(|id| self.maker_of[id.0 as usize]).collect();
        if matches!(node.op, Op::KvWrite) {
            let readers = &self.users_of[node.inputs[1].0 as usize];
            needed.extend(readers.iter().filter(|reader| **reader != idx));
        }
        needed.into_iter()
    }

    /// Visits a node after all that it needs. Without recursion: a graph may be deep.
    fn visit(&mut self, root: usize, emit: &mut dyn FnMut(usize)) {
        let mut stack = vec![(root, false)];
        while let Some((idx, are_needs_done)) = stack.pop() {
            if self.is_done[idx] {
                continue;
            }
            if are_needs_done {
                self.is_done[idx] = true;
                emit(idx);
            } else {
                stack.push((idx, true));
                stack.extend(self.needs(idx).rev().map(|needed| (needed, false)));
            }
        }
    }
}

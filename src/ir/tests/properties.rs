//! What holds for every random graph.

use proptest::prelude::*;

use super::{Shown, config, graphs};
use crate::ir::{Graph, Node, Op, ValueType, canonical_bytes, passes, text, verify};

fn output_types(graph: &Graph) -> Vec<ValueType> {
    graph.outputs().iter().map(|&id| graph.ty(id).clone()).collect()
}

/// Types of the inputs and states, in order, and how often a state is written: what callers see.
fn signature(graph: &Graph) -> (Vec<ValueType>, Vec<ValueType>, usize) {
    let types = |ids: Vec<_>| ids.into_iter().map(|id| graph.ty(id).clone()).collect();
    let writes = graph.nodes().iter().filter(|node| matches!(node.op, Op::KvWrite)).count();
    (types(graph.inputs().collect()), types(graph.states().collect()), writes)
}

/// The same graph with its nodes in another order that keeps every operand before its use, what
/// reads a cache before what writes to it, and inputs, weights and states in theirs.
fn reordered(graph: &Graph, mut seed: u64) -> Graph {
    let nodes = graph.nodes();
    let is_bound = |node: &Node| matches!(node.op, Op::Input | Op::Weight { .. } | Op::State);
    let must_come_before = |first: &Node, second: &Node| {
        first.outputs.iter().any(|id| second.inputs.contains(id))
            || (is_bound(first) && is_bound(second))
            || (matches!(second.op, Op::KvWrite) && first.inputs.contains(&second.inputs[1]))
    };
    let mut left: Vec<usize> = (0..nodes.len()).collect();
    let mut reordered = graph.clone();
    reordered.nodes.clear();
    while !left.is_empty() {
        let is_ready = |at: &usize| {
            !left[..*at].iter().any(|other| must_come_before(&nodes[*other], &nodes[left[*at]]))
        };
        let ready: Vec<usize> = (0..left.len()).filter(is_ready).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = ready[(seed >> 33) as usize % ready.len()];
        reordered.nodes.push(nodes[left.remove(at)].clone());
    }
    reordered
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn the_order_of_independent_nodes_means_nothing(Shown(graph) in graphs(), seed: u64) {
        let other = verify(reordered(&graph, seed)).unwrap();
        let graph = verify(graph).unwrap();
        let [one, two] = [graph, other].map(|graph| passes::optimise(&graph).unwrap());
        prop_assert_eq!(canonical_bytes(&one), canonical_bytes(&two), "{}\n{}", *one, *two);
    }


    #[test]
    fn built_graphs_are_valid(Shown(graph) in graphs()) {
        verify(graph).unwrap();
    }

    #[test]
    fn text_reads_back_equal(Shown(graph) in graphs()) {
        let text = graph.to_string();
        let back = text::parse(&text).unwrap();
        prop_assert_eq!(&back, &graph, "{}", text);
        prop_assert_eq!(back.to_string(), text);
        prop_assert_eq!(canonical_bytes(&back), canonical_bytes(&graph));
    }

    #[test]
    fn passes_keep_the_rules_and_the_signature(Shown(graph) in graphs()) {
        let graph = verify(graph).unwrap();
        let optimised = passes::optimise(&graph).unwrap();
        prop_assert_eq!(output_types(&optimised), output_types(&graph));
        prop_assert_eq!(signature(&optimised), signature(&graph));
        prop_assert_eq!(optimised.symbols(), graph.symbols());
        let back = text::parse(&optimised.to_string()).unwrap();
        prop_assert_eq!(&back, &*optimised);
    }

    #[test]
    fn passes_are_idempotent(Shown(graph) in graphs()) {
        let once = passes::optimise(&verify(graph).unwrap()).unwrap();
        let twice = passes::optimise(&once).unwrap();
        prop_assert_eq!(twice.to_string(), once.to_string());
    }
}

//! What holds for every random graph.

use proptest::prelude::*;

use super::{Shown, config, graphs};
use crate::ir::{Graph, Op, ValueType, canonical_bytes, passes, text, verify};

fn output_types(graph: &Graph) -> Vec<ValueType> {
    graph.outputs().iter().map(|&id| graph.ty(id).clone()).collect()
}

/// Types of the inputs and states, in order, and how often a state is written: what callers see.
fn signature(graph: &Graph) -> (Vec<ValueType>, Vec<ValueType>, usize) {
    let types = |ids: Vec<_>| ids.into_iter().map(|id| graph.ty(id).clone()).collect();
    let writes = graph.nodes().iter().filter(|node| matches!(node.op, Op::KvWrite)).count();
    (types(graph.inputs().collect()), types(graph.states().collect()), writes)
}

proptest! {
    #![proptest_config(config(256))]

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

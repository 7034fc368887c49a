//! Random graphs: written so that they load, or refused.

#[expect(clippy::duplicate_mod, reason = "the tests of `ir` have it too, for themselves")]
#[path = "../../../../../tests/common/random_graph.rs"]
mod random_graph;

use proptest::prelude::*;

use super::{check, pinned, targets};
use crate::backend::BackendError;
use crate::backend::ascend::lower::lower;
// The name under which `random_graph` finds it.
use crate::ir;
use random_graph::{Kind, random_graph};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn any_graph_becomes_one_that_loads_or_is_refused(
        kind in proptest::sample::select(vec![Kind::Anything, Kind::Runnable]),
        choices in proptest::collection::vec(any::<u32>(), 0..160),
        size in 1..9_u64,
        is_old: bool,
    ) {
        let graph = random_graph(kind, &choices);
        let value = |symbol: &ir::Symbol| size.clamp(symbol.min, symbol.max);
        let sizes: Vec<u64> = graph.symbols().iter().map(value).collect();
        // Not every choice of sizes keeps the rules.
        if let Ok(graph) = ir::verify(pinned(&graph, &sizes)) {
            let target = targets()[usize::from(is_old)];
            match lower(&graph, &target) {
                Ok(lowered) => check(&lowered, &target),
                Err(BackendError::Unsupported { what, .. }) => prop_assert!(!what.is_empty()),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

//! What `lower` writes keeps every rule.

#[expect(clippy::duplicate_mod, reason = "the tests of `ir` have it too, for themselves")]
#[path = "../../../../../tests/common/random_graph.rs"]
mod random_graph;

use proptest::prelude::*;

use super::super::super::lower::lower;
use super::super::super::target::Target;
use super::{old, target, validate};
// The name under which `random_graph` finds it.
use crate::ir;
use ir::{Builder, DType, Dim, Graph, Op, RopeStyle, Shape, SymbolId, TypeError};
use random_graph::{Kind, random_graph};

const GROUPS: u64 = 2;
const HIDDEN: u64 = 64;

/// A decoder of one layer without its feed-forward part: tokens, sequences, width of the tables.
fn decoder(head_size: u64, style: RopeStyle) -> Result<Graph, TypeError> {
    let mut b = Builder::new("decoder");
    let [t, s, m] = ["t", "s", "m"].map(|name| Dim::from(b.symbol(name, 1, 4096)));
    let shape = |dims: &[Dim]| Shape::new(dims.iter().copied());
    let [ids, positions, slots] =
        ["ids", "positions", "slots"].map(|name| b.input(name, DType::I32, shape(&[t])));
    let tables = b.input("tables", DType::I32, shape(&[s, m]));
    let [ends, lens] = ["ends", "lens"].map(|name| b.input(name, DType::I32, shape(&[s])));

    let weight = |b: &mut Builder, name: &str, dims: &[u64]| {
        b.weight(name, DType::BF16, Shape::new(dims.iter().map(|&dim| Dim::from(dim))))
    };
    let gather = Op::Gather { dtype: DType::BF16 };
    let norm = Op::RmsNorm { eps: 1e-6 };
    let embed = weight(&mut b, "embed", &[96, HIDDEN]);
    let gamma = weight(&mut b, "gamma", &[HIDDEN]);
    let x = b.op("x", gather.clone(), &[embed, ids])?;
    let y = b.op("norm", norm.clone(), &[x, gamma])?;
    let heads = |b: &mut Builder, name: &str, count: u64| {
        let w = weight(b, name, &[count * head_size, HIDDEN]);
        let y = b.op(name, Op::Linear, &[y, w])?;
        b.op(name, Op::Reshape { shape: shape(&[t, count.into(), head_size.into()]) }, &[y])
    };
    let [q, k, v] = [("q", 2 * GROUPS), ("k", GROUPS), ("v", GROUPS)]
        .map(|(name, count)| heads(&mut b, name, count));
    let table = |b: &mut Builder, name: &str| {
        let table = weight(b, name, &[512, head_size / 2]);
        b.op(name, gather.clone(), &[table, positions])
    };
    let (cos, sin) = (table(&mut b, "cos")?, table(&mut b, "sin")?);
    let q = b.op("q", Op::Rope { style }, &[q?, cos, sin])?;
    let k = b.op("k", Op::Rope { style }, &[k?, cos, sin])?;
    let blocks = Shape::new([16, 128, GROUPS, head_size].map(Dim::from));
    let mut cache = |name: &str, rows| {
        let state = b.state(name, DType::BF16, blocks.clone());
        b.op(name, Op::KvWrite, &[rows, state, slots])
    };
    let (keys, values) = (cache("keys", k)?, cache("values", v?)?);
    let attention = Op::PagedAttention { scale: 0.125, window: None };
    let y = b.op("attention", attention, &[q, keys, values, tables, ends, lens])?;
    let width = 2 * GROUPS * head_size;
    let y = b.op("flat", Op::Reshape { shape: shape(&[t, width.into()]) }, &[y])?;
    let o = weight(&mut b, "o", &[HIDDEN, width]);
    let y = b.op("o", Op::Linear, &[y, o])?;
    let x = b.op("sum", Op::Add, &[x, y])?;
    let y = b.op("last", norm, &[x, gamma])?;
    let logits = b.op("logits", Op::Linear, &[y, embed])?;
    let logits = b.op("logits", Op::Cast { dtype: DType::F32 }, &[logits])?;
    Ok(b.finish(&[logits]))
}

fn pinned(graph: &Graph, sizes: &[u64]) -> Graph {
    let bindings: Vec<_> = (0..).map(SymbolId).zip(sizes.iter().copied()).collect();
    graph.specialise(&bindings).unwrap()
}

fn checked(graph: Graph, optimised: bool, target: Target) {
    let graph = ir::verify(graph).unwrap();
    let graph = if optimised { ir::passes::optimise(&graph).unwrap() } else { graph };
    let lowered = lower(&graph, &target).unwrap();
    validate(&lowered.model, &target).unwrap_or_else(|violation| panic!("{violation}"));
}

#[test]
fn a_decoder_keeps_every_rule_in_each_layout() {
    let new = target("Ascend910_9382", "9.0");
    for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
        for optimised in [false, true] {
            for sizes in [[4, 4, 3], [128, 1, 3], [1, 1, 1]] {
                checked(pinned(&decoder(64, style).unwrap(), &sizes), optimised, old());
                checked(pinned(&decoder(128, style).unwrap(), &sizes), optimised, new);
            }
            checked(pinned(&decoder(128, style).unwrap(), &[160, 5, 3]), optimised, new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_graph_that_can_be_lowered_keeps_every_rule(
        kind in prop::sample::select(vec![Kind::Anything, Kind::Runnable]),
        choices in prop::collection::vec(any::<u32>(), 0..160),
        size in 1..9_u64,
        is_old: bool,
    ) {
        let graph = random_graph(kind, &choices);
        let sizes: Vec<u64> =
            graph.symbols().iter().map(|symbol| size.clamp(symbol.min, symbol.max)).collect();
        let target = if is_old { old() } else { target("Ascend910B3", "9.0") };
        // Not every choice of sizes keeps the rules of the IR.
        if let Ok(graph) = ir::verify(pinned(&graph, &sizes))
            && let Ok(lowered) = lower(&graph, &target)
        {
            prop_assert_eq!(validate(&lowered.model, &target), Ok(()));
        }
    }
}

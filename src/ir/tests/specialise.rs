//! Buckets: symbols become sizes.

use proptest::prelude::*;

use super::{Shown, config, decoder_layer, graphs};
use crate::ir::graph::SpecialiseError;
use crate::ir::{Builder, DType, Dim, Graph, Op, Shape, SymbolId, canonical_bytes, verify};

/// Every dim written anywhere in a graph.
fn dims(graph: &Graph) -> Vec<Dim> {
    let mut dims: Vec<Dim> = graph.values().iter().flat_map(|v| v.ty.shape.0.clone()).collect();
    for node in graph.nodes() {
        if let Op::Reshape { shape } = &node.op {
            dims.extend(shape.dims());
        }
        if let Op::Weight { parts } = &node.op {
            dims.extend(parts.iter().map(|part| part.rows));
        }
    }
    dims
}

/// A graph whose one symbol is in an input, a weight, its part and a reshape.
fn everywhere() -> (Graph, SymbolId) {
    let mut b = Builder::new("everywhere");
    let n = b.symbol("n", 2, 8);
    let ids = b.input("ids", DType::I32, Shape::new([n.into()]));
    let table = b.weight("table", DType::F32, Shape::new([n.into(), 6_u64.into()]));
    let x = b.op("x", Op::Gather { dtype: DType::F32 }, &[table, ids]).unwrap();
    let shape = Shape::new([n.into(), 2_u64.into(), 3_u64.into()]);
    let y = b.op("y", Op::Reshape { shape }, &[x]).unwrap();
    (b.finish(&[y]), n)
}

#[test]
fn a_symbol_is_pinned_everywhere_and_stays_in_the_table() {
    let (graph, n) = everywhere();
    assert_eq!(dims(&graph).iter().filter(|&&dim| dim == n.into()).count(), 6);
    let bucket = verify(graph.specialise(&[(n, 5)]).unwrap()).unwrap();
    assert!(!dims(&bucket).contains(&n.into()));
    assert_eq!(dims(&bucket).iter().filter(|&&dim| dim == Dim::Fixed(5)).count(), 6);
    let [symbol] = bucket.symbols() else { panic!("one symbol") };
    assert_eq!((symbol.name.as_str(), symbol.min, symbol.max), ("n", 5, 5));
    // The graph itself is as it was.
    assert_eq!(graph, everywhere().0);
}

#[test]
fn the_bounds_are_inclusive() {
    let (graph, n) = everywhere();
    assert!(graph.specialise(&[(n, 2)]).is_ok() && graph.specialise(&[(n, 8)]).is_ok());
    for value in [0, 1, 9, u64::MAX] {
        let error = graph.specialise(&[(n, value)]).unwrap_err();
        let expected = SpecialiseError::OutOfBounds { name: "n".into(), value, min: 2, max: 8 };
        assert_eq!(error, expected);
        assert_eq!(
            error.to_string(),
            format!("symbol `n` cannot be {value}: its bounds are 2 to 8")
        );
    }
}

#[test]
fn an_unknown_symbol_is_refused() {
    let (graph, _) = everywhere();
    for id in [SymbolId(1), SymbolId(u32::MAX)] {
        let error = graph.specialise(&[(id, 3)]).unwrap_err();
        assert_eq!(error, SpecialiseError::UnknownSymbol(id));
        assert_eq!(error.to_string(), format!("the graph has no symbol {id}"));
    }
}

#[test]
fn a_pinned_symbol_can_only_be_pinned_to_the_same_value() {
    let (graph, n) = everywhere();
    let bucket = graph.specialise(&[(n, 5)]).unwrap();
    assert_eq!(bucket.specialise(&[(n, 5)]).unwrap(), bucket);
    assert!(bucket.specialise(&[(n, 6)]).is_err());
    assert!(graph.specialise(&[(n, 5), (n, 6)]).is_err());
}

#[test]
fn a_bucket_of_some_symbols_leaves_the_others() {
    let graph = decoder_layer();
    let bucket = verify(graph.specialise(&[(SymbolId(0), 4), (SymbolId(3), 9)]).unwrap()).unwrap();
    for (id, is_left) in [(0, false), (1, true), (2, true), (3, false)] {
        assert_eq!(dims(&bucket).contains(&SymbolId(id).into()), is_left, "s{id}");
    }
    assert_eq!(bucket.symbols().len(), graph.symbols().len());
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn a_bucket_of_a_valid_graph_is_valid(Shown(graph) in graphs(), sizes in proptest::array::uniform4(1_u64..60)) {
        let bindings: Vec<(SymbolId, u64)> =
            (0..graph.symbols().len() as u32).map(SymbolId).zip(sizes).collect();
        let bucket = verify(graph.specialise(&bindings).unwrap()).unwrap();
        prop_assert!(dims(&bucket).iter().all(|dim| matches!(dim, Dim::Fixed(_))));
        if !bindings.is_empty() {
            prop_assert_ne!(canonical_bytes(&bucket), canonical_bytes(&graph));
        }
    }
}

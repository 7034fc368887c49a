//! Broken graphs are refused, and the message says where.

use super::decoder_layer;
use crate::ir::{
    Builder, Constant, DType, Dim, Graph, Node, Op, Shape, SymbolId, Value, ValueId, ValueType,
    WeightPart, verify,
};

/// The decoder layer with one thing broken.
fn broken(breaking: impl FnOnce(&mut Graph)) -> Graph {
    let mut graph = decoder_layer();
    breaking(&mut graph);
    graph
}

/// Checks that `graph` is refused with a message about `what` at `place`.
fn refused(graph: Graph, what: &str, place: &str) {
    let error = verify(graph).expect_err(what);
    assert!(error.message.contains(what), "expected `{what}`, got `{error}`");
    assert!(error.place.contains(place), "expected `{place}`, got `{error}`");
    assert_eq!(error.to_string(), format!("{} ({})", error.message, error.place));
}

/// Index of the node that defines the value of that name.
fn node(graph: &Graph, name: &str) -> usize {
    let defines =
        |node: &Node| node.outputs.iter().any(|id| graph.values[id.0 as usize].name == name);
    graph.nodes.iter().position(defines).expect("the name exists")
}

/// Id of the last value of that name.
fn value(graph: &Graph, name: &str) -> ValueId {
    let idx = graph.values.iter().rposition(|value| value.name == name);
    ValueId(idx.expect("the name exists") as u32)
}

fn sources(node: Node, ty: ValueType) -> Graph {
    let values = vec![Value { name: "source".into(), ty }];
    Graph { nodes: vec![node], values, outputs: vec![ValueId(0)], ..Graph::default() }
}

/// A graph of one source, which it returns.
fn source(op: Op, dtype: DType, dims: &[usize]) -> Graph {
    let node = Node { op, inputs: vec![], outputs: vec![ValueId(0)] };
    sources(node, ValueType { dtype, shape: Shape::fixed(dims) })
}

fn weight(rows: &[Dim]) -> Op {
    let part = |&rows: &Dim| WeightPart { name: "part".into(), rows };
    Op::Weight { parts: rows.iter().map(part).collect() }
}

#[test]
fn ids_must_be_in_range_and_values_defined_once_before_use() {
    let end = decoder_layer().values.len() as u32;
    let operand = |id: u32| broken(|g| g.nodes.last_mut().unwrap().inputs[0] = ValueId(id));
    refused(operand(end), &format!("operand %{end} does not exist"), "logits");
    refused(operand(end - 1), "is used before it is defined", "logits");
    refused(
        broken(|g| g.nodes.last_mut().unwrap().outputs[0] = ValueId(u32::MAX)),
        "result %4294967295 does not exist",
        "",
    );
    refused(
        broken(|g| {
            let act = node(g, "act");
            let twice = g.nodes[act].clone();
            g.nodes.insert(act + 1, twice);
        }),
        "the value is defined twice",
        "act",
    );
    refused(
        broken(|g| {
            let (act, mlp) = (node(g, "act"), node(g, "mlp"));
            g.nodes.swap(act, mlp);
        }),
        "is used before it is defined",
        "mlp",
    );
    refused(
        broken(|g| {
            let ty = ValueType { dtype: DType::F32, shape: Shape::default() };
            g.values.push(Value { name: "orphan".into(), ty });
        }),
        "the value is not defined by any node",
        "orphan",
    );
    refused(
        broken(|g| g.nodes.push(Node { op: Op::Silu, inputs: vec![], outputs: vec![] })),
        "the node defines no value",
        "silu",
    );
}

#[test]
fn symbols_must_have_bounds() {
    for (min, max) in [(0, 5), (0, 0), (6, 5)] {
        refused(
            broken(|g| (g.symbols[1].min, g.symbols[1].max) = (min, max)),
            &format!("must be 1 <= min <= max, got {min} to {max}"),
            "symbol s1, num_seqs",
        );
    }
}

#[test]
fn axes_must_be_of_a_known_size_that_is_not_zero() {
    let shaped = |dim: Dim| {
        broken(|g| {
            let positions = value(g, "positions");
            g.values[positions.0 as usize].ty.shape = Shape::new([dim]);
        })
    };
    refused(shaped(Dim::Symbolic(SymbolId(4))), "unknown symbol s4 in [s4]", "positions");
    refused(shaped(Dim::Fixed(0)), "an axis has size 0 in [0]", "positions");
}

#[test]
fn results_must_have_the_inferred_type() {
    let retyped = |change: fn(&mut ValueType)| {
        broken(|g| {
            let logits = value(g, "logits");
            change(&mut g.values[logits.0 as usize].ty);
        })
    };
    let what = "linear gives f32[s0, 16], the value says";
    refused(retyped(|ty| ty.dtype = DType::F16), what, "logits");
    refused(retyped(|ty| ty.shape = Shape::fixed(&[4, 16])), what, "logits");
    refused(retyped(|ty| ty.shape.0[0] = Dim::Symbolic(SymbolId(1))), what, "logits");
    refused(
        broken(|g| {
            let ty = ValueType { dtype: DType::F32, shape: Shape::default() };
            g.values.push(Value { name: "extra".into(), ty });
            let extra = value(g, "extra");
            g.nodes.last_mut().unwrap().outputs.push(extra);
        }),
        "linear gives 1 results, the node defines 2",
        "logits",
    );
}

#[test]
fn operands_and_attributes_must_fit_the_op() {
    let at = |name: &'static str, change: fn(&mut Node)| {
        broken(|g| {
            let id = value(g, name);
            let node = g.nodes.iter_mut().find(|node| node.outputs.contains(&id)).unwrap();
            change(node);
        })
    };
    for (name, change, what) in [
        ("logits", (|n| n.inputs.truncate(1)) as fn(&mut Node), "linear takes 2 operands, got 1"),
        ("logits", |n| n.inputs.push(ValueId(0)), "linear takes 2 operands, got 3"),
        ("logits", |n| n.inputs[0] = ValueId(0), "dtype mismatch in linear: x must be f32"),
        ("layer", |n| n.inputs[1] = ValueId(6), "dtype mismatch in add: b must be f32, got f16"),
        ("down", |n| n.inputs[1] = ValueId(6), "shape mismatch in linear: x must be [.., 8]"),
        ("norm", |n| n.op = Op::RmsNorm { eps: 0.0 }, "eps must be above 0, got 0"),
        ("norm", |n| n.op = Op::RmsNorm { eps: f32::NAN }, "eps must be above 0, got NaN"),
        ("norm", |n| n.op = Op::Slice { start: 8, len: 1 }, "slice takes 1 operands, got 2"),
        ("act", |n| n.op = Op::Slice { start: 12, len: 1 }, "at least 12 + 1 wide"),
        ("act", |n| n.op = Op::Slice { start: 0, len: 0 }, "the slice not empty"),
        ("act", |n| n.op = Op::Slice { start: u64::MAX, len: 2 }, "shape mismatch in slice"),
        ("act", |n| n.op = Op::Cast { dtype: DType::Q4K }, "dtype must be f32, f16 or bf16"),
        ("act", |n| n.op = Op::Reshape { shape: Shape::fixed(&[12]) }, "of the size of [12]"),
        ("x", |n| n.op = Op::Gather { dtype: DType::I32 }, "dtype must be f32, f16 or bf16"),
    ] {
        refused(at(name, change), what, name);
    }
    for (scale, window, what) in [
        (0.0, None, "scale must be above 0, got 0"),
        (f32::INFINITY, None, "scale must be above 0, got inf"),
        (1.0, Some(0), "window must be at least 1"),
    ] {
        let graph = broken(|g| {
            let attention = node(g, "attention");
            g.nodes[attention].op = Op::PagedAttention { scale, window };
        });
        refused(graph, what, "attention");
    }
}

#[test]
fn a_source_has_no_operands_and_one_result() {
    let op = || source(Op::Input, DType::F32, &[1]);
    assert!(verify(op()).is_ok());
    for op in [Op::Input, weight(&[Dim::Fixed(1)]), Op::State] {
        let mut graph = source(Op::Input, DType::F32, &[1]);
        graph.values.push(graph.values[0].clone());
        graph.values[1].name = "second".into();
        let outputs = vec![ValueId(1)];
        graph.nodes.push(Node { op: op.clone(), inputs: vec![ValueId(0)], outputs });
        let what = format!("{} takes no operands and gives one result", op.name());
        refused(graph, &what, "second");
        let mut graph = source(op, DType::F32, &[1]);
        graph.values.push(graph.values[0].clone());
        graph.nodes[0].outputs.push(ValueId(1));
        refused(graph, &what, "source");
    }
}

#[test]
fn inputs_and_states_have_types_that_can_be_written() {
    for dtype in DType::ALL {
        let input = source(Op::Input, dtype, &[256]);
        if dtype.is_quantised() {
            refused(input, "an input cannot be quantised", "source");
        } else {
            assert!(verify(input).is_ok());
        }
        // A state cannot be returned, so only the message tells which rule it was.
        let what = if dtype.is_float() { "cannot be returned" } else { "must be floating point" };
        refused(source(Op::State, dtype, &[256]), what, "source");
    }
}

#[test]
fn a_quantised_weight_has_whole_blocks_in_each_row() {
    let rows = weight(&[Dim::Fixed(2)]);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let block = dtype.block_elements();
        assert!(verify(source(rows.clone(), dtype, &[2, 3 * block])).is_ok());
        let what = format!("are not whole blocks of {dtype}");
        refused(source(rows.clone(), dtype, &[2, block + 1]), &what, "source");
        refused(source(weight(&[Dim::Fixed(1)]), dtype, &[]), &what, "source");
        let mut graph = source(rows.clone(), dtype, &[2, block]);
        let mut b = Builder::default();
        b.symbol("columns", 1, 64);
        graph.symbols = b.finish(&[]).symbols;
        graph.values[0].ty.shape.0[1] = Dim::Symbolic(SymbolId(0));
        refused(graph, &what, "source");
    }
}

#[test]
fn the_parts_of_a_weight_add_up() {
    let fixed = |rows: &[u64]| weight(&rows.iter().map(|&rows| rows.into()).collect::<Vec<_>>());
    for rows in [&[6][..], &[1, 5], &[2, 2, 2]] {
        assert!(verify(source(fixed(rows), DType::F32, &[6, 2])).is_ok());
    }
    for rows in [&[][..], &[5], &[6, 6], &[1, 4], &[u64::MAX, 7]] {
        let graph = source(fixed(rows), DType::F32, &[6, 2]);
        refused(graph, "the parts do not add up to 6 rows", "source");
    }
    let symbolic = weight(&[Dim::Symbolic(SymbolId(0))]);
    refused(source(symbolic, DType::F32, &[6, 2]), "do not add up", "source");
}

#[test]
fn a_constant_is_finite_and_as_large_as_it_says() {
    let constant = |shape: &[usize], values: &[f32]| {
        Op::Constant(Constant { shape: shape.to_vec(), values: values.to_vec() })
    };
    assert!(verify(source(constant(&[2], &[0.5, -0.0]), DType::F32, &[2])).is_ok());
    for (op, dims) in [
        (constant(&[2], &[1.0]), &[2][..]),
        (constant(&[2], &[1.0, 2.0]), &[1, 2]),
        (constant(&[usize::MAX, 2], &[1.0]), &[usize::MAX, 2]),
    ] {
        refused(source(op, DType::F32, dims), "a constant of", "source");
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let op = constant(&[2], &[1.0, value]);
        refused(source(op, DType::F32, &[2]), "a constant must be finite", "source");
    }
    for dtype in DType::ALL.into_iter().filter(|&dtype| dtype != DType::F32) {
        let op = constant(&[2], &[1.0, 2.0]);
        refused(source(op, dtype, &[2]), "a constant must be f32", "source");
    }
}

#[test]
fn a_cache_is_used_as_a_cache_only() {
    let mut b = Builder::new("caches");
    let state = b.state("state", DType::F32, Shape::fixed(&[2, 1, 1, 4]));
    let y = b.op("y", Op::Silu, &[state]).unwrap();
    refused(b.finish(&[y]), "silu cannot use a cache as operand 0", "y");

    let mut b = Builder::new("caches");
    let x = b.input("x", DType::F32, Shape::fixed(&[3, 1, 4]));
    let slots = b.input("slots", DType::I32, Shape::fixed(&[3]));
    let fake = b.input("fake", DType::F32, Shape::fixed(&[2, 1, 1, 4]));
    b.op("written", Op::KvWrite, &[x, fake, slots]).unwrap();
    refused(b.finish(&[x]), "kv_write needs a cache as operand 1", "written");

    let mut b = Builder::new("caches");
    let q = b.input("q", DType::F32, Shape::fixed(&[3, 1, 4]));
    let tables = b.input("tables", DType::I32, Shape::fixed(&[1, 2]));
    let ends = b.input("ends", DType::I32, Shape::fixed(&[1]));
    let state = b.state("state", DType::F32, Shape::fixed(&[2, 1, 1, 4]));
    let fake = b.input("fake", DType::F32, Shape::fixed(&[2, 1, 1, 4]));
    let op = Op::PagedAttention { scale: 1.0, window: None };
    let y = b.op("attention", op, &[q, state, fake, tables, ends, ends]).unwrap();
    refused(b.finish(&[y]), "paged_attention needs a cache as operand 2", "attention");
}

/// `x` is written to a new state; `more` adds what must be refused.
fn with_state(more: impl FnOnce(&mut Builder, [ValueId; 4]) -> Vec<ValueId>) -> Graph {
    let mut b = Builder::new("state");
    let x = b.input("x", DType::F32, Shape::fixed(&[3, 1, 4]));
    let slots = b.input("slots", DType::I32, Shape::fixed(&[3]));
    let state = b.state("state", DType::F32, Shape::fixed(&[2, 1, 1, 4]));
    let cache = b.op("written", Op::KvWrite, &[x, state, slots]).unwrap();
    let outputs = more(&mut b, [x, slots, state, cache]);
    b.finish(&outputs)
}

#[test]
fn a_cache_is_written_once_and_not_used_after() {
    assert!(verify(with_state(|_, [x, ..]| vec![x])).is_ok());
    // The next value of the state may be written again.
    let chained = with_state(|b, [x, slots, _, cache]| {
        b.op("again", Op::KvWrite, &[x, cache, slots]).unwrap();
        vec![x]
    });
    assert!(verify(chained).is_ok());
    let twice = with_state(|b, [x, slots, state, _]| {
        b.op("again", Op::KvWrite, &[x, state, slots]).unwrap();
        vec![x]
    });
    refused(twice, "is used after it was written", "again");
    let stale = with_state(|b, [x, _, state, cache]| {
        let tables = b.input("tables", DType::I32, Shape::fixed(&[1, 2]));
        let ends = b.input("ends", DType::I32, Shape::fixed(&[1]));
        let op = Op::PagedAttention { scale: 1.0, window: None };
        vec![b.op("attention", op, &[x, cache, state, tables, ends, ends]).unwrap()]
    });
    refused(stale, "cache %2 is used after it was written", "attention");
}

#[test]
fn something_is_returned_and_no_cache_is() {
    refused(broken(|g| g.outputs.clear()), "the graph returns nothing", "decoder layer");
    refused(
        broken(|g| g.outputs.push(ValueId(1000))),
        "returned value %1000 does not exist",
        "decoder layer",
    );
    refused(with_state(|_, [_, _, state, _]| vec![state]), "cannot be returned", "state");
    refused(with_state(|_, [.., cache]| vec![cache]), "cannot be returned", "written");
}

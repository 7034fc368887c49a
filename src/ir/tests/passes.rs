//! What the passes make of small graphs.

use super::{GROUPS, HEAD_DIM, HEADS, INNER, decoder_layer};
use crate::ir::{
    Builder, Constant, DType, Dim, Graph, Node, Op, Shape, ValueId, Verified, passes, verify,
};

fn optimised(graph: Graph) -> Verified<Graph> {
    passes::optimise(&verify(graph).unwrap()).unwrap()
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes().iter().filter(|node| node.op.name() == op).count()
}

/// Names of the ops that are not sources, in order.
fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().iter().filter(|node| !node.op.is_source()).map(|node| node.op.name()).collect()
}

/// Parts of a weight by name and rows.
fn parts(graph: &Graph, of: ValueId) -> Vec<(&str, Dim)> {
    let (_, parts) = graph.weights().find(|&(id, _)| id == of).expect("a weight");
    parts.iter().map(|part| (part.name.as_str(), part.rows)).collect()
}

fn node<'a>(graph: &'a Graph, name: &str) -> &'a Node {
    let defines = |node: &&Node| node.outputs.iter().any(|&id| graph.value(id).name == name);
    graph.nodes().iter().filter(|node| !node.op.is_source()).find(defines).expect("the name exists")
}

/// A graph over `x: f32[s0, columns]`.
fn over_x(columns: u64, make: impl FnOnce(&mut Builder, ValueId) -> Vec<ValueId>) -> Graph {
    let mut b = Builder::new("over x");
    let tokens = b.symbol("tokens", 1, 64);
    let x = b.input("x", DType::F32, Shape::new([tokens.into(), columns.into()]));
    let outputs = make(&mut b, x);
    b.finish(&outputs)
}

#[test]
fn a_decoder_layer_becomes_this() {
    insta::assert_snapshot!(optimised(decoder_layer()).to_string());
}

#[test]
fn projections_of_one_input_become_one_linear_and_slices() {
    let graph = optimised(decoder_layer());
    // q|k|v, o, gate|up, down, logits; before: one per weight.
    assert_eq!(count(&graph, "linear"), 5);
    assert_eq!(count(&graph, "slice"), 5);
    let (q, kv) = (HEADS * HEAD_DIM, GROUPS * HEAD_DIM);
    let qkv = node(&graph, "q|k|v");
    let expected = [("q", q.into()), ("k", kv.into()), ("v", kv.into())];
    assert_eq!(parts(&graph, qkv.inputs[1]), expected);
    let gate_up = node(&graph, "gate|up");
    assert_eq!(parts(&graph, gate_up.inputs[1]), [("gate", INNER.into()), ("up", INNER.into())]);
    for (of, slices) in
        [(qkv, vec![(0, q), (q, kv), (q + kv, kv)]), (gate_up, vec![(0, INNER), (INNER, INNER)])]
    {
        let got: Vec<_> = graph
            .nodes()
            .iter()
            .filter(|node| node.inputs.first() == of.outputs.first())
            .map(|node| match node.op {
                Op::Slice { start, len } => (start, len),
                _ => panic!("{} of a fused linear", node.op.name()),
            })
            .collect();
        assert_eq!(got, slices);
    }
}

#[test]
fn tied_weights_and_weights_of_other_types_are_not_fused() {
    let graph = over_x(8, |b, x| {
        let shape = Shape::fixed(&[8, 8]);
        let tied = b.weight("tied", DType::F32, shape.clone());
        let [own, half] =
            [DType::F32, DType::F16].map(|dtype| b.weight("own", dtype, shape.clone()));
        let mut y = x;
        for w in [tied, own, half] {
            let z = b.op("z", Op::Linear, &[x, w]).unwrap();
            y = b.op("y", Op::Add, &[y, z]).unwrap();
        }
        vec![b.op("last", Op::Linear, &[y, tied]).unwrap()]
    });
    assert_eq!(count(&optimised(graph.clone()), "linear"), count(&graph, "linear"));
}

#[test]
fn weights_too_large_to_add_up_are_not_fused() {
    let graph = over_x(1, |b, x| {
        let rows = Dim::Fixed(u64::MAX / 2 + 1);
        let mut project = || {
            let w = b.weight("huge", DType::F32, Shape::new([rows, 1_u64.into()]));
            b.op("y", Op::Linear, &[x, w]).unwrap()
        };
        let (a, c) = (project(), project());
        vec![b.op("sum", Op::Add, &[a, c]).unwrap()]
    });
    assert_eq!(count(&optimised(graph), "linear"), 2);
}

#[test]
fn a_sum_and_its_norm_become_one_op() {
    let graph = optimised(decoder_layer());
    assert_eq!((count(&graph, "add_rms_norm"), count(&graph, "add")), (2, 0));
    // The first norm has no sum before it.
    assert_eq!(count(&graph, "rms_norm"), 1);
    let [attended, _] = node(&graph, "attended").outputs[..] else { panic!("two results") };
    assert!(node(&graph, "layer").inputs.contains(&attended), "the sum goes on");
}

#[test]
fn a_sum_that_broadcasts_keeps_its_norm() {
    let graph = over_x(8, |b, x| {
        let row = b.weight("bias", DType::F32, Shape::fixed(&[8]));
        let norm = b.weight("norm", DType::F32, Shape::fixed(&[8]));
        let sum = b.op("sum", Op::Add, &[x, row]).unwrap();
        vec![b.op("normed", Op::RmsNorm { eps: 1e-5 }, &[sum, norm]).unwrap()]
    });
    assert_eq!(ops(&optimised(graph)), ["add", "rms_norm"]);
}

#[test]
fn only_the_first_of_two_norms_joins_the_sum() {
    let graph = over_x(8, |b, x| {
        let sum = b.op("sum", Op::Add, &[x, x]).unwrap();
        let mut norm = |eps: f32| {
            let w = b.weight("norm", DType::F32, Shape::fixed(&[8]));
            b.op("normed", Op::RmsNorm { eps }, &[sum, w]).unwrap()
        };
        vec![norm(1e-5), norm(1e-6)]
    });
    let graph = optimised(graph);
    assert_eq!(ops(&graph), ["add_rms_norm", "rms_norm"]);
    assert!(graph.nodes().iter().any(|node| node.op == Op::AddRmsNorm { eps: 1e-5 }));
}

#[test]
fn silu_and_its_product_become_one_op_unless_something_else_uses_the_silu() {
    assert_eq!(count(&optimised(decoder_layer()), "silu_mul"), 1);
    let product = |both: bool, swapped: bool| {
        over_x(8, |b, x| {
            let up = b.op("up", Op::Add, &[x, x]).unwrap();
            let gate = b.op("gate", Op::Silu, &[x]).unwrap();
            let operands = if swapped { [up, gate] } else { [gate, up] };
            let y = b.op("y", Op::Mul, &operands).unwrap();
            if both { vec![y, gate] } else { vec![y] }
        })
    };
    for swapped in [false, true] {
        let graph = optimised(product(false, swapped));
        assert_eq!(ops(&graph), ["add", "silu_mul"]);
        let [gate, up] = node(&graph, "y").inputs[..] else { panic!("two operands") };
        assert_eq!((graph.value(gate).name.as_str(), graph.value(up).name.as_str()), ("x", "up"));
        let mut kept = ops(&optimised(product(true, swapped)));
        kept.sort_unstable();
        assert_eq!(kept, ["add", "mul", "silu"]);
    }
}

#[test]
fn a_use_that_is_dead_does_not_keep_ops_apart() {
    let graph = over_x(8, |b, x| {
        let gate = b.op("gate", Op::Silu, &[x]).unwrap();
        let y = b.op("y", Op::Mul, &[gate, x]).unwrap();
        b.op("dead", Op::Add, &[gate, gate]).unwrap();
        vec![y]
    });
    assert_eq!(ops(&optimised(graph)), ["silu_mul"]);
}

#[test]
fn constants_fold() {
    let constant = |shape: &[usize], values: &[f32]| Constant {
        shape: shape.to_vec(),
        values: values.to_vec(),
    };
    let graph = over_x(3, |b, x| {
        let column = b.constant("column", constant(&[2, 1], &[1.0, 2.0]));
        let row = b.constant("row", constant(&[3], &[10.0, 20.0, 0.0]));
        let sum = b.op("sum", Op::Add, &[column, row]).unwrap();
        let product = b.op("product", Op::Mul, &[sum, row]).unwrap();
        let same = b.op("same", Op::Cast { dtype: DType::F32 }, &[product]).unwrap();
        let silu = b.op("silu", Op::Silu, &[same]).unwrap();
        vec![x, product, silu]
    });
    let graph = optimised(graph);
    assert!(ops(&graph).is_empty(), "{}", *graph);
    let values = |output: usize| {
        let id = graph.outputs()[output];
        let node = graph.nodes().iter().find(|node| node.outputs == [id]).unwrap();
        match &node.op {
            Op::Constant(constant) => constant.clone(),
            _ => panic!("{} is not a constant", node.op.name()),
        }
    };
    assert_eq!(values(1), constant(&[2, 3], &[110.0, 420.0, 0.0, 120.0, 440.0, 0.0]));
    let silu = |x: f32| x / (1.0 + (-x).exp());
    for (got, product) in values(2).values.iter().zip(values(1).values) {
        assert!((got - silu(product)).abs() <= 1e-6 * product.abs());
    }
}

#[test]
fn a_constant_that_would_not_be_finite_or_small_is_not_folded() {
    let huge = Constant { shape: vec![1], values: vec![f32::MAX] };
    let long = Constant { shape: vec![4096, 1], values: vec![0.5; 4096] };
    let wide = Constant { shape: vec![2], values: vec![0.5; 2] };
    let graph = over_x(1, |b, x| {
        let a = b.constant("huge", huge);
        let sum = b.op("infinite", Op::Add, &[a, a]).unwrap();
        let (c, d) = (b.constant("long", long), b.constant("wide", wide));
        let large = b.op("large", Op::Mul, &[c, d]).unwrap();
        vec![x, sum, large]
    });
    assert_eq!(ops(&optimised(graph)), ["add", "mul"]);
}

#[test]
fn what_changes_nothing_goes() {
    let graph = over_x(6, |b, x| {
        let tokens = b.ty(x).shape.0[0];
        let scalar = |value: f32| Constant { shape: vec![], values: vec![value] };
        let (one, zero) = (b.constant("1", scalar(1.0)), b.constant("-0", scalar(-0.0)));
        let y = b.op("y", Op::Mul, &[one, x]).unwrap();
        let y = b.op("y", Op::Add, &[y, zero]).unwrap();
        let y = b.op("y", Op::Cast { dtype: DType::F32 }, &[y]).unwrap();
        let mut shape = |y, dims: &[u64]| {
            let dims = dims.iter().map(|&dim| Dim::Fixed(dim));
            let shape = Shape::new(std::iter::once(tokens).chain(dims));
            b.op("y", Op::Reshape { shape }, &[y]).unwrap()
        };
        let y = shape(y, &[6]);
        let y = shape(y, &[2, 3]);
        let y = shape(y, &[3, 2]);
        vec![shape(y, &[6]), y]
    });
    let graph = optimised(graph);
    assert_eq!(ops(&graph), ["reshape"]);
    let x = graph.inputs().next().unwrap();
    assert_eq!((graph.outputs()[0], &graph.nodes()[1].inputs), (x, &vec![x]));
}

#[test]
fn adding_positive_zero_stays_because_it_changes_negative_zero() {
    let graph = over_x(6, |b, x| {
        let zero = b.constant("0", Constant { shape: vec![], values: vec![0.0] });
        vec![b.op("y", Op::Add, &[x, zero]).unwrap()]
    });
    assert_eq!(ops(&optimised(graph)), ["add"]);
}

#[test]
fn dead_code_goes_but_the_signature_and_writes_stay() {
    let graph = over_x(8, |b, x| {
        b.input("unused input", DType::I32, Shape::fixed(&[4]));
        b.weight("unused weight", DType::F32, Shape::fixed(&[8]));
        let cache = Shape::fixed(&[2, 4, 2, 4]);
        b.state("unused state", DType::F32, cache.clone());
        let state = b.state("state", DType::F32, cache);
        let tokens = b.ty(x).shape.0[0];
        let slots = b.input("slots", DType::I32, Shape::new([tokens]));
        let dead = b.op("dead", Op::Add, &[x, x]).unwrap();
        b.op("dead too", Op::Silu, &[dead]).unwrap();
        let shape = Shape::new([tokens, 2_u64.into(), 4_u64.into()]);
        let kv = b.op("kv", Op::Reshape { shape }, &[x]).unwrap();
        b.op("written", Op::KvWrite, &[kv, state, slots]).unwrap();
        vec![b.op("y", Op::Silu, &[x]).unwrap()]
    });
    let (inputs, states) = (graph.inputs().count(), graph.states().count());
    let graph = optimised(graph);
    assert_eq!((graph.inputs().count(), graph.states().count()), (inputs, states));
    assert_eq!(graph.weights().count(), 0);
    assert_eq!(ops(&graph), ["silu", "reshape", "kv_write"]);
}

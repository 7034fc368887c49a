//! Where values are: updates in place, views, memory at odd addresses, what is refused.

use ascendcl::ge::graph::{Attr, DataType, Desc, Edge, GeGraph};
use ascendcl::interpret::{Binding, is_supported, run};

use crate::support::{
    Builder, Value, complaint, f32s, i32s, i64s, noise, run_bound, run_graph, run_op,
};

use DataType::{Float, Float16, Int32};

/// A cache, or what stands for it, into which two rows are written: read before, after, and
/// through its own node afterwards.
fn cache_graph(as_ref: bool) -> GeGraph {
    let mut builder = Builder::default();
    let cache = Desc { dtype: Float16, shape: vec![2, 2, 3] };
    let cache = if as_ref { builder.ref_data(&cache) } else { builder.data(&cache) };
    let indices = builder.data(&Desc { dtype: Int32, shape: vec![2, 2] });
    let updates = builder.data(&Desc { dtype: Float16, shape: vec![2, 3] });
    let one = |edges: Vec<Edge>| edges[0];
    let shape: (DataType, &[usize]) = (Float16, &[2, 2, 3]);
    let before = one(builder.node("Identity", &[("x", cache)], &[], &[shape]));
    let inputs = [("var", cache), ("indices", indices), ("updates", updates)];
    let updated = one(builder.node("ScatterNdUpdate", &inputs, &[], &[shape]));
    let to = builder.constant(&i64s(&[2], &[4, 3]));
    let rows: (DataType, &[usize]) = (Float16, &[4, 3]);
    let view = one(builder.node("Reshape", &[("x", updated), ("shape", to)], &[], &[rows]));
    let after = one(builder.node("TensorMove", &[("x", cache)], &[], &[shape]));
    builder.finish(&[before, view, after])
}

fn cache_operands() -> [Value; 2] {
    let updates = Value::floats(Float16, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    [i32s(&[2, 2], &[1, 0, 0, 1]), updates]
}

const WRITTEN: [f64; 12] = [0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0];

#[test]
fn an_update_in_place_is_seen_by_later_readers_and_by_the_caller() {
    let mut cache = Value::zeros(Float16, &[2, 2, 3]);
    let [indices, updates] = cache_operands();
    let mut bindings = [
        Binding::Update(&mut cache.bytes),
        Binding::Read(&indices.bytes),
        Binding::Read(&updates.bytes),
    ];
    let got = run_bound(&cache_graph(true), &mut bindings).unwrap();
    assert_eq!(got[0].numbers(), [0.0; 12]);
    assert_eq!(got[1].numbers(), WRITTEN);
    assert_eq!(got[2].numbers(), WRITTEN);
    assert_eq!(cache.numbers(), WRITTEN);
}

#[test]
fn an_update_of_plain_data_is_lost_to_everybody_but_its_readers() {
    let [indices, updates] = cache_operands();
    let cache = Value::zeros(Float16, &[2, 2, 3]);
    let got = run_graph(&cache_graph(false), &[cache, indices, updates]).unwrap();
    assert_eq!(got[1].numbers(), WRITTEN);
    assert_eq!(got[2].numbers(), [0.0; 12]);
}

#[test]
fn an_index_outside_the_cache_is_an_exception() {
    for (index, width) in [([2, 0], 3), ([0, 2], 3), ([-1, 0], 3), ([0, 0], 2)] {
        let inputs = [
            ("var", Value::zeros(Float, &[2, 2, 3])),
            ("indices", i32s(&[1, 2], &index)),
            ("updates", Value::zeros(Float, &[1, width])),
        ];
        let what = complaint("ScatterNdUpdate", &inputs, &[], &[(Float, &[2, 2, 3])]);
        assert!(what.contains("out of range") || what.contains("disagree"), "{what}");
    }
}

#[test]
fn updates_of_one_place_land_in_an_order_of_their_own() {
    let updates: Vec<f32> = (0..50_u8).map(f32::from).collect();
    let inputs = [
        ("var", f32s(&[1], &[-1.0])),
        ("indices", i32s(&[50, 1], &[0; 50])),
        ("updates", f32s(&[50], &updates)),
    ];
    let once = run_op("ScatterNdUpdate", &inputs, &[], &[(Float, &[1])]).unwrap();
    let again = run_op("ScatterNdUpdate", &inputs, &[], &[(Float, &[1])]).unwrap();
    assert_eq!(once, again);
    assert!((0.0..50.0).contains(&once[0].numbers()[0]));
}

#[test]
fn apply_rotary_pos_emb_changes_what_may_be_changed() {
    let mut builder = Builder::default();
    let desc = Desc { dtype: Float, shape: vec![1, 1, 1, 2] };
    let query = builder.ref_data(&desc);
    let key = builder.data(&desc);
    let (cos, sin) = (builder.data(&desc), builder.data(&desc));
    let shape: (DataType, &[usize]) = (Float, &[1, 1, 1, 2]);
    let inputs = [("query", query), ("key", key), ("cos", cos), ("sin", sin)];
    let outputs = builder.node("ApplyRotaryPosEmb", &inputs, &[], &[shape, shape]);
    let graph = builder.finish(&outputs);
    let mut query = f32s(&[1, 1, 1, 2], &[1.0, 2.0]);
    let [key, cos, sin] =
        [[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]].map(|values| f32s(&[1, 1, 1, 2], &values));
    let mut bindings = [
        Binding::Update(&mut query.bytes),
        Binding::Read(&key.bytes),
        Binding::Read(&cos.bytes),
        Binding::Read(&sin.bytes),
    ];
    let got = run_bound(&graph, &mut bindings).unwrap();
    assert_eq!(got[0].numbers(), [-2.0, 1.0]);
    assert_eq!(got[1].numbers(), [-4.0, 3.0]);
    assert_eq!(query.numbers(), [-2.0, 1.0]);
}

#[test]
fn tensors_may_lie_at_any_address() {
    let (x, w) = (noise(1, Float16, &[2, 9]), noise(2, Float16, &[5, 9]));
    let mut builder = Builder::default();
    let edges = [("x1", builder.data(&x.desc)), ("x2", builder.data(&w.desc))];
    let attrs = [("transpose_x2", Attr::Bool(true))];
    let y = builder.node("MatMulV2", &edges, &attrs, &[(Float, &[2, 5])]);
    let graph = builder.finish(&y);
    let expected = run_graph(&graph, &[x.clone(), w.clone()]).unwrap();
    for offset in 0..4 {
        let shifted = |value: &Value| [vec![0; offset], value.bytes.clone()].concat();
        let (x, w) = (shifted(&x), shifted(&w));
        let mut bindings = [Binding::Read(&x[offset..]), Binding::Read(&w[offset..])];
        assert_eq!(run_bound(&graph, &mut bindings).unwrap(), expected);
    }
}

#[test]
fn bindings_may_be_longer_but_not_shorter_than_their_types() {
    let mut builder = Builder::default();
    let x = builder.data(&Desc { dtype: Float, shape: vec![2] });
    let graph = builder.finish(&[x]);
    let bytes = [0; 12];
    let fits = |input: usize, output: usize| {
        let mut out = [0; 12];
        run(&graph, &mut [Binding::Read(&bytes[..input])], &mut [&mut out[..output]])
    };
    fits(8, 8).unwrap();
    fits(12, 12).unwrap();
    assert_eq!(fits(7, 8).unwrap_err().op, "Data");
    assert_eq!(fits(8, 7).unwrap_err().op, "NetOutput");
    assert!(run(&graph, &mut [], &mut [&mut [0; 8]]).is_err());
    assert!(run(&graph, &mut [Binding::Read(&bytes)], &mut []).is_err());
}

#[test]
fn broken_graphs_are_errors_and_no_panics() {
    let x = || [("x", f32s(&[2], &[1.0, 2.0]))];
    assert_eq!(complaint("Fft", &x(), &[], &[(Float, &[2])]), "no kernel for this operator");
    assert!(complaint("Sigmoid", &x(), &[], &[(Float, &[3])]).contains("bytes"));
    assert!(complaint("Sigmoid", &[], &[], &[(Float, &[2])]).contains("`x` is not fed"));
    let attrs = [("dim", Attr::Bool(true))];
    assert!(complaint("SwiGlu", &x(), &attrs, &[(Float, &[1])]).contains("expected an integer"));
    let mut builder = Builder::default();
    let early = Edge { node: 1, output: 0 };
    builder.node("Sigmoid", &[("x", early)], &[], &[(Float, &[2])]);
    let graph = builder.finish(&[]);
    assert!(run_graph(&graph, &[]).unwrap_err().what.contains("not made yet"));
    let mut builder = Builder::default();
    builder.data(&Desc { dtype: Float, shape: vec![usize::MAX, 2] });
    let graph = builder.finish(&[]);
    assert!(run_graph(&graph, &[]).unwrap_err().what.contains("too large"));
}

#[test]
fn operators_that_can_be_run_are_known_by_name() {
    assert!(is_supported("ScatterNdUpdate") && is_supported("TopKV2") && is_supported("RefData"));
    assert!(!is_supported("Fft"));
}

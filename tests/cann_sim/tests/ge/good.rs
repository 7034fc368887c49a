//! Graphs that are taken, and what is inferred.

use ascendcl::ge::graph::{Attr, Edge};
use ascendcl::ge::memory;
use ascendcl::ge::prepare::{Prepared, Target};
use ascendcl::ge::proto::{AttrDef, TensorDescriptor, Value};
use ascendcl::om::{self, OmParts};

use super::air::{Air, Bf16, Float, Float16, Int32, Int64, OLD, TARGET, int, ints};
use super::models::{DECODE, PACKED, PREFILL, add, attention, mlp};

/// Outputs of a node, as in `bf16[8,64]`.
fn types(prepared: &Prepared, name: &str) -> String {
    let node = prepared.graph.nodes.iter().find(|node| node.name == name).unwrap();
    let types: Vec<String> = node.outputs.iter().map(ToString::to_string).collect();
    types.join(" ")
}

#[test]
fn types_and_shapes_are_inferred() {
    let prepared = mlp().prepare().unwrap();
    assert_eq!(types(&prepared, "norm"), "bf16[8,64] float[8,1]");
    assert_eq!(types(&prepared, "mm"), "bf16[8,256]");
    assert_eq!(types(&prepared, "split"), "bf16[8,128] bf16[8,128]");
    assert_eq!(types(&prepared, "act"), "bf16[8,64]");
    assert!(!prepared.is_dynamic && !prepared.has_tiling_sink);
    let graph = &prepared.graph;
    assert_eq!(graph.nodes.len(), 7, "NetOutput is no node");
    let norm = graph.nodes.iter().find(|node| node.name == "norm").unwrap();
    assert_eq!(norm.attrs["epsilon"], Attr::Float(1e-6));
}

#[test]
fn attention_of_every_layout_is_static_with_tiling_on_the_device() {
    for step in [PACKED, DECODE, PREFILL] {
        let air = attention(step);
        let prepared = air.prepare().unwrap();
        assert!(!prepared.is_dynamic && prepared.has_tiling_sink);
        assert!(types(&prepared, "fia").ends_with("float[0]"));
        let without = air.on(&Target { sinks_tiling: false, ..TARGET }).unwrap();
        assert!(without.is_dynamic && !without.has_tiling_sink);
    }
    assert!(attention(DECODE).on(&OLD).is_ok());
}

#[test]
fn lengths_that_are_constants_need_no_tiling_on_the_device() {
    let mut air = attention(DECODE);
    air.constant("lengths", Int64, &[4], &[1, 2, 3, 4]);
    "lengths:0".clone_into(&mut air.op("fia").input[3]);
    let prepared = air.on(&Target { sinks_tiling: false, ..TARGET }).unwrap();
    assert!(!prepared.is_dynamic && !prepared.has_tiling_sink);
}

#[test]
fn optional_inputs_may_be_left_open_in_both_ways() {
    let mut air = attention(DECODE);
    let op = air.op("fia");
    op.input.insert(3, String::new());
    op.input_desc.insert(3, TensorDescriptor::default());
    let names = ["query", "key0", "value0", "pse_shift", "actual_seq_lengths_kv", "block_table"];
    super::air::set_names(op, "input", &names);
    assert_eq!(air.prepare(), attention(DECODE).prepare());
}

#[test]
fn nodes_may_stand_in_any_order_and_order_edges_take_no_index() {
    let mut air = add();
    air.op("add").input.insert(0, "c:-1".to_owned());
    air.graph.op.reverse();
    let prepared = air.prepare().unwrap();
    let names: Vec<&str> = prepared.graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["c", "x", "add"]);
    assert_eq!(prepared.graph.outputs, [Edge { node: 2, output: 0 }]);
}

#[test]
fn dead_nodes_are_dropped_but_not_inputs_nor_updates() {
    let mut air = attention(DECODE);
    air.data("unused", 9, Float, &[1]);
    air.node("dead", "Exp", &[("x", "unused:0")], &["y"], &[]);
    let prepared = air.prepare().unwrap();
    assert!(prepared.graph.nodes.iter().all(|node| node.name != "dead"));
    assert_eq!(prepared.graph.inputs.len(), 10);
    let mut lonely = Air::default();
    lonely.data("x", 0, Float, &[2, 4]);
    lonely.data("at", 1, Int32, &[2, 1]);
    lonely.ref_data("r", 2, Float, &[8, 4]);
    let inputs = [("var", "r:0"), ("indices", "at:0"), ("updates", "x:0")];
    lonely.node("upd", "ScatterNdUpdate", &inputs, &["var"], &[]);
    lonely.outputs(&["x:0"]);
    let prepared = lonely.prepare().unwrap();
    assert!(prepared.graph.nodes.iter().any(|node| node.name == "upd"));
}

#[test]
fn inputs_are_numbered_again_when_their_indices_have_gaps() {
    let mut air = add();
    air.op("x").attr.insert("index".to_owned(), AttrDef::int(7));
    let prepared = air.prepare().unwrap();
    assert_eq!(prepared.warnings.len(), 1);
    assert_eq!(prepared.graph.nodes[0].attrs["index"], Attr::Int(0));
}

#[test]
fn outputs_may_be_named_by_the_graph_alone() {
    let mut air = add();
    air.graph.op.retain(|op| op.r#type != "NetOutput");
    air.graph.output = vec!["add:0".to_owned()];
    assert_eq!(air.prepare().unwrap().graph.outputs.len(), 1);
}

/// Every other operator once, with what it gives.
#[test]
fn every_operator_is_inferred() {
    let mut air = Air::default();
    air.data("x", 0, Bf16, &[4, 128]);
    air.data("h", 1, Float16, &[1, 4, 2, 64]);
    air.data("cos", 2, Float16, &[1, 4, 1, 64]);
    air.data("ids", 3, Int64, &[3]);
    air.data("gamma", 4, Bf16, &[128]);
    air.data("q", 5, Bf16, &[1, 4, 2, 128]);
    air.data("k", 6, Bf16, &[1, 4, 1, 128]);
    air.data("t", 7, Bf16, &[1, 4, 1, 128]);
    air.data("f", 8, Float, &[4, 128]);
    for (name, shape, values) in [
        ("zero", &[][..], &[0][..]),
        ("last", &[], &[-1]),
        ("k2", &[1], &[2]),
        ("perm", &[2], &[1, 0]),
        ("split", &[2], &[100, -1]),
        ("one", &[], &[1]),
        ("begin", &[2], &[0, 1]),
        ("end", &[2], &[0, -1]),
        ("strides", &[2], &[1, 2]),
    ] {
        air.constant(name, Int32, shape, values);
    }
    air.constant("shape", Int64, &[3], &[2, -1, 128]);
    let mut cases: Vec<(&str, &str)> = Vec::new();
    let mut add =
        |op: &'static str, inputs: &[(&str, &str)], outputs: &[&str], attrs: &[_], expected| {
            air.node(op, op, inputs, outputs, attrs);
            cases.push((op, expected));
        };
    let x = [("x", "x:0")];
    for op in ["Exp", "Sigmoid", "Swish", "Identity", "TensorMove", "SoftmaxV2"] {
        add(op, &x, &["y"], &[], "bf16[4,128]");
    }
    for op in ["Add", "Sub", "Mul", "RealDiv"] {
        add(op, &[("x1", "x:0"), ("x2", "gamma:0")], &["y"], &[], "bf16[4,128]");
    }
    add("Cast", &x, &["y"], &[("dst_type", int(0))], "float[4,128]");
    add(
        "GatherV2",
        &[("x", "x:0"), ("indices", "ids:0"), ("axis", "zero:0")],
        &["y"],
        &[],
        "bf16[3,128]",
    );
    let norm = [("x1", "x:0"), ("x2", "x:0"), ("gamma", "gamma:0")];
    add("AddRmsNorm", &norm, &["y", "rstd", "x"], &[], "bf16[4,128] float[4,1] bf16[4,128]");
    let adj = [("adj_x2", Value::B(true))];
    add("BatchMatMulV2", &[("x1", "q:0"), ("x2", "k:0")], &["y"], &adj, "bf16[1,4,2,1]");
    add("Reshape", &[("x", "x:0"), ("shape", "shape:0")], &["y"], &[], "bf16[2,2,128]");
    add("Transpose", &[("x", "x:0"), ("perm", "perm:0")], &["y"], &[], "bf16[128,4]");
    let parts = [("x", "f:0"), ("size_splits", "split:0"), ("split_dim", "one:0")];
    add("SplitV", &parts, &["y0", "y1"], &[("num_split", int(2))], "float[4,100] float[4,28]");
    let two = [("N", int(2))];
    add(
        "ConcatV2",
        &[("x0", "f:0"), ("x1", "f:0"), ("concat_dim", "one:0")],
        &["y"],
        &two,
        "float[4,256]",
    );
    let concat = [("concat_dim", int(0)), ("N", int(2))];
    add("ConcatD", &[("x0", "x:0"), ("x1", "x:0")], &["y"], &concat, "bf16[8,128]");
    let slice = [("offsets", ints(&[1, 0])), ("size", ints(&[2, -1]))];
    add("SliceD", &x, &["y"], &slice, "bf16[2,128]");
    let range = [("x", "x:0"), ("begin", "begin:0"), ("end", "end:0"), ("strides", "strides:0")];
    add("StridedSlice", &range, &["y"], &[("end_mask", int(1))], "bf16[4,63]");
    add(
        "ArgMaxV2",
        &[("x", "x:0"), ("dimension", "last:0")],
        &["y"],
        &[("dtype", Value::Dt(3))],
        "int32[4]",
    );
    add(
        "TopKV2",
        &[("x", "x:0"), ("k", "k2:0")],
        &["values", "indices"],
        &[],
        "bf16[4,2] int32[4,2]",
    );
    let rope = [("x", "h:0"), ("r1", "cos:0"), ("r2", "cos:0")];
    add("RotaryMul", &rope, &["y"], &[], "float16[1,4,2,64]");
    let rope = [("x", "h:0"), ("cos", "cos:0"), ("sin", "cos:0")];
    add("RotaryPositionEmbedding", &rope, &["y"], &[], "float16[1,4,2,64]");
    let rope = [("query", "qq:0"), ("key", "kk:0"), ("cos", "t:0"), ("sin", "t:0")];
    add("ApplyRotaryPosEmb", &rope, &["query", "key"], &[], "bf16[1,4,2,128] bf16[1,4,1,128]");
    air.node("qq", "TensorMove", &[("x", "q:0")], &["y"], &[]);
    air.node("kk", "TensorMove", &[("x", "k:0")], &["y"], &[]);
    let outputs: Vec<String> = cases.iter().map(|(op, _)| format!("{op}:0")).collect();
    air.outputs(&outputs.iter().map(String::as_str).collect::<Vec<_>>());
    let prepared = air.prepare().unwrap();
    for (op, expected) in cases {
        assert_eq!(types(&prepared, op), expected, "{op}");
    }
    air.on(&OLD).unwrap();
    roundtrip(&prepared);
}

/// Writes the model and reads it back.
fn roundtrip(prepared: &Prepared) {
    let memory = memory::plan(&prepared.graph);
    assert!(memory.total >= memory.zero_copy && memory.total.is_multiple_of(512));
    let parts = OmParts {
        name: "model",
        graph: &prepared.graph,
        soc: "Ascend910B3",
        cann: "9.0.0",
        memory_size: memory.total,
        zero_copy_memory_size: memory.zero_copy,
        weight_size: memory.weights,
        is_dynamic: false,
        has_tiling_sink: prepared.has_tiling_sink,
        cmdline: "atc",
    };
    let om = om::read(&om::write(&parts)).unwrap();
    assert_eq!(om.graph, prepared.graph);
    assert_eq!(
        (om.memory_size, om.workspace_bytes),
        (memory.total, memory.total - memory.zero_copy)
    );
    assert_eq!(om.has_tiling_sink, prepared.has_tiling_sink);
}

#[test]
fn models_survive_their_file() {
    for air in [add(), mlp(), attention(PACKED), attention(PREFILL)] {
        roundtrip(&air.prepare().unwrap());
    }
    let prepared = attention(PACKED).prepare().unwrap();
    let memory = memory::plan(&prepared.graph);
    // The caches are changed in place: only the unused by-product needs memory of its own.
    assert_eq!(memory.total - memory.zero_copy, 512);
}

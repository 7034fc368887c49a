//! One broken variant for every rule, and the code it is refused with.

use ascendcl::ge::graph::DataType;
use ascendcl::ge::prepare::{Target, prepare};
use ascendcl::ge::proto::{AttrDef, ListValue, TensorDescriptor, Value};

use super::air::{Air, Float, Float16, Int32, Int64, TARGET, desc, int, ints, set_names};
use super::models::{DECODE, add, attention, mlp};

const STRICT: &str = "E19998";
const LOAD: &str = "E18888";
const INFER: &str = "EZ9999";
const INTERNAL: &str = "E19999";
const OPEN: &str = "E11019";

fn set(air: &mut Air, op: &str, name: &str, value: Value) {
    air.op(op).attr.insert(name.to_owned(), AttrDef::of(value));
}

#[test]
fn files_that_are_no_graph() {
    for bytes in [&b"\x3a\x7fgarbage"[..], &[], &add().bytes()[..40]] {
        assert_eq!(prepare(bytes, &TARGET).unwrap_err().code(), LOAD);
    }
    let whole = mlp().bytes();
    for len in 0..whole.len() {
        // Whatever a cut file is, it is no panic.
        let _ = prepare(&whole[..len], &TARGET);
    }
}

#[test]
fn edges() {
    let good = add();
    let edge =
        |text: &'static str| move |air: &mut Air| text.clone_into(&mut air.op("add").input[1]);
    good.broken(LOAD, "src_node_it", edge("nobody:0"));
    good.broken(LOAD, "src_node_it", edge("nobody:-1"));
    good.broken(LOAD, "doesn't have index[3]'s out_data_anchor which optype is Const", edge("c:3"));
    good.broken(STRICT, "is no number", edge("c:x"));
    good.broken(OPEN, "operator add's input 1 is not linked", edge("c"));
    good.broken(OPEN, "input 1", edge(""));
    good.broken(OPEN, "input 1", edge("c:-1"));
    good.broken(LOAD, "dst_anchor", |air| air.op("add").input.push("c:0".to_owned()));
    good.broken(LOAD, "dst_anchor", |air| air.op("add").input.push(String::new()));
    good.broken(LOAD, "out_data_anchor", |air| air.op("c").output_desc.clear());
    good.broken(INTERNAL, "closed loop", |air| air.op("add").input.push("add:-1".to_owned()));
    let mut optional = mlp();
    optional.op("mm").input.push("gamma".to_owned());
    optional.op("mm").input_desc.push(TensorDescriptor::default());
    set_names(optional.op("mm"), "input", &["x1", "x2", "bias"]);
    optional.refused(STRICT, "has no colon");
    optional.broken(OPEN, "input 2", |air| air.op("mm").input_desc[2] = desc(Float, &[256]));
}

#[test]
fn names_of_nodes() {
    add().broken(STRICT, "two nodes are named c", |air| {
        let second = air.op("c").clone();
        air.graph.op.push(second);
    });
    add().broken(STRICT, "has no name", |air| {
        let mut nameless = air.op("c").clone();
        nameless.name.clear();
        air.graph.op.push(nameless);
    });
}

#[test]
fn name_maps() {
    let good = add();
    for map in ["_input_name_key", "_output_name_key"] {
        good.broken(STRICT, "is missing", |air| drop(air.op("add").attr.remove(map)));
    }
    let values = |values: &'static [i64]| {
        move |air: &mut Air| set(air, "add", "_input_name_value", ints(values))
    };
    good.broken(STRICT, "GE would ignore both", values(&[0]));
    good.broken(STRICT, "two names", values(&[0, 0]));
    good.broken("", "segmentation fault", values(&[0, 2]));
    good.broken("", "segmentation fault", values(&[0, -1]));
    good.broken(STRICT, "no input x3", |air| set_names(air.op("add"), "input", &["x1", "x3"]));
    good.broken(INTERNAL, "order", |air| set_names(air.op("add"), "input", &["x2", "x1"]));
    good.broken(INFER, "y_shape", |air| set_names(air.op("add"), "output", &["z"]));
    good.broken(STRICT, "not x", |air| set_names(air.op("x"), "input", &["y"]));
    good.broken(STRICT, "no input input_0", |air| {
        set_names(air.op("NetOutput"), "input", &["input_0"]);
    });
    good.broken(STRICT, "follows no input", |air| {
        set_names(air.op("NetOutput"), "input", &["input1"]);
    });
    attention(DECODE).broken(INTERNAL, "order", |air| {
        let names = ["query", "key0", "value0", "block_table", "actual_seq_lengths_kv"];
        set_names(air.op("fia"), "input", &names);
    });
}

#[test]
fn the_value_type_of_name_maps_does_not_matter() {
    let mut air = add();
    let Some(Value::List(list)) = &mut air.op("add").attr.get_mut("_input_name_key").unwrap().value
    else {
        panic!("the map is a list");
    };
    list.val_type = 0;
    air.prepare().unwrap();
}

#[test]
fn outputs_that_are_missing() {
    mlp().broken(INFER, "rstd_shape is nullptr!", |air| {
        air.op("norm").output_desc.pop();
        set_names(air.op("norm"), "output", &["y"]);
    });
    attention(DECODE).broken(INFER, "softmaxLseShape is nullptr!", |air| {
        air.op("fia").output_desc.pop();
        set_names(air.op("fia"), "output", &["attention_out"]);
    });
    mlp().broken(STRICT, "unknown or out of order", |air| {
        air.op("norm").output_desc.push(TensorDescriptor::default());
        set_names(air.op("norm"), "output", &["y", "rstd", "more"]);
    });
}

#[test]
fn attributes() {
    let good = mlp();
    good.broken(INFER, "the index 0 out of range 0", |air| {
        let list = ListValue { i: vec![128, 128], ..ListValue::default() };
        set(air, "split", "size_splits", Value::List(list));
    });
    good.broken(INFER, "the index 0 out of range 0", |air| {
        air.op("split").attr.remove("num_split");
    });
    for (op, name, value) in [
        ("split", "split_dim", Value::F(1.0)),
        ("mm", "transpose_x2", int(1)),
        ("norm", "epsilon", int(0)),
        ("split", "size_splits", int(128)),
    ] {
        good.broken(STRICT, "is not of kind", |air| set(air, op, name, value));
    }
    good.broken(STRICT, "has no value", |air| {
        air.op("mm").attr.insert("transpose_x2".to_owned(), AttrDef::default());
    });
    good.broken(STRICT, "unknown attribute", |air| set(air, "mm", "transpose", int(1)));
    good.broken(STRICT, "unknown attribute _ir_attr_names", |air| {
        set(air, "mm", "_ir_attr_names", ints(&[]));
    });
    good.broken(STRICT, "unknown attribute _enable", |air| {
        set(air, "w", "_enable_storage_format_spread", Value::B(false));
    });
    let mut arg_max = Air::default();
    arg_max.data("x", 0, Float, &[2, 3]);
    arg_max.constant("d", Int32, &[], &[1]);
    let inputs = [("x", "x:0"), ("dimension", "d:0")];
    arg_max.node("am", "ArgMaxV2", &inputs, &["y"], &[("dtype", int(3))]);
    arg_max.outputs(&["am:0"]);
    arg_max.refused(STRICT, "attribute dtype is not of kind Type");
}

#[test]
fn inputs_of_the_graph() {
    let good = add();
    good.broken(INTERNAL, "Update input desc of op:x(Data) failed, index:0", |air| {
        air.op("x").input_desc.clear();
    });
    good.broken("E13025", "DT_UNDEFINED of operator 0", |air| air.op("x").input_desc[0].dtype = 0);
    good.broken(STRICT, "dynamic", |air| air.op("x").input_desc[0] = desc(Float, &[-1, 3]));
    good.broken(STRICT, "too large", |air| {
        air.op("x").input_desc[0] = desc(Float, &[i64::MAX, i64::MAX]);
    });
    good.broken(STRICT, "y is declared as", |air| air.op("x").output_desc[0] = desc(Float, &[3]));
    good.broken(STRICT, "layout FRACTAL_NZ", |air| {
        "FRACTAL_NZ".clone_into(&mut air.op("x").input_desc[0].layout);
    });
    good.broken(STRICT, "format_for_int", |air| {
        let attr = AttrDef::int(29);
        air.op("x").input_desc[0].attr.insert("format_for_int".to_owned(), attr);
    });
    good.broken(STRICT, "on the host", |air| {
        "CPU".clone_into(&mut air.op("x").input_desc[0].device_type);
    });
    good.broken(STRICT, "takes no input", |air| air.op("x").input.push("c:-1".to_owned()));
}

#[test]
fn constants() {
    let good = add();
    let tensor = |change: fn(&mut ascendcl::ge::proto::TensorDef)| {
        move |air: &mut Air| match &mut air.op("c").attr.get_mut("value").unwrap().value {
            Some(Value::T(tensor)) => change(tensor),
            _ => panic!("the value is a tensor"),
        }
    };
    good.broken(INTERNAL, "Get Attr:value of op:c(Const) failed", |air| {
        air.op("c").attr.remove("value");
    });
    good.broken(INTERNAL, "Get Attr:value", tensor(|tensor| tensor.desc = None));
    good.broken(
        INTERNAL,
        "data size:20 not equal to tensor size:24",
        tensor(|tensor| {
            tensor.data.truncate(20);
        }),
    );
    good.broken(STRICT, "y is declared as", |air| {
        air.op("c").output_desc[0] = desc(Int32, &[2, 3]);
    });
}

#[test]
fn outputs_of_the_graph() {
    let good = add();
    good.broken(STRICT, "there is no NetOutput", |air| {
        air.graph.op.retain(|op| op.r#type != "NetOutput");
    });
    good.broken(STRICT, "there are 2 nodes of type NetOutput", |air| {
        let mut second = air.op("NetOutput").clone();
        "second".clone_into(&mut second.name);
        air.graph.op.push(second);
    });
    good.broken(STRICT, "takes nothing", |air| {
        let op = air.op("NetOutput");
        (op.input, op.input_desc) = (vec!["add:-1".to_owned()], Vec::new());
    });
    good.broken(INTERNAL, "Cannot find output tensor desc from node:NetOutput, index 0", |air| {
        air.graph.output = vec!["NetOutput:0".to_owned()];
    });
    good.broken(LOAD, "src_node_it", |air| air.graph.output = vec!["nobody:0".to_owned()]);
    good.broken(STRICT, "differ", |air| air.graph.output = vec!["x:0".to_owned()]);
}

#[test]
fn declared_types_must_be_those_that_are_inferred() {
    for (shape, dtype) in [(&[2, 3][..], Float16), (&[3, 2], Float)] {
        add().broken(STRICT, "output 0 is declared as", |air| {
            air.op("add").output_desc[0] = desc(dtype, shape);
        });
        add().broken(STRICT, "x1 is declared as", |air| {
            air.op("add").input_desc[0] = desc(dtype, shape);
        });
    }
}

#[test]
fn tensors_changed_in_place() {
    let good = attention(DECODE);
    good.broken(INTERNAL, "cannot be referenced from const node", |air| {
        let values = vec![0; 9 * 16 * 128];
        air.constant("fixed", Int64, &[9, 16, 128], &values);
        "fixed:0".clone_into(&mut air.op("k_upd").input[0]);
        air.constant("new", Int64, &[4, 128], &vec![0; 4 * 128]);
        "new:0".clone_into(&mut air.op("k_upd").input[2]);
    });
    good.broken(STRICT, "it must be a RefData", |air| {
        "Data".clone_into(&mut air.op("k_cache").r#type);
    });
    // A reader of the cache beside the writer.
    let reader = |air: &mut Air| {
        air.node("reader", "TensorMove", &[("x", "k_cache:0")], &["y"], &[]);
        air.op("NetOutput").input.push("reader:0".to_owned());
        air.op("NetOutput").input_desc.push(TensorDescriptor::default());
        set_names(air.op("NetOutput"), "input", &["input0", "input1"]);
    };
    good.broken(STRICT, "without an order", reader);
    let mut ordered = good.clone();
    reader(&mut ordered);
    ordered.op("reader").input.push("k_upd:-1".to_owned());
    // Still no order to the attention, but both only read.
    ordered.prepare().unwrap();
    good.broken(STRICT, "without an order", |air| {
        "k_cache:0".clone_into(&mut air.op("v_upd").input[0]);
    });
}

#[test]
fn values_that_the_compiler_needs() {
    let mut air = Air::default();
    air.data("x", 0, Float, &[4, 8]);
    air.data("ids", 1, Int32, &[2]);
    air.data("axis", 2, Int32, &[]);
    let inputs = [("x", "x:0"), ("indices", "ids:0"), ("axis", "axis:0")];
    air.node("g", "GatherV2", &inputs, &["y"], &[]);
    air.outputs(&["g:0"]);
    air.refused(INFER, "axis is not known");
}

#[test]
fn operators_and_their_types() {
    let good = add();
    good.broken(STRICT, "not in the table", |air| "Silu".clone_into(&mut air.op("add").r#type));
    good.broken(STRICT, "no kernel for it", |air| {
        "Bitcast".clone_into(&mut air.op("add").r#type);
    });
    let mut newer = Air::default();
    newer.data("x", 0, DataType::Bf16, &[4, 8]);
    newer.data("w", 1, DataType::Bf16, &[8, 8]);
    newer.node("mm", "MatMulV3", &[("x1", "x:0"), ("x2", "w:0")], &["y"], &[]);
    newer.outputs(&["mm:0"]);
    let error = newer.on(&super::air::OLD).unwrap_err();
    assert!(error.to_string().contains("CANN 8.1 does not register"), "{error}");
    newer.refused(STRICT, "the simulator has no kernel for MatMulV3");
    mlp().broken(STRICT, "no kernel of the 910B has the types", |air| {
        for desc in [0, 1] {
            let op = air.op("gamma");
            let desc = if desc == 0 { &mut op.input_desc[0] } else { &mut op.output_desc[0] };
            desc.dtype = Float16.proto();
        }
    });
    let error = add().on(&Target { keeps_dtypes: false, ..TARGET }).unwrap_err();
    assert!(error.to_string().contains("precision_mode_v2=origin"), "{error}");
}

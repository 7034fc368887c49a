//! A graph that keeps every rule is taken; one that breaks any is refused, and the message says
//! which node broke which rule.

mod attention;
mod lowered;
mod random;
mod sample;

use std::collections::BTreeSet;

use prost::Message as _;

use super::super::dtype::GeDType;
use super::super::proto::{AttrValue, ListValue, ModelDef, OpDef, ShapeDef, TensorDef};
use super::super::target::Target;
use super::{Rule, Violation, model_size, validate};
use sample::{attr, decoder, ints, name};

fn target(soc: &str, cann: &str) -> Target {
    Target { soc: soc.parse().unwrap(), cann: cann.parse().unwrap() }
}

fn old() -> Target {
    target("Ascend910B3", "8.1")
}

/// What a mutation changes, the rule that it breaks and the node that is named.
type Mutation = (Rule, &'static str, fn(&mut ModelDef));

fn op<'a>(model: &'a mut ModelDef, name: &str) -> &'a mut OpDef {
    model.graph[0].op.iter_mut().find(|op| op.name == name).unwrap()
}

fn set(model: &mut ModelDef, node: &str, name: &str, value: AttrValue) {
    op(model, node).attr.insert(name.to_owned(), attr(value));
}

fn list(model: &mut ModelDef, node: &str, name: &str, change: fn(&mut ListValue)) {
    match op(model, node).attr.get_mut(name).unwrap().value.as_mut() {
        Some(AttrValue::List(list)) => change(list),
        other => panic!("{other:?}"),
    }
}

fn dims(model: &mut ModelDef, node: &str, dim: &[i64]) {
    let shape = Some(ShapeDef { dim: dim.to_vec() });
    let op = op(model, node);
    for desc in op.input_desc.iter_mut().chain(&mut op.output_desc) {
        desc.shape.clone_from(&shape);
    }
}

fn value<'a>(model: &'a mut ModelDef, node: &str) -> &'a mut TensorDef {
    match op(model, node).attr.get_mut("value").unwrap().value.as_mut() {
        Some(AttrValue::T(tensor)) => tensor,
        other => panic!("{other:?}"),
    }
}

/// Moves the end of an edge and takes over the descriptor.
fn feed(model: &mut ModelDef, node: &str, input: usize, producer: &str, output: usize) {
    let desc = op(model, producer).output_desc[output].clone();
    let op = op(model, node);
    op.input[input] = format!("{producer}:{output}");
    op.input_desc[input] = desc;
}

const MUTATIONS: &[Mutation] = &[
    (Rule::OneGraph, "sample", |m| m.graph.clear()),
    (Rule::OneGraph, "sample", |m| m.graph.push(m.graph[0].clone())),
    (Rule::NodeName, "x", |m| op(m, "norm").name = "x".into()),
    (Rule::NodeName, "", |m| op(m, "norm").name.clear()),
    (Rule::KnownOp, "act", |m| op(m, "act").r#type = "SwiGLU".into()),
    (Rule::Descriptor, "norm", |m| op(m, "norm").output_desc[0].dtype = 0),
    (Rule::Descriptor, "norm", |m| op(m, "norm").output_desc[0].layout = "NCHW".into()),
    (Rule::Descriptor, "norm", |m| op(m, "norm").input_desc[0].layout.clear()),
    (Rule::Descriptor, "norm", |m| op(m, "norm").input_desc[1].shape = None),
    (Rule::Descriptor, "norm", |m| op(m, "norm").input_desc[1].device_type = "CPU".into()),
    (Rule::Descriptor, "norm", |m| dims(m, "norm", &[-1, 128])),
    (Rule::Descriptor, "norm", |m| dims(m, "norm", &[i64::MAX, i64::MAX])),
    (Rule::Descriptor, "norm", |m| {
        let format = attr(AttrValue::I(29));
        op(m, "norm").input_desc[0].attr.insert("format_for_int".into(), format);
    }),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0].clear()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = "x".into()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = "x:".into()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = "x:y".into()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = "x:+0".into()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = "x:-2".into()),
    (Rule::EdgeSyntax, "norm", |m| op(m, "norm").input[0] = format!("x:{}", u128::MAX)),
    (Rule::EdgeProducer, "norm", |m| op(m, "norm").input[0] = "y:0".into()),
    (Rule::EdgeProducer, "norm", |m| op(m, "norm").input.push("y:-1".into())),
    (Rule::EdgeOutput, "norm", |m| op(m, "norm").input[0] = "x:1".into()),
    (Rule::EdgeCount, "norm", |m| op(m, "norm").input.push("x:0".into())),
    (Rule::EdgeCount, "norm", |m| drop(op(m, "norm").input.pop())),
    (Rule::EdgeCount, "norm", |m| op(m, "norm").input[1] = "gamma:-1".into()),
    (Rule::EdgeCount, "ids", |m| op(m, "ids").input.push("positions:0".into())),
    (Rule::EdgeDescriptor, "norm", |m| op(m, "norm").input_desc[0].dtype = 2),
    (Rule::EdgeDescriptor, "norm", |m| op(m, "x").output_desc[0].dtype = 2),
    (Rule::EdgeDescriptor, "norm", |m| dims(m, "norm", &[1, 128])),
    (Rule::EdgeDescriptor, "out", |m| op(m, "out").input.swap(0, 1)),
    (Rule::NameMap, "norm", |m| drop(op(m, "norm").attr.remove("_input_name_key"))),
    (Rule::NameMap, "norm", |m| drop(op(m, "norm").attr.remove("_output_name_value"))),
    (Rule::NameMap, "norm", |m| set(m, "norm", "_input_name_key", AttrValue::I(1))),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_input_name_value", |list| list.i[1] = 2)),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_input_name_value", |list| list.i[1] = 0)),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_input_name_value", |list| list.i[1] = -1)),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_input_name_value", |list| list.i.push(2))),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_input_name_key", |list| list.s[0] = vec![255])),
    (Rule::NameMap, "norm", |m| list(m, "norm", "_output_name_key", |list| drop(list.s.pop()))),
    (Rule::InputNames, "norm", |m| name(op(m, "norm"), "input", &["gamma", "x"])),
    (Rule::InputNames, "norm", |m| name(op(m, "norm"), "input", &["x", "x"])),
    (Rule::InputNames, "norm", |m| name(op(m, "norm"), "input", &["x", "beta"])),
    (Rule::InputNames, "norm", |m| {
        let op = op(m, "norm");
        op.input.pop();
        op.input_desc.pop();
        name(op, "input", &["x"]);
    }),
    (Rule::InputNames, "attn", |m| {
        let names = ["query", "key", "value0", "actual_seq_lengths_kv", "block_table"];
        name(op(m, "attn"), "input", &names);
    }),
    (Rule::InputNames, "attn", |m| {
        let names = ["query", "key0", "value1", "actual_seq_lengths_kv", "block_table"];
        name(op(m, "attn"), "input", &names);
    }),
    (Rule::InputNames, "attn", |m| {
        let names = ["query", "key0", "value0", "block_table", "actual_seq_lengths_kv"];
        name(op(m, "attn"), "input", &names);
    }),
    (Rule::InputNames, "out", |m| {
        let op = op(m, "out");
        op.input.clear();
        op.input_desc.clear();
        name(op, "input", &[]);
    }),
    (Rule::OutputNames, "norm", |m| name(op(m, "norm"), "output", &["rstd", "y"])),
    (Rule::OutputNames, "norm", |m| {
        let op = op(m, "norm");
        op.output_desc.pop();
        name(op, "output", &["y"]);
    }),
    (Rule::OutputNames, "attn", |m| {
        let op = op(m, "attn");
        op.output_desc.pop();
        name(op, "output", &["attention_out"]);
    }),
    (Rule::OutputNames, "split", |m| name(op(m, "split"), "output", &["y0", "y2", "y1"])),
    (Rule::OutputNames, "act", |m| {
        let op = op(m, "act");
        op.output_desc.push(op.output_desc[0].clone());
        name(op, "output", &["y", "z"]);
    }),
    (Rule::Cycle, "act", |m| op(m, "act").input.push("act:-1".into())),
    (Rule::Cycle, "gate_up", |m| op(m, "gate_up").input.push("gate_up:-1".into())),
    (Rule::AttributeForm, "norm", |m| {
        op(m, "norm").attr.get_mut("epsilon").unwrap().value = None;
    }),
    (Rule::AttributeForm, "split", |m| list(m, "split", "size_splits", |list| list.val_type = 0)),
    (Rule::AttributeForm, "split", |m| list(m, "split", "size_splits", |list| list.val_type = 3)),
    (Rule::AttributeForm, "split", |m| list(m, "split", "size_splits", |list| list.f.push(1.0))),
    (Rule::AttributeForm, "norm", |m| list(m, "norm", "_input_name_key", |list| list.val_type = 2)),
    (Rule::KnownAttribute, "norm", |m| set(m, "norm", "eps", AttrValue::F(1.0))),
    (Rule::KnownAttribute, "top", |m| set(m, "top", "indices_dtype", AttrValue::I(3))),
    (Rule::AttributeKind, "norm", |m| set(m, "norm", "epsilon", AttrValue::I(1))),
    (Rule::AttributeKind, "qkv", |m| set(m, "qkv", "transpose_x2", AttrValue::I(1))),
    (Rule::AttributeKind, "split", |m| set(m, "split", "split_dim", AttrValue::F(1.0))),
    (Rule::AttributeKind, "split", |m| set(m, "split", "size_splits", AttrValue::I(1))),
    (Rule::AttributeKind, "logits", |m| set(m, "logits", "dst_type", AttrValue::Dt(0))),
    (Rule::AttributeKind, "argmax", |m| set(m, "argmax", "dtype", AttrValue::I(3))),
    (Rule::AttributeKind, "attn", |m| set(m, "attn", "input_layout", AttrValue::Bt(vec![]))),
    (Rule::AttributeKind, "ids", |m| set(m, "ids", "index", AttrValue::F(0.0))),
    (Rule::AttributeKind, "zero", |m| set(m, "zero", "value", AttrValue::I(0))),
    (Rule::RequiredAttribute, "attn", |m| drop(op(m, "attn").attr.remove("num_heads"))),
    (Rule::RequiredAttribute, "split", |m| drop(op(m, "split").attr.remove("num_split"))),
    (Rule::RequiredAttribute, "logits", |m| drop(op(m, "logits").attr.remove("dst_type"))),
    (Rule::RequiredAttribute, "ids", |m| drop(op(m, "ids").attr.remove("index"))),
    (Rule::RequiredAttribute, "zero", |m| drop(op(m, "zero").attr.remove("value"))),
    (Rule::ReservedAttribute, "norm", |m| set(m, "norm", "_ir_attr_names", ints(&[]))),
    (Rule::AttributeDType, "logits", |m| set(m, "logits", "dst_type", AttrValue::I(1))),
    (Rule::AttributeDType, "logits", |m| set(m, "logits", "dst_type", AttrValue::I(-1))),
    (Rule::AttributeDType, "argmax", |m| drop(op(m, "argmax").attr.remove("dtype"))),
    (Rule::AttributeDType, "argmax", |m| set(m, "argmax", "dtype", AttrValue::Dt(7))),
    (Rule::DataDescriptor, "ids", |m| op(m, "ids").input_desc[0].dtype = 8),
    (Rule::DataDescriptor, "ids", |m| op(m, "ids").input_desc[0].shape = Some(ShapeDef::default())),
    (Rule::DataDescriptor, "ids", |m| op(m, "ids").input_desc[0].device_type = "CPU".into()),
    (Rule::DataDescriptor, "k_cache", |m| op(m, "k_cache").output_desc[0].device_type.clear()),
    (Rule::DataDescriptor, "ids", |m| {
        dims(m, "ids", &[-1]);
        op(m, "x").input_desc[1].shape = Some(ShapeDef { dim: vec![2] });
        feed(m, "x", 1, "positions", 0);
    }),
    (Rule::DataDescriptor, "ids", |m| {
        dims(m, "ids", &[0]);
        feed(m, "x", 1, "positions", 0);
    }),
    (Rule::DataIndex, "ids", |m| set(m, "ids", "index", AttrValue::I(-1))),
    (Rule::DataIndex, "ids", |m| set(m, "ids", "index", AttrValue::I(100))),
    (Rule::DataIndex, "k_cache", |m| set(m, "k_cache", "index", AttrValue::I(0))),
    (Rule::ConstValue, "zero", |m| value(m, "zero").data.push(0)),
    (Rule::ConstValue, "zero", |m| value(m, "zero").data.clear()),
    (Rule::ConstValue, "zero", |m| value(m, "zero").desc = None),
    (Rule::ConstValue, "zero", |m| value(m, "zero").desc.as_mut().unwrap().dtype = 8),
    (Rule::ConstValue, "zero", |m| value(m, "zero").desc.as_mut().unwrap().dtype = 99),
    (Rule::ConstValue, "zero", |m| value(m, "zero").desc.as_mut().unwrap().shape = None),
    (Rule::NetOutput, "", |m| drop(m.graph[0].op.pop())),
    (Rule::NetOutput, "again", |m| {
        let mut again = op(m, "out").clone();
        again.name = "again".into();
        m.graph[0].op.push(again);
    }),
    (Rule::RefSource, "k_new", |m| op(m, "k_cache").r#type = "Data".into()),
    (Rule::RefSource, "k_new", |m| {
        let y = op(m, "k_cache").output_desc[0].clone();
        let mut copy = op(m, "act").clone();
        copy.name = "copy".into();
        copy.r#type = "TensorMove".into();
        copy.input = vec!["k_cache:0".into()];
        copy.input_desc = vec![y.clone()];
        copy.output_desc = vec![y];
        m.graph[0].op.push(copy);
        feed(m, "k_new", 0, "copy", 0);
    }),
    (Rule::RefOrder, "k_new", |m| op(m, "attn").input[1] = "k_cache:0".into()),
    (Rule::RefOrder, "v_new", |m| op(m, "attn").input[2] = "v_cache:0".into()),
    (Rule::RefOrder, "v_new", |m| op(m, "v_new").input[0] = "k_cache:0".into()),
    (Rule::ConstInput, "x", |m| feed(m, "x", 2, "ids", 0)),
    (Rule::ConstInput, "cos", |m| feed(m, "cos", 1, "ids", 0)),
    (Rule::ConstInput, "argmax", |m| feed(m, "argmax", 1, "ids", 0)),
    (Rule::ConstInput, "top", |m| feed(m, "top", 1, "ids", 0)),
    (Rule::Kernel, "norm", |m| op(m, "norm").output_desc[1].dtype = 27),
    (Rule::Kernel, "x", |m| feed(m, "x", 1, "embed", 0)),
    (Rule::Kernel, "qkv", |m| feed(m, "qkv", 0, "ids", 0)),
    (Rule::Kernel, "qkv", |m| {
        let op = op(m, "qkv");
        op.input.push("gamma:0".into());
        op.input_desc.push(sample::desc(GeDType::BF16, &[128]));
        name(op, "input", &["x1", "x2", "bias"]);
    }),
    (Rule::Kernel, "sum", |m| feed(m, "sum", 0, "positions", 0)),
    (Rule::Kernel, "k_new", |m| feed(m, "k_new", 1, "embed", 0)),
    (Rule::Shape, "norm", |m| feed(m, "norm", 1, "w_o", 0)),
    (Rule::Shape, "norm", |m| op(m, "norm").output_desc[1].shape = Some(ShapeDef::default())),
    (Rule::Shape, "qkv", |m| set(m, "qkv", "transpose_x2", AttrValue::B(false))),
    (Rule::Shape, "split", |m| set(m, "split", "size_splits", ints(&[64, 128, 64]))),
    (Rule::Shape, "split", |m| set(m, "split", "size_splits", ints(&[128, 64]))),
    (Rule::Shape, "split", |m| set(m, "split", "size_splits", ints(&[i64::MAX, i64::MAX, 2]))),
    (Rule::Shape, "split", |m| set(m, "split", "num_split", AttrValue::I(2))),
    (Rule::Shape, "split", |m| set(m, "split", "split_dim", AttrValue::I(i64::MIN))),
    (Rule::Shape, "act", |m| set(m, "act", "dim", AttrValue::I(0))),
    (Rule::Shape, "q_heads", |m| value(m, "q_heads_shape").data[0] = 2),
    (Rule::Shape, "x", |m| value(m, "zero").data[0] = 1),
    (Rule::Shape, "x", |m| set(m, "x", "batch_dims", AttrValue::I(1))),
    (Rule::Shape, "k_new", |m| feed(m, "k_new", 2, "split", 0)),
    (Rule::Shape, "argmax", |m| value(m, "last").data = vec![0; 4]),
    (Rule::Shape, "argmax", |m| value(m, "last").data = vec![9; 4]),
    (Rule::Shape, "top", |m| value(m, "four").data[0] = 33),
    (Rule::Shape, "top", |m| value(m, "four").data[0] = 3),
    (Rule::Shape, "sum", |m| feed(m, "sum", 0, "act", 0)),
];

#[test]
fn a_graph_that_keeps_every_rule_is_taken() {
    for soc in ["Ascend910B3", "Ascend910_9382"] {
        for cann in ["8.1", "9.0"] {
            assert_eq!(validate(&decoder(), &target(soc, cann)), Ok(()));
        }
    }
    let read = ModelDef::decode(&*decoder().encode_to_vec()).unwrap();
    assert_eq!(validate(&read, &old()), Ok(()));
}

#[test]
fn each_mutation_is_refused_by_its_rule_at_its_node() {
    for (idx, (rule, node, mutate)) in MUTATIONS.iter().enumerate() {
        let mut model = decoder();
        mutate(&mut model);
        let Err(violation) = validate(&model, &old()) else {
            panic!("mutation {idx} at {node} keeps {rule:?}");
        };
        assert_eq!((violation.rule, &*violation.node), (*rule, *node), "{idx}: {violation}");
    }
}

#[test]
fn there_is_a_mutation_for_every_rule() {
    let elsewhere = [Rule::ModelSize, Rule::Available, Rule::Rotary, Rule::Attention];
    let mutated: BTreeSet<Rule> = MUTATIONS.iter().map(|(rule, _, _)| *rule).collect();
    let tested = mutated.into_iter().chain(elsewhere).collect();
    assert_eq!(BTreeSet::from(Rule::ALL), tested);
    let names: BTreeSet<&str> = Rule::ALL.into_iter().map(Rule::name).collect();
    assert_eq!(names.len(), Rule::ALL.len());
}

#[test]
fn a_violation_says_what_was_expected_and_where() {
    let mut model = decoder();
    op(&mut model, "norm").input[0] = "x".to_owned();
    assert_eq!(
        validate(&model, &old()).unwrap_err().to_string(),
        "syntax of an edge: expected `producer:output`, got `x` (node `norm`, RmsNorm)"
    );
}

#[test]
fn a_model_of_two_gibibytes_is_refused() {
    model_size(i32::MAX as usize).unwrap();
    assert!(model_size(1 << 31).unwrap_err().contains("2147483647"));
}

#[test]
fn a_newer_operator_is_refused_for_an_older_release() {
    let mut model = decoder();
    op(&mut model, "qkv").r#type = "MatMulV3".to_owned();
    let violation = validate(&model, &old()).unwrap_err();
    assert_eq!((violation.rule, &*violation.node), (Rule::Available, "qkv"));
    assert_eq!(validate(&model, &target("Ascend910B3", "9.0")), Ok(()));
}

#[test]
fn a_name_that_acl_cannot_find_is_refused_for_inputs_only() {
    let mut model = decoder();
    let long = "i".repeat(128);
    let rename = |model: &mut ModelDef, from: &str, to: &str| {
        op(model, from).name = to.to_owned();
        for op in &mut model.graph[0].op {
            for edge in &mut op.input {
                if edge.rsplit_once(':').is_some_and(|(producer, _)| producer == from) {
                    *edge = edge.replace(from, to);
                }
            }
        }
    };
    rename(&mut model, "norm", &"n".repeat(128));
    rename(&mut model, "ids", &long[1..]);
    assert_eq!(validate(&model, &old()), Ok(()));
    rename(&mut model, &long[1..], &long);
    let Violation { rule, node, .. } = validate(&model, &old()).unwrap_err();
    assert_eq!((rule, node), (Rule::NodeName, long));
}

#[test]
fn a_control_edge_orders_whoever_uses_the_same_memory() {
    let mut model = decoder();
    op(&mut model, "attn").input[1] = "k_cache:0".to_owned();
    assert_eq!(validate(&model, &old()).unwrap_err().rule, Rule::RefOrder);
    op(&mut model, "attn").input.insert(0, "k_new:-1".to_owned());
    assert_eq!(validate(&model, &old()), Ok(()));
    // Through others counts too.
    op(&mut model, "attn").input[0] = "v_new:-1".to_owned();
    op(&mut model, "v_new").input.push("k_new:-1".to_owned());
    assert_eq!(validate(&model, &old()), Ok(()));
}

#[test]
fn a_chain_of_changes_in_place_is_one_memory() {
    let mut model = decoder();
    op(&mut model, "v_new").input[0] = "k_new:0".to_owned();
    op(&mut model, "attn").input[1] = "v_new:0".to_owned();
    assert_eq!(validate(&model, &old()), Ok(()));
    // Reads the first change while the second may have begun.
    op(&mut model, "attn").input[1] = "k_new:0".to_owned();
    op(&mut model, "attn").input[2] = "v_cache:0".to_owned();
    assert_eq!(validate(&model, &old()).unwrap_err().node, "v_new");
}

#[test]
fn a_reshape_of_a_memory_is_that_memory() {
    let mut model = decoder();
    let mut shape = op(&mut model, "cos_shape").clone();
    shape.name = "view_shape".to_owned();
    shape.output_desc[0] = sample::desc(GeDType::I32, &[3]);
    let data = [9_i32, 128, 64].iter().flat_map(|size| size.to_le_bytes()).collect();
    let tensor = TensorDef { desc: Some(shape.output_desc[0].clone()), data };
    shape.attr.insert("value".to_owned(), attr(AttrValue::T(tensor)));
    let mut view = op(&mut model, "cos").clone();
    view.name = "view".to_owned();
    view.input = vec!["k_cache:0".to_owned(), "view_shape:0".to_owned()];
    let cache = op(&mut model, "k_cache").output_desc[0].clone();
    view.input_desc = vec![cache.clone(), shape.output_desc[0].clone()];
    view.output_desc = vec![cache];
    model.graph[0].op.extend([shape, view]);
    feed(&mut model, "attn", 1, "view", 0);
    // The reshape comes before the change, but may do nothing; the attention has no order with it.
    op(&mut model, "k_new").input.push("view:-1".to_owned());
    let violation = validate(&model, &old()).unwrap_err();
    assert_eq!((violation.rule, &*violation.node), (Rule::RefOrder, "k_new"));
    op(&mut model, "attn").input.push("k_new:-1".to_owned());
    assert_eq!(validate(&model, &old()), Ok(()));
}

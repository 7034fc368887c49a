//! Which kernels there are: releases, chips, element types that go together, inputs that must be
//! constant.
//!
//! ```text
//! RmsNorm        x         gamma     y         rstd
//! combinations   float16   float     float16   float      the element types of all tensors that
//!                bfloat16  float     bfloat16  float      are there must be found in one row
//! ```
//!
//! The combinations are those of 910B. Atlas A3 runs the kernels that are marked for it; CANN
//! publishes the mark but not the rows, which are taken to be the same.
//!
//! What this module deliberately does not do: kernels whose types are chosen while compiling are
//! held to a narrower rule: all the same.

use super::super::dtype::GeDType;
use super::super::target::{Family, Target};
use super::graph::{Graph, Node, dtype};
use super::prototypes::{Combination, Parameter, Prototype};
use super::violation::{Rule, Violation};

use GeDType::{BF16, F16, F32, I8, I32};

/// Operators without a table: all tensors have one type, one of these.
const SAME: &[(&str, &[GeDType])] = &[
    ("MatMulV2", &[F16, BF16, F32]),
    ("Add", &[F16, BF16, F32, I32]),
    ("Mul", &[F16, BF16, F32, I32]),
    ("RealDiv", &[F16, BF16, F32]),
    ("SoftmaxV2", &[F16, BF16, F32]),
    ("SplitVD", &[F16, BF16, F32, I32]),
    ("ConcatD", &[F16, BF16, F32, I32]),
    ("HcomAllReduce", &[F16, BF16, F32, I32, I8]),
];

/// Inputs whose type depends on which kernel is chosen: an operator of its own is sure.
const NOT_FED: &[(&str, &str)] = &[("MatMulV2", "bias"), ("MatMulV2", "offset_w")];

/// Inputs that kernels read on the device before they start, so that they may change.
const READ_ON_DEVICE: &[(&str, &str)] = &[
    ("FusedInferAttentionScore", "actual_seq_lengths"),
    ("FusedInferAttentionScore", "actual_seq_lengths_kv"),
];

/// Holds every node to the kernels of the target.
pub(super) fn check(graph: &Graph<'_>, target: Target) -> Result<(), Violation> {
    for node in &graph.nodes {
        available(node.proto, target)
            .map_err(|detail| Violation::of(node.op, Rule::Available, detail))?;
        constant_inputs(graph, node)?;
        element_types(node).map_err(|detail| Violation::of(node.op, Rule::Kernel, detail))?;
    }
    Ok(())
}

/// Whether the release knows the operator, and the chip has kernels for it.
fn available(proto: &Prototype, target: Target) -> Result<(), String> {
    if let Some(since) = proto.since.filter(|&since| target.cann < since) {
        return Err(format!("expected CANN {since} or newer, got {}", target.cann));
    }
    let missing = proto.kernels.is_some() && !proto.a3;
    if target.soc.family() == Family::A3 && missing {
        return Err(format!("expected an operator with kernels for {}", target.soc));
    }
    Ok(())
}

fn constant_inputs(graph: &Graph<'_>, node: &Node<'_>) -> Result<(), Violation> {
    for (parameter, source) in node.inputs.iter().zip(&node.sources) {
        let name = parameter.name.as_str();
        if !parameter.value || READ_ON_DEVICE.contains(&(node.op.r#type.as_str(), name)) {
            continue;
        }
        let producer = graph.nodes[source.node].op;
        node.ensure(producer.r#type == "Const", Rule::ConstInput, || {
            format!("`{name}`: expected a Const, got `{}`, {}", producer.name, producer.r#type)
        })?;
    }
    Ok(())
}

fn element_types(node: &Node<'_>) -> Result<(), String> {
    let op_type = node.op.r#type.as_str();
    let fed = |name: &str| NOT_FED.contains(&(op_type, name));
    if let Some(parameter) = node.inputs.iter().find(|parameter| fed(&parameter.name)) {
        return Err(format!("expected no `{}`: its type depends on the kernel", parameter.name));
    }
    if let Some((_, dtypes)) = SAME.iter().find(|(same, _)| *same == op_type) {
        return same(node, dtypes);
    }
    match &node.proto.kernels {
        None => Ok(()),
        Some(combinations) if combinations.iter().any(|row| fits(node, row)) => Ok(()),
        Some(_) => Err(format!("no kernel takes {}", listed(node))),
    }
}

/// Parameter and element type of every tensor of a node.
fn tensors<'a>(
    node: &'a Node<'_>,
) -> impl Iterator<Item = (&'static Parameter, Option<GeDType>)> + 'a {
    let inputs = node.inputs.iter().zip(&node.op.input_desc);
    let outputs = node.outputs.iter().zip(&node.op.output_desc);
    inputs.chain(outputs).map(|(parameter, desc)| (*parameter, dtype(desc)))
}

fn same(node: &Node<'_>, dtypes: &[GeDType]) -> Result<(), String> {
    let first = tensors(node).find_map(|(_, dtype)| dtype);
    let known = first.is_some_and(|dtype| dtypes.contains(&dtype));
    if known && tensors(node).all(|(_, dtype)| dtype == first) {
        return Ok(());
    }
    let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
    Err(format!("expected one of {} for all, got {}", names.join(", "), listed(node)))
}

fn fits(node: &Node<'_>, row: &Combination) -> bool {
    let declared = || node.proto.inputs.iter().chain(&node.proto.outputs).zip(row);
    // References have the same name as an input, and the same type.
    tensors(node).all(|(parameter, dtype)| {
        declared().any(|(of_row, expected)| {
            of_row.name == parameter.name && expected.is_some() && *expected == dtype
        })
    })
}

fn listed(node: &Node<'_>) -> String {
    let tensors = tensors(node).map(|(parameter, dtype)| {
        format!("{} {}", parameter.name, dtype.map_or("unknown", GeDType::name))
    });
    tensors.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::prototypes::prototype;
    use super::*;

    fn target(soc: &str, cann: &str) -> Target {
        Target { soc: soc.parse().unwrap(), cann: cann.parse().unwrap() }
    }

    #[test]
    fn an_operator_is_available_from_its_release_on() {
        let proto = prototype("MatMulV3").unwrap();
        assert_eq!(
            available(proto, target("Ascend910B3", "8.5")).unwrap_err(),
            "expected CANN 9.0 or newer, got 8.5"
        );
        available(proto, target("Ascend910B3", "9.0")).unwrap();
        available(prototype("MatMulV2").unwrap(), target("Ascend910B3", "8.1")).unwrap();
    }

    #[test]
    fn a_kernel_without_the_mark_does_not_run_on_a3() {
        let json = r#"{"inputs":[],"outputs":[],"attrs":[],"kernels":["float"]}"#;
        let proto: Prototype = serde_json::from_str(json).unwrap();
        available(&proto, target("Ascend910B3", "9.0")).unwrap();
        let error = available(&proto, target("Ascend910_9382", "9.0")).unwrap_err();
        assert!(error.contains("Ascend910_9382"), "{error}");
        available(prototype("Data").unwrap(), target("Ascend910_9382", "9.0")).unwrap();
    }
}

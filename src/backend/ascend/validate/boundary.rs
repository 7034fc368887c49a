//! Where tensors enter and leave a graph: `Data`, `RefData`, `Const`, `NetOutput`.
//!
//! What this module deliberately does not do: it does not know what the inputs are filled with.

use super::super::proto::AttrValue;
use super::graph::{Graph, Node, bytes, descriptor, dims, show};
use super::violation::{Rule, Violation};

/// Holds inputs, constants and outputs to their rules.
pub(super) fn check(graph: &Graph<'_>) -> Result<(), Violation> {
    for node in &graph.nodes {
        match node.op.r#type.as_str() {
            "Data" | "RefData" => data_descriptors(node)?,
            "Const" => const_value(node)?,
            _ => {}
        }
    }
    data_indices(graph)?;
    net_output(graph)
}

fn data_descriptors(node: &Node<'_>) -> Result<(), Violation> {
    let broken = |detail: String| Violation::of(node.op, Rule::DataDescriptor, detail);
    let (Some(x), Some(y)) = (node.input("x"), node.output("y")) else {
        return Err(broken("expected `x` and `y`".to_owned()));
    };
    for desc in [x, y] {
        if desc.device_type != "NPU" {
            return Err(broken(format!("expected device `NPU`, got `{}`", desc.device_type)));
        }
        if dims(desc).iter().any(|&dim| dim < 1) || bytes(desc).is_none() {
            return Err(broken(format!("expected sizes from 1 on, got {:?}", dims(desc))));
        }
    }
    let same = x.dtype == y.dtype && x.shape == y.shape;
    node.ensure(same, Rule::DataDescriptor, || {
        format!("expected `x` and `y` to be equal, got {} and {}", show(x), show(y))
    })
}

fn data_indices(graph: &Graph<'_>) -> Result<(), Violation> {
    let inputs = || graph.nodes.iter().filter(|node| node.is_data());
    let mut taken = vec![None; inputs().count()];
    for node in inputs() {
        let len = taken.len();
        let index = node.int("index").unwrap_or(-1);
        let place = usize::try_from(index).ok().and_then(|index| taken.get_mut(index));
        let Some(place) = place else {
            let detail = format!("expected an index below {len}, got {index}");
            return Err(Violation::of(node.op, Rule::DataIndex, detail));
        };
        if let Some(other) = place.replace(node.op.name.as_str()) {
            let detail = format!("index {index} is that of `{other}` too");
            return Err(Violation::of(node.op, Rule::DataIndex, detail));
        }
    }
    Ok(())
}

fn const_value(node: &Node<'_>) -> Result<(), Violation> {
    let broken = |detail: String| Violation::of(node.op, Rule::ConstValue, detail);
    let (Some(AttrValue::T(tensor)), Some(y)) = (node.attribute("value"), node.output("y")) else {
        return Err(broken("expected a tensor".to_owned()));
    };
    let desc = tensor.desc.as_ref().ok_or_else(|| broken("expected a descriptor".to_owned()))?;
    descriptor(node.op, desc).map_err(broken)?;
    let same = desc.dtype == y.dtype && desc.shape == y.shape;
    node.ensure(same, Rule::ConstValue, || {
        format!("expected that of the output, {}, got {}", show(y), show(desc))
    })?;
    let (expected, got) = (bytes(desc), tensor.data.len());
    node.ensure(expected == Some(got), Rule::ConstValue, || {
        format!("expected {} bytes for {}, got {got}", expected.unwrap_or(0), show(desc))
    })
}

fn net_output(graph: &Graph<'_>) -> Result<(), Violation> {
    let mut outputs = graph.nodes.iter().filter(|node| node.op.r#type == "NetOutput");
    let Some(node) = outputs.next() else {
        return Err(Violation {
            node: String::new(),
            op: "NetOutput".to_owned(),
            rule: Rule::NetOutput,
            detail: "expected one, got none".to_owned(),
        });
    };
    match outputs.next() {
        None => Ok(()),
        Some(second) => {
            let detail = format!("expected one, got `{}` too", node.op.name);
            Err(Violation::of(second.op, Rule::NetOutput, detail))
        }
    }
}

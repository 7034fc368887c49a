//! Inputs and outputs by name: the maps `_input_name_*` and `_output_name_*` of a node, held
//! against the operator's prototype.

use super::error::GeError;
use super::graph::{Edge, Input};
use super::load::RawNode;
use super::proto::{ListValue, TensorDescriptor, Value};
use super::protos::{OpProto, Port, PortKind};

/// An input that is fed.
#[derive(Clone, Debug)]
pub(super) struct BoundInput {
    /// Name and producer.
    pub input: Input,
    /// Which input of the prototype it is (a part of).
    pub port: usize,
    /// Its descriptor in the file.
    pub desc: TensorDescriptor,
}

/// Whether a descriptor stands for an input that is left open.
fn is_invalid(desc: &TensorDescriptor) -> bool {
    desc.dtype == 0 && desc.layout.is_empty()
}

/// Names by index, of `num_descs` descriptors.
fn name_map(node: &RawNode, which: &str, num_descs: usize) -> Result<Vec<String>, GeError> {
    let op = &node.op;
    if num_descs == 0 {
        return Ok(Vec::new());
    }
    let list = |suffix: &str| match op.attr.get(&format!("_{which}_name_{suffix}"))?.value.as_ref()
    {
        // The loader reads these without a look at `val_type`.
        Some(Value::List(list)) => Some(list),
        _ => None,
    };
    let none = ListValue::default();
    let (keys, values) = (list("key").unwrap_or(&none), list("value").unwrap_or(&none));
    let strict = |what: String| GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type));
    if keys.s.is_empty() {
        return Err(strict(format!("the map _{which}_name_key is missing")));
    }
    if keys.s.len() != values.i.len() {
        return Err(strict(format!(
            "_{which}_name_key has {} entries, _{which}_name_value {}; GE would ignore both",
            keys.s.len(),
            values.i.len()
        )));
    }
    let mut names = vec![None; num_descs];
    for (key, &index) in keys.s.iter().zip(&values.i) {
        let slot = usize::try_from(index).ok().and_then(|index| names.get_mut(index));
        let slot = slot.ok_or_else(|| {
            GeError::Crash(format!("{}: _{which}_name_value {index} of {num_descs}", op.name))
        })?;
        let name = String::from_utf8(key.clone())
            .map_err(|_| strict(format!("_{which}_name_key is not UTF-8")))?;
        if let Some(other) = slot.replace(name) {
            return Err(strict(format!("{which} {index} has two names, one is {other}")));
        }
    }
    let unnamed = |index: usize| strict(format!("{which} {index} has no name"));
    names.into_iter().enumerate().map(|(at, name)| name.ok_or_else(|| unnamed(at))).collect()
}

/// Position of a name in the prototype: the port, and the number for a dynamic one.
fn position(ports: &[&Port], name: &str) -> Option<(usize, usize)> {
    let number = |port: &Port| name.strip_prefix(port.name())?.parse().ok();
    ports.iter().enumerate().find_map(|(index, port)| match port.1 {
        PortKind::Dynamic => Some((index, number(port)?)),
        PortKind::Required | PortKind::Optional => (port.name() == name).then_some((index, 0)),
    })
}

/// The inputs of a node that are fed, in the prototype's order.
///
/// # Errors
/// [`GeError::NotLinked`], [`GeError::Internal`] for a wrong order, [`GeError::Strict`] for names
/// that the prototype does not have, [`GeError::Crash`] for an index outside the descriptors.
pub(super) fn bind_inputs(
    node: &RawNode,
    proto: &OpProto,
    is_newer: bool,
) -> Result<Vec<BoundInput>, GeError> {
    let op = &node.op;
    let ports = proto.inputs(is_newer);
    let names = name_map(node, "input", op.input_desc.len())?;
    let not_linked = |index| GeError::NotLinked { node: op.name.clone(), index };
    let strict = |what: String| GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type));
    let mut bound: Vec<BoundInput> = Vec::new();
    let mut last: Option<(usize, usize)> = None;
    for (index, name) in names.into_iter().enumerate() {
        let at = position(&ports, &name)
            .ok_or_else(|| strict(format!("the operator has no input {name}")))?;
        if last.is_some_and(|last| last >= at) {
            return Err(GeError::Internal(format!(
                "Assert ((ConstructCompileKernelContextInputs({}, input {name})) failed: the \
                 order is not that of the prototype",
                op.name
            )));
        }
        let is_next = match last {
            Some((port, number)) if port == at.0 => at.1 == number + 1,
            _ => at.1 == 0,
        };
        if !is_next {
            return Err(strict(format!("input {name} follows no input of the number before")));
        }
        last = Some(at);
        match node.edges[index] {
            Some(edge) => bound.push(BoundInput {
                input: Input { name, edge },
                port: at.0,
                desc: op.input_desc[index].clone(),
            }),
            None if ports[at.0].1 == PortKind::Optional && is_invalid(&op.input_desc[index]) => {}
            None => return Err(not_linked(index)),
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let is_bound = bound.iter().any(|input| input.port == index);
        if port.1 == PortKind::Required && !is_bound {
            return Err(not_linked(index));
        }
    }
    if let Some(text) = &node.vanished {
        return Err(strict(format!("input `{text}` has no colon, GE would drop the edge")));
    }
    Ok(bound)
}

/// The names of the outputs of a node, in the prototype's order.
///
/// # Errors
/// [`GeError::Infer`] if a required output is missing, [`GeError::Strict`] for other names.
pub(super) fn bind_outputs(node: &RawNode, proto: &OpProto) -> Result<Vec<String>, GeError> {
    let op = &node.op;
    let names = name_map(node, "output", op.output_desc.len())?;
    let ports: Vec<&Port> = proto.outputs.iter().collect();
    for port in &ports {
        if port.1 == PortKind::Required && !names.iter().any(|name| name == port.name()) {
            let reason = match port.name() {
                "softmax_lse" => "softmaxLseShape is nullptr!".to_owned(),
                name => format!("{name}_shape is nullptr!"),
            };
            let (node, op) = (op.name.clone(), op.r#type.clone());
            return Err(GeError::Infer { node, op, reason });
        }
    }
    let mut last: Option<(usize, usize)> = None;
    for name in &names {
        let at = position(&ports, name).filter(|&at| last.is_none_or(|last| last < at));
        last = Some(at.ok_or_else(|| {
            let (node, op) = (&op.name, &op.r#type);
            GeError::Strict(format!("{node} ({op}): output {name} is unknown or out of order"))
        })?);
    }
    Ok(names)
}

/// A producer and the node that takes it.
pub(super) fn fed(inputs: &[BoundInput]) -> impl Iterator<Item = Edge> {
    inputs.iter().map(|input| input.input.edge)
}

/// Checks the map of a `Data` node's one input, which nothing feeds.
///
/// # Errors
/// As [`bind_inputs`].
pub(super) fn check_data_input(node: &RawNode) -> Result<(), GeError> {
    let names = name_map(node, "input", node.op.input_desc.len())?;
    if names == ["x"] {
        return Ok(());
    }
    let (name, op) = (&node.op.name, &node.op.r#type);
    Err(GeError::Strict(format!("{name} ({op}): its input is named {names:?}, not x")))
}

//! Attributes against the prototype: GE reads them without looking at their type.
//!
//! Besides those of the prototype, a node has the name maps that the loader needs. Attributes
//! `_ir_*` repeat the prototype, and a repetition that differs from the one that GE has is refused:
//! there must be none.
//!
//! What this module deliberately does not do: it looks at no value, but for those that name the
//! element type of an output.

use super::super::dtype::GeDType;
use super::super::proto::{AttrDef, AttrValue, ListType, ListValue, OpDef};
use super::graph::{Graph, Node, dtype};
use super::prototypes::AttributeKind;
use super::violation::{Rule, Violation, ensure};

/// Attributes that the loader reads, of any operator.
const OF_THE_LOADER: [&str; 5] = [
    "_input_name_key",
    "_input_name_value",
    "_output_name_key",
    "_output_name_value",
    "_opt_input",
];

/// Attributes that name the element type of the first output in the numbering of
/// [`GeDType::acl`], and the type that stands for their absence where that is sure.
const OF_AN_OUTPUT: &[(&str, &str, Option<GeDType>)] = &[
    ("Cast", "dst_type", None),
    ("ArgMaxV2", "dtype", Some(GeDType::I64)),
    ("DynamicQuant", "dst_type", Some(GeDType::I8)),
    ("QuantBatchMatmulV3", "dtype", None),
];

/// Every attribute of a node has a value, and lists what they say they have.
pub(super) fn forms(op: &OpDef) -> Result<(), Violation> {
    for (name, attr) in &op.attr {
        form(attr).map_err(|detail| {
            Violation::of(op, Rule::AttributeForm, format!("`{name}`: {detail}"))
        })?;
    }
    Ok(())
}

fn form(attr: &AttrDef) -> Result<(), String> {
    match &attr.value {
        None => Err("expected a value, got none".to_owned()),
        Some(AttrValue::List(list)) => list_form(list),
        Some(_) => Ok(()),
    }
}

fn list_form(list: &ListValue) -> Result<(), String> {
    let fields = [
        (ListType::String, list.s.len()),
        (ListType::Int, list.i.len()),
        (ListType::Float, list.f.len()),
        (ListType::Bool, list.b.len()),
        (ListType::DataType, list.dt.len()),
    ];
    let Some((said, _)) = fields.iter().find(|(kind, _)| *kind as i32 == list.val_type) else {
        return Err(format!("expected a list that says what it holds, got {}", list.val_type));
    };
    match fields.iter().find(|(kind, len)| kind != said && *len > 0) {
        None => Ok(()),
        Some((held, _)) => Err(format!("expected a list of {said:?}, got one of {held:?}")),
    }
}

/// Every attribute has the type of the prototype, and required ones are there.
pub(super) fn check(graph: &Graph<'_>) -> Result<(), Violation> {
    for node in &graph.nodes {
        for (name, attr) in &node.op.attr {
            if let Some(value) = &attr.value {
                attribute(node, name, value)?;
            }
        }
        for attribute in node.proto.attrs.iter().filter(|attribute| attribute.required) {
            let given = node.op.attr.contains_key(&attribute.name);
            let missing = || format!("expected `{}`, got none", attribute.name);
            node.ensure(given, Rule::RequiredAttribute, missing)?;
        }
        output_dtype(node)?;
    }
    Ok(())
}

fn attribute(node: &Node<'_>, name: &str, value: &AttrValue) -> Result<(), Violation> {
    let reserved = name.starts_with("_ir_");
    node.ensure(!reserved, Rule::ReservedAttribute, || format!("expected no `{name}`"))?;
    if OF_THE_LOADER.contains(&name) {
        return Ok(());
    }
    let declared = node.proto.attrs.iter().find(|attribute| attribute.name == name);
    let Some(declared) = declared else {
        let detail = format!("expected one of the prototype, got `{name}`");
        return Err(Violation::of(node.op, Rule::KnownAttribute, detail));
    };
    let kind = declared.kind;
    ensure(node.op, is_of_kind(value, kind), Rule::AttributeKind, || {
        format!("`{name}`: expected {kind:?}, got {}", kind_of(value))
    })
}

fn is_of_kind(value: &AttrValue, kind: AttributeKind) -> bool {
    match kind {
        AttributeKind::Int => matches!(value, AttrValue::I(_)),
        AttributeKind::Float => matches!(value, AttrValue::F(_)),
        AttributeKind::Bool => matches!(value, AttrValue::B(_)),
        AttributeKind::String => matches!(value, AttrValue::S(_)),
        AttributeKind::Type => matches!(value, AttrValue::Dt(_)),
        AttributeKind::Tensor => matches!(value, AttrValue::T(_)),
        AttributeKind::ListInt => {
            matches!(value, AttrValue::List(list) if list.val_type == ListType::Int as i32)
        }
    }
}

fn kind_of(value: &AttrValue) -> &'static str {
    match value {
        AttrValue::List(list) if list.val_type == ListType::Int as i32 => "ListInt",
        AttrValue::List(_) => "another list",
        AttrValue::S(_) => "String",
        AttrValue::I(_) => "Int",
        AttrValue::F(_) => "Float",
        AttrValue::B(_) => "Bool",
        AttrValue::Bt(_) => "Bytes",
        AttrValue::T(_) => "Tensor",
        AttrValue::Dt(_) => "Type",
    }
}

fn output_dtype(node: &Node<'_>) -> Result<(), Violation> {
    let of_op = OF_AN_OUTPUT.iter().find(|(op_type, _, _)| *op_type == node.op.r#type);
    let Some(&(_, name, default)) = of_op else { return Ok(()) };
    let named = match node.attribute(name) {
        Some(&(AttrValue::I(number) | AttrValue::Dt(number))) => Some(number),
        _ => default.map(|dtype| i64::from(dtype.acl())),
    };
    let given = node.op.output_desc.first().and_then(dtype);
    node.ensure(named == given.map(|dtype| i64::from(dtype.acl())), Rule::AttributeDType, || {
        let named = match named.and_then(|number| i32::try_from(number).ok()) {
            Some(number) => GeDType::from_acl(number).map_or(number.to_string(), |d| d.to_string()),
            None => "none".to_owned(),
        };
        let given = given.map_or("none", GeDType::name);
        format!("`{name}`: expected that of the output, {given}, got {named}")
    })
}

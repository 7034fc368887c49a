//! Attributes of a node, held against the operator's prototype; defaults are filled in.
//!
//! GE never looks at the type of an attribute: a float where an integer belongs is reinterpreted.
//! Here every one must be of the kind that the prototype says.

use std::collections::BTreeMap;

use super::error::GeError;
use super::graph::{Attr, DataType};
use super::load::RawNode;
use super::proto::{AttrDef, ListValue, OpDef, Value, val_type};
use super::protos::{AttrKind, AttrProto, OpProto};

/// Attributes of GE itself that a graph may carry.
const FRAMEWORK: [&str; 5] = [
    "_input_name_key",
    "_input_name_value",
    "_output_name_key",
    "_output_name_value",
    "_opt_input",
];

/// The prototype's attributes of a node.
///
/// # Errors
/// [`GeError::Infer`] if a required one is missing or its list has no `val_type`: then GE reads
/// none of them. [`GeError::Strict`] for an unknown one or one of another kind.
pub(super) fn read(
    node: &RawNode,
    proto: &OpProto,
    is_newer: bool,
) -> Result<BTreeMap<String, Attr>, GeError> {
    let op = &node.op;
    let protos = proto.attrs(is_newer);
    for name in op.attr.keys() {
        let is_known = FRAMEWORK.contains(&name.as_str()) || protos.iter().any(|p| p.0 == *name);
        if !is_known {
            let why = if name.starts_with("_ir_") { "; GE recovers it by itself" } else { "" };
            return Err(strict(op, &format!("unknown attribute {name}{why}")));
        }
    }
    let mut attrs = BTreeMap::new();
    for AttrProto(name, kind, is_required, default) in protos {
        let attr = match op.attr.get(name) {
            Some(attr) if is_skipped(attr) => return Err(unreadable(op)),
            Some(attr) => Some(convert(attr, *kind).ok_or_else(|| {
                strict(op, &format!("attribute {name} is not of kind {kind:?} or has no value"))
            })?),
            None if *is_required => return Err(unreadable(op)),
            None => default.as_deref().and_then(|default| parse_default(default, *kind)),
        };
        attrs.extend(attr.map(|attr| (name.clone(), attr)));
    }
    Ok(attrs)
}

fn strict(op: &OpDef, what: &str) -> GeError {
    GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type))
}

fn unreadable(op: &OpDef) -> GeError {
    GeError::Infer {
        node: op.name.clone(),
        op: op.r#type.clone(),
        reason: "Failed to get attr, the index 0 out of range 0".to_owned(),
    }
}

/// Whether the loader drops the attribute.
fn is_skipped(attr: &AttrDef) -> bool {
    matches!(&attr.value, Some(Value::List(list)) if list.val_type == val_type::NONE)
}

fn convert(attr: &AttrDef, kind: AttrKind) -> Option<Attr> {
    let list = |wanted: i32| match attr.value.as_ref()? {
        Value::List(list) if list.val_type == wanted => Some(list),
        _ => None,
    };
    match (kind, attr.value.as_ref()?) {
        (AttrKind::Int, Value::I(value)) => Some(Attr::Int(*value)),
        (AttrKind::Float, Value::F(value)) => Some(Attr::Float(*value)),
        (AttrKind::Bool, Value::B(value)) => Some(Attr::Bool(*value)),
        (AttrKind::String, Value::S(value)) => String::from_utf8(value.clone()).ok().map(Attr::Str),
        (AttrKind::Type, Value::Dt(value)) => {
            DataType::from_acl(i32::try_from(*value).ok()?).map(Attr::DataType)
        }
        (AttrKind::ListInt, _) => {
            let list = list(val_type::INT).filter(|list| is_pure(list, list.i.len()))?;
            Some(Attr::ListInt(list.i.clone()))
        }
        (AttrKind::ListFloat, _) => {
            let list = list(val_type::FLOAT).filter(|list| is_pure(list, list.f.len()))?;
            Some(Attr::ListFloat(list.f.clone()))
        }
        (AttrKind::ListBool, _) => {
            let list = list(val_type::BOOL).filter(|list| is_pure(list, list.b.len()))?;
            Some(Attr::ListBool(list.b.clone()))
        }
        _ => None,
    }
}

/// Whether a list has no elements of another kind than the one that has `len`.
fn is_pure(list: &ListValue, len: usize) -> bool {
    list.s.len() + list.i.len() + list.f.len() + list.b.len() + list.dt.len() == len
}

fn parse_default(text: &str, kind: AttrKind) -> Option<Attr> {
    Some(match kind {
        AttrKind::Int => Attr::Int(text.parse().ok()?),
        AttrKind::Float => Attr::Float(text.parse().ok()?),
        AttrKind::Bool => Attr::Bool(text.eq_ignore_ascii_case("true")),
        AttrKind::String => Attr::Str(text.to_owned()),
        AttrKind::Type => Attr::DataType(match text {
            "DT_FLOAT" => DataType::Float,
            "DT_INT32" => DataType::Int32,
            "DT_INT64" => DataType::Int64,
            _ => return None,
        }),
        AttrKind::ListInt => {
            let inner = text.strip_prefix('{')?.strip_suffix('}')?;
            let items = inner.split(',').filter(|item| !item.is_empty());
            Attr::ListInt(items.map(|item| item.trim().parse().ok()).collect::<Option<_>>()?)
        }
        AttrKind::ListFloat | AttrKind::ListBool | AttrKind::Tensor => return None,
    })
}

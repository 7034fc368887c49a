//! Nodes without producers: `Data`, `RefData`, `Const`; and descriptors as files declare them.

use std::collections::BTreeMap;

use super::attrs;
use super::error::GeError;
use super::graph::{Attr, DataType, Desc, Node};
use super::load::RawNode;
use super::names;
use super::prepare::Draft;
use super::proto::{TensorDescriptor, Value};
use super::protos::OpProto;

/// Larger tensors do not exist: their strides still fit with room to spare.
const MAX_TENSOR_BYTES: usize = 1 << 46;

fn strict(node: &RawNode, what: &str) -> GeError {
    GeError::Strict(format!("{} ({}): {what}", node.op.name, node.op.r#type))
}

/// The node if it is a source.
///
/// # Errors
/// [`GeError`].
pub(super) fn source(raw: &RawNode, proto: &OpProto) -> Result<Option<Node>, GeError> {
    let op = &raw.op;
    let (attrs, desc) = match op.r#type.as_str() {
        "Data" | "RefData" => data(raw, proto)?,
        "Const" | "Constant" => constant(raw)?,
        _ => return Ok(None),
    };
    let output_names = names::bind_outputs(raw, proto)?;
    let kind = if op.r#type == "Constant" { "Const" } else { &op.r#type };
    Ok(Some(Node {
        name: op.name.clone(),
        op: kind.to_owned(),
        attrs,
        inputs: Vec::new(),
        output_names,
        outputs: vec![desc],
    }))
}

type Source = (BTreeMap<String, Attr>, Desc);

fn data(raw: &RawNode, proto: &OpProto) -> Result<Source, GeError> {
    let op = &raw.op;
    if !op.input.is_empty() {
        return Err(strict(raw, "it takes no input"));
    }
    let attrs = attrs::read(raw, proto, false)?;
    let Some(x) = op.input_desc.first() else {
        let (name, kind) = (&op.name, &op.r#type);
        return Err(GeError::Internal(format!(
            "Update input desc of op:{name}({kind}) failed, index:0"
        )));
    };
    if x.dtype == 0 {
        let index = match attrs.get("index") {
            Some(Attr::Int(index)) => *index,
            _ => 0,
        };
        return Err(GeError::UndefinedInput { index });
    }
    if op.input_desc.len() != 1 || op.output_desc.len() != 1 {
        return Err(strict(raw, "it has exactly one input and one output descriptor"));
    }
    names::check_data_input(raw)?;
    let desc = desc(raw, x, "x")?;
    if [x, &op.output_desc[0]].iter().any(|desc| desc.device_type == "CPU") {
        return Err(strict(raw, "device_type CPU makes it an input on the host"));
    }
    // GE overwrites y by x; a graph that says two things means neither.
    check_declared(raw, &op.output_desc[0], &desc, "y")?;
    if op.output_desc[0].dtype == 0 {
        return Err(strict(raw, "y has no type"));
    }
    Ok((attrs, desc))
}

fn constant(raw: &RawNode) -> Result<Source, GeError> {
    let op = &raw.op;
    let get_failed =
        || GeError::Internal(format!("Get Attr:value of op:{}(Const) failed", op.name));
    let value = op.attr.get("value").and_then(|attr| attr.value.as_ref());
    let Some(Value::T(tensor)) = value else { return Err(get_failed()) };
    if let Some(name) = op.attr.keys().find(|name| !name.starts_with('_') && *name != "value") {
        return Err(strict(raw, &format!("unknown attribute {name}")));
    }
    let declared = tensor.desc.as_ref().ok_or_else(get_failed)?;
    let desc = desc(raw, declared, "value")?;
    if desc.num_bytes() != tensor.data.len() {
        return Err(GeError::Internal(format!(
            "op:{}(Const) data size:{} not equal to tensor size:{}",
            op.name,
            tensor.data.len(),
            desc.num_bytes()
        )));
    }
    if !op.input.is_empty() || op.output_desc.len() != 1 {
        return Err(strict(raw, "it has no input and one output descriptor"));
    }
    // GE takes the descriptor of the value without a word.
    check_declared(raw, &op.output_desc[0], &desc, "y")?;
    let value = Attr::Tensor(desc.clone(), tensor.data.clone());
    Ok((BTreeMap::from([("value".to_owned(), value)]), desc))
}

/// A descriptor of a file, which must be static and in the plain format.
fn desc(raw: &RawNode, desc: &TensorDescriptor, what: &str) -> Result<Desc, GeError> {
    let dtype = DataType::from_proto(desc.dtype)
        .ok_or_else(|| strict(raw, &format!("{what} has the type {}", desc.dtype)))?;
    if !matches!(desc.layout.as_str(), "" | "ND") {
        return Err(strict(raw, &format!("{what} has the layout {}, not ND", desc.layout)));
    }
    if let Some(name) = desc.attr.keys().next() {
        return Err(strict(raw, &format!("{what} has {name}: storage formats are not simulated")));
    }
    let dims = desc.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let shape = dims.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>();
    let shape = shape
        .ok_or_else(|| strict(raw, &format!("{what} has sizes {dims:?}, which are dynamic")))?;
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, &size| bytes.checked_mul(size.max(1)));
    if bytes.is_none_or(|bytes| bytes > MAX_TENSOR_BYTES) {
        return Err(strict(raw, &format!("{what} of sizes {dims:?} is too large")));
    }
    Ok(Desc { dtype, shape })
}

/// Holds what a file declares against what is so; a descriptor without a type declares nothing.
///
/// # Errors
/// [`GeError::Strict`] if they differ.
pub(super) fn check_declared(
    raw: &RawNode,
    declared: &TensorDescriptor,
    actual: &Desc,
    what: &str,
) -> Result<(), GeError> {
    if declared.dtype == 0 {
        return Ok(());
    }
    let declared = desc(raw, declared, what)?;
    if declared != *actual {
        return Err(strict(raw, &format!("{what} is declared as {declared}, it is {actual}")));
    }
    Ok(())
}

/// `Data` and `RefData` nodes in the order of their `index`: as it is if it is a permutation,
/// else, as GE does, in the order of the file.
pub(super) fn number_inputs(drafts: &[Draft], warnings: &mut Vec<String>) -> Vec<usize> {
    let mut inputs: Vec<usize> =
        (0..drafts.len()).filter(|&index| drafts[index].node.is_data()).collect();
    let index_of = |&at: &usize| match drafts[at].node.attrs.get("index") {
        Some(Attr::Int(index)) => *index,
        _ => 0,
    };
    let mut sorted: Vec<i64> = inputs.iter().map(index_of).collect();
    sorted.sort_unstable();
    if sorted == (0..inputs.len() as i64).collect::<Vec<_>>() {
        inputs.sort_by_key(index_of);
    } else {
        warnings.push(format!(
            "the index attributes {sorted:?} are no permutation, inputs are numbered again"
        ));
    }
    inputs
}

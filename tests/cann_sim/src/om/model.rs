//! The `MODEL_DEF` partition: a compiled graph as a `ge.proto.ModelDef`.
//!
//! Nodes stand in the order of execution, every attribute and every type is written out, and
//! `NetOutput` is the last node. Nothing has to be inferred when it is read.

use std::collections::{BTreeMap, HashMap};

use prost::Message;

use super::{LOAD_MODEL_PARTITION, Om, OmError, OmParts};
use crate::ge::graph::{Attr, DataType, Desc, Edge, GeGraph, Input, Node};
use crate::ge::proto::{
    AttrDef, GraphDef, ListValue, ModelDef, OpDef, ShapeDef, TensorDef, TensorDescriptor, Value,
    val_type,
};

/// No tensor of a device is larger.
const MAX_TENSOR_BYTES: usize = 1 << 46;

/// The order of execution, as the `TASK_INFO` partition holds it.
pub(super) fn encode_tasks(graph: &GeGraph) -> Vec<u8> {
    let mut bytes = (graph.nodes.len() as u32).to_le_bytes().to_vec();
    for node in &graph.nodes {
        bytes.extend((node.outputs.len() as u32).to_le_bytes());
    }
    bytes
}

/// The bytes of the partition.
pub(super) fn encode(parts: &OmParts<'_>) -> Vec<u8> {
    let graph = parts.graph;
    let out_nodes: Vec<String> = graph
        .outputs
        .iter()
        .map(|edge| format!("{}:{}", graph.nodes[edge.node].name, edge.output))
        .collect();
    let size = |size: u64| AttrDef::int(i64::try_from(size).unwrap_or(i64::MAX));
    let attrs = [
        ("memory_size", size(parts.memory_size)),
        ("zero_copy_memory_size", size(parts.zero_copy_memory_size)),
        ("weight_size", size(parts.weight_size)),
        ("stream_num", AttrDef::int(1)),
        ("event_num", AttrDef::int(0)),
        ("label_num", AttrDef::int(0)),
        ("soc_version", AttrDef::str(parts.soc)),
        ("opp_version", AttrDef::str(parts.cann)),
        ("atc_version", AttrDef::str(parts.cann)),
        ("atc_cmdline", AttrDef::str(parts.cmdline)),
        ("attr_model_out_nodes_name", AttrDef::strs(out_nodes.iter().map(String::as_str))),
    ];
    let mut ops: Vec<OpDef> = graph.nodes.iter().map(|node| encode_node(graph, node)).collect();
    ops.push(OpDef {
        name: "Node_Output".to_owned(),
        r#type: "NetOutput".to_owned(),
        input: out_nodes,
        ..OpDef::default()
    });
    let graph_def = GraphDef { name: parts.name.to_owned(), output: Vec::new(), op: ops };
    ModelDef {
        name: parts.name.to_owned(),
        version: 1,
        graph: vec![graph_def],
        attr: attrs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
    .encode_to_vec()
}

fn encode_node(graph: &GeGraph, node: &Node) -> OpDef {
    let edge_name = |edge: &Edge| format!("{}:{}", graph.nodes[edge.node].name, edge.output);
    let mut attr: BTreeMap<String, AttrDef> =
        node.attrs.iter().map(|(name, value)| (name.clone(), encode_attr(value))).collect();
    let mut names = |prefix: &str, names: Vec<&str>| {
        let indices = (0..names.len() as i64).collect();
        attr.insert(format!("_{prefix}_name_key"), AttrDef::strs(names));
        attr.insert(format!("_{prefix}_name_value"), AttrDef::ints(indices));
    };
    names("input", node.inputs.iter().map(|input| input.name.as_str()).collect());
    names("output", node.output_names.iter().map(String::as_str).collect());
    OpDef {
        name: node.name.clone(),
        r#type: node.op.clone(),
        input: node.inputs.iter().map(|input| edge_name(&input.edge)).collect(),
        attr,
        input_desc: node.inputs.iter().map(|input| encode_desc(graph.desc(input.edge))).collect(),
        output_desc: node.outputs.iter().map(encode_desc).collect(),
    }
}

fn encode_desc(desc: &Desc) -> TensorDescriptor {
    let dim = desc.shape.iter().map(|&size| size as i64).collect();
    TensorDescriptor {
        dtype: desc.dtype.proto(),
        shape: Some(ShapeDef { dim }),
        layout: "ND".to_owned(),
        device_type: "NPU".to_owned(),
        ..TensorDescriptor::default()
    }
}

fn encode_attr(attr: &Attr) -> AttrDef {
    let list = |list: ListValue| AttrDef::of(Value::List(list));
    match attr {
        Attr::Int(value) => AttrDef::int(*value),
        Attr::Float(value) => AttrDef::of(Value::F(*value)),
        Attr::Bool(value) => AttrDef::of(Value::B(*value)),
        Attr::Str(value) => AttrDef::str(value),
        Attr::DataType(value) => AttrDef::of(Value::Dt(i64::from(value.acl()))),
        Attr::ListInt(values) => AttrDef::ints(values.clone()),
        Attr::ListFloat(f) => {
            list(ListValue { f: f.clone(), val_type: val_type::FLOAT, ..ListValue::default() })
        }
        Attr::ListBool(b) => {
            list(ListValue { b: b.clone(), val_type: val_type::BOOL, ..ListValue::default() })
        }
        Attr::ListStr(values) => AttrDef::strs(values.iter().map(String::as_str)),
        Attr::Tensor(desc, data) => {
            AttrDef::of(Value::T(TensorDef { desc: Some(encode_desc(desc)), data: data.clone() }))
        }
    }
}

fn bad(message: impl Into<String>) -> OmError {
    OmError::new(LOAD_MODEL_PARTITION, message)
}

/// Reads the partition; what only the header knows is left at its default.
pub(super) fn decode(bytes: &[u8]) -> Result<Om, OmError> {
    let model = ModelDef::decode(bytes).map_err(|error| bad(format!("MODEL_DEF: {error}")))?;
    let int = |name: &str| match model.attr.get(name).and_then(|attr| attr.value.as_ref()) {
        Some(Value::I(value)) => {
            u64::try_from(*value).map_err(|_| bad(format!("{name} is {value}")))
        }
        _ => Err(bad(format!("the model has no {name}"))),
    };
    let text = |name: &str| match model.attr.get(name).and_then(|attr| attr.value.as_ref()) {
        Some(Value::S(value)) => Ok(String::from_utf8_lossy(value).into_owned()),
        _ => Err(bad(format!("the model has no {name}"))),
    };
    let (memory_size, zero_copy_memory_size) = (int("memory_size")?, int("zero_copy_memory_size")?);
    let workspace_bytes = memory_size.checked_sub(zero_copy_memory_size).ok_or_else(|| {
        bad(format!("memory_size {memory_size} is below {zero_copy_memory_size} of zero copy"))
    })?;
    let graph = model.graph.first().ok_or_else(|| bad("the model has no graph"))?;
    Ok(Om {
        name: model.name.clone(),
        graph: decode_graph(graph)?,
        soc: text("soc_version")?,
        cann: text("opp_version")?,
        memory_size,
        zero_copy_memory_size,
        workspace_bytes,
        weight_size: int("weight_size")?,
        is_dynamic: false,
        model_num: 1,
        has_tiling_sink: false,
    })
}

fn decode_graph(def: &GraphDef) -> Result<GeGraph, OmError> {
    let mut graph = GeGraph::default();
    let mut by_name = HashMap::new();
    let mut inputs = BTreeMap::new();
    for op in &def.op {
        let edges = decode_edges(op, &by_name, &graph)?;
        if op.r#type == "NetOutput" {
            graph.outputs = edges;
            continue;
        }
        let node = decode_node(op, edges)?;
        let index = graph.nodes.len();
        if node.is_data() {
            let Some(Attr::Int(position)) = node.attrs.get("index") else {
                return Err(bad(format!("{} has no index", node.name)));
            };
            inputs.insert(*position, index);
        }
        by_name.insert(op.name.as_str(), index);
        graph.nodes.push(node);
    }
    if inputs.keys().ne((0..inputs.len() as i64).collect::<Vec<_>>().iter()) {
        return Err(bad("the indices of the inputs have gaps"));
    }
    graph.inputs = inputs.into_values().collect();
    Ok(graph)
}

fn decode_edges(
    op: &OpDef,
    by_name: &HashMap<&str, usize>,
    graph: &GeGraph,
) -> Result<Vec<Edge>, OmError> {
    let parse = |text: &String| {
        let (producer, output) = text.rsplit_once(':')?;
        let edge = Edge { node: *by_name.get(producer)?, output: output.parse().ok()? };
        (edge.output < graph.nodes[edge.node].outputs.len()).then_some(edge)
    };
    op.input
        .iter()
        .map(|text| parse(text).ok_or_else(|| bad(format!("{}: no producer {text}", op.name))))
        .collect()
}

fn decode_node(op: &OpDef, edges: Vec<Edge>) -> Result<Node, OmError> {
    let names = |key: &str| match op.attr.get(key).map(decode_attr) {
        Some(Some(Attr::ListStr(names))) => Ok(names),
        _ => Err(bad(format!("{}: no {key}", op.name))),
    };
    let (input_names, output_names) = (names("_input_name_key")?, names("_output_name_key")?);
    let outputs = op
        .output_desc
        .iter()
        .map(|desc| decode_desc(desc).ok_or_else(|| bad(format!("{}: a bad type", op.name))))
        .collect::<Result<Vec<_>, _>>()?;
    if input_names.len() != edges.len() || output_names.len() != outputs.len() {
        return Err(bad(format!("{}: names and tensors differ in number", op.name)));
    }
    if matches!(op.r#type.as_str(), "Data" | "RefData" | "Const") && outputs.len() != 1 {
        return Err(bad(format!("{}: {} outputs, expected 1", op.name, outputs.len())));
    }
    let mut attrs = BTreeMap::new();
    for (name, attr) in op.attr.iter().filter(|(name, _)| !name.starts_with('_')) {
        let attr = decode_attr(attr).ok_or_else(|| bad(format!("{}: a bad {name}", op.name)))?;
        attrs.insert(name.clone(), attr);
    }
    let inputs = input_names.into_iter().zip(edges);
    Ok(Node {
        name: op.name.clone(),
        op: op.r#type.clone(),
        attrs,
        inputs: inputs.map(|(name, edge)| Input { name, edge }).collect(),
        output_names,
        outputs,
    })
}

fn decode_desc(desc: &TensorDescriptor) -> Option<Desc> {
    let dtype = DataType::from_proto(desc.dtype)?;
    let dims = desc.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let shape = dims.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>()?;
    // Products that count a size of 0 as 1 stay small too: every kernel can compute strides.
    let bytes = shape
        .iter()
        .try_fold(dtype.size(), |bytes, &size| bytes.checked_mul(size.max(1)))
        .filter(|&bytes| bytes <= MAX_TENSOR_BYTES);
    bytes.map(|_| Desc { dtype, shape })
}

fn decode_attr(attr: &AttrDef) -> Option<Attr> {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).ok();
    Some(match attr.value.as_ref()? {
        Value::I(value) => Attr::Int(*value),
        Value::F(value) => Attr::Float(*value),
        Value::B(value) => Attr::Bool(*value),
        Value::S(value) => Attr::Str(text(value)?),
        Value::Dt(value) => Attr::DataType(DataType::from_acl(i32::try_from(*value).ok()?)?),
        Value::T(tensor) => {
            let desc = decode_desc(tensor.desc.as_ref()?)?;
            if desc.num_bytes() != tensor.data.len() {
                return None;
            }
            Attr::Tensor(desc, tensor.data.clone())
        }
        Value::List(list) => match list.val_type {
            val_type::INT => Attr::ListInt(list.i.clone()),
            val_type::FLOAT => Attr::ListFloat(list.f.clone()),
            val_type::BOOL => Attr::ListBool(list.b.clone()),
            val_type::STRING => Attr::ListStr(list.s.iter().map(text).collect::<Option<_>>()?),
            _ => return None,
        },
        Value::Bt(_) => return None,
    })
}

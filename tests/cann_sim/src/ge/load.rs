//! The loader: links the nodes of a file by the names in their inputs.
//!
//! | Entry of `input` | Meaning |
//! | --- | --- |
//! | `a:1` | output 1 of `a`, split at the last colon |
//! | `a:-1` | run after `a`; takes no input index |
//! | empty | the input is left open; takes an index, and needs a descriptor there |
//! | without a colon | the same: the edge vanishes without a word |
//!
//! The loader knows no operators. That names are unique is nobody's rule here either: all edges
//! go to the last node of a name.

use std::collections::HashMap;

use prost::Message;

use super::error::GeError;
use super::graph::Edge;
use super::proto::{GraphDef, ModelDef, OpDef};

/// A linked node.
#[derive(Clone, Debug)]
pub(super) struct RawNode {
    /// As it stands in the file.
    pub op: OpDef,
    /// Producers, one entry for each input descriptor.
    pub edges: Vec<Option<Edge>>,
    /// Nodes that must run before.
    pub after: Vec<usize>,
    /// An entry that named something, and was dropped all the same.
    pub vanished: Option<String>,
}

/// A linked graph.
#[derive(Clone, Debug)]
pub(super) struct RawGraph {
    /// In the order of the file.
    pub nodes: Vec<RawNode>,
    /// Outputs that the graph names itself.
    pub outputs: Vec<(String, Edge)>,
}

/// What an entry of `input` says.
enum Entry<'a> {
    Data(&'a str, usize),
    Control(&'a str),
    Open,
}

/// GE's own limit of a file.
const MAX_BYTES: usize = i32::MAX as usize;

/// Reads and links the bytes of an `.air` file.
///
/// # Errors
/// [`GeError::Load`]; [`GeError::Strict`] for an entry that the loader would misread.
pub(super) fn load(bytes: &[u8]) -> Result<RawGraph, GeError> {
    if bytes.len() > MAX_BYTES {
        return Err(GeError::Load(format!("len {} exceeds INT32_MAX", bytes.len())));
    }
    let model = ModelDef::decode(bytes)
        .map_err(|error| GeError::Load(format!("parse model from bytes failed: {error}")))?;
    let graph = model.graph.into_iter().next();
    link(graph.ok_or_else(|| GeError::Load("the model has no graph".to_owned()))?)
}

fn link(def: GraphDef) -> Result<RawGraph, GeError> {
    // A later node of the same name replaces an earlier one.
    let by_name: HashMap<String, usize> =
        def.op.iter().enumerate().map(|(index, op)| (op.name.clone(), index)).collect();
    let nodes =
        def.op.iter().map(|op| link_node(op, &def.op, &by_name)).collect::<Result<Vec<_>, _>>()?;
    let mut outputs = Vec::new();
    for text in def.output {
        let Entry::Data(name, output) = parse(&text)? else { continue };
        let node = find(&by_name, name)?;
        let edge = Edge { node, output };
        outputs.push((text, edge));
    }
    Ok(RawGraph { nodes, outputs })
}

fn link_node(
    op: &OpDef,
    ops: &[OpDef],
    by_name: &HashMap<String, usize>,
) -> Result<RawNode, GeError> {
    let mut edges = vec![None; op.input_desc.len()];
    let (mut after, mut vanished, mut next) = (Vec::new(), None, 0);
    for text in &op.input {
        let edge = match parse(text)? {
            Entry::Control(name) => {
                after.push(find(by_name, name)?);
                continue;
            }
            Entry::Open => {
                if !text.is_empty() {
                    vanished = Some(text.clone());
                }
                None
            }
            Entry::Data(name, output) => {
                let node = find(by_name, name)?;
                let producer = &ops[node];
                if output >= producer.output_desc.len() {
                    let (name, kind) = (&producer.name, &producer.r#type);
                    return Err(GeError::Load(format!(
                        "Op[{name}] doesn't have index[{output}]'s out_data_anchor which optype is \
                         {kind}."
                    )));
                }
                Some(Edge { node, output })
            }
        };
        let slot = edges
            .get_mut(next)
            .ok_or_else(|| GeError::Load("Assert ((dst_anchor) != nullptr) failed".to_owned()))?;
        *slot = edge;
        next += 1;
    }
    Ok(RawNode { op: op.clone(), edges, after, vanished })
}

fn parse(text: &str) -> Result<Entry<'_>, GeError> {
    let Some((name, index)) = text.rsplit_once(':') else { return Ok(Entry::Open) };
    match index.parse::<i64>() {
        Ok(-1) => Ok(Entry::Control(name)),
        Ok(index) => usize::try_from(index).map(|index| Entry::Data(name, index)).map_err(|_| {
            GeError::Load(format!("Op[{name}] doesn't have index[{index}]'s out_data_anchor"))
        }),
        Err(_) => Err(GeError::Strict(format!(
            "input `{text}`: `{index}` is no number, GE would take output 0 of {name}"
        ))),
    }
}

fn find(by_name: &HashMap<String, usize>, name: &str) -> Result<usize, GeError> {
    by_name.get(name).copied().ok_or_else(|| {
        // The real message names neither node.
        GeError::Load("Assert (src_node_it != node_map_.end()) failed".to_owned())
    })
}

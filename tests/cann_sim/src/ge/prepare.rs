//! From the bytes of an `.air` file to a graph whose rules were checked: what the compiler does
//! before it picks kernels, in its order.
//!
//! ```text
//! load --> names unique? --> order --> each node: names, attributes, inference, types
//!      --> in-place tensors --> inputs by index, outputs, dead nodes
//! ```

use std::collections::{BTreeMap, HashSet};

use super::attrs;
use super::dtypes;
use super::error::GeError;
use super::graph::{Attr, DataType, Desc, Edge, GeGraph, Node};
use super::infer::{self, Call, Fault, Operand};
use super::load::{self, RawGraph, RawNode};
use super::names::{self, BoundInput};
use super::order;
use super::protos::OpProto;
use super::refs;
use super::sources;
use super::version::{CannVersion, Family};

/// What a graph is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Toolkit.
    pub cann: CannVersion,
    /// Chip.
    pub family: Family,
    /// Whether tiling may run on the device (`--tiling_schedule_optimize=1`).
    pub sinks_tiling: bool,
    /// Whether types stay as they are (`--precision_mode_v2=origin`).
    pub keeps_dtypes: bool,
}

/// A graph whose rules were checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The graph, without nodes that nothing needs.
    pub graph: GeGraph,
    /// Whether some operator must be tiled on the host, which makes the model dynamic.
    pub is_dynamic: bool,
    /// Whether some operator is tiled on the device.
    pub has_tiling_sink: bool,
    /// What the compiler would say and go on.
    pub warnings: Vec<String>,
}

/// A node that is being built: it has not moved from its place in the file.
pub(super) struct Draft {
    pub(super) node: Node,
    pub(super) after: Vec<usize>,
}

/// Operators that inference does not see.
const FRAMEWORK: [&str; 4] = ["Data", "RefData", "Const", "NetOutput"];

/// Checks a file.
///
/// # Errors
/// [`GeError`].
pub fn prepare(bytes: &[u8], target: &Target) -> Result<Prepared, GeError> {
    let raw = load::load(bytes)?;
    check_names(&raw)?;
    let edges = raw.nodes.iter().enumerate().flat_map(|(to, node)| {
        let data = node.edges.iter().flatten().map(|edge| edge.node);
        data.chain(node.after.iter().copied()).map(move |from| (from, to))
    });
    let successors = order::successors(raw.nodes.len(), edges);
    let sequence = order::topological(&successors)?;
    let output_node = find_output_node(&raw)?;

    let mut drafts: Vec<Option<Draft>> = raw.nodes.iter().map(|_| None).collect();
    let (mut is_dynamic, mut has_tiling_sink) = (false, false);
    for &index in &sequence {
        let node = &raw.nodes[index];
        let draft = draft(node, &drafts, target)?;
        if depends_on_tiling(&draft.node, &drafts) {
            has_tiling_sink |= target.sinks_tiling;
            is_dynamic |= !target.sinks_tiling;
        }
        drafts[index] = Some(draft);
    }
    let drafts: Option<Vec<Draft>> = drafts.into_iter().collect();
    let drafts = drafts.ok_or_else(|| GeError::Internal("a node was not visited".to_owned()))?;
    refs::check(&drafts, &successors)?;

    let mut warnings = Vec::new();
    let outputs = match output_node {
        Some(index) => drafts[index].node.inputs.iter().map(|input| input.edge).collect(),
        None => raw.outputs.iter().map(|(_, edge)| *edge).collect(),
    };
    let inputs = sources::number_inputs(&drafts, &mut warnings);
    let graph = assemble(drafts, &sequence, &inputs, outputs, output_node);
    if !target.keeps_dtypes {
        check_precision(&graph)?;
    }
    Ok(Prepared { graph, is_dynamic, has_tiling_sink: has_tiling_sink && !is_dynamic, warnings })
}

fn check_names(raw: &RawGraph) -> Result<(), GeError> {
    let mut seen = HashSet::new();
    for node in &raw.nodes {
        let name = node.op.name.as_str();
        if name.is_empty() {
            return Err(GeError::Strict(format!("a node of type {} has no name", node.op.r#type)));
        }
        if !seen.insert(name) {
            return Err(GeError::Strict(format!(
                "two nodes are named {name}, GE would link all edges to the last"
            )));
        }
    }
    Ok(())
}

/// The one `NetOutput`; `None` if the graph names its outputs itself.
fn find_output_node(raw: &RawGraph) -> Result<Option<usize>, GeError> {
    let is_output = |&index: &usize| raw.nodes[index].op.r#type == "NetOutput";
    let found: Vec<usize> = (0..raw.nodes.len()).filter(is_output).collect();
    if let Some((text, edge)) = raw.outputs.iter().find(|(_, edge)| is_output(&edge.node)) {
        let name = &raw.nodes[edge.node].op.name;
        return Err(GeError::Internal(format!(
            "Cannot find output tensor desc from node:{name}, index {} ({text})",
            edge.output
        )));
    }
    for (text, edge) in &raw.outputs {
        if edge.output >= raw.nodes[edge.node].op.output_desc.len() {
            return Err(GeError::Internal(format!("Cannot find output tensor desc of {text}")));
        }
    }
    match found[..] {
        [index] => {
            let edges = &raw.nodes[index].edges;
            if edges.iter().all(Option::is_none) {
                return Err(GeError::Strict("NetOutput takes nothing".to_owned()));
            }
            let named: Vec<Option<Edge>> =
                raw.outputs.iter().map(|(_, edge)| Some(*edge)).collect();
            if !named.is_empty() && named != *edges {
                return Err(GeError::Strict("GraphDef.output and NetOutput differ".to_owned()));
            }
            Ok(Some(index))
        }
        [] if !raw.outputs.is_empty() => Ok(None),
        [] => Err(GeError::Strict(
            "there is no NetOutput: GE would compile a graph without outputs".to_owned(),
        )),
        _ => Err(GeError::Strict(format!("there are {} nodes of type NetOutput", found.len()))),
    }
}

/// Checks one node; those it depends on are there.
fn draft(raw: &RawNode, drafts: &[Option<Draft>], target: &Target) -> Result<Draft, GeError> {
    let op = &raw.op;
    let strict = |what: &str| GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type));
    let proto = OpProto::of(&op.r#type)
        .ok_or_else(|| strict("the operator is not in the table of prototypes"))?;
    check_available(raw, proto, target)?;
    let is_newer = target.cann.is_newer();
    if let Some(node) = sources::source(raw, proto)? {
        return Ok(Draft { node, after: raw.after.clone() });
    }
    let bound = names::bind_inputs(raw, proto, is_newer)?;
    let output_names = names::bind_outputs(raw, proto)?;
    let attrs = attrs::read(raw, proto, is_newer)?;
    let producer = |edge: Edge| {
        let draft = drafts[edge.node].as_ref().expect("invariant: producers come first");
        &draft.node
    };
    let descs: Vec<&Desc> = names::fed(&bound)
        .map(|edge| producer(edge).outputs.get(edge.output))
        .collect::<Option<_>>()
        .ok_or_else(|| strict("an input takes an output that does not exist"))?;
    for (input, desc) in bound.iter().zip(&descs) {
        sources::check_declared(raw, &input.desc, desc, &input.input.name)?;
    }
    let outputs = if op.r#type == "NetOutput" {
        Vec::new()
    } else {
        let operands = operands(&bound, &descs, &producer);
        infer_outputs(raw, &operands, &attrs, proto, target)?
    };
    check_refs(raw, proto, &bound, &producer)?;
    let inputs = bound.into_iter().map(|input| input.input).collect();
    let (name, op) = (op.name.clone(), op.r#type.clone());
    let node = Node { name, op, attrs, inputs, output_names, outputs };
    Ok(Draft { node, after: raw.after.clone() })
}

fn operands<'a>(
    bound: &'a [BoundInput],
    descs: &[&'a Desc],
    producer: &impl Fn(Edge) -> &'a Node,
) -> Vec<Operand<'a>> {
    let operand = |(input, desc): (&'a BoundInput, &&'a Desc)| {
        let value = match producer(input.input.edge).attrs.get("value") {
            Some(Attr::Tensor(_, data)) => Some(data.as_slice()),
            _ => None,
        };
        Operand { name: &input.input.name, port: input.port, desc, value }
    };
    bound.iter().zip(descs).map(operand).collect()
}

fn check_available(raw: &RawNode, proto: &OpProto, target: &Target) -> Result<(), GeError> {
    let op = &raw.op;
    let strict = |what: String| GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type));
    if FRAMEWORK.contains(&op.r#type.as_str()) {
        return Ok(());
    }
    if !target.cann.is_newer() && !proto.in_cann_8_1_rc1 {
        return Err(strict("CANN 8.1 does not register the operator".to_owned()));
    }
    // `SliceD` is in no table of kernels: the compiler replaces it.
    let has_kernel = match target.family {
        Family::Ascend910B => proto.ascend910b.is_some(),
        Family::Ascend910C => proto.on_910_93_a3,
        Family::Other => {
            return Err(strict("the simulator compiles for 910B and 910_93".to_owned()));
        }
    };
    if !has_kernel && op.r#type != "SliceD" {
        return Err(strict(format!("{:?} has no kernel for it", target.family)));
    }
    Ok(())
}

fn infer_outputs(
    raw: &RawNode,
    operands: &[Operand<'_>],
    attrs: &BTreeMap<String, Attr>,
    proto: &OpProto,
    target: &Target,
) -> Result<Vec<Desc>, GeError> {
    let op = &raw.op;
    let num_outputs = op.output_desc.len();
    let call = Call { op: &op.r#type, inputs: operands, attrs, num_outputs, cann: target.cann };
    let outputs = infer::infer(&call).map_err(|fault| match fault {
        Fault::Shape(reason) => {
            GeError::Infer { node: op.name.clone(), op: op.r#type.clone(), reason }
        }
        Fault::Strict(what) => GeError::Strict(format!("{} ({}): {what}", op.name, op.r#type)),
    })?;
    if outputs.len() != num_outputs {
        return Err(GeError::Strict(format!(
            "{} ({}): {num_outputs} outputs are declared, there are {}",
            op.name,
            op.r#type,
            outputs.len()
        )));
    }
    for (index, (declared, output)) in op.output_desc.iter().zip(&outputs).enumerate() {
        sources::check_declared(raw, declared, output, &format!("output {index}"))?;
    }
    check_dtypes(raw, operands, &outputs, proto)?;
    Ok(outputs)
}

fn check_dtypes(
    raw: &RawNode,
    operands: &[Operand<'_>],
    outputs: &[Desc],
    proto: &OpProto,
) -> Result<(), GeError> {
    let Some(kernel) = &proto.ascend910b else { return Ok(()) };
    let inputs: Vec<(usize, &Desc)> = operands.iter().map(|o| (o.port, o.desc)).collect();
    // Only the last output can be dynamic, and then it is the only one.
    let last = proto.outputs.len().saturating_sub(1);
    let results: Vec<(usize, &Desc)> =
        outputs.iter().enumerate().map(|(index, desc)| (index.min(last), desc)).collect();
    if dtypes::is_supported(kernel, &inputs, &results) {
        return Ok(());
    }
    let list = |tensors: &[(usize, &Desc)]| {
        let names: Vec<&str> = tensors.iter().map(|(_, desc)| desc.dtype.name()).collect();
        names.join(", ")
    };
    Err(GeError::Strict(format!(
        "{} ({}): no kernel of the 910B has the types ({}) -> ({})",
        raw.op.name,
        raw.op.r#type,
        list(&inputs),
        list(&results)
    )))
}

/// A tensor that is written in place must not be a constant or an input that the loader copies.
fn check_refs<'a>(
    raw: &RawNode,
    proto: &OpProto,
    bound: &[BoundInput],
    producer: &impl Fn(Edge) -> &'a Node,
) -> Result<(), GeError> {
    for &(_, port) in &proto.ref_outputs {
        let Some(input) = bound.iter().find(|input| input.port == port) else { continue };
        let (name, op) = (&raw.op.name, &raw.op.r#type);
        match producer(input.input.edge).op.as_str() {
            "Const" => {
                return Err(GeError::Internal(format!(
                    "The ref input memory of ref node {name}[{op}] cannot be referenced from \
                     const node"
                )));
            }
            "Data" => {
                return Err(GeError::Strict(format!(
                    "{name} ({op}): {} is a Data, which may be copied, so that the change is \
                     lost; it must be a RefData",
                    input.input.name
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the work of a kernel depends on values that only the device will know.
fn depends_on_tiling(node: &Node, drafts: &[Option<Draft>]) -> bool {
    node.inputs.iter().any(|input| {
        let producer = drafts[input.edge.node].as_ref();
        infer::tiling_depends(&node.op, &input.name)
            && producer.is_some_and(|draft| draft.node.op != "Const")
    })
}

/// Puts the nodes that something needs in order.
fn assemble(
    drafts: Vec<Draft>,
    sequence: &[usize],
    inputs: &[usize],
    outputs: Vec<Edge>,
    output_node: Option<usize>,
) -> GeGraph {
    let is_needed = needed(&drafts, &outputs, output_node);
    let mut place = vec![None; drafts.len()];
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    let mut graph = GeGraph::default();
    for &index in sequence.iter().filter(|&&index| is_needed[index]) {
        place[index] = Some(graph.nodes.len());
        let draft = drafts[index].take().expect("invariant: each node comes once");
        graph.nodes.push(draft.node);
    }
    let moved = |edge: Edge| Edge {
        node: place[edge.node].expect("invariant: what a needed node takes is needed"),
        ..edge
    };
    for node in &mut graph.nodes {
        for input in &mut node.inputs {
            input.edge = moved(input.edge);
        }
    }
    graph.inputs = inputs.iter().filter_map(|&index| place[index]).collect();
    graph.outputs = outputs.into_iter().map(moved).collect();
    for (position, &index) in graph.inputs.iter().enumerate() {
        let position = Attr::Int(position as i64);
        graph.nodes[index].attrs.insert("index".to_owned(), position);
    }
    graph
}

/// Nodes that stay: inputs, those that change an input in place, and all that the outputs need.
fn needed(drafts: &[Draft], outputs: &[Edge], output_node: Option<usize>) -> Vec<bool> {
    let keeps = |node: &Node| {
        node.is_data() || (0..node.outputs.len()).any(|output| node.is_ref_output(output))
    };
    let mut stack: Vec<usize> = (0..drafts.len()).filter(|&at| keeps(&drafts[at].node)).collect();
    stack.extend(outputs.iter().map(|edge| edge.node));
    stack.extend(output_node.iter().flat_map(|&index| drafts[index].after.iter().copied()));
    let mut is_needed = vec![false; drafts.len()];
    while let Some(index) = stack.pop() {
        if !std::mem::replace(&mut is_needed[index], true) {
            let draft = &drafts[index];
            stack.extend(draft.node.inputs.iter().map(|input| input.edge.node));
            stack.extend(&draft.after);
        }
    }
    if let Some(index) = output_node {
        is_needed[index] = false;
    }
    is_needed
}

/// Without `origin` the compiler computes in fp16 whatever the graph says.
fn check_precision(graph: &GeGraph) -> Result<(), GeError> {
    let lowered = graph.nodes.iter().find_map(|node| {
        let desc = node.outputs.iter().find(|desc| dtypes::is_lowered_to_fp16(desc.dtype))?;
        // Norms and attention give f32 by-products of f16 inputs, which stay.
        let is_by_product = desc.dtype == DataType::Float
            && node.outputs.first().is_some_and(|first| first.dtype == DataType::Float16);
        (!is_by_product).then_some((node, desc))
    });
    match lowered {
        None => Ok(()),
        Some((node, desc)) => Err(GeError::Strict(format!(
            "{} ({}) is {desc}: without --precision_mode_v2=origin it is computed in float16",
            node.name, node.op
        ))),
    }
}

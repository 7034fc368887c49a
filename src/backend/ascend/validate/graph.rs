//! A graph whose edges all lead somewhere and whose descriptors all belong to a parameter: what the
//! other rules are held against.
//!
//! ```text
//! GraphDef: names, text edges        Graph: indices
//!   op[3].input = ["x:0", "w:-1"]      nodes[3].sources = [(1, 0)], nodes[3].after = [2]
//! ```
//!
//! What this module deliberately does not do: it looks at no attribute but the name maps.

use std::collections::HashMap;

use super::super::dtype::GeDType;
use super::super::proto::{AttrValue, GraphDef, ListValue, OpDef, TensorDescriptor};
use super::attributes;
use super::prototypes::{Parameter, Prototype, prototype};
use super::signature;
use super::violation::{Rule, Violation, ensure};

/// ACL finds inputs by names that fit 128 bytes with their final zero (`ACL_MAX_TENSOR_NAME_LEN`).
const MAX_INPUT_NAME_BYTES: usize = 127;

/// A graph; nodes are named by their position.
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// All nodes, each after those it needs.
    pub(super) order: Vec<usize>,
}

/// A node.
pub(super) struct Node<'a> {
    pub(super) op: &'a OpDef,
    pub(super) proto: &'static Prototype,
    /// What feeds each `input_desc`; none for inputs of the graph.
    pub(super) sources: Vec<Source>,
    /// Nodes that run before it without feeding it.
    pub(super) after: Vec<usize>,
    /// The parameter of each `input_desc`.
    pub(super) inputs: Vec<&'static Parameter>,
    /// The parameter of each `output_desc`.
    pub(super) outputs: Vec<&'static Parameter>,
}

/// An output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) node: usize,
    pub(super) output: usize,
}

impl<'a> Graph<'a> {
    /// What happens before that node, directly: what feeds it and what it waits for.
    pub(super) fn before(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let node = &self.nodes[node];
        node.sources.iter().map(|source| source.node).chain(node.after.iter().copied())
    }

    /// The node that feeds an input of that name, if that is a `Const`.
    pub(super) fn constant(&self, node: &Node<'_>, input: &str) -> Option<&Node<'a>> {
        let source = node.source(input)?;
        let producer = &self.nodes[source.node];
        (producer.op.r#type == "Const").then_some(producer)
    }

    /// The whole numbers of the `Const` that feeds that input.
    pub(super) fn constant_ints(&self, node: &Node<'_>, input: &str) -> Option<Vec<i64>> {
        let Some(AttrValue::T(tensor)) = self.constant(node, input)?.attribute("value") else {
            return None;
        };
        let words = tensor.data.iter().copied();
        match dtype(tensor.desc.as_ref()?)? {
            GeDType::I32 => {
                Some(chunks::<4>(words).map(|bytes| i64::from(i32::from_le_bytes(bytes))).collect())
            }
            GeDType::I64 => Some(chunks::<8>(words).map(i64::from_le_bytes).collect()),
            _ => None,
        }
    }
}

fn chunks<const N: usize>(mut bytes: impl Iterator<Item = u8>) -> impl Iterator<Item = [u8; N]> {
    std::iter::from_fn(move || {
        let mut chunk = [0; N];
        for byte in &mut chunk {
            *byte = bytes.next()?;
        }
        Some(chunk)
    })
}

impl<'a> Node<'a> {
    /// Whether it is an input of the graph.
    pub(super) fn is_data(&self) -> bool {
        is_data(self.op)
    }

    /// The descriptor of that input; of the first, where there may be several.
    pub(super) fn input(&self, name: &str) -> Option<&'a TensorDescriptor> {
        let idx = self.inputs.iter().position(|parameter| parameter.name == name)?;
        self.op.input_desc.get(idx)
    }

    /// The descriptor of that output; of the first, where there may be several.
    pub(super) fn output(&self, name: &str) -> Option<&'a TensorDescriptor> {
        let idx = self.outputs.iter().position(|parameter| parameter.name == name)?;
        self.op.output_desc.get(idx)
    }

    /// What feeds that input.
    pub(super) fn source(&self, name: &str) -> Option<Source> {
        let idx = self.inputs.iter().position(|parameter| parameter.name == name)?;
        self.sources.get(idx).copied()
    }

    /// Outputs that are the memory of an input, and what feeds that input.
    pub(super) fn in_place(&self) -> impl Iterator<Item = (usize, Source)> + '_ {
        self.outputs.iter().enumerate().filter_map(|(output, parameter)| {
            self.source(&parameter.name).map(|source| (output, source))
        })
    }

    /// The value of that attribute.
    pub(super) fn attribute(&self, name: &str) -> Option<&'a AttrValue> {
        self.op.attr.get(name)?.value.as_ref()
    }

    /// A whole number.
    pub(super) fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name)? {
            AttrValue::I(value) => Some(*value),
            _ => None,
        }
    }

    /// A switch, off when absent.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.attribute(name), Some(AttrValue::B(true)))
    }

    /// A list of whole numbers.
    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        match self.attribute(name)? {
            AttrValue::List(ListValue { i, .. }) => Some(i),
            _ => None,
        }
    }

    /// Holds it to a rule.
    pub(super) fn ensure(
        &self,
        holds: bool,
        rule: Rule,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        ensure(self.op, holds, rule, detail)
    }
}

fn is_data(op: &OpDef) -> bool {
    matches!(op.r#type.as_str(), "Data" | "RefData")
}

/// The element type.
pub(super) fn dtype(desc: &TensorDescriptor) -> Option<GeDType> {
    GeDType::from_proto(desc.dtype)
}

/// The sizes, outermost first.
pub(super) fn dims(desc: &TensorDescriptor) -> &[i64] {
    desc.shape.as_ref().map_or(&[], |shape| &shape.dim)
}

/// Element type and sizes, for people.
pub(super) fn show(desc: &TensorDescriptor) -> String {
    match dtype(desc) {
        Some(dtype) => format!("{dtype} {:?}", dims(desc)),
        None => format!("type {} {:?}", desc.dtype, dims(desc)),
    }
}

/// The bytes of a tensor; `None` when they cannot be counted.
pub(super) fn bytes(desc: &TensorDescriptor) -> Option<usize> {
    let size = dtype(desc)?.size();
    dims(desc).iter().try_fold(size, |bytes, &dim| bytes.checked_mul(usize::try_from(dim).ok()?))
}

/// Reads a graph.
pub(super) fn read(def: &GraphDef) -> Result<Graph<'_>, Violation> {
    let mut by_name = HashMap::new();
    for (idx, op) in def.op.iter().enumerate() {
        name(op)?;
        let twin = by_name.insert(op.name.as_str(), idx);
        ensure(op, twin.is_none(), Rule::NodeName, || "two nodes have this name".to_owned())?;
    }
    let nodes = def.op.iter().map(|op| node(op, &by_name, def));
    let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    let mut graph = Graph { nodes, order: Vec::new() };
    for node in &graph.nodes {
        edge_ends(&graph, node)?;
    }
    graph.order = order(&graph)?;
    Ok(graph)
}

fn name(op: &OpDef) -> Result<(), Violation> {
    ensure(op, !op.name.is_empty(), Rule::NodeName, || "expected a name, got none".to_owned())?;
    let bytes = op.name.len();
    ensure(op, !is_data(op) || bytes <= MAX_INPUT_NAME_BYTES, Rule::NodeName, || {
        format!("expected at most {MAX_INPUT_NAME_BYTES} bytes for an input, got {bytes}")
    })
}

fn node<'a>(
    op: &'a OpDef,
    by_name: &HashMap<&str, usize>,
    def: &GraphDef,
) -> Result<Node<'a>, Violation> {
    let proto = prototype(&op.r#type)
        .ok_or_else(|| Violation::of(op, Rule::KnownOp, "there is no prototype of it"))?;
    for (idx, desc) in op.input_desc.iter().enumerate() {
        descriptor(op, desc).map_err(|e| of_descriptor(op, "input", idx, &e))?;
    }
    for (idx, desc) in op.output_desc.iter().enumerate() {
        descriptor(op, desc).map_err(|e| of_descriptor(op, "output", idx, &e))?;
    }
    let (mut sources, mut after) = (Vec::new(), Vec::new());
    for text in &op.input {
        match edge(op, text, by_name)? {
            (node, None) => after.push(node),
            (node, Some(output)) => {
                let outputs = def.op.get(node).map_or(0, |producer| producer.output_desc.len());
                ensure(op, output < outputs, Rule::EdgeOutput, || {
                    format!("`{text}`: expected an output below {outputs}")
                })?;
                sources.push(Source { node, output });
            }
        }
    }
    let expected = if is_data(op) { 0 } else { op.input_desc.len() };
    ensure(op, sources.len() == expected, Rule::EdgeCount, || {
        format!("expected {expected}, one for each input descriptor, got {}", sources.len())
    })?;
    attributes::forms(op)?;
    let (inputs, outputs) = signature::read(op, proto)?;
    Ok(Node { op, proto, sources, after, inputs, outputs })
}

fn of_descriptor(op: &OpDef, which: &str, idx: usize, detail: &str) -> Violation {
    Violation::of(op, Rule::Descriptor, format!("{which} {idx}: {detail}"))
}

/// What is wrong with a descriptor.
pub(super) fn descriptor(op: &OpDef, desc: &TensorDescriptor) -> Result<(), String> {
    if dtype(desc).is_none() {
        return Err(format!("expected a known element type, got {}", desc.dtype));
    }
    if desc.layout != "ND" {
        return Err(format!("expected format `ND`, got `{}`", desc.layout));
    }
    if !desc.attr.is_empty() {
        return Err("expected no attributes: the format is that of the layout".to_owned());
    }
    // The device of an input is a rule of its own.
    if !is_data(op) && !matches!(desc.device_type.as_str(), "" | "NPU") {
        return Err(format!("expected device `NPU`, got `{}`", desc.device_type));
    }
    if desc.shape.is_none() {
        return Err("expected a shape, got none".to_owned());
    }
    // A graph of inputs with negative sizes is dynamic; that too is a rule of inputs.
    if !is_data(op) && bytes(desc).is_none() {
        return Err(format!("expected sizes that can be counted, got {:?}", dims(desc)));
    }
    Ok(())
}

/// The producer, and which of its outputs; none for an edge that only orders.
fn edge(
    op: &OpDef,
    text: &str,
    by_name: &HashMap<&str, usize>,
) -> Result<(usize, Option<usize>), Violation> {
    let syntax =
        || Violation::of(op, Rule::EdgeSyntax, format!("expected `producer:output`, got `{text}`"));
    let (producer, output) = text.rsplit_once(':').ok_or_else(syntax)?;
    let output = match output {
        "-1" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| syntax())?)
        }
        _ => return Err(syntax()),
    };
    let node = by_name.get(producer).copied().ok_or_else(|| {
        Violation::of(op, Rule::EdgeProducer, format!("`{text}`: there is no such node"))
    })?;
    Ok((node, output))
}

fn edge_ends(graph: &Graph<'_>, node: &Node<'_>) -> Result<(), Violation> {
    for (idx, (source, desc)) in node.sources.iter().zip(&node.op.input_desc).enumerate() {
        let producer = graph.nodes[source.node].op;
        let given = &producer.output_desc[source.output];
        let same = given.dtype == desc.dtype && dims(given) == dims(desc);
        node.ensure(same, Rule::EdgeDescriptor, || {
            let (given, taken) = (show(given), show(desc));
            format!("input {idx}: `{}` gives {given}, taken as {taken}", producer.name)
        })?;
    }
    Ok(())
}

/// All nodes, each after those it needs.
fn order(graph: &Graph<'_>) -> Result<Vec<usize>, Violation> {
    let mut waiting: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    let mut followers = vec![Vec::new(); graph.nodes.len()];
    for idx in 0..graph.nodes.len() {
        let mut num_before = 0;
        for before in graph.before(idx) {
            followers[before].push(idx);
            num_before += 1;
        }
        waiting.push(num_before);
    }
    let mut order: Vec<usize> = (0..waiting.len()).filter(|&idx| waiting[idx] == 0).collect();
    let mut next = 0;
    while let Some(&idx) = order.get(next) {
        next += 1;
        for &follower in &followers[idx] {
            waiting[follower] -= 1;
            if waiting[follower] == 0 {
                order.push(follower);
            }
        }
    }
    match waiting.iter().position(|&num_before| num_before > 0) {
        None => Ok(order),
        Some(stuck) => Err(Violation::of(
            on_cycle(graph, stuck, &waiting).op,
            Rule::Cycle,
            "the node needs its own output",
        )),
    }
}

/// Going back from a node that never runs, through nodes that never run, ends on a cycle.
fn on_cycle<'a, 'b>(graph: &'b Graph<'a>, stuck: usize, waiting: &[usize]) -> &'b Node<'a> {
    let mut idx = stuck;
    for _ in 0..graph.nodes.len() {
        idx = graph.before(idx).find(|&before| waiting[before] > 0).unwrap_or(idx);
    }
    &graph.nodes[idx]
}

//! Canonical bytes are equal exactly when graphs differ in names only.
//!
//! [`changes`] lists every single change of a graph that is not a change of a name. The changed
//! graphs need not be valid: the key must tell them apart before anyone knows.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{Shown, config, decoder_layer, graphs};
use crate::ir::text::tests::every_op;
use crate::ir::{
    Constant, DType, Dim, Graph, Node, Op, RopeStyle, Shape, Symbol, SymbolId, Value, ValueId,
    ValueType, WeightPart, canonical_bytes, passes, verify,
};

/// Every op once, with the attributes that adding it as a change gives it.
fn ops() -> Vec<Op> {
    let shape = Shape::fixed(&[3]);
    vec![
        Op::Input,
        Op::Weight { parts: vec![WeightPart { name: "w".into(), rows: Dim::Fixed(1) }] },
        Op::State,
        Op::Constant(Constant { shape: vec![3], values: vec![0.5, 1.0, -0.0] }),
        Op::Gather { dtype: DType::F32 },
        Op::Linear,
        Op::Add,
        Op::Mul,
        Op::Silu,
        Op::SiluMul,
        Op::RmsNorm { eps: 1e-5 },
        Op::AddRmsNorm { eps: 1e-5 },
        Op::Slice { start: 0, len: 1 },
        Op::Reshape { shape },
        Op::Cast { dtype: DType::F32 },
        Op::Rope { style: RopeStyle::Halves },
        Op::KvWrite,
        Op::PagedAttention { scale: 1.0, window: None },
    ]
}

/// The least change of a number that changes its bits.
fn next(value: f32) -> f32 {
    f32::from_bits(value.to_bits() ^ 1)
}

fn other_dtypes(dtype: DType) -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(move |&other| other != dtype)
}

fn other_dims(dim: Dim) -> Vec<Dim> {
    match dim {
        Dim::Fixed(size) => vec![Dim::Fixed(size + 1), Dim::Symbolic(SymbolId(size as u32))],
        Dim::Symbolic(SymbolId(id)) => {
            vec![Dim::Symbolic(SymbolId(id + 1)), Dim::Fixed(u64::from(id))]
        }
    }
}

/// Every change of one axis, one axis more, one axis fewer.
fn other_shapes(shape: &Shape) -> Vec<Shape> {
    let mut changed = Vec::new();
    for axis in 0..shape.rank() {
        for dim in other_dims(shape.0[axis]) {
            let mut other = shape.clone();
            other.0[axis] = dim;
            changed.push(other);
        }
        let mut other = shape.clone();
        other.0.remove(axis);
        changed.push(other);
    }
    for axis in 0..=shape.rank() {
        let mut other = shape.clone();
        other.0.insert(axis, Dim::Fixed(1));
        changed.push(other);
    }
    changed
}

/// Every change of one attribute. An op without attributes says so here.
fn other_attributes(op: &Op) -> Vec<Op> {
    match op {
        Op::Input
        | Op::State
        | Op::Linear
        | Op::Add
        | Op::Mul
        | Op::Silu
        | Op::SiluMul
        | Op::KvWrite => vec![],
        Op::Weight { parts } => other_parts(parts),
        Op::Constant(constant) => other_constants(constant),
        Op::Gather { dtype } => other_dtypes(*dtype).map(|dtype| Op::Gather { dtype }).collect(),
        Op::Cast { dtype } => other_dtypes(*dtype).map(|dtype| Op::Cast { dtype }).collect(),
        Op::RmsNorm { eps } => vec![Op::RmsNorm { eps: next(*eps) }],
        Op::AddRmsNorm { eps } => vec![Op::AddRmsNorm { eps: next(*eps) }],
        Op::Slice { start, len } => vec![
            Op::Slice { start: start + 1, len: *len },
            Op::Slice { start: *start, len: len + 1 },
        ],
        Op::Reshape { shape } => {
            other_shapes(shape).into_iter().map(|shape| Op::Reshape { shape }).collect()
        }
        Op::Rope { style } => vec![Op::Rope {
            style: match style {
                RopeStyle::Halves => RopeStyle::Interleaved,
                RopeStyle::Interleaved => RopeStyle::Halves,
            },
        }],
        Op::PagedAttention { scale, window } => vec![
            Op::PagedAttention { scale: next(*scale), window: *window },
            Op::PagedAttention { scale: *scale, window: Some(window.map_or(0, |w| w + 1)) },
            Op::PagedAttention { scale: *scale, window: window.xor(Some(1)) },
        ],
    }
}

fn other_parts(parts: &[WeightPart]) -> Vec<Op> {
    let mut changed = Vec::new();
    for idx in 0..parts.len() {
        for rows in other_dims(parts[idx].rows) {
            let mut parts = parts.to_vec();
            parts[idx].rows = rows;
            changed.push(parts);
        }
        let mut fewer = parts.to_vec();
        fewer.remove(idx);
        changed.push(fewer);
    }
    let more = WeightPart { name: "more".into(), rows: Dim::Fixed(1) };
    changed.push([parts, &[more]].concat());
    changed.into_iter().map(|parts| Op::Weight { parts }).collect()
}

fn other_constants(constant: &Constant) -> Vec<Op> {
    let Constant { shape, values } = constant;
    let mut changed = Vec::new();
    for idx in 0..values.len() {
        let mut values = values.clone();
        values[idx] = next(values[idx]);
        changed.push(Constant { shape: shape.clone(), values });
    }
    for idx in 0..shape.len() {
        let mut shape = shape.clone();
        shape[idx] += 1;
        changed.push(Constant { shape, values: values.clone() });
    }
    changed.push(Constant { shape: [shape.as_slice(), &[1]].concat(), values: values.clone() });
    changed.push(Constant { shape: shape.clone(), values: [values.as_slice(), &[1.0]].concat() });
    changed.into_iter().map(Op::Constant).collect()
}

/// Every change of one id, one id more or fewer, and the swap of two neighbours that differ.
fn other_ids(ids: &[ValueId]) -> Vec<Vec<ValueId>> {
    let mut changed = Vec::new();
    for idx in 0..ids.len() {
        let mut other = ids.to_vec();
        other[idx] = ValueId(ids[idx].0 + 1);
        changed.push(other);
        let mut fewer = ids.to_vec();
        fewer.remove(idx);
        changed.push(fewer);
        if idx > 0 && ids[idx - 1] != ids[idx] {
            let mut swapped = ids.to_vec();
            swapped.swap(idx - 1, idx);
            changed.push(swapped);
        }
    }
    changed.push([ids, &[ValueId(0)]].concat());
    changed
}

/// Collects changed copies of a graph.
struct Changes<'a> {
    graph: &'a Graph,
    changed: Vec<(String, Graph)>,
}

impl Changes<'_> {
    fn change(&mut self, what: String, change: impl FnOnce(&mut Graph)) {
        let mut graph = self.graph.clone();
        change(&mut graph);
        self.changed.push((what, graph));
    }

    fn symbols(&mut self) {
        for idx in 0..self.graph.symbols.len() {
            self.change(format!("min of s{idx}"), |graph| graph.symbols[idx].min += 1);
            self.change(format!("max of s{idx}"), |graph| graph.symbols[idx].max += 1);
            self.change(format!("s{idx} removed"), |graph| {
                graph.symbols.remove(idx);
            });
        }
        let symbol = Symbol { name: "more".into(), min: 1, max: 1 };
        self.change("a symbol more".into(), |graph| graph.symbols.push(symbol));
    }

    fn values(&mut self) {
        for (idx, value) in self.graph.values.iter().enumerate() {
            for dtype in other_dtypes(value.ty.dtype) {
                self.change(format!("dtype of %{idx}"), |graph| {
                    graph.values[idx].ty.dtype = dtype;
                });
            }
            for shape in other_shapes(&value.ty.shape) {
                self.change(format!("shape of %{idx}"), |graph| graph.values[idx].ty.shape = shape);
            }
        }
        let ty = ValueType { dtype: DType::F32, shape: Shape::default() };
        self.change("a value more".into(), |graph| {
            graph.values.push(Value { name: "more".into(), ty });
        });
    }

    fn nodes(&mut self) {
        let nodes = &self.graph.nodes;
        for (idx, node) in nodes.iter().enumerate() {
            let others = ops().into_iter().filter(|op| op.name() != node.op.name());
            for op in others.chain(other_attributes(&node.op)) {
                self.change(format!("op of node {idx}: {op:?}"), |graph| graph.nodes[idx].op = op);
            }
            for ids in other_ids(&node.inputs) {
                self.change(format!("operands of node {idx}: {ids:?}"), |graph| {
                    graph.nodes[idx].inputs = ids;
                });
            }
            for ids in other_ids(&node.outputs) {
                self.change(format!("results of node {idx}: {ids:?}"), |graph| {
                    graph.nodes[idx].outputs = ids;
                });
            }
            self.change(format!("node {idx} removed"), |graph| {
                graph.nodes.remove(idx);
            });
            self.change(format!("node {idx} twice"), |graph| graph.nodes.insert(idx, node.clone()));
            if idx > 0 && !is_same_node(&nodes[idx - 1], node) {
                self.change(format!("nodes {} and {idx} swapped", idx - 1), |graph| {
                    graph.nodes.swap(idx - 1, idx);
                });
            }
        }
        for op in ops() {
            self.change(format!("one more node: {op:?}"), |graph| {
                graph.nodes.push(Node { op, inputs: vec![], outputs: vec![] });
            });
        }
    }

    fn outputs(&mut self) {
        for ids in other_ids(&self.graph.outputs) {
            self.change(format!("outputs {ids:?}"), |graph| graph.outputs = ids);
        }
    }
}

fn is_same_node(a: &Node, b: &Node) -> bool {
    (&a.inputs, &a.outputs) == (&b.inputs, &b.outputs)
        && format!("{:?}", a.op) == format!("{:?}", b.op)
}

/// Every single change of a graph, other than of names, with what it is.
fn changes(graph: &Graph) -> Vec<(String, Graph)> {
    let mut changes = Changes { graph, changed: Vec::new() };
    changes.symbols();
    changes.values();
    changes.nodes();
    changes.outputs();
    changes.changed
}

/// The graph with other names everywhere.
fn renamed(graph: &Graph, to: &str) -> Graph {
    let mut graph = graph.clone();
    to.clone_into(&mut graph.name);
    graph.symbols.iter_mut().for_each(|symbol| to.clone_into(&mut symbol.name));
    graph.values.iter_mut().for_each(|value| to.clone_into(&mut value.name));
    for node in &mut graph.nodes {
        if let Op::Weight { parts } = &mut node.op {
            for part in parts {
                to.clone_into(&mut part.name);
            }
        }
    }
    graph
}

/// Every change gives bytes of its own: other than the graph's, and than those of other changes
/// unless both lead to the same graph.
fn every_change_shows(graph: &Graph) -> usize {
    let mut seen: HashMap<Vec<u8>, (String, String)> = HashMap::new();
    let nameless = |graph: &Graph| format!("{:?}", renamed(graph, ""));
    seen.insert(canonical_bytes(graph), ("no change".into(), nameless(graph)));
    let changes = changes(graph);
    let count = changes.len();
    for (what, changed) in changes {
        let text = nameless(&changed);
        let (other, same) =
            seen.entry(canonical_bytes(&changed)).or_insert_with(|| (what.clone(), text.clone()));
        assert_eq!(text, *same, "`{what}` has the bytes of `{other}`");
        assert_ne!(other, "no change", "`{what}` does not change the bytes");
    }
    count
}

#[test]
fn every_op_has_changes_of_its_own() {
    let names: Vec<&str> = ops().iter().map(Op::name).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn every_single_change_changes_the_bytes() {
    for graph in [decoder_layer(), every_op()] {
        assert!(every_change_shows(&graph) > 1000);
        let optimised = passes::optimise(&verify(graph).unwrap()).unwrap();
        assert!(every_change_shows(&optimised) > 1000);
    }
}

#[test]
fn the_bytes_begin_with_the_format_and_its_schema() {
    let bytes = canonical_bytes(&decoder_layer());
    let schema = crate::ir::canonical::CANONICAL_SCHEMA.to_le_bytes();
    assert_eq!((&bytes[..4], &bytes[4..6]), (b"CGIR".as_slice(), schema.as_slice()));
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn names_are_not_in_the_bytes(Shown(graph) in graphs(), name in ".{0,8}") {
        prop_assert_eq!(canonical_bytes(&renamed(&graph, &name)), canonical_bytes(&graph));
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn every_single_change_of_a_random_graph_changes_the_bytes(Shown(graph) in graphs()) {
        every_change_shows(&graph);
    }
}

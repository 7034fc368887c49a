//! Writes a GE graph node by node, so that what the loader wants of every node is written in one
//! place.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`TensorType`] | element type and sizes; the layout is always `ND` |
//! | [`Value`] | an output of a node |
//! | [`Call`] | a node that is being written |
//! | [`GeGraph`] | the nodes so far: inputs, constants, operators |
//!
//! What every node gets:
//!
//! ```text
//! n9_MatMulV2 | input       x1's producer:output, x2's producer:output, ordering edges :-1
//!             | input_desc  copies of the producers' descriptors
//!             | output_desc one for every output that the operator declares, used or not
//!             | attr        the operator's, and four lists: names and indices of inputs, of outputs
//! ```
//!
//! GE finds inputs by those names, and takes an operator for one that works in place when an
//! output has the name of an input. Optional inputs that are not given are left out. The
//! operator's signature (`_ir_*`) is not written: GE has it, and would compare.
//!
//! What this module deliberately does not do: it knows no operator. Names, order and types of
//! inputs are as the caller says.

use std::collections::BTreeMap;

use super::dtype::GeDType;
use super::proto::{
    AttrDef, AttrValue, GraphDef, ListType, ListValue, ModelDef, OpDef, ShapeDef, TensorDef,
    TensorDescriptor,
};

/// Type of the nodes that are given for each run.
const DATA: &str = "Data";
/// Type of the nodes that are given for each run and changed in place.
const REF_DATA: &str = "RefData";

/// Element type and sizes of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorType {
    pub(super) dtype: GeDType,
    pub(super) shape: Vec<u64>,
}

impl TensorType {
    pub(super) const fn new(dtype: GeDType, shape: Vec<u64>) -> Self {
        Self { dtype, shape }
    }

    fn desc(&self, name: &str) -> TensorDescriptor {
        TensorDescriptor {
            name: name.to_owned(),
            dtype: self.dtype.proto(),
            shape: Some(ShapeDef { dim: self.shape.iter().map(|&dim| dim as i64).collect() }),
            layout: "ND".to_owned(),
            attr: BTreeMap::new(),
            device_type: "NPU".to_owned(),
        }
    }
}

/// An output of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    node: String,
    output: usize,
    pub(super) ty: TensorType,
}

impl Value {
    /// Tells it from every other value of its graph.
    pub(super) fn edge(&self) -> String {
        format!("{}:{}", self.node, self.output)
    }

    fn order_edge(&self) -> String {
        format!("{}:-1", self.node)
    }
}

/// The value of an operator's attribute.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attr {
    Bool(bool),
    Int(i64),
    Float(f32),
    Str(&'static str),
    Type(GeDType),
    Ints(Vec<i64>),
}

impl Attr {
    fn def(self) -> AttrDef {
        attr(match self {
            Self::Bool(value) => AttrValue::B(value),
            Self::Int(value) => AttrValue::I(value),
            Self::Float(value) => AttrValue::F(value),
            Self::Str(value) => AttrValue::S(value.into()),
            Self::Type(dtype) => AttrValue::Dt(dtype.acl().into()),
            Self::Ints(values) => ints(values),
        })
    }
}

fn attr(value: AttrValue) -> AttrDef {
    AttrDef { value: Some(value) }
}

fn ints(i: Vec<i64>) -> AttrValue {
    AttrValue::List(ListValue { i, val_type: ListType::Int as i32, ..ListValue::default() })
}

/// The nodes written so far.
#[derive(Debug, Default)]
pub(super) struct GeGraph {
    inputs: Vec<OpDef>,
    constants: Vec<OpDef>,
    nodes: Vec<OpDef>,
    /// How many nodes there are of each `place` and operator.
    counts: BTreeMap<String, usize>,
    /// Constants by element type, sizes and bytes.
    known: BTreeMap<(GeDType, Vec<u64>, Vec<u8>), Value>,
}

impl GeGraph {
    /// An input. Inputs are numbered as they are made.
    pub(super) fn data(&mut self, name: &str, ty: TensorType) -> Value {
        self.input(DATA, name, ty)
    }

    /// An input that the graph changes in place.
    pub(super) fn ref_data(&mut self, name: &str, ty: TensorType) -> Value {
        self.input(REF_DATA, name, ty)
    }

    fn input(&mut self, op: &str, name: &str, ty: TensorType) -> Value {
        let index = attr(AttrValue::I(self.inputs.len() as i64));
        // GE takes type and shape from the descriptor of the input that these nodes do not have.
        let mut node = OpDef {
            name: name.to_owned(),
            r#type: op.to_owned(),
            attr: BTreeMap::from([("index".to_owned(), index)]),
            input_desc: vec![ty.desc("x")],
            output_desc: vec![ty.desc("y")],
            ..OpDef::default()
        };
        write_names(&mut node);
        self.inputs.push(node);
        Value { node: name.to_owned(), output: 0, ty }
    }

    /// A tensor written into the graph, little-endian, row-major; the same tensor only once.
    pub(super) fn constant(&mut self, ty: TensorType, data: Vec<u8>) -> Value {
        let key = (ty.dtype, ty.shape.clone(), data);
        if let Some(value) = self.known.get(&key) {
            return value.clone();
        }
        let name = format!("const_{}", self.constants.len());
        let desc = ty.desc("y");
        let tensor = TensorDef { desc: Some(desc.clone()), data: key.2.clone() };
        let mut node = OpDef {
            name: name.clone(),
            r#type: "Const".to_owned(),
            attr: BTreeMap::from([("value".to_owned(), attr(AttrValue::T(tensor)))]),
            output_desc: vec![desc],
            ..OpDef::default()
        };
        write_names(&mut node);
        self.constants.push(node);
        let value = Value { node: name, output: 0, ty };
        self.known.insert(key, value.clone());
        value
    }

    /// A number: what operators take for an axis or a count.
    pub(super) fn scalar(&mut self, value: i32) -> Value {
        self.constant(TensorType::new(GeDType::I32, Vec::new()), value.to_le_bytes().into())
    }

    /// Sizes.
    pub(super) fn sizes(&mut self, sizes: &[u64]) -> Value {
        let ty = TensorType::new(GeDType::I64, vec![sizes.len() as u64]);
        self.constant(ty, sizes.iter().flat_map(|size| size.to_le_bytes()).collect())
    }

    /// Begins a node of operator `op`, named after it and the `place` that it is for.
    pub(super) fn call(&mut self, place: &str, op: &str) -> Call<'_> {
        let mut name = format!("{place}_{op}");
        let count = self.counts.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            name = format!("{name}_{count}");
        }
        let node = OpDef { name, r#type: op.to_owned(), ..OpDef::default() };
        Call { graph: self, node, order: Vec::new(), outputs: Vec::new() }
    }

    /// The model: the graph with those outputs, which also waits for the nodes of `after`.
    pub(super) fn finish(mut self, outputs: &[Value], after: &[Value]) -> ModelDef {
        let node = OpDef { name: "output".into(), r#type: "NetOutput".into(), ..OpDef::default() };
        let mut call = Call { graph: &mut self, node, order: Vec::new(), outputs: Vec::new() };
        for (idx, value) in outputs.iter().enumerate() {
            call = call.input(&format!("input{idx}"), value);
        }
        after.iter().fold(call, Call::after).done();
        let op = [self.inputs, self.constants, self.nodes].concat();
        let graph = GraphDef { name: "step".to_owned(), op, attr: BTreeMap::new() };
        ModelDef { name: "cairn".to_owned(), version: 1, graph: vec![graph], ..ModelDef::default() }
    }
}

/// A node that is being written. Inputs and outputs come in the operator's order.
#[derive(Debug)]
pub(super) struct Call<'a> {
    graph: &'a mut GeGraph,
    node: OpDef,
    order: Vec<String>,
    outputs: Vec<TensorType>,
}

impl Call<'_> {
    pub(super) fn input(mut self, name: &str, value: &Value) -> Self {
        self.node.input.push(value.edge());
        self.node.input_desc.push(value.ty.desc(name));
        self
    }

    /// Runs after the node of that value, without taking anything from it.
    pub(super) fn after(mut self, value: &Value) -> Self {
        let edge = value.order_edge();
        if !self.order.contains(&edge) {
            self.order.push(edge);
        }
        self
    }

    pub(super) fn attr(mut self, name: &str, value: Attr) -> Self {
        self.node.attr.insert(name.to_owned(), value.def());
        self
    }

    pub(super) fn output(mut self, name: &str, ty: TensorType) -> Self {
        self.node.output_desc.push(ty.desc(name));
        self.outputs.push(ty);
        self
    }

    /// The node's outputs, in order.
    pub(super) fn done(mut self) -> Vec<Value> {
        self.node.input.append(&mut self.order);
        write_names(&mut self.node);
        let node = &self.node.name;
        let value = |(output, ty)| Value { node: node.clone(), output, ty };
        let values = self.outputs.into_iter().enumerate().map(value).collect();
        self.graph.nodes.push(self.node);
        values
    }

    /// The first of the node's outputs, where nothing needs the others.
    pub(super) fn first(self) -> Value {
        self.done().into_iter().next().expect("invariant: every operator has an output")
    }

    /// The output of an operator that has only this one.
    pub(super) fn one(self, name: &str, ty: TensorType) -> Value {
        self.output(name, ty).first()
    }
}

/// The lists by which GE finds inputs and outputs: names, and the index of each.
fn write_names(node: &mut OpDef) {
    for (kind, descs) in [("input", &node.input_desc), ("output", &node.output_desc)] {
        let s = descs.iter().map(|desc| desc.name.clone().into_bytes()).collect();
        let val_type = ListType::String as i32;
        let keys = AttrValue::List(ListValue { s, val_type, ..ListValue::default() });
        let values = ints((0..descs.len() as i64).collect());
        node.attr.insert(format!("_{kind}_name_key"), attr(keys));
        node.attr.insert(format!("_{kind}_name_value"), attr(values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(node: &OpDef, name: &str) -> ListValue {
        match &node.attr[name].value {
            Some(AttrValue::List(list)) => list.clone(),
            other => panic!("{name} of {} is {other:?}", node.name),
        }
    }

    fn f32s(shape: &[u64]) -> TensorType {
        TensorType::new(GeDType::F32, shape.to_vec())
    }

    fn example() -> ModelDef {
        let mut graph = GeGraph::default();
        let x = graph.data("input_0", f32s(&[2, 3]));
        let cache = graph.ref_data("state_0", f32s(&[4, 3]));
        let rows = graph.sizes(&[0, 1]);
        assert_eq!(graph.sizes(&[0, 1]), rows);
        let written = graph
            .call("n2", "ScatterNdUpdate")
            .input("var", &cache)
            .input("indices", &rows)
            .input("updates", &x)
            .after(&x)
            .after(&x)
            .attr("use_locking", Attr::Bool(false))
            .one("var", f32s(&[4, 3]));
        let [first, second] = ["x", "x"].map(|_| {
            graph.call("n3", "Add").input("x1", &x).input("x2", &x).one("y", x.ty.clone())
        });
        graph.finish(&[first, second], &[written])
    }

    #[test]
    fn nodes_have_edges_descriptors_and_names() {
        let model = example();
        let nodes = &model.graph[0].op;
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let expected = ["input_0", "state_0", "const_0", "n2_ScatterNdUpdate"];
        assert_eq!(names, [&expected[..], &["n3_Add", "n3_Add_2", "output"]].concat());

        let scatter = &nodes[3];
        assert_eq!(scatter.input, ["state_0:0", "const_0:0", "input_0:0", "input_0:-1"]);
        let keys = list(scatter, "_input_name_key");
        assert_eq!(keys.s, ["var", "indices", "updates"].map(|name| name.as_bytes().to_vec()));
        assert_eq!(keys.val_type, 1);
        let indices = list(scatter, "_input_name_value");
        assert_eq!((indices.i, indices.val_type), (vec![0, 1, 2], 2));
        assert_eq!(list(scatter, "_output_name_key").s, [b"var".to_vec()]);
        assert_eq!(scatter.input_desc[1].dtype, GeDType::I64.proto());

        let output = nodes.last().unwrap();
        assert_eq!(output.input, ["n3_Add:0", "n3_Add_2:0", "n2_ScatterNdUpdate:-1"]);
        assert_eq!(output.input_desc.len(), 2);
        assert!(output.output_desc.is_empty());
        for node in nodes {
            assert!(node.attr.keys().all(|name| !name.starts_with("_ir_")));
            for desc in node.input_desc.iter().chain(&node.output_desc) {
                assert_eq!((desc.layout.as_str(), desc.device_type.as_str()), ("ND", "NPU"));
            }
        }
    }

    #[test]
    fn inputs_are_numbered_and_a_constant_is_described_like_its_tensor() {
        let model = example();
        let nodes = &model.graph[0].op;
        for (idx, node) in nodes[..2].iter().enumerate() {
            assert_eq!(node.attr["index"].value, Some(AttrValue::I(idx as i64)));
            assert_eq!(node.input_desc[0].shape, node.output_desc[0].shape);
        }
        let Some(AttrValue::T(tensor)) = &nodes[2].attr["value"].value else { panic!("no tensor") };
        assert_eq!(tensor.desc.as_ref(), Some(&nodes[2].output_desc[0]));
        assert_eq!(tensor.data.len(), 16);
    }

    #[test]
    fn attributes_have_the_kind_that_their_operator_declares() {
        assert_eq!(Attr::Type(GeDType::I64).def().value, Some(AttrValue::Dt(9)));
        assert_eq!(Attr::Str("BSH").def().value, Some(AttrValue::S(b"BSH".to_vec())));
        let Some(AttrValue::List(list)) = Attr::Ints(vec![1, 2]).def().value else {
            panic!("no list")
        };
        assert_eq!((list.i, list.val_type), (vec![1, 2], 2));
    }
}

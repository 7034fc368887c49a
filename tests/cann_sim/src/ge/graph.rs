//! The decoded graph: what the rest of the simulator works with.

use std::collections::BTreeMap;

/// Element types, in GE's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the names of the types")]
pub enum DataType {
    Float,
    Float16,
    Bf16,
    Int8,
    Uint8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Bool,
    Double,
}

impl DataType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
            Self::Float16 | Self::Bf16 | Self::Int16 | Self::Uint16 => 2,
            Self::Float | Self::Int32 | Self::Uint32 => 4,
            Self::Int64 | Self::Uint64 | Self::Double => 8,
        }
    }
}

/// Type and shape of a tensor. Sizes are never negative here: the static graphs are all there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Element type.
    pub dtype: DataType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

impl Desc {
    /// Elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes.
    pub fn num_bytes(&self) -> usize {
        self.num_elements() * self.dtype.size()
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the names of the kinds")]
pub enum Attr {
    Int(i64),
    Float(f32),
    Bool(bool),
    Str(String),
    DataType(DataType),
    ListInt(Vec<i64>),
    ListFloat(Vec<f32>),
    ListBool(Vec<bool>),
    ListStr(Vec<String>),
    /// A constant's tensor: little-endian, row-major.
    Tensor(Desc, Vec<u8>),
}

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Index of the producing node in [`GeGraph::nodes`].
    pub node: usize,
    /// Which of its outputs.
    pub output: usize,
}

/// An input of a node that is fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// By the operator's prototype; dynamic inputs are numbered, as in `key0`.
    pub name: String,
    /// Its producer.
    pub edge: Edge,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique in the graph.
    pub name: String,
    /// The operator's type, such as `MatMulV2`.
    pub op: String,
    /// Attributes of the prototype, defaults filled in.
    pub attrs: BTreeMap<String, Attr>,
    /// Inputs that are fed, in the prototype's order.
    pub inputs: Vec<Input>,
    /// Names of the outputs, in order.
    pub output_names: Vec<String>,
    /// Types of the outputs, in order.
    pub outputs: Vec<Desc>,
}

impl Node {
    /// The producer of the input of that name, if it is fed.
    pub fn input(&self, name: &str) -> Option<Edge> {
        self.inputs.iter().find(|input| input.name == name).map(|input| input.edge)
    }
}

/// A graph whose rules were checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GeGraph {
    /// In an order in which every producer, control edges included, comes before its consumers.
    pub nodes: Vec<Node>,
    /// `Data` and `RefData` nodes by their `index` attribute.
    pub inputs: Vec<usize>,
    /// What `NetOutput` takes, in order.
    pub outputs: Vec<Edge>,
}

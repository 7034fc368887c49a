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
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::Float,
        Self::Float16,
        Self::Bf16,
        Self::Int8,
        Self::Uint8,
        Self::Int16,
        Self::Uint16,
        Self::Int32,
        Self::Int64,
        Self::Uint32,
        Self::Uint64,
        Self::Bool,
        Self::Double,
    ];

    /// The number in a descriptor of an `.air` file.
    pub const fn proto(self) -> i32 {
        match self {
            Self::Float => 1,
            Self::Float16 => 2,
            Self::Int8 => 3,
            Self::Uint8 => 4,
            Self::Int16 => 5,
            Self::Uint16 => 6,
            Self::Int32 => 7,
            Self::Int64 => 8,
            Self::Uint32 => 9,
            Self::Uint64 => 10,
            Self::Bool => 11,
            Self::Double => 12,
            Self::Bf16 => 27,
        }
    }

    /// The number in attributes and in the C interface (`ge::DataType`, `aclDataType`).
    pub const fn acl(self) -> i32 {
        match self {
            Self::Float => 0,
            Self::Float16 => 1,
            Self::Int8 => 2,
            Self::Int32 => 3,
            Self::Uint8 => 4,
            Self::Int16 => 6,
            Self::Uint16 => 7,
            Self::Uint32 => 8,
            Self::Int64 => 9,
            Self::Uint64 => 10,
            Self::Double => 11,
            Self::Bool => 12,
            Self::Bf16 => 27,
        }
    }

    /// The type of that [`proto`](Self::proto) number.
    pub fn from_proto(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.proto() == number)
    }

    /// The type of that [`acl`](Self::acl) number.
    pub fn from_acl(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.acl() == number)
    }

    /// The name in the operator tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Float16 => "float16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Int16 => "int16",
            Self::Uint16 => "uint16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Bool => "bool",
            Self::Double => "double",
        }
    }

    /// Whether it is one of the floating point types that matrix units know.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Float16 | Self::Bf16)
    }

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

impl std::fmt::Display for Desc {
    /// As in `bf16[2,3]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.dtype.name(), sizes.join(","))
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
    /// Whether output `index` is written into the memory of the input of the same name.
    pub fn is_ref_output(&self, index: usize) -> bool {
        self.ref_input(index).is_some()
    }

    /// The input whose memory output `index` is written into.
    pub fn ref_input(&self, index: usize) -> Option<Edge> {
        self.input(self.output_names.get(index)?)
    }

    /// Whether it is an input of the graph.
    pub fn is_data(&self) -> bool {
        matches!(self.op.as_str(), "Data" | "RefData")
    }

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

impl GeGraph {
    /// Type of what an edge carries.
    pub fn desc(&self, edge: Edge) -> &Desc {
        &self.nodes[edge.node].outputs[edge.output]
    }
}

//! The messages of `ge.proto`, GE's own graph format: what an `.air` file holds.
//!
//! Field numbers are those of `ge_ir.proto`, the same in every CANN release from 8.1 on. Maps are
//! sorted, so that equal graphs become equal bytes. Messages that differ between releases
//! (`attr_groups`) and fields that GE does not need to read a graph are left out.
//!
//! ```text
//! ModelDef > GraphDef > OpDef > TensorDescriptor > ShapeDef
//!                          `--> AttrDef > ListValue, TensorDef
//! ```
//!
//! What this module deliberately does not do: it knows no operator and no rule.

use std::collections::BTreeMap;

/// A file: one graph.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelDef {
    /// For people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of the format.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// Only the first is read.
    #[prost(message, repeated, tag = "7")]
    pub graph: Vec<GraphDef>,
    /// Attributes of the model.
    #[prost(btree_map = "string, message", tag = "11")]
    pub attr: BTreeMap<String, AttrDef>,
}

/// A graph.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphDef {
    /// For people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The nodes, in any order.
    #[prost(message, repeated, tag = "6")]
    pub op: Vec<OpDef>,
    /// Attributes of the graph.
    #[prost(btree_map = "string, message", tag = "11")]
    pub attr: BTreeMap<String, AttrDef>,
}

/// A node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpDef {
    /// Unique in the graph.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// `producer:output`; the i-th data edge feeds the i-th `input_desc`. `producer:-1` orders only.
    #[prost(string, repeated, tag = "5")]
    pub input: Vec<String>,
    /// Attributes of the operator, and the maps from names to indices.
    #[prost(btree_map = "string, message", tag = "10")]
    pub attr: BTreeMap<String, AttrDef>,
    /// What it takes.
    #[prost(message, repeated, tag = "33")]
    pub input_desc: Vec<TensorDescriptor>,
    /// What it gives.
    #[prost(message, repeated, tag = "34")]
    pub output_desc: Vec<TensorDescriptor>,
}

/// Type, shape and layout of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorDescriptor {
    /// Not read by GE.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number as in [`GeDType::proto`](super::dtype::GeDType::proto).
    #[prost(int32, tag = "2")]
    pub dtype: i32,
    /// Sizes.
    #[prost(message, optional, tag = "3")]
    pub shape: Option<ShapeDef>,
    /// Name of the format, `ND`.
    #[prost(string, tag = "4")]
    pub layout: String,
    /// Storage formats other than the layout.
    #[prost(btree_map = "string, message", tag = "5")]
    pub attr: BTreeMap<String, AttrDef>,
    /// `NPU`.
    #[prost(string, tag = "14")]
    pub device_type: String,
}

/// Sizes, outermost first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShapeDef {
    /// Empty for a scalar.
    #[prost(int64, repeated, tag = "1")]
    pub dim: Vec<i64>,
}

/// A tensor with its values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorDef {
    /// Type and shape.
    #[prost(message, optional, tag = "1")]
    pub desc: Option<TensorDescriptor>,
    /// Little-endian, row-major.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttrDef {
    /// Exactly one kind of value.
    #[prost(oneof = "AttrValue", tags = "1, 2, 3, 4, 5, 7, 12, 15")]
    pub value: Option<AttrValue>,
}

/// The value of an attribute.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AttrValue {
    /// A list.
    #[prost(message, tag = "1")]
    List(ListValue),
    /// A string.
    #[prost(bytes = "vec", tag = "2")]
    S(Vec<u8>),
    /// A whole number.
    #[prost(int64, tag = "3")]
    I(i64),
    /// A number.
    #[prost(float, tag = "4")]
    F(f32),
    /// A switch.
    #[prost(bool, tag = "5")]
    B(bool),
    /// Bytes.
    #[prost(bytes = "vec", tag = "7")]
    Bt(Vec<u8>),
    /// A tensor.
    #[prost(message, tag = "12")]
    T(TensorDef),
    /// An element type, in GE's own numbering, not that of descriptors.
    #[prost(int64, tag = "15")]
    Dt(i64),
}

/// A list: the field that `val_type` names. GE skips a list without it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    /// Strings.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub s: Vec<Vec<u8>>,
    /// Whole numbers.
    #[prost(int64, repeated, tag = "3")]
    pub i: Vec<i64>,
    /// Numbers.
    #[prost(float, repeated, tag = "4")]
    pub f: Vec<f32>,
    /// Switches.
    #[prost(bool, repeated, tag = "5")]
    pub b: Vec<bool>,
    /// Element types.
    #[prost(int64, repeated, tag = "12")]
    pub dt: Vec<i64>,
    /// A [`ListType`] number.
    #[prost(int32, tag = "20")]
    pub val_type: i32,
}

/// What a [`ListValue`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "the variants are the names of the format")]
pub enum ListType {
    String = 1,
    Int = 2,
    Float = 3,
    Bool = 4,
    DataType = 10,
}

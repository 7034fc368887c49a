//! The messages of GE's graph format, as the loader reads them and the offline model carries them.
//!
//! ```text
//! ModelDef > GraphDef > OpDef > TensorDescriptor > ShapeDef
//!                          `--> AttrDef > ListValue, TensorDef
//! ```
//!
//! Field numbers are those of `ge_ir.proto`. Fields that say nothing to the simulator are left
//! out: an unknown field is skipped, as the real loader skips it.
//!
//! What this module deliberately does not do: it checks nothing.

use std::collections::BTreeMap;

/// A file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelDef {
    /// For people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of the format.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// The loader takes the first one.
    #[prost(message, repeated, tag = "7")]
    pub graph: Vec<GraphDef>,
    /// Attributes of the model, such as `memory_size` of a compiled one.
    #[prost(btree_map = "string, message", tag = "11")]
    pub attr: BTreeMap<String, AttrDef>,
}

/// A graph.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GraphDef {
    /// For people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Operators that produce outputs: needed only without a `NetOutput`.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// Nodes in any order.
    #[prost(message, repeated, tag = "6")]
    pub op: Vec<OpDef>,
}

/// A node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpDef {
    /// Unique by convention; the loader does not look.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Operator type.
    #[prost(string, tag = "2")]
    pub r#type: String,
    /// `producer:output`, `producer:-1` for an order, empty for an input left open.
    #[prost(string, repeated, tag = "5")]
    pub input: Vec<String>,
    /// Attributes, the name maps among them.
    #[prost(btree_map = "string, message", tag = "10")]
    pub attr: BTreeMap<String, AttrDef>,
    /// One for each entry of `input` that is no order.
    #[prost(message, repeated, tag = "33")]
    pub input_desc: Vec<TensorDescriptor>,
    /// One for each output.
    #[prost(message, repeated, tag = "34")]
    pub output_desc: Vec<TensorDescriptor>,
}

/// Type, sizes and format of a tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorDescriptor {
    /// Ignored by the loader.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In the numbering of the format, not that of `ge::DataType`.
    #[prost(int32, tag = "2")]
    pub dtype: i32,
    /// Absent means rank 0.
    #[prost(message, optional, tag = "3")]
    pub shape: Option<ShapeDef>,
    /// Name of the format.
    #[prost(string, tag = "4")]
    pub layout: String,
    /// Storage formats.
    #[prost(btree_map = "string, message", tag = "5")]
    pub attr: BTreeMap<String, AttrDef>,
    /// `NPU`, or `CPU` for a tensor on the host.
    #[prost(string, tag = "14")]
    pub device_type: String,
}

/// Sizes, outermost first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShapeDef {
    /// Negative means unknown.
    #[prost(int64, repeated, tag = "1")]
    pub dim: Vec<i64>,
}

/// A tensor written into the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorDef {
    /// Its type.
    #[prost(message, optional, tag = "1")]
    pub desc: Option<TensorDescriptor>,
    /// Little-endian, row-major.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttrDef {
    /// Absent for the kinds that the simulator does not know.
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 7, 12, 15")]
    pub value: Option<Value>,
}

/// The value of an attribute.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// A list.
    #[prost(message, tag = "1")]
    List(ListValue),
    /// A string.
    #[prost(bytes = "vec", tag = "2")]
    S(Vec<u8>),
    /// An integer.
    #[prost(int64, tag = "3")]
    I(i64),
    /// A float.
    #[prost(float, tag = "4")]
    F(f32),
    /// A truth value.
    #[prost(bool, tag = "5")]
    B(bool),
    /// Bytes.
    #[prost(bytes = "vec", tag = "7")]
    Bt(Vec<u8>),
    /// A tensor.
    #[prost(message, tag = "12")]
    T(TensorDef),
    /// An element type in the numbering of `ge::DataType`.
    #[prost(int64, tag = "15")]
    Dt(i64),
}

/// A list of one kind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListValue {
    /// Strings.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub s: Vec<Vec<u8>>,
    /// Integers.
    #[prost(int64, repeated, tag = "3")]
    pub i: Vec<i64>,
    /// Floats.
    #[prost(float, repeated, tag = "4")]
    pub f: Vec<f32>,
    /// Truth values.
    #[prost(bool, repeated, tag = "5")]
    pub b: Vec<bool>,
    /// Element types.
    #[prost(int64, repeated, tag = "12")]
    pub dt: Vec<i64>,
    /// Which of them it is, see [`val_type`]; 0 makes the loader skip the attribute.
    #[prost(int32, tag = "20")]
    pub val_type: i32,
}

/// Values of [`ListValue::val_type`].
pub mod val_type {
    /// Nothing: the list is skipped.
    pub const NONE: i32 = 0;
    /// Strings.
    pub const STRING: i32 = 1;
    /// Integers.
    pub const INT: i32 = 2;
    /// Floats.
    pub const FLOAT: i32 = 3;
    /// Truth values.
    pub const BOOL: i32 = 4;
    /// Element types.
    pub const DATA_TYPE: i32 = 10;
}

impl AttrDef {
    /// An attribute of that value.
    pub const fn of(value: Value) -> Self {
        Self { value: Some(value) }
    }

    /// An integer.
    pub const fn int(value: i64) -> Self {
        Self::of(Value::I(value))
    }

    /// A string.
    pub fn str(value: &str) -> Self {
        Self::of(Value::S(value.as_bytes().to_vec()))
    }

    /// A list of integers.
    pub fn ints(i: Vec<i64>) -> Self {
        Self::of(Value::List(ListValue { i, val_type: val_type::INT, ..ListValue::default() }))
    }

    /// A list of strings.
    pub fn strs<'a>(s: impl IntoIterator<Item = &'a str>) -> Self {
        let s = s.into_iter().map(|s| s.as_bytes().to_vec()).collect();
        Self::of(Value::List(ListValue { s, val_type: val_type::STRING, ..ListValue::default() }))
    }
}

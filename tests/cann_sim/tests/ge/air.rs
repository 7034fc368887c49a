//! Builds small `.air` files, good ones: tests break them afterwards.

use ascendcl::ge::error::GeError;
use ascendcl::ge::graph::DataType;
use ascendcl::ge::prepare::{Prepared, Target, prepare};
use ascendcl::ge::proto::{
    AttrDef, GraphDef, ModelDef, OpDef, ShapeDef, TensorDef, TensorDescriptor, Value,
};
use ascendcl::ge::version::{CannVersion, Family};
use prost::Message as _;

pub(crate) use DataType::{Bf16, Bool, Float, Float16, Int32, Int64};
pub(crate) type Dtype = DataType;

/// A graph that is being built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Air {
    pub(crate) graph: GraphDef,
}

/// A descriptor.
pub(crate) fn desc(dtype: DataType, shape: &[i64]) -> TensorDescriptor {
    TensorDescriptor {
        dtype: dtype.proto(),
        shape: Some(ShapeDef { dim: shape.to_vec() }),
        layout: "ND".to_owned(),
        device_type: "NPU".to_owned(),
        ..TensorDescriptor::default()
    }
}

/// The name maps of a node.
pub(crate) fn set_names(op: &mut OpDef, which: &str, names: &[&str]) {
    let indices = (0..names.len() as i64).collect();
    op.attr.insert(format!("_{which}_name_key"), AttrDef::strs(names.iter().copied()));
    op.attr.insert(format!("_{which}_name_value"), AttrDef::ints(indices));
}

impl Air {
    /// The node of that name.
    pub(crate) fn op(&mut self, name: &str) -> &mut OpDef {
        self.graph.op.iter_mut().find(|op| op.name == name).unwrap()
    }

    fn source(&mut self, kind: &str, name: &str, index: i64, desc: &TensorDescriptor) {
        let mut op = OpDef {
            name: name.to_owned(),
            r#type: kind.to_owned(),
            input_desc: vec![desc.clone()],
            output_desc: vec![desc.clone()],
            ..OpDef::default()
        };
        set_names(&mut op, "input", &["x"]);
        set_names(&mut op, "output", &["y"]);
        op.attr.insert("index".to_owned(), AttrDef::int(index));
        self.graph.op.push(op);
    }

    pub(crate) fn data(&mut self, name: &str, index: i64, dtype: DataType, shape: &[i64]) {
        self.source("Data", name, index, &desc(dtype, shape));
    }

    pub(crate) fn ref_data(&mut self, name: &str, index: i64, dtype: DataType, shape: &[i64]) {
        self.source("RefData", name, index, &desc(dtype, shape));
    }

    pub(crate) fn constant(&mut self, name: &str, dtype: DataType, shape: &[i64], values: &[i64]) {
        let bytes = |&value: &i64| match dtype {
            Int64 => value.to_le_bytes().to_vec(),
            Int32 => (value as i32).to_le_bytes().to_vec(),
            Float => (value as f32).to_le_bytes().to_vec(),
            other => panic!("constants of {other:?}"),
        };
        let desc = desc(dtype, shape);
        let data = values.iter().flat_map(bytes).collect();
        let tensor = TensorDef { desc: Some(desc.clone()), data };
        let mut op = OpDef {
            name: name.to_owned(),
            r#type: "Const".to_owned(),
            output_desc: vec![desc],
            ..OpDef::default()
        };
        set_names(&mut op, "output", &["y"]);
        op.attr.insert("value".to_owned(), AttrDef::of(Value::T(tensor)));
        self.graph.op.push(op);
    }

    /// A node; outputs declare no type.
    pub(crate) fn node(
        &mut self,
        name: &str,
        kind: &str,
        inputs: &[(&str, &str)],
        outputs: &[&str],
        attrs: &[(&str, Value)],
    ) {
        let open = || TensorDescriptor { layout: "ND".to_owned(), ..TensorDescriptor::default() };
        let mut op = OpDef {
            name: name.to_owned(),
            r#type: kind.to_owned(),
            input: inputs.iter().map(|(_, producer)| (*producer).to_owned()).collect(),
            input_desc: inputs.iter().map(|_| open()).collect(),
            output_desc: outputs.iter().map(|_| open()).collect(),
            ..OpDef::default()
        };
        let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        set_names(&mut op, "input", &names);
        set_names(&mut op, "output", outputs);
        for (name, value) in attrs {
            op.attr.insert((*name).to_owned(), AttrDef::of(value.clone()));
        }
        self.graph.op.push(op);
    }

    pub(crate) fn outputs(&mut self, producers: &[&str]) {
        let names: Vec<String> = (0..producers.len()).map(|at| format!("input{at}")).collect();
        let inputs: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(producers.iter().copied()).collect();
        self.node("NetOutput", "NetOutput", &inputs, &[], &[]);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        ModelDef {
            name: "test".to_owned(),
            version: 1,
            graph: vec![self.graph.clone()],
            ..ModelDef::default()
        }
        .encode_to_vec()
    }

    pub(crate) fn prepare(&self) -> Result<Prepared, GeError> {
        prepare(&self.bytes(), &TARGET)
    }

    pub(crate) fn on(&self, target: &Target) -> Result<Prepared, GeError> {
        prepare(&self.bytes(), target)
    }

    /// Asserts that the graph is refused with that code and those words.
    #[track_caller]
    pub(crate) fn refused(&self, code: &str, words: &str) {
        let error = self.prepare().expect_err(words);
        assert!(error.code() == code && error.to_string().contains(words), "{error}");
    }

    /// Asserts that a change makes the graph refused.
    #[track_caller]
    pub(crate) fn broken(&self, code: &str, words: &str, change: impl FnOnce(&mut Self)) {
        let mut changed = self.clone();
        change(&mut changed);
        changed.refused(code, words);
    }
}

/// What most tests compile for.
pub(crate) const TARGET: Target = Target {
    cann: CannVersion { major: 9, minor: 0 },
    family: Family::Ascend910B,
    sinks_tiling: true,
    keeps_dtypes: true,
};

/// The same with the oldest toolkit.
pub(crate) const OLD: Target = Target { cann: CannVersion { major: 8, minor: 1 }, ..TARGET };

pub(crate) fn int(value: i64) -> Value {
    Value::I(value)
}

pub(crate) fn ints(values: &[i64]) -> Value {
    AttrDef::ints(values.to_vec()).value.unwrap()
}

pub(crate) fn text(value: &str) -> Value {
    Value::S(value.as_bytes().to_vec())
}

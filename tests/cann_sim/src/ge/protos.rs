//! Prototypes of the operators and the type combinations of their kernels on the 910B.
//!
//! The table is `data/op_protos.json`: what CANN 8.1 registers, and the names that later releases
//! added. Lists of types are columns: the i-th entries of all inputs and outputs belong together.
//! An operator without lists picks its types when it is compiled.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// Whether an input or output must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// Exactly one tensor.
    Required,
    /// One tensor or none.
    Optional,
    /// Any number of tensors, numbered from 0.
    Dynamic,
}

/// An input or output.
#[derive(Clone, Debug, Deserialize)]
pub struct Port(pub String, pub PortKind);

impl Port {
    /// Its name, without a number.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The kind of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the variants are the names of the kinds")]
pub enum AttrKind {
    Int,
    Float,
    Bool,
    String,
    Type,
    Tensor,
    ListInt,
    ListFloat,
    ListBool,
}

/// An attribute: name, kind, whether it is required, and the default as text.
#[derive(Clone, Debug, Deserialize)]
pub struct AttrProto(pub String, pub AttrKind, pub bool, pub Option<String>);

/// Types of an input or output of a kernel.
#[derive(Clone, Debug, Deserialize)]
pub struct KernelPort {
    /// Comma-separated types, one for each combination; `None` if picked when compiled.
    pub dtype: Option<String>,
    /// Comma-separated formats; `None` if all of them are ND.
    pub format: Option<String>,
    /// Whether the kernel needs the value, not only the shape.
    pub value_depend: Option<String>,
}

/// Type combinations of a kernel.
#[derive(Clone, Debug, Deserialize)]
pub struct Kernel {
    /// In the order of the prototype.
    pub inputs: Vec<KernelPort>,
    /// In the order of the prototype.
    pub outputs: Vec<KernelPort>,
}

/// An operator.
#[derive(Clone, Debug, Deserialize)]
pub struct OpProto {
    inputs: Vec<Port>,
    #[serde(default)]
    newer_inputs: Vec<Port>,
    /// In order.
    pub outputs: Vec<Port>,
    attrs: Vec<AttrProto>,
    #[serde(default)]
    newer_attrs: Vec<AttrProto>,
    /// Pairs of an output and the input whose memory it is written into.
    #[serde(default)]
    pub ref_outputs: Vec<(usize, usize)>,
    /// `None`: it is part of the framework, or no table describes it.
    pub ascend910b: Option<Kernel>,
    /// Whether CANN 8.1 registers it.
    #[serde(default)]
    pub in_cann_8_1_rc1: bool,
    /// Whether the `910_93` has a kernel.
    #[serde(default)]
    pub on_910_93_a3: bool,
}

impl OpProto {
    /// The prototype of that operator.
    pub fn of(op: &str) -> Option<&'static Self> {
        TABLE.get(op)
    }

    /// Inputs in order; `is_newer` for CANN 9 and later.
    pub fn inputs(&self, is_newer: bool) -> Vec<&Port> {
        let newer = if is_newer { &self.newer_inputs[..] } else { &[] };
        self.inputs.iter().chain(newer).collect()
    }

    /// Attributes; `is_newer` for CANN 9 and later.
    pub fn attrs(&self, is_newer: bool) -> Vec<&AttrProto> {
        let newer = if is_newer { &self.newer_attrs[..] } else { &[] };
        self.attrs.iter().chain(newer).collect()
    }
}

static TABLE: LazyLock<HashMap<String, OpProto>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/op_protos.json"))
        .expect("invariant: the table is part of the program, and a test reads it")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_columns_have_one_length() {
        assert_eq!(TABLE.len(), 243);
        for (name, op) in TABLE.iter() {
            let Some(kernel) = &op.ascend910b else { continue };
            let ports = kernel.inputs.iter().chain(&kernel.outputs);
            let mut lengths: Vec<usize> =
                ports.filter_map(|port| Some(port.dtype.as_ref()?.split(',').count())).collect();
            lengths.dedup();
            assert!(lengths.len() <= 1, "{name}: {lengths:?}");
        }
    }

    #[test]
    fn in_place_operators_have_outputs_named_like_inputs() {
        let scatter = OpProto::of("ScatterNdUpdate").unwrap();
        assert_eq!(scatter.ref_outputs, [(0, 0)]);
        assert_eq!(scatter.inputs(false)[0].name(), scatter.outputs[0].name());
    }
}

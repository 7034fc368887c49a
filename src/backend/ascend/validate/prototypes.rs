//! The prototypes of GE's operators, as far as graphs here are made of them: `op_protos.json`, read
//! once.
//!
//! The file holds what CANN 8.1.RC1 publishes of its operators: the registered prototypes and the
//! tables of the kernels of Ascend 910B. One object for each operator, by its type:
//!
//! | Field | Meaning |
//! | --- | --- |
//! | `inputs`, `outputs` | in declared order: `name`, `kind` (`optional` or `dynamic`; required without), `value` when the kernel reads the value before it starts. An output with the name of an input is the same memory |
//! | `attrs` | `name`, `type` as in the prototype, `required` |
//! | `since` | the first release with the prototype, when that is not the oldest |
//! | `kernels` | combinations of element types, one text each: inputs, then outputs, in declared order; `-` is an input that is never fed here. Empty: the kernel is chosen while compiling. Absent: nothing that a kernel computes |
//! | `a3` | kernels for Atlas A3 exist; their combinations are taken to be those of 910B |
//!
//! Combinations in storage formats other than `ND` and in element types unknown to [`GeDType`] are
//! left out, and so are inputs and attributes of newer prototypes.
//!
//! What this module deliberately does not do: it holds no graph against the prototypes.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer};

use super::super::dtype::GeDType;
use super::super::target::CannRelease;

static OP_PROTOS: &str = include_str!("../op_protos.json");

/// The prototype of an operator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prototype {
    pub(super) inputs: Vec<Parameter>,
    pub(super) outputs: Vec<Parameter>,
    pub(super) attrs: Vec<Attribute>,
    #[serde(default, deserialize_with = "release")]
    pub(super) since: Option<CannRelease>,
    #[serde(default, deserialize_with = "combinations")]
    pub(super) kernels: Option<Vec<Combination>>,
    #[serde(default)]
    pub(super) a3: bool,
}

/// An input or an output.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameter {
    pub(super) name: String,
    #[serde(default)]
    pub(super) kind: ParameterKind,
    /// The kernel reads its value before it starts.
    #[serde(default)]
    pub(super) value: bool,
}

/// How many tensors a parameter takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ParameterKind {
    /// One.
    #[default]
    Required,
    /// One or none.
    Optional,
    /// Any number, one at least, named `x0`, `x1` and so on.
    Dynamic,
}

/// An attribute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attribute {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: AttributeKind,
    #[serde(default)]
    pub(super) required: bool,
}

/// The type of an attribute, by its name in prototypes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum AttributeKind {
    Int,
    Float,
    Bool,
    String,
    Type,
    Tensor,
    ListInt,
}

/// Element types of inputs, then outputs, that go together; `None` where nothing may be fed.
pub(super) type Combination = Vec<Option<GeDType>>;

/// The prototype of operators of that type.
pub(super) fn prototype(op_type: &str) -> Option<&'static Prototype> {
    all().get(op_type)
}

/// Every prototype by the type of its operator.
pub(super) fn all() -> &'static BTreeMap<String, Prototype> {
    static ALL: OnceLock<BTreeMap<String, Prototype>> = OnceLock::new();
    ALL.get_or_init(|| {
        serde_json::from_str(OP_PROTOS).expect("invariant: the embedded prototypes are well formed")
    })
}

fn release<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CannRelease>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn combinations<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Combination>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let read = texts.iter().map(|text| combination(text));
    read.collect::<Result<_, _>>().map(Some).map_err(serde::de::Error::custom)
}

fn combination(text: &str) -> Result<Combination, String> {
    let dtype = |name| match name {
        "-" => Ok(None),
        _ => GeDType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .map(Some)
            .ok_or_else(|| format!("unknown element type `{name}` in `{text}`")),
    };
    text.split(',').map(dtype).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_a_type_for_each_parameter() {
        for (op_type, proto) in all() {
            let parameters = proto.inputs.len() + proto.outputs.len();
            for combination in proto.kernels.iter().flatten() {
                assert_eq!(combination.len(), parameters, "{op_type}");
                let required = proto.inputs.iter().chain(&proto.outputs).zip(combination);
                for (parameter, dtype) in required {
                    let optional = parameter.kind == ParameterKind::Optional;
                    assert!(dtype.is_some() || optional, "{op_type} {}", parameter.name);
                }
            }
        }
    }

    #[test]
    fn outputs_that_are_an_input_are_those_that_change_in_place() {
        let in_place = |proto: &Prototype| {
            proto.outputs.iter().any(|output| proto.inputs.iter().any(|i| i.name == output.name))
        };
        let names = all().iter().filter(|(_, proto)| in_place(proto)).map(|(name, _)| name);
        assert_eq!(names.collect::<Vec<_>>(), ["ApplyRotaryPosEmb", "ScatterNdUpdate"]);
    }

    #[test]
    fn what_graphs_are_made_of_has_no_kernels_and_everything_else_runs_on_both_families() {
        for (op_type, proto) in all() {
            let plain = ["Data", "RefData", "Const", "NetOutput", "HcomAllReduce"];
            assert_eq!(proto.kernels.is_none(), plain.contains(&op_type.as_str()), "{op_type}");
            assert_eq!(proto.a3, proto.kernels.is_some(), "{op_type}");
        }
    }

    #[test]
    fn the_attention_takes_what_is_published_of_it() {
        let attention = prototype("FusedInferAttentionScore").unwrap();
        let names: Vec<&str> = attention.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names.len(), 27);
        assert_eq!(names[..4], ["query", "key", "value", "pse_shift"]);
        assert_eq!(names[14], "block_table");
        assert_eq!(attention.inputs[1].kind, ParameterKind::Dynamic);
        assert!(attention.inputs[5].value && attention.inputs[6].value);
        let required: Vec<&str> =
            attention.attrs.iter().filter(|a| a.required).map(|a| a.name.as_str()).collect();
        assert_eq!(required, ["num_heads"]);
    }

    #[test]
    fn a_type_that_is_unknown_is_refused_where_it_stands() {
        let error = combination("float,complex64").unwrap_err();
        assert_eq!(error, "unknown element type `complex64` in `float,complex64`");
    }
}

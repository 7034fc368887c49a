//! What is said of a graph that breaks a rule.

use std::fmt;

use super::super::proto::OpDef;

/// The first rule that a graph breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail} (node `{node}`, {op})")]
pub struct Violation {
    /// Name of the node; of the graph when no node is to blame.
    pub node: String,
    /// The type of the node's operator.
    pub op: String,
    /// Which rule.
    pub rule: Rule,
    /// What was expected, and what is there.
    pub detail: String,
}

/// A rule for graphs of GE.
///
/// `GE itself` says what happens without the rule: *refuses* with a message that often names no
/// node, *crashes*, or *takes it* and computes something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A model has exactly one graph. GE takes it and reads the first.
    OneGraph,
    /// A model is smaller than 2 GiB. GE refuses.
    ModelSize,
    /// Names of nodes are unique and not empty; those of inputs are at most 127 bytes, or ACL cannot
    /// find them. GE takes duplicates: all edges go to the last of them.
    NodeName,
    /// Operators are known to `op_protos.json`.
    KnownOp,
    /// The release of CANN has the operator, and the chip has kernels for it.
    Available,
    /// Descriptors have a known element type, a shape that can be counted, the format `ND` and no
    /// device but `NPU`. GE takes unknown formats as `ND`; another device makes a host input.
    Descriptor,
    /// Edges read `producer:output` or `producer:-1`. GE takes anything: an edge without a colon is
    /// dropped, an output that is no number is 0.
    EdgeSyntax,
    /// Edges come from nodes of the graph. GE refuses.
    EdgeProducer,
    /// Edges come from outputs that their producers have. GE refuses.
    EdgeOutput,
    /// There are as many data edges as input descriptors. GE refuses.
    EdgeCount,
    /// Both ends of an edge have the same element type and shape. GE takes it and recomputes.
    EdgeDescriptor,
    /// The maps from names to indices are there, and their indices are a permutation. GE ignores
    /// maps of unequal length, and crashes on an index out of range.
    NameMap,
    /// Inputs have the prototype's names, every required one, in declared order. GE takes other
    /// names, and refuses another order.
    InputNames,
    /// All declared outputs are there, used or not, in declared order. GE refuses.
    OutputNames,
    /// There is no cycle. GE refuses.
    Cycle,
    /// Attributes have a value, and lists hold what their `val_type` says. GE skips others.
    AttributeForm,
    /// Attributes are those of the prototype. GE takes others.
    KnownAttribute,
    /// Attributes have the prototype's type. GE takes it: numbers are reinterpreted bit by bit.
    AttributeKind,
    /// Required attributes are there. GE makes all attributes of the node unreadable.
    RequiredAttribute,
    /// There are no attributes `_ir_*`: GE holds them against its own version of the prototype.
    ReservedAttribute,
    /// Attributes that name an element type name that of the output. GE takes it.
    AttributeDType,
    /// `Data` and `RefData`: both descriptors equal, on the device, no size below 1. GE takes the
    /// input's for both; a negative size makes the graph dynamic.
    DataDescriptor,
    /// `Data` and `RefData`: the indices are a permutation over both. GE renumbers.
    DataIndex,
    /// `Const`: the value has the output's descriptor and as many bytes. GE takes the value's
    /// descriptor.
    ConstValue,
    /// There is one `NetOutput`, and it has an input. GE takes it: a graph without outputs.
    NetOutput,
    /// What is changed in place is a `RefData`, directly or through others that change it. GE
    /// refuses a `Const`, and may copy a `Data`: the change is then lost.
    RefSource,
    /// Whoever changes a tensor in place is ordered with everybody else who uses it. GE takes it, in
    /// any order.
    RefOrder,
    /// Inputs whose values kernels need before they start are `Const`, but for the lengths of
    /// attention. GE refuses, or makes the graph dynamic.
    ConstInput,
    /// A kernel takes those element types together.
    Kernel,
    /// The shapes are what the operator makes of its inputs. GE refuses, or recomputes.
    Shape,
    /// Rotary embedding has the shapes that its kernel can do.
    Rotary,
    /// Attention has the layout, shapes and attributes that its kernel can do.
    Attention,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 32] = [
        Self::OneGraph,
        Self::ModelSize,
        Self::NodeName,
        Self::KnownOp,
        Self::Available,
        Self::Descriptor,
        Self::EdgeSyntax,
        Self::EdgeProducer,
        Self::EdgeOutput,
        Self::EdgeCount,
        Self::EdgeDescriptor,
        Self::NameMap,
        Self::InputNames,
        Self::OutputNames,
        Self::Cycle,
        Self::AttributeForm,
        Self::KnownAttribute,
        Self::AttributeKind,
        Self::RequiredAttribute,
        Self::ReservedAttribute,
        Self::AttributeDType,
        Self::DataDescriptor,
        Self::DataIndex,
        Self::ConstValue,
        Self::NetOutput,
        Self::RefSource,
        Self::RefOrder,
        Self::ConstInput,
        Self::Kernel,
        Self::Shape,
        Self::Rotary,
        Self::Attention,
    ];

    /// What it is about, in a word or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneGraph => "graphs of the model",
            Self::ModelSize => "size of the model",
            Self::NodeName => "node name",
            Self::KnownOp => "operator",
            Self::Available => "operator of the target",
            Self::Descriptor => "descriptor",
            Self::EdgeSyntax => "syntax of an edge",
            Self::EdgeProducer => "producer of an edge",
            Self::EdgeOutput => "output of an edge",
            Self::EdgeCount => "number of edges",
            Self::EdgeDescriptor => "ends of an edge",
            Self::NameMap => "name map",
            Self::InputNames => "inputs",
            Self::OutputNames => "outputs",
            Self::Cycle => "cycle",
            Self::AttributeForm => "form of an attribute",
            Self::KnownAttribute => "attribute",
            Self::AttributeKind => "type of an attribute",
            Self::RequiredAttribute => "required attribute",
            Self::ReservedAttribute => "reserved attribute",
            Self::AttributeDType => "element type in an attribute",
            Self::DataDescriptor => "descriptor of an input",
            Self::DataIndex => "index of an input",
            Self::ConstValue => "value of a constant",
            Self::NetOutput => "outputs of the graph",
            Self::RefSource => "source of a change in place",
            Self::RefOrder => "order of a change in place",
            Self::ConstInput => "constant input",
            Self::Kernel => "element types of a kernel",
            Self::Shape => "shape",
            Self::Rotary => "rotary embedding",
            Self::Attention => "attention",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Violation {
    /// That node breaks that rule.
    pub(super) fn of(op: &OpDef, rule: Rule, detail: impl Into<String>) -> Self {
        Self { node: op.name.clone(), op: op.r#type.clone(), rule, detail: detail.into() }
    }
}

/// Holds a node to a rule.
pub(super) fn ensure(
    op: &OpDef,
    holds: bool,
    rule: Rule,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::of(op, rule, detail())) }
}

//! The compiled form of a graph: plain data, the same on disk and in memory.
//!
//! Every value is a matrix `[rows, columns]` of f32: the first axis is the rows, all others are
//! flattened into columns. Rows may be a symbol; columns never are.

use serde::{Deserialize, Serialize};

use super::KernelSet;
use crate::ir::{DType, RopeStyle};

/// A number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Size {
    Fixed(usize),
    Symbol(usize),
}

impl Size {
    /// The number, given the values of the symbols.
    pub(super) fn resolve(self, symbols: &[u64]) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Symbol(idx) => symbols[idx] as usize,
        }
    }
}

/// Where the numbers of a view lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// Working memory, by index into [`Plan::slots`].
    Slot(usize),
    /// A vector among the weights (a norm's weight, a bias), by binding index.
    Weight(usize),
    /// By index into [`Plan::constants`].
    Constant(usize),
}

/// Rows of a source: row `i` is `columns` numbers from `offset + i * stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct View {
    pub(super) source: Source,
    pub(super) rows: Size,
    pub(super) columns: usize,
    pub(super) offset: usize,
    pub(super) stride: usize,
}

/// Where a step writes: dense rows at the start of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) slot: usize,
    pub(super) rows: Size,
    pub(super) columns: usize,
}

/// Working memory for `rows x columns` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) rows: Size,
    pub(super) columns: usize,
}

/// Elementwise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Binary {
    Add,
    Mul,
    SiluMul,
}

/// What the operands of a product are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Nothing is: products and sums are f32.
    #[default]
    F32,
    /// Both operands to bf16; sums are f32.
    Bf16,
    /// Weights to signed bytes with a scale for each output channel, activations to signed bytes with
    /// a scale for each token; sums are i32.
    Int8,
}

impl Arithmetic {
    /// As in fingerprints.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl From<Arithmetic> for cairn_kernels::Arithmetic {
    fn from(arithmetic: Arithmetic) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::F32,
            Arithmetic::Bf16 => Self::Bf16,
            Arithmetic::Int8 => Self::I8,
        }
    }
}

/// What a cache holds, which decides how it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CacheKind {
    Keys,
    Values,
}

/// One kernel call. Numbers named `table`, `weight`, `state`, `ids`, ... are binding indices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kernel", rename_all = "snake_case")]
pub(super) enum Call {
    /// Rows of a weight by ids.
    Gather { table: usize, ids: usize },
    /// Rows of a view by ids.
    GatherRows { x: View, ids: usize },
    /// `x w^T`.
    Linear { x: View, weight: usize, arithmetic: Arithmetic },
    /// `b` repeats over rows when it has one, and over columns when it has fewer.
    Binary { function: Binary, a: View, b: View },
    /// `x * sigmoid(x)`.
    Silu { x: View },
    /// Over groups of as many columns as the weight has.
    RmsNorm { x: View, weight: View, eps: f32 },
    /// Two targets: the sum and the norm of it.
    AddRmsNorm { x: View, residual: View, weight: View, eps: f32 },
    /// Rotates pairs within each head.
    Rope { x: View, cos: View, sin: View, head_dim: usize, style: Style },
    /// Writes rows into a state; no target.
    KvWrite { x: View, state: usize, slots: usize, kind: CacheKind },
    /// Causal attention over paged states.
    Attention(Attention),
    /// Rounds to a narrower type and back.
    Round { x: View, dtype: TypeName },
    /// Makes a view dense.
    Copy { x: View },
}

/// Operands and attributes of [`Call::Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attention {
    pub(super) q: View,
    pub(super) k_state: usize,
    pub(super) v_state: usize,
    pub(super) block_tables: usize,
    pub(super) query_ends: usize,
    pub(super) seq_lens: usize,
    pub(super) head_dim: usize,
    pub(super) scale: f32,
    pub(super) window: Option<u64>,
}

/// One step: a kernel and where its results go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    #[serde(flatten)]
    pub(super) call: Call,
    pub(super) targets: Vec<Target>,
}

/// An element type by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct TypeName(pub(super) DType);

impl TryFrom<String> for TypeName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        DType::from_name(&name).map(Self).ok_or_else(|| format!("unknown dtype `{name}`"))
    }
}

impl From<TypeName> for String {
    fn from(name: TypeName) -> Self {
        name.0.name().to_owned()
    }
}

/// [`RopeStyle`], as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Style {
    Halves,
    Interleaved,
}

impl From<Style> for cairn_kernels::RopeStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::Halves => Self::Halves,
            Style::Interleaved => Self::Interleaved,
        }
    }
}

impl From<Binary> for cairn_kernels::Binary {
    fn from(function: Binary) -> Self {
        match function {
            Binary::Add => Self::Add,
            Binary::Mul => Self::Mul,
            Binary::SiluMul => Self::SiluMul,
        }
    }
}

impl From<RopeStyle> for Style {
    fn from(style: RopeStyle) -> Self {
        match style {
            RopeStyle::Halves => Self::Halves,
            RopeStyle::Interleaved => Self::Interleaved,
        }
    }
}

/// A tensor that is bound from outside: what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    pub(super) dtype: TypeName,
    pub(super) shape: Vec<Size>,
}

/// A compiled graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) kernels: KernelSet,
    /// Smallest and largest value of each symbol.
    pub(super) symbols: Vec<(u64, u64)>,
    pub(super) inputs: Vec<Bound>,
    pub(super) weights: Vec<Bound>,
    pub(super) states: Vec<Bound>,
    pub(super) constants: Vec<Vec<f32>>,
    pub(super) slots: Vec<Slot>,
    pub(super) steps: Vec<Step>,
    pub(super) output: View,
}

impl Plan {
    /// What a cache holds, by who reads it: values where nobody does, and `None` when it is read as
    /// both.
    pub(super) fn cache_kind(&self, state: usize) -> Option<CacheKind> {
        let attentions = || {
            self.steps.iter().filter_map(|step| match &step.call {
                Call::Attention(attention) => Some(attention),
                _ => None,
            })
        };
        let is_key = attentions().any(|attention| attention.k_state == state);
        let is_value = attentions().any(|attention| attention.v_state == state);
        match (is_key, is_value) {
            (true, true) => None,
            (true, false) => Some(CacheKind::Keys),
            (false, _) => Some(CacheKind::Values),
        }
    }
}

impl Call {
    /// The dense operands.
    pub(super) fn views(&self) -> Vec<&View> {
        match self {
            Self::Gather { .. } => vec![],
            Self::GatherRows { x, .. }
            | Self::Linear { x, .. }
            | Self::Silu { x }
            | Self::KvWrite { x, .. }
            | Self::Round { x, .. }
            | Self::Copy { x } => vec![x],
            Self::Binary { a, b, .. } => vec![a, b],
            Self::RmsNorm { x, weight, .. } => vec![x, weight],
            Self::AddRmsNorm { x, residual, weight, .. } => vec![x, residual, weight],
            Self::Rope { x, cos, sin, .. } => vec![x, cos, sin],
            Self::Attention(attention) => vec![&attention.q],
        }
    }

    /// The same, to be changed.
    pub(super) fn views_mut(&mut self) -> Vec<&mut View> {
        match self {
            Self::Gather { .. } => vec![],
            Self::GatherRows { x, .. }
            | Self::Linear { x, .. }
            | Self::Silu { x }
            | Self::KvWrite { x, .. }
            | Self::Round { x, .. }
            | Self::Copy { x } => vec![x],
            Self::Binary { a, b, .. } => vec![a, b],
            Self::RmsNorm { x, weight, .. } => vec![x, weight],
            Self::AddRmsNorm { x, residual, weight, .. } => vec![x, residual, weight],
            Self::Rope { x, cos, sin, .. } => vec![x, cos, sin],
            Self::Attention(attention) => vec![&mut attention.q],
        }
    }
}

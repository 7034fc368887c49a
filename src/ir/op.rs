//! What a node computes. To add an op, add a variant here with its doc: the compiler then lists
//! every place that has to learn it, because no match on [`Op`] has a wildcard arm.

/// How rotary position embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Element `i` pairs with `i + head_dim / 2` (Transformers' checkpoints).
    Halves,
    /// Element `2i` pairs with `2i + 1` (GGUF files of the Llama family, whose q and k rows are
    /// permuted for it).
    Interleaved,
}

/// A tensor of a checkpoint that is (a part of) a weight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightPart {
    /// Name in the checkpoint. For binding and for people; never part of canonical bytes.
    pub name: String,
    /// Its size along the first axis.
    pub rows: crate::ir::Dim,
}

/// A small tensor written into the graph, f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many finite values as the shape holds.
    pub values: Vec<f32>,
}

/// The operation of a node.
///
/// Axes are named: `t` tokens, `s` sequences, `h` heads, `d` head size, `k` and `n` features,
/// `b` KV blocks, `p` positions within a block, `m` width of the block tables.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A tensor given for each run. No operands. Inputs bind in order of their nodes.
    Input,
    /// A tensor given once, never changed. No operands; the parts are concatenated along the
    /// first axis. Weights bind in order of their nodes.
    Weight {
        /// At least one part.
        parts: Vec<WeightPart>,
    },
    /// A tensor that stays on the device between runs and is changed in place. No operands.
    /// States bind in order of their nodes.
    State,
    /// A tensor written into the graph. No operands.
    Constant(Constant),
    /// Rows of a table: `(table [n, k], ids i32 [t]) -> [t, k]` of type `dtype`; a quantised table
    /// is dequantised. Ids outside the table give a row of zeros.
    Gather {
        /// Element type of the result.
        dtype: crate::ir::DType,
    },
    /// `(x [.., k], w [n, k]) -> [.., n]`, `y = x w^T`; type of `x`, any weight type.
    Linear,
    /// `(a, b) -> a + b`, broadcast as in numpy.
    Add,
    /// `(a, b) -> a * b`, broadcast as in numpy.
    Mul,
    /// `x -> x * sigmoid(x)` (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Silu,
    /// `(gate, up) -> silu(gate) * up`, equal shapes (`SwiGLU`; Shazeer 2020, arXiv 2002.05202).
    SiluMul,
    /// `(x [.., k], w [k]) -> x / sqrt(mean(x^2) + eps) * w` over the last axis (Zhang and
    /// Sennrich 2019, arXiv 1910.07467).
    RmsNorm {
        /// Added to the mean square, above 0.
        eps: f32,
    },
    /// `(x, residual, w [k]) -> (sum, normed)` with `sum = x + residual` and
    /// `normed = rms_norm(sum, w)`.
    AddRmsNorm {
        /// As in [`Op::RmsNorm`].
        eps: f32,
    },
    /// `x [.., k] -> x[.., start .. start + len]`.
    Slice {
        /// First column kept.
        start: u64,
        /// Columns kept, at least 1.
        len: u64,
    },
    /// The same elements in the same order under another shape.
    Reshape {
        /// The new shape; holds as many elements for every value of the symbols.
        shape: crate::ir::Shape,
    },
    /// Conversion of the element type, rounding to nearest even.
    Cast {
        /// The new type, floating point.
        dtype: crate::ir::DType,
    },
    /// `(x [t, h, d], cos [t, d/2], sin [t, d/2]) -> [t, h, d]`: rotates each pair `(a, b)` to
    /// `(a cos - b sin, b cos + a sin)` (Su et al. 2021, arXiv 2104.09864).
    Rope {
        /// Which elements pair.
        style: RopeStyle,
    },
    /// `(x [t, h, d], cache [b, p, h, d], slots i32 [t]) -> cache`: row `i` of `x` goes to block
    /// `slots[i] / p`, position `slots[i] % p`; a negative slot goes nowhere. In place.
    KvWrite,
    /// Causal attention over a paged cache (Kwon et al. 2023, arXiv 2309.06180):
    /// `(q [t, h, d], k_cache [b, p, g, d], v_cache, block_tables i32 [s, m], query_ends i32 [s],
    /// seq_lens i32 [s]) -> [t, h, d]`, `h` a multiple of `g`. The queries of sequence `i` are the
    /// last ones of its `seq_lens[i]` tokens. Rows past the last `query_ends` are zero.
    PagedAttention {
        /// Multiplies the scores; finite, above 0.
        scale: f32,
        /// Each query sees at most this many latest tokens, itself included.
        window: Option<u64>,
    },
}

impl Op {
    /// The name in text form.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Weight { .. } => "weight",
            Self::State => "state",
            Self::Constant(_) => "constant",
            Self::Gather { .. } => "gather",
            Self::Linear => "linear",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Silu => "silu",
            Self::SiluMul => "silu_mul",
            Self::RmsNorm { .. } => "rms_norm",
            Self::AddRmsNorm { .. } => "add_rms_norm",
            Self::Slice { .. } => "slice",
            Self::Reshape { .. } => "reshape",
            Self::Cast { .. } => "cast",
            Self::Rope { .. } => "rope",
            Self::KvWrite => "kv_write",
            Self::PagedAttention { .. } => "paged_attention",
        }
    }

    /// Whether the node has no operands: its type is given, not inferred.
    pub const fn is_source(&self) -> bool {
        match self {
            Self::Input | Self::Weight { .. } | Self::State | Self::Constant(_) => true,
            Self::Gather { .. }
            | Self::Linear
            | Self::Add
            | Self::Mul
            | Self::Silu
            | Self::SiluMul
            | Self::RmsNorm { .. }
            | Self::AddRmsNorm { .. }
            | Self::Slice { .. }
            | Self::Reshape { .. }
            | Self::Cast { .. }
            | Self::Rope { .. }
            | Self::KvWrite
            | Self::PagedAttention { .. } => false,
        }
    }
}

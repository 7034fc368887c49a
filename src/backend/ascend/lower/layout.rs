//! Which layout a graph's attention has, and what the attention operator takes in it.
//!
//! `FusedInferAttentionScore` with block tables takes sequences in one of three ways:
//!
//! | Layout | Query | When | Sizes of heads and blocks |
//! | --- | --- | --- | --- |
//! | Packed | `[t, h, d]`, TND | CANN 9.0 and later, bf16, wherever the sizes fit | 128; 128, 512, 1024 |
//! | Decode | `[s, 1, h * d]`, BSH | as many tokens as sequences | up to 512; 128, 256, 384, 512 |
//! | Prefill | `[1, t, h * d]`, BSH | one sequence | as above |
//!
//! What this module deliberately does not do: it writes no node; `attention` does.

use super::super::artifact::StepLayout;
use super::super::dtype::GeDType;
use super::super::ge_graph::TensorType;
use super::super::kv_layout;
use super::super::target::{CannRelease, Target};
use super::unsupported_at;
use crate::backend::{BackendError, Batching};
use crate::ir::{DType, Dim, Graph, Node, Op, ValueId, ValueType};

/// Rows of a packed query.
const MAX_PACKED_TOKENS: u64 = 1 << 20;
/// Lengths that a packed query comes with, that of the dummy sequence among them.
const MAX_PACKED_SEQS: u64 = 4096;
/// Elements of one token in the cache.
const MAX_CACHE_ROW: u64 = 65535;
const MAX_HEAD_SIZE: u64 = 512;
/// Query heads of one KV head.
const MAX_GROUP: u64 = 64;
const MAX_BLOCK_SIZE: u64 = 512;

/// The sizes of an attention, by the IR's axes.
#[derive(Debug)]
pub(super) struct Attention<'a> {
    graph: &'a Graph,
    node: &'a Node,
    can_pack: bool,
    pub(super) cache_dtype: GeDType,
    pub(super) scale: f32,
    pub(super) num_tokens: u64,
    pub(super) num_seqs: u64,
    pub(super) heads: u64,
    pub(super) groups: u64,
    pub(super) head_size: u64,
    pub(super) block_size: u64,
    /// Tokens that fit into the blocks of one sequence.
    capacity: u64,
    window: Option<u64>,
}

impl<'a> Attention<'a> {
    /// The sizes, if the node is an attention.
    pub(super) fn of(graph: &'a Graph, types: &[TensorType], node: &'a Node) -> Option<Self> {
        let Op::PagedAttention { scale, window } = node.op else { return None };
        let operand = |idx: usize| &types[node.inputs[idx].0 as usize];
        let (query, cache, tables) = (operand(0), operand(1), operand(3));
        Some(Self {
            graph,
            node,
            can_pack: can_pack(graph.ty(node.inputs[1])),
            cache_dtype: cache.dtype,
            scale,
            num_tokens: query.shape[0],
            num_seqs: tables.shape[0],
            heads: query.shape[1],
            groups: cache.shape[2],
            head_size: query.shape[2],
            block_size: cache.shape[1],
            capacity: tables.shape[1].saturating_mul(cache.shape[1]),
            window,
        })
    }

    /// Elements of one token in the cache.
    pub(super) const fn cache_row(&self) -> u64 {
        self.groups * kv_layout::head_size(self.head_size)
    }

    /// The operand with the cumulative counts of queries.
    pub(super) fn query_ends(&self) -> ValueId {
        self.node.inputs[4]
    }

    /// Everything that says how the step's tokens lie.
    fn batch(&self) -> (u64, &[ValueId]) {
        (self.num_tokens, &self.node.inputs[4..])
    }

    fn require(&self, rule: bool, what: impl FnOnce() -> String) -> Result<(), BackendError> {
        if rule { Ok(()) } else { Err(unsupported_at(self.graph, self.node, what())) }
    }

    /// The operator's rules, in every layout.
    fn check(&self) -> Result<(), BackendError> {
        let &Self { heads, groups, head_size, block_size, capacity, .. } = self;
        let (dtype, row) = (self.cache_dtype, self.cache_row());
        self.require(matches!(dtype, GeDType::F16 | GeDType::BF16), || {
            format!("attention over a {dtype} cache: its operator takes float16 and bfloat16")
        })?;
        self.require(block_size.is_multiple_of(128), || {
            format!("attention over blocks of {block_size} tokens: it takes multiples of 128")
        })?;
        self.require(head_size <= MAX_HEAD_SIZE, || {
            format!("attention heads of {head_size}: it takes up to {MAX_HEAD_SIZE}")
        })?;
        self.require(row <= MAX_CACHE_ROW, || {
            format!("{groups} KV heads of {head_size}: together at most {MAX_CACHE_ROW}")
        })?;
        self.require(heads / groups <= MAX_GROUP, || {
            format!("{heads} heads over {groups} KV heads: at most {MAX_GROUP} for each")
        })?;
        self.require(self.window.is_none_or(|window| window >= capacity), || {
            let window = self.window.unwrap_or_default();
            format!(
                "a sliding window of {window} tokens for sequences of up to {capacity}: limit the \
                 model's length to the window"
            )
        })
    }

    /// The rules of one layout.
    fn check_layout(&self, layout: StepLayout) -> Result<(), BackendError> {
        let (num_tokens, num_seqs) = (self.num_tokens, self.num_seqs);
        if layout != StepLayout::Packed {
            return self.require(self.block_size <= MAX_BLOCK_SIZE, || {
                format!(
                    "attention over blocks of {} tokens: up to {MAX_BLOCK_SIZE}",
                    self.block_size
                )
            });
        }
        self.require(num_tokens <= MAX_PACKED_TOKENS && num_seqs < MAX_PACKED_SEQS, || {
            format!(
                "attention of {num_tokens} tokens of {num_seqs} sequences: up to \
                 {MAX_PACKED_TOKENS} of {}",
                MAX_PACKED_SEQS - 1
            )
        })
    }
}

/// The layout of a graph with those attentions: the same for all.
pub(super) fn layout_of(
    attentions: &[Attention<'_>],
    target: &Target,
) -> Result<StepLayout, BackendError> {
    let Some(first) = attentions.first() else { return Ok(StepLayout::Free) };
    attentions.iter().try_for_each(Attention::check)?;
    let (num_tokens, num_seqs) = (first.num_tokens, first.num_seqs);
    let packs = target.cann >= CannRelease::PACKED_ATTENTION;
    let layout = if packs && attentions.iter().all(|attention| attention.can_pack) {
        StepLayout::Packed
    } else if num_tokens == num_seqs {
        StepLayout::Decode
    } else if num_seqs == 1 {
        StepLayout::Prefill
    } else {
        let what = format!(
            "{num_tokens} tokens of {num_seqs} sequences in one step: that needs CANN {}, heads of \
             128 and a bfloat16 cache",
            CannRelease::PACKED_ATTENTION
        );
        return Err(unsupported_at(first.graph, first.node, what));
    };
    for attention in attentions {
        attention.require(attention.batch() == first.batch(), || {
            "attentions over different tokens or sequences in one graph".to_owned()
        })?;
        attention.check_layout(layout)?;
    }
    Ok(layout)
}

/// Whether the packed layout takes caches of that type `[b, p, h, d]`.
fn can_pack(cache: &ValueType) -> bool {
    let axis = |idx: usize| cache.shape.dims().get(idx).copied();
    let blocks = [128_u64, 512, 1024].map(|size| Some(Dim::Fixed(size)));
    cache.dtype == DType::BF16 && axis(3) == Some(Dim::Fixed(128)) && blocks.contains(&axis(1))
}

/// Which sequences may share a run of the graph, whose symbols may still be open.
pub fn batching(graph: &Graph, target: &Target) -> Batching {
    let mut caches = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::PagedAttention { .. }))
        .filter_map(|node| node.inputs.get(1))
        .peekable();
    let packs = target.cann >= CannRelease::PACKED_ATTENTION;
    if caches.peek().is_none() || packs && caches.all(|&id| can_pack(graph.ty(id))) {
        Batching::Ragged
    } else {
        Batching::Separate
    }
}

//! What a set of kernels must offer, and the operands they are given.
//!
//! Every target is dense: `rows * columns` numbers. Operands were checked against the plan and the
//! step before, so kernels may index without fear; they must not panic on any *values*.

use crate::ir::DType;

use super::plan::{Binary, Style};

/// Rows of f32: row `i` is `columns` numbers from `i * stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row.
    pub(super) fn row(&self, idx: usize) -> &'a [f32] {
        let start = idx * self.stride;
        &self.data[start..start + self.columns]
    }
}

/// Rows of a weight, in the bytes of its dtype; they may lie in several tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightRows<'a> {
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// For each tensor, the row after its last one, and its bytes.
    pub(super) parts: &'a [(usize, crate::weights::Bytes)],
}

impl<'a> WeightRows<'a> {
    /// Bytes of one row.
    pub(super) fn row_bytes(&self) -> usize {
        self.dtype
            .row_bytes(self.columns)
            .expect("invariant: rows are whole blocks, checked when placed")
    }

    /// A row.
    pub(super) fn row(&self, idx: usize) -> &'a [u8] {
        let mut start = 0;
        for (end, bytes) in self.parts {
            if idx < *end {
                let row_bytes = self.row_bytes();
                let at = (idx - start) * row_bytes;
                return &bytes[at..at + row_bytes];
            }
            start = *end;
        }
        &[]
    }
}

/// A KV cache: `[blocks, block_size, heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheShape {
    pub(super) block_size: usize,
    pub(super) num_heads: usize,
    pub(super) head_dim: usize,
}

impl CacheShape {
    /// Where the vector of a head at a slot begins.
    pub(super) fn at(&self, slot: usize, head: usize) -> usize {
        (slot * self.num_heads + head) * self.head_dim
    }
}

/// One query token of a step: which sequence it belongs to and how much of it it sees.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Query {
    /// The first position it sees.
    pub(super) start: usize,
    /// One past the last position it sees: its own, plus one. 0 for padding.
    pub(super) end: usize,
    /// Where its sequence's block table begins.
    pub(super) table: usize,
}

/// Operands of attention, besides the target `[tokens, num_query_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionArgs<'a> {
    pub(super) q: Matrix<'a>,
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) cache: CacheShape,
    /// One per row of `q`.
    pub(super) queries: &'a [Query],
    /// All block tables, one after the other.
    pub(super) block_tables: &'a [i32],
    pub(super) scale: f32,
}

impl AttentionArgs<'_> {
    /// The slot of a position of a query's sequence.
    pub(super) fn slot(&self, query: &Query, position: usize) -> usize {
        let block = self.block_tables[query.table + position / self.cache.block_size];
        block as usize * self.cache.block_size + position % self.cache.block_size
    }
}

/// Operands of rope, besides the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct RopeArgs<'a> {
    pub(super) x: Matrix<'a>,
    pub(super) cos: Matrix<'a>,
    pub(super) sin: Matrix<'a>,
    pub(super) head_dim: usize,
    pub(super) style: Style,
}

/// A set of kernels. The reference set defines the numbers, up to the order of summation.
pub(super) trait Kernels: Send + Sync {
    /// `target[i] = table[ids[i]]`, dequantised; zeros for an id outside the table.
    fn gather(&self, table: WeightRows<'_>, ids: &[i32], target: &mut [f32]);

    /// `target = x w^T`.
    fn linear(&self, x: Matrix<'_>, weight: WeightRows<'_>, target: &mut [f32]);

    /// Elementwise; `b` repeats.
    fn binary(&self, function: Binary, a: Matrix<'_>, b: Matrix<'_>, target: &mut [f32]);

    /// `x * sigmoid(x)`.
    fn silu(&self, x: Matrix<'_>, target: &mut [f32]);

    /// Over groups of `weight.len()` columns.
    fn rms_norm(&self, x: Matrix<'_>, weight: &[f32], eps: f32, target: &mut [f32]);

    /// Rotates pairs within each head.
    fn rope(&self, args: RopeArgs<'_>, target: &mut [f32]);

    /// Causal attention over the paged cache.
    fn attention(&self, args: AttentionArgs<'_>, target: &mut [f32]);
}

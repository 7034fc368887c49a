//! What a set of kernels must offer, and the operands they are given.
//!
//! Every target is dense: `rows * columns` numbers. Operands were checked against the plan and the
//! step before, so kernels may index without fear; they must not panic on any *values*.

use std::{fmt, io};

use crate::{DType, Packed};

/// Rows of f32: row `i` is `columns` numbers from `i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The numbers, from the first row on.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Numbers of a row.
    pub columns: usize,
    /// From the start of a row to that of the next one.
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows that follow each other, of at least one column.
    pub fn dense(data: &'a [f32], columns: usize) -> Self {
        Self { data, rows: data.len() / columns, columns, stride: columns }
    }

    /// A row.
    pub fn row(&self, idx: usize) -> &'a [f32] {
        let start = idx * self.stride;
        &self.data[start..start + self.columns]
    }
}

/// Where the bytes of a weight's rows lie.
pub trait RowBytes: Sync + fmt::Debug {
    /// The bytes of a row; the index is below the number of rows.
    fn row(&self, idx: usize) -> &[u8];
}

/// Rows of a weight, in the bytes of its dtype.
#[derive(Clone, Copy, Debug)]
pub struct WeightRows<'a> {
    /// Element type.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// The rows themselves: whole blocks, as many as the columns are.
    pub bytes: &'a dyn RowBytes,
}

impl<'a> WeightRows<'a> {
    /// A row.
    pub fn row(&self, idx: usize) -> &'a [u8] {
        self.bytes.row(idx)
    }
}

/// What the operands of a product are rounded to, before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Nothing is rounded; sums are f32.
    F32,
    /// Both to bf16; sums are f32.
    Bf16,
    /// Rows of both to signed bytes, each with a scale of its own; sums are i32.
    I8,
}

/// A weight of a product, as it was loaded and as it was packed.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeight<'a> {
    /// As it was loaded.
    pub rows: WeightRows<'a>,
    /// What it and the other operand are rounded to.
    pub arithmetic: Arithmetic,
    /// What [`Kernels::pack`] made of it.
    pub packed: Option<&'a Packed>,
}

/// Elementwise functions of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
    /// `a * sigmoid(a) * b`.
    SiluMul,
}

/// Which elements of a head are a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Element `i` and the one half a head further.
    Halves,
    /// Neighbours.
    Interleaved,
}

/// A cache of keys or of values, in blocks of positions: of keys `[blocks, heads, head_dim,
/// block_size]`, so that the same element of neighbouring keys lies side by side, and of values
/// `[blocks, block_size, heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct CacheShape {
    /// Positions of a block.
    pub block_size: usize,
    /// KV heads.
    pub num_heads: usize,
    /// Numbers of a head's vector.
    pub head_dim: usize,
}

impl CacheShape {
    /// Where the keys of a head begin in a block.
    pub fn keys_at(&self, block: usize, head: usize) -> usize {
        (block * self.num_heads + head) * self.head_dim * self.block_size
    }

    /// Where the element of a head's key at a slot lies.
    pub fn key_at(&self, slot: usize, head: usize, element: usize) -> usize {
        let start = self.keys_at(slot / self.block_size, head);
        start + element * self.block_size + slot % self.block_size
    }

    /// Where a head's value at a slot begins.
    pub fn value_at(&self, slot: usize, head: usize) -> usize {
        (slot * self.num_heads + head) * self.head_dim
    }

    /// Writes the keys of a token, `[heads * head_dim]`.
    pub fn put_keys(&self, cache: &mut [f32], slot: usize, keys: &[f32]) {
        for (head, keys) in keys.chunks_exact(self.head_dim).enumerate() {
            let first = self.key_at(slot, head, 0);
            for (element, key) in keys.iter().enumerate() {
                cache[first + element * self.block_size] = *key;
            }
        }
    }

    /// Writes the values of a token, `[heads * head_dim]`.
    pub fn put_values(&self, cache: &mut [f32], slot: usize, values: &[f32]) {
        let first = self.value_at(slot, 0);
        cache[first..first + values.len()].copy_from_slice(values);
    }
}

/// One query token of a step: which sequence it belongs to and how much of it it sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// The first position it sees.
    pub start: usize,
    /// One past the last position it sees: its own, plus one. 0 for padding.
    pub end: usize,
    /// Where its sequence's block table begins.
    pub table: usize,
}

/// Operands of attention, besides the target `[tokens, num_query_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    /// `[tokens, num_query_heads * head_dim]`.
    pub q: Matrix<'a>,
    /// The keys' cache.
    pub k: &'a [f32],
    /// The values' cache.
    pub v: &'a [f32],
    /// The shape of both.
    pub cache: CacheShape,
    /// One per row of `q`.
    pub queries: &'a [Query],
    /// All block tables, one after the other.
    pub block_tables: &'a [i32],
    /// Of the scores.
    pub scale: f32,
}

impl AttentionArgs<'_> {
    /// The slot of a position of a query's sequence.
    pub fn slot(&self, query: &Query, position: usize) -> usize {
        let block = self.block_tables[query.table + position / self.cache.block_size];
        block as usize * self.cache.block_size + position % self.cache.block_size
    }
}

/// Operands of rope, besides the target.
#[derive(Clone, Copy, Debug)]
pub struct RopeArgs<'a> {
    /// `[tokens, num_heads * head_dim]`.
    pub x: Matrix<'a>,
    /// `[tokens, head_dim / 2]`.
    pub cos: Matrix<'a>,
    /// As `cos`.
    pub sin: Matrix<'a>,
    /// Numbers of a head's vector.
    pub head_dim: usize,
    /// Which elements are a pair.
    pub style: RopeStyle,
}

/// A set of kernels. The reference set defines the numbers, up to the order of summation.
pub trait Kernels: Send + Sync {
    /// `target[i] = table[ids[i]]`, dequantised; zeros for an id outside the table.
    fn gather(&self, table: WeightRows<'_>, ids: &[i32], target: &mut [f32]);

    /// The weights as [`linear`](Self::linear) would rather have them, in the same order, where that
    /// is another form.
    ///
    /// # Errors
    /// When there is no memory for them.
    fn pack(
        &self,
        weights: &[WeightRows<'_>],
        arithmetic: Arithmetic,
    ) -> io::Result<Option<Vec<Packed>>> {
        let _ = (weights, arithmetic);
        Ok(None)
    }

    /// `target = x w^T`.
    fn linear(&self, x: Matrix<'_>, weight: LinearWeight<'_>, target: &mut [f32]);

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

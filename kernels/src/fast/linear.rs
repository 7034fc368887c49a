//! `y[t, n] = x[t, :] . w[n, :]` by tiles of dot products.
//!
//! Each dot product is summed in one fixed order: sixteen lanes over the row, then the lanes by
//! halves, then what is left of the row. Tiles, batches and threads only choose which dot products
//! are computed together, never their order, so a row's result does not depend on the others.
//!
//! ```text
//! few tokens   threads split the rows of w; weights are decoded in registers
//! many tokens  threads split the tokens; rows of w are decoded once into a panel that stays in cache
//! ```

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use rayon::prelude::*;

use super::decode::{BF16, CHUNK, Decode, F16, F32, Q4, Q4M, Q8};
use super::simd::{Detected, Kernel, LANES, Simd};
use crate::DType;
use crate::dequantise;
use crate::operands::{Matrix, WeightRows};

/// From this many tokens on, threads split the tokens instead of the weight's rows.
const SPLIT_TOKENS: usize = 32;
/// From this many tokens on, rows are decoded into a panel first.
const PANEL_TOKENS: usize = 5;
/// Rows of a panel: four of the longest common rows fit a first-level cache.
const PANEL_ROWS: usize = 4;
/// Rows that are decoded side by side in registers.
const DIRECT_ROWS: usize = 4;
/// Rows that one task of a split over rows takes at least.
const TASK_ROWS: usize = 32;

/// `target = x w^T`.
pub(super) fn linear(isa: Detected, x: Matrix<'_>, weight: WeightRows<'_>, target: &mut [f32]) {
    let (tokens, columns) = (x.rows, weight.rows);
    if tokens == 0 || columns == 0 {
        return;
    }
    let threads = rayon::current_num_threads();
    if tokens >= SPLIT_TOKENS {
        let task_tokens = tokens.div_ceil(threads);
        target.par_chunks_mut(task_tokens * columns).enumerate().for_each(|(task, target)| {
            let first = task * task_tokens;
            let x = Matrix { data: &x.data[first * x.stride..], rows: target.len() / columns, ..x };
            isa.dispatch(Rows { x, weight, first_row: 0, stride: columns, target });
        });
        return;
    }
    let task_rows = columns.div_ceil(threads * 4).max(TASK_ROWS).next_multiple_of(PANEL_ROWS);
    if tokens == 1 {
        target.par_chunks_mut(task_rows).enumerate().for_each(|(task, target)| {
            let first_row = task * task_rows;
            let stride = target.len();
            isa.dispatch(Rows { x, weight, first_row, stride, target });
        });
        return;
    }
    // Tasks own columns of the target, which are not contiguous: each fills a block of its own.
    let mut blocks = vec![0.0; tokens * columns];
    blocks.par_chunks_mut(task_rows * tokens).enumerate().for_each(|(task, target)| {
        let stride = target.len() / tokens;
        isa.dispatch(Rows { x, weight, first_row: task * task_rows, stride, target });
    });
    for (task, block) in blocks.chunks(task_rows * tokens).enumerate() {
        let width = block.len() / tokens;
        for (t, row) in block.chunks_exact(width).enumerate() {
            let start = t * columns + task * task_rows;
            target[start..start + width].copy_from_slice(row);
        }
    }
}

/// All tokens of `x` against `stride` rows of the weight from `first_row`; the target is
/// `[x.rows, stride]`.
struct Rows<'a> {
    x: Matrix<'a>,
    weight: WeightRows<'a>,
    first_row: usize,
    stride: usize,
    target: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.rows >= PANEL_TOKENS {
            return self.by_panels(s);
        }
        match self.weight.dtype {
            DType::F32 => self.direct::<S, F32>(s),
            DType::BF16 => self.direct::<S, BF16>(s),
            DType::F16 => self.direct::<S, F16>(s),
            DType::Q8_0 => self.direct::<S, Q8>(s),
            DType::Q4_0 => self.direct::<S, Q4>(s),
            DType::Q4_1 => self.direct::<S, Q4M>(s),
            DType::I32 | DType::Q5_0 | DType::Q5_1 | DType::Q4K | DType::Q5K | DType::Q6K => {
                self.by_panels(s);
            }
        }
    }
}

impl Rows<'_> {
    /// Decodes in registers: each weight is read once for up to four tokens.
    #[inline(always)]
    fn direct<S: Simd, D: Decode>(self, s: S) {
        // The rows after these lie behind them: asking early hides the memory's latency.
        let ahead = DIRECT_ROWS * self.weight.row(self.first_row).len();
        let mut n = 0;
        while n < self.stride {
            let row = |idx: usize| self.weight.row(self.first_row + n + idx);
            let width = if self.stride - n >= 4 { 4 } else { 1 };
            for t in 0..self.x.rows {
                let x = [self.x.row(t)];
                let at = t * self.stride + n;
                if width == 4 {
                    let tile = tile::<S, D, 1, 4>(s, x, [row(0), row(1), row(2), row(3)], ahead);
                    self.target[at..at + 4].copy_from_slice(&tile[0]);
                } else {
                    self.target[at] = tile::<S, D, 1, 1>(s, x, [row(0)], 0)[0][0];
                }
            }
            n += width;
        }
    }

    /// Decodes a few rows into a panel of f32 and takes all tokens against it.
    #[inline(always)]
    fn by_panels<S: Simd>(self, s: S) {
        let columns = self.weight.columns;
        let mut panel = vec![0.0_f32; PANEL_ROWS * columns];
        let mut n = 0;
        while n < self.stride {
            let width = PANEL_ROWS.min(self.stride - n);
            for (idx, row) in panel.chunks_exact_mut(columns).take(width).enumerate() {
                decode_row(s, self.weight.dtype, self.weight.row(self.first_row + n + idx), row);
            }
            let w: [&[f32]; PANEL_ROWS] =
                std::array::from_fn(|idx| &panel[idx * columns..(idx + 1) * columns]);
            let mut t = 0;
            while t < self.x.rows {
                let left = self.x.rows - t;
                let at = t * self.stride + n;
                let x = |idx: usize| self.x.row(t + idx);
                let target = &mut self.target[at..];
                t += if S::IS_WIDE && left >= 4 {
                    let tile = tile::<S, F32, 4, 4>(s, [x(0), x(1), x(2), x(3)], bytes_of(w), 0);
                    put(tile, width, self.stride, target)
                } else if left >= 2 {
                    let tile = tile::<S, F32, 2, 4>(s, [x(0), x(1)], bytes_of(w), 0);
                    put(tile, width, self.stride, target)
                } else {
                    let tile = tile::<S, F32, 1, 4>(s, [x(0)], bytes_of(w), 0);
                    put(tile, width, self.stride, target)
                };
            }
            n += width;
        }
    }
}

/// The rows' bytes in the processor's order, which [`F32`] reads as little-endian.
#[inline(always)]
fn bytes_of(rows: [&[f32]; PANEL_ROWS]) -> [&[u8]; PANEL_ROWS] {
    rows.map(bytemuck::cast_slice)
}

/// Copies a tile's used columns to the target; returns its number of tokens.
#[inline(always)]
fn put<const M: usize, const N: usize>(
    tile: [[f32; N]; M],
    width: usize,
    stride: usize,
    target: &mut [f32],
) -> usize {
    for (m, row) in tile.iter().enumerate() {
        target[m * stride..m * stride + width].copy_from_slice(&row[..width]);
    }
    M
}

/// A row as f32.
#[inline(always)]
fn decode_row<S: Simd>(s: S, dtype: DType, row: &[u8], target: &mut [f32]) {
    match dtype {
        DType::F32 => decode_blocks::<S, F32>(s, row, target),
        DType::BF16 => decode_blocks::<S, BF16>(s, row, target),
        DType::F16 => decode_blocks::<S, F16>(s, row, target),
        DType::Q8_0 => decode_blocks::<S, Q8>(s, row, target),
        DType::Q4_0 => decode_blocks::<S, Q4>(s, row, target),
        DType::Q4_1 => decode_blocks::<S, Q4M>(s, row, target),
        DType::I32 | DType::Q5_0 | DType::Q5_1 | DType::Q4K | DType::Q5K | DType::Q6K => {
            dequantise(dtype, row, target)
                .expect("invariant: a row has as many elements as the weight has columns");
        }
    }
}

#[inline(always)]
fn decode_blocks<S: Simd, D: Decode>(s: S, row: &[u8], target: &mut [f32]) {
    let (blocks, tail) = D::blocks(row);
    let (chunks, rest) = target.as_chunks_mut::<CHUNK>();
    for (block, chunk) in blocks.iter().zip(chunks) {
        let vectors = D::decode(s, block);
        let (halves, _) = chunk.as_chunks_mut::<LANES>();
        s.store(vectors[0], &mut halves[0]);
        s.store(vectors[1], &mut halves[1]);
    }
    for (idx, value) in rest.iter_mut().enumerate() {
        *value = D::tail(tail, idx);
    }
}

/// The dot products of `M` rows of f32 with `N` encoded rows of the same length. With `ahead`, asks
/// for the bytes so far behind those that are read.
#[inline(always)]
pub(super) fn tile<S: Simd, D: Decode, const M: usize, const N: usize>(
    s: S,
    x: [&[f32]; M],
    w: [&[u8]; N],
    ahead: usize,
) -> [[f32; N]; M] {
    let chunks = x[0].len() / CHUNK;
    let blocks = w.map(|row| &D::blocks(row).0[..chunks]);
    let vectors = x.map(|row| &row.as_chunks::<CHUNK>().0[..chunks]);
    let mut sums = [[s.splat(0.0); N]; M];
    for chunk in 0..chunks {
        for n in 0..N {
            if ahead > 0 {
                s.prefetch(&blocks[n][chunk], ahead);
            }
            let decoded = D::decode(s, &blocks[n][chunk]);
            for m in 0..M {
                let (halves, _) = vectors[m][chunk].as_chunks::<LANES>();
                sums[m][n] = s.mul_add(s.load(&halves[0]), decoded[0], sums[m][n]);
                sums[m][n] = s.mul_add(s.load(&halves[1]), decoded[1], sums[m][n]);
            }
        }
    }
    let mut result = [[0.0; N]; M];
    for m in 0..M {
        for n in 0..N {
            result[m][n] = s.sum(sums[m][n]);
        }
    }
    if !x[0].len().is_multiple_of(CHUNK) {
        for m in 0..M {
            for n in 0..N {
                let tail = D::blocks(w[n]).1;
                for (idx, &value) in x[m][chunks * CHUNK..].iter().enumerate() {
                    result[m][n] += value * D::tail(tail, idx);
                }
            }
        }
    }
    result
}

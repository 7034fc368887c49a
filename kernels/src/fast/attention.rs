//! Causal attention over a paged cache.
//!
//! ```text
//! band    tokens of one sequence that follow each other, of one KV head with its group of query heads
//! tile    rows of a band (one for each token and query head) that are computed side by side
//! block   32 positions, counted from the sequence's first one
//!
//! for each block of a band:   keys and values are laid out as panels, once for all tiles
//!   for each tile:            scores = q k^T, weights = e^(score - max so far), sums += weights v
//! ```
//!
//! What a row sees, it sees in blocks that lie where its sequence says, in order, one accumulator for
//! each sum: neither the batch, nor the split of a prompt into chunks, nor the size of the cache's
//! blocks changes a result.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use std::cell::RefCell;
use std::ops::Range;

use super::format::PANEL;
use super::rows::exp;
use super::simd::{Detected, Kernel, LANES, Simd};
use super::tile::{RowWords, add_products, load_row, store_row, tile_height};
use super::words::F32Products;
use crate::operands::{AttentionArgs, Query};
use crate::pool::{Columns, Pool};

/// Most tokens of a band: its sums stay in the second-level cache.
const BAND_TOKENS: usize = 32;

pub(super) fn attention(isa: Detected, pool: &Pool, args: AttentionArgs<'_>, target: &mut [f32]) {
    let width = args.q.columns / args.cache.num_heads;
    let bounds = bands(args.queries);
    pool.for_tiles(target, args.q.columns, &bounds, width, |band, kv_head, out| {
        let tokens = bounds[band]..bounds[band + 1];
        SCRATCH.with_borrow_mut(|scratch| {
            isa.dispatch(Band { isa, args, tokens, kv_head, scratch, out });
        });
    });
}

/// Where bands begin, and where the last one ends.
fn bands(queries: &[Query]) -> Vec<usize> {
    let mut bounds = vec![0];
    for idx in 1..queries.len() {
        let (last, query) = (queries[idx - 1], queries[idx]);
        let follows = query.table == last.table && query.end == last.end + 1;
        if !follows || idx - bounds[bounds.len() - 1] == BAND_TOKENS {
            bounds.push(idx);
        }
    }
    bounds.push(queries.len());
    bounds
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// `[tiles][head_dim][height]`.
    q: Vec<u32>,
    /// `[head_dim]`.
    keys: Vec<RowWords>,
    /// `[groups of 32 columns][32 positions]`.
    values: Vec<RowWords>,
    /// `[tiles][groups of 32 columns][height]`.
    sums: Vec<[f32; PANEL]>,
    /// `[height]`.
    scores: Vec<[f32; PANEL]>,
    /// `[32 positions][height]`.
    weights: Vec<u32>,
    /// Of each row: the largest score so far, and the sum of the weights.
    state: Vec<(f32, f32)>,
}

struct Band<'a> {
    isa: Detected,
    args: AttentionArgs<'a>,
    tokens: Range<usize>,
    kv_head: usize,
    scratch: &'a mut Scratch,
    out: Columns<'a>,
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { isa, args, tokens, kv_head, scratch, mut out } = self;
        let queries = &args.queries[tokens.clone()];
        let (Some(first), Some(last)) = (queries.first(), queries.last()) else { return };
        if last.end == 0 {
            for token in 0..queries.len() {
                out.row_mut(token).fill(0.0);
            }
            return;
        }
        let head_dim = args.cache.head_dim;
        let heads = out.width() / head_dim;
        let num_rows = queries.len() * heads;
        let height = tile_height(isa, num_rows);
        let num_tiles = num_rows.div_ceil(height);
        let groups = head_dim.div_ceil(PANEL);
        scratch.prepare(&args, &tokens, kv_head, heads, height);
        let seen = first.start..last.end;
        for block in seen.start / PANEL..seen.end.div_ceil(PANEL) {
            let positions = block * PANEL..(block + 1) * PANEL;
            load_panels(&args, first.table, kv_head, &positions, &seen, scratch);
            for tile in 0..num_tiles {
                let rows = tile * height..num_rows.min((tile + 1) * height);
                let (early, late) = (queries[rows.start / heads], queries[(rows.end - 1) / heads]);
                if late.end <= positions.start || early.start >= positions.end {
                    continue;
                }
                let q = &scratch.q[tile * head_dim * height..][..head_dim * height];
                scratch.scores.fill([0.0; PANEL]);
                add_products::<S, F32Products>(s, q, &scratch.keys, &mut scratch.scores);
                let sums = &mut scratch.sums[tile * groups * height..][..groups * height];
                for row in rows.clone() {
                    let query = queries[row / heads];
                    let m = row - rows.start;
                    let visible = query.start.max(positions.start) - positions.start
                        ..query.end.min(positions.end).saturating_sub(positions.start);
                    let scores = &mut scratch.scores[m];
                    let factor = softmax(s, scores, &visible, args.scale, &mut scratch.state[row]);
                    for (position, weight) in scores.iter().enumerate() {
                        scratch.weights[position * height + m] = weight.to_bits();
                    }
                    if factor.to_bits() != 1.0_f32.to_bits() {
                        for group in 0..groups {
                            scale_row(s, &mut sums[group * height + m], factor);
                        }
                    }
                }
                for (sums, values) in
                    sums.chunks_exact_mut(height).zip(scratch.values.chunks_exact(PANEL))
                {
                    add_products::<S, F32Products>(s, &scratch.weights, values, sums);
                }
            }
        }
        for row in 0..num_rows {
            let (token, head) = (row / heads, row % heads);
            let sums = &scratch.sums[row / height * groups * height..];
            let scale = 1.0 / scratch.state[row].1;
            let out = &mut out.row_mut(token)[head * head_dim..(head + 1) * head_dim];
            for (group, out) in out.chunks_mut(PANEL).enumerate() {
                let sums = &sums[group * height + row % height];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * scale;
                }
            }
        }
    }
}

impl Scratch {
    /// Lays out the queries and clears what is summed up.
    fn prepare(
        &mut self,
        args: &AttentionArgs<'_>,
        tokens: &Range<usize>,
        kv_head: usize,
        heads: usize,
        height: usize,
    ) {
        let head_dim = args.cache.head_dim;
        let num_rows = tokens.len() * heads;
        let num_tiles = num_rows.div_ceil(height);
        self.q.clear();
        self.q.resize(num_tiles * head_dim * height, 0);
        for row in 0..num_rows {
            let start = (kv_head * heads + row % heads) * head_dim;
            let q = &args.q.row(tokens.start + row / heads)[start..start + head_dim];
            let tile = &mut self.q[row / height * head_dim * height..];
            for (d, value) in q.iter().enumerate() {
                tile[d * height + row % height] = value.to_bits();
            }
        }
        let groups = head_dim.div_ceil(PANEL);
        self.keys.resize(head_dim, [0; 4 * PANEL]);
        self.values.resize(groups * PANEL, [0; 4 * PANEL]);
        self.sums.clear();
        self.sums.resize(num_tiles * groups * height, [0.0; PANEL]);
        self.scores.resize(height, [0.0; PANEL]);
        self.weights.clear();
        self.weights.resize(PANEL * height, 0);
        self.state.clear();
        self.state.resize(num_tiles * height, (f32::NEG_INFINITY, 0.0));
    }
}

/// Lays out the keys and values of a block of positions; zeros where none is seen.
fn load_panels(
    args: &AttentionArgs<'_>,
    table: usize,
    kv_head: usize,
    positions: &Range<usize>,
    seen: &Range<usize>,
    scratch: &mut Scratch,
) {
    let (cache, head_dim) = (args.cache, args.cache.head_dim);
    if seen.start > positions.start || seen.end < positions.end {
        scratch.keys.fill([0; 4 * PANEL]);
        scratch.values.fill([0; 4 * PANEL]);
    }
    let mut position = positions.start.max(seen.start);
    let end = positions.end.min(seen.end);
    while position < end {
        let within = position % cache.block_size;
        let block = args.block_tables[table + position / cache.block_size] as usize;
        let count = (cache.block_size - within).min(end - position);
        let at = position - positions.start;
        let keys = &args.k[cache.keys_at(block, kv_head) + within..];
        for (d, row) in scratch.keys.iter_mut().enumerate() {
            let row: &mut [f32; PANEL] = bytemuck::cast_mut(row);
            copy(&keys[d * cache.block_size..], &mut row[at..at + count]);
        }
        for idx in 0..count {
            let slot = block * cache.block_size + within + idx;
            let values = &args.v[cache.value_at(slot, kv_head)..][..head_dim];
            for (group, values) in values.chunks(PANEL).enumerate() {
                let row: &mut [f32; PANEL] =
                    bytemuck::cast_mut(&mut scratch.values[group * PANEL + at + idx]);
                copy(values, &mut row[..values.len()]);
            }
        }
        position += count;
    }
}

/// Copies as many numbers as the target has; of usual lengths without a call.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match to.len() {
        16 => to.copy_from_slice(&from[..16]),
        32 => to.copy_from_slice(&from[..32]),
        len => to.copy_from_slice(&from[..len]),
    }
}

/// Turns scores into weights, and what was summed so far into what it is relative to a larger
/// maximum: returns the factor.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    scores: &mut [f32; PANEL],
    visible: &Range<usize>,
    scale: f32,
    state: &mut (f32, f32),
) -> f32 {
    if visible.is_empty() {
        scores.fill(0.0);
        return 1.0;
    }
    let (old_max, old_sum) = *state;
    for score in scores.iter_mut() {
        *score *= scale;
    }
    // Most blocks are seen whole; what is not is far below everything else.
    if visible.len() < PANEL {
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
    }
    let (halves, _) = scores.as_chunks::<LANES>();
    let mut lanes = halves[0];
    for (lane, score) in lanes.iter_mut().zip(halves[1]) {
        *lane = if score > *lane { score } else { *lane };
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
        }
        width /= 2;
    }
    let max = if lanes[0] > old_max { lanes[0] } else { old_max };
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    if visible.len() < PANEL {
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
    }
    let [low, high] = load_row(s, scores);
    let sum = s.sum(s.mul_add(low, s.splat(1.0), high));
    let factor = if old_max.to_bits() == max.to_bits() { 1.0 } else { exp(old_max - max) };
    *state = (max, old_sum * factor + sum);
    factor
}

#[inline(always)]
fn scale_row<S: Simd>(s: S, row: &mut [f32; PANEL], factor: f32) {
    let [low, high] = load_row(s, row);
    let factor = s.splat(factor);
    store_row(s, [s.mul(low, factor), s.mul(high, factor)], row);
}

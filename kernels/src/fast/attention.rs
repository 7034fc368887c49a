//! Causal attention over a paged cache. One task is one token and one KV head with its group of
//! query heads; each position's key and value are read once per group.
//!
//! Every query is computed over its positions in order, whatever the block size of the batch or the
//! split of a prompt into chunks, so chunking does not change a result.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use rayon::prelude::*;

use super::decode::F32;
use super::linear::tile;
use super::rows::exp;
use super::simd::{Detected, Kernel, LANES, Simd};
use crate::operands::AttentionArgs;

pub(super) fn attention(isa: Detected, args: AttentionArgs<'_>, target: &mut [f32]) {
    let num_groups = args.cache.num_heads;
    let width = args.q.columns / num_groups;
    target.par_chunks_mut(width).enumerate().for_each_init(
        Scratch::default,
        |scratch, (idx, out)| {
            let (token, kv_head) = (idx / num_groups, idx % num_groups);
            isa.dispatch(Group { args, token, kv_head, scratch, out });
        },
    );
}

/// Working memory of a thread.
#[derive(Default)]
struct Scratch {
    /// Where each position's vector begins in the cache.
    offsets: Vec<usize>,
    /// Scores, then weights, of one head: one per position.
    scores: Vec<f32>,
}

struct Group<'a> {
    args: AttentionArgs<'a>,
    token: usize,
    kv_head: usize,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl Kernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { args, token, kv_head, scratch, out } = self;
        let query = args.queries[token];
        if query.end == 0 {
            out.fill(0.0);
            return;
        }
        let head_dim = args.cache.head_dim;
        scratch.offsets.clear();
        scratch.offsets.extend(
            (query.start..query.end)
                .map(|position| args.cache.at(args.slot(&query, position), kv_head)),
        );
        let q = &args.q.row(token)[kv_head * out.len()..(kv_head + 1) * out.len()];
        for (q, out) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            scores(s, q, &args, scratch);
            let sum = softmax_weights(s, &mut scratch.scores);
            weighted_sum(s, &args, scratch, 1.0 / sum, out);
        }
    }
}

/// `q . k * scale` for each position.
#[inline(always)]
fn scores<S: Simd>(s: S, q: &[f32], args: &AttentionArgs<'_>, scratch: &mut Scratch) {
    let key = |offset: usize| -> &[u8] { bytemuck::cast_slice(&args.k[offset..offset + q.len()]) };
    scratch.scores.clear();
    let (fours, rest) = scratch.offsets.as_chunks::<4>();
    for four in fours {
        let dots = tile::<S, F32, 1, 4>(s, [q], four.map(key), 0)[0];
        scratch.scores.extend(dots.map(|dot| dot * args.scale));
    }
    for &offset in rest {
        let dot = tile::<S, F32, 1, 1>(s, [q], [key(offset)], 0)[0][0];
        scratch.scores.push(dot * args.scale);
    }
}

/// Turns scores into `e^(score - max)` and returns their sum.
#[inline(always)]
fn softmax_weights<S: Simd>(s: S, scores: &mut [f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    for &score in scores.iter() {
        max = if score > max { score } else { max };
    }
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    let (chunks, tail) = scores.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    let one = s.splat(1.0);
    for chunk in chunks {
        sum = s.mul_add(s.load(chunk), one, sum);
    }
    let mut total = s.sum(sum);
    for weight in tail {
        total += weight;
    }
    total
}

/// `out = scale * sum over positions of weight * value`, 64 columns at a time in registers.
#[inline(always)]
fn weighted_sum<S: Simd>(
    s: S,
    args: &AttentionArgs<'_>,
    scratch: &Scratch,
    scale: f32,
    out: &mut [f32],
) {
    let mut column = 0;
    while column < out.len() {
        let left = out.len() - column;
        column += if left >= 4 * LANES {
            columns::<S, 4>(s, args, scratch, scale, column, out);
            4 * LANES
        } else if left >= LANES {
            columns::<S, 1>(s, args, scratch, scale, column, out);
            LANES
        } else {
            let mut sum = 0.0;
            for (&offset, weight) in scratch.offsets.iter().zip(&scratch.scores) {
                sum += weight * args.v[offset + column];
            }
            out[column] = sum * scale;
            1
        };
    }
}

/// `N` vectors of columns of the weighted sum.
#[inline(always)]
fn columns<S: Simd, const N: usize>(
    s: S,
    args: &AttentionArgs<'_>,
    scratch: &Scratch,
    scale: f32,
    column: usize,
    out: &mut [f32],
) {
    let mut sums = [s.splat(0.0); N];
    for (&offset, &weight) in scratch.offsets.iter().zip(&scratch.scores) {
        let (value, _) = args.v[offset + column..offset + column + N * LANES].as_chunks::<LANES>();
        let weight = s.splat(weight);
        for n in 0..N {
            sums[n] = s.mul_add(weight, s.load(&value[n]), sums[n]);
        }
    }
    let (chunks, _) = out[column..column + N * LANES].as_chunks_mut::<LANES>();
    for n in 0..N {
        s.store(s.mul(sums[n], s.splat(scale)), &mut chunks[n]);
    }
}

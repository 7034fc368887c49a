//! `FusedInferAttentionScore`: attention over keys and values that may lie in blocks.
//!
//! ```text
//!  query   BSH [b, s, n*d] | BSND [b, s, n, d] | TND [t, n, d]      n heads of size d
//!  key     paged [blocks, block_size, g*d], else as the query       g heads, n a multiple of g
//!
//!  out[i, h] = sum_j softmax_j(scale q[i, h] . k[j, h*g/n]) v[j, h*g/n]    over the keys i sees
//! ```
//!
//! | `sparse_mode` | Query `i` of `q_len` sees the keys |
//! | --- | --- |
//! | 0, 1 | all, or those that the mask `[.., s, kv]` leaves |
//! | 2 | `..= i` |
//! | 3 | `..= i + kv_len - q_len` |
//! | 4 | from `pre_tokens` before that place to `next_tokens` after it |
//!
//! In modes 2 to 4 the device cuts its diagonals out of a mask `[2048, 2048]` that hides the upper
//! triangle; its row for each query is checked. Rows of the output that belong to no query, or whose
//! query sees no key, are poison: finite, so that it shows where it is read and spreads no NaN.

mod plan;

use std::ops::Range;

use super::call::Call;
use super::matmul::dot4;
use super::threads::in_parts;
use super::values::{Buffer, Fault, Rows};
use plan::{Plan, Sequence};

/// What rows without a result are filled with.
const POISON: f32 = 12345.0;

/// Outputs: the result, and the logarithm of each softmax's denominator if it is asked for.
pub(super) fn fused_infer_attention_score(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let plan = Plan::new(call)?;
    let query = call.tensor("query")?;
    let width = plan.num_heads * plan.head_size;
    let kv_width = plan.num_kv_heads * plan.head_size;
    let operands = Operands {
        query: &query.f32s(),
        key: Rows::new(call.tensor("key0")?, kv_width),
        value: Rows::new(call.tensor("value0")?, kv_width),
    };

    let queries: Vec<(&Sequence, usize)> = plan
        .sequences
        .iter()
        .flat_map(|sequence| (0..sequence.num_queries).map(move |query| (sequence, query)))
        .collect();
    let keys: usize = queries.iter().map(|(sequence, _)| sequence.keys.len()).sum();
    let parts = in_parts(queries.len(), keys.saturating_mul(2 * width), |part| {
        attend(&plan, &operands, &queries[part])
    });

    let mut out = vec![POISON; query.num_elements()];
    let mut lse = vec![POISON; plan.num_rows * plan.num_heads];
    let results = parts.iter().flat_map(|part| {
        part.out.chunks_exact(width.max(1)).zip(part.lse.chunks_exact(plan.num_heads))
    });
    for ((sequence, query), (values, sums)) in queries.iter().zip(results) {
        let row = sequence.first_row + query;
        out[row * width..(row + 1) * width].copy_from_slice(values);
        for (head, sum) in sums.iter().enumerate() {
            lse[plan.lse_position(row, head)] = *sum;
        }
    }
    if !call.bool_or("softmax_lse_flag", false)? {
        lse.clear();
    }
    Ok(vec![
        Buffer::from_f32s(call.output(0)?.dtype, &out)?,
        Buffer::from_f32s(call.output(1)?.dtype, &lse)?,
    ])
}

struct Operands<'a> {
    query: &'a [f32],
    key: Rows<'a>,
    value: Rows<'a>,
}

struct Part {
    out: Vec<f32>,
    lse: Vec<f32>,
}

/// Keys and values of one sequence as f32 `[kv_len, g * d]`.
#[derive(Default)]
struct Cached {
    /// The sequence they are of, by its first row.
    first_row: Option<usize>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl Cached {
    fn load(&mut self, operands: &Operands<'_>, sequence: &Sequence, width: usize) {
        if self.first_row.replace(sequence.first_row) == Some(sequence.first_row) {
            return;
        }
        let sides = [(&mut self.key, &operands.key), (&mut self.value, &operands.value)];
        for (target, rows) in sides {
            target.resize(sequence.keys.len() * width, 0.0);
            for (row, target) in sequence.keys.iter().zip(target.chunks_exact_mut(width)) {
                rows.copy_row(*row, target);
            }
        }
    }
}

fn attend(plan: &Plan<'_>, operands: &Operands<'_>, queries: &[(&Sequence, usize)]) -> Part {
    let size = plan.head_size;
    let group = plan.num_heads / plan.num_kv_heads;
    let kv_width = plan.num_kv_heads * size;
    let mut part = Part { out: Vec::new(), lse: Vec::new() };
    let mut cached = Cached::default();
    let mut scores = Vec::new();
    for (sequence, query) in queries {
        cached.load(operands, sequence, kv_width);
        let seen = plan.seen(sequence, *query);
        let first = (sequence.first_row + query) * plan.num_heads;
        for head in 0..plan.num_heads {
            let column = head / group * size;
            let at = |key: usize| key * kv_width + column..key * kv_width + column + size;
            let q = &operands.query[(first + head) * size..(first + head + 1) * size];
            score(q, &cached.key, at, seen.clone(), &mut scores);
            for (key, score) in seen.clone().zip(&mut scores) {
                let is_hidden = plan.is_hidden(sequence, *query, key);
                *score = if is_hidden { f32::NEG_INFINITY } else { *score * plan.scale };
            }
            let start = part.out.len();
            part.out.resize(start + size, 0.0);
            let out = &mut part.out[start..];
            let lse = softmax(&mut scores);
            if lse.is_none() {
                out.fill(POISON);
            } else {
                for (key, weight) in seen.clone().zip(&scores) {
                    let value = &cached.value[at(key)];
                    out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                }
            }
            part.lse.push(lse.unwrap_or(POISON));
        }
    }
    part
}

/// Products of `q` with the keys, four at a time.
fn score(
    q: &[f32],
    keys: &[f32],
    at: impl Fn(usize) -> Range<usize>,
    seen: Range<usize>,
    scores: &mut Vec<f32>,
) {
    scores.clear();
    for start in seen.clone().step_by(4) {
        let four = std::array::from_fn(|i| &keys[at((start + i).min(seen.end - 1))]);
        let kept = 4.min(seen.end - start);
        scores.extend_from_slice(&dot4(q, four)[..kept]);
    }
}

/// In place; the logarithm of the denominator, or nothing if every score is hidden.
fn softmax(scores: &mut [f32]) -> Option<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most.is_infinite() && most < 0.0 {
        return None;
    }
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    for score in scores.iter_mut() {
        *score /= sum;
    }
    Some(most + sum.ln())
}

//! `ArgMaxV2` and `TopKV2`.
//!
//! | Operator | Among equals |
//! | --- | --- |
//! | `ArgMaxV2` | the first |
//! | `TopKV2` | any order, says its definition; here the last first, so that nobody relies on it |

use std::cmp::Reverse;

use super::call::{Call, around, axis};
use super::values::{Buffer, Fault, fault};

/// Index of the largest element along an axis.
pub(super) fn arg_max(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let along = axis(call.tensor("dimension")?.scalar()?, x.shape().len())?;
    let [before, size, after] = around(x.shape(), along);
    if size == 0 {
        return fault(format!("axis {along} of {:?} is empty", x.shape()));
    }
    let values = x.f32s();
    let mut indices = Vec::with_capacity(before * after);
    for start in (0..before).flat_map(|i| (0..after).map(move |j| i * size * after + j)) {
        let at = |idx: usize| values[start + idx * after];
        let best = (1..size).fold(0, |best, idx| if at(idx) > at(best) { idx } else { best });
        indices.push(best as i64);
    }
    Ok(vec![Buffer::from_i64s(call.output(0)?.dtype, &indices)?])
}

/// The `k` largest (or smallest) elements along the last axis, sorted, and their indices.
pub(super) fn top_k(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let rank = x.shape().len();
    let along = axis(call.int_or("dim", -1)?, rank)?;
    if along + 1 != rank {
        return fault(format!("expected the last axis of {:?}, got {along}", x.shape()));
    }
    let size = x.shape()[along];
    let k = match usize::try_from(call.tensor("k")?.scalar()?) {
        Ok(k) if k <= size => k,
        _ => return fault(format!("expected a `k` of at most {size}")),
    };
    let is_largest = call.bool_or("largest", true)?;
    let (mut best, mut indices) = (Vec::new(), Vec::new());
    for row in x.f32s().chunks_exact(size.max(1)) {
        for idx in top_of_row(row, k, is_largest) {
            best.push(row[idx]);
            indices.push(idx as i64);
        }
    }
    Ok(vec![
        Buffer::from_f32s(call.output(0)?.dtype, &best)?,
        Buffer::from_i64s(call.output(1)?.dtype, &indices)?,
    ])
}

fn top_of_row(row: &[f32], k: usize, is_largest: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    let compare = |&a: &usize, &b: &usize| {
        // Adding zero makes the two zeros equal.
        let ordering = (row[a] + 0.0).total_cmp(&(row[b] + 0.0));
        let ordering = if is_largest { ordering.reverse() } else { ordering };
        ordering.then(Reverse(a).cmp(&Reverse(b)))
    };
    if k < order.len() {
        order.select_nth_unstable_by(k, compare);
    }
    order.truncate(k);
    order.sort_unstable_by(compare);
    order
}

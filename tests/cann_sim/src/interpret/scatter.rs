//! `ScatterNdUpdate`: writes slices of a tensor in place.
//!
//! ```text
//!  var [nb, bs, w], indices [t, 2], updates [t, w]:  var[indices[i]] = updates[i]
//! ```
//!
//! Two updates of one place land in any order on a device. Here the order is shuffled, so that
//! nobody comes to rely on it: by the node, the indices and `CANN_SIM_SEED`, so that a run can be
//! repeated.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::values::{Fault, Tensor, fault};

/// Writes `updates` to the places in `var`, of the type of `shape` and `updates`.
pub(super) fn update(
    node: &str,
    shape: &[usize],
    var: &mut [u8],
    indices: Tensor<'_>,
    updates: Tensor<'_>,
) -> Result<(), Fault> {
    let disagree = || {
        fault(format!(
            "`var` {shape:?}, `indices` {:?} and `updates` {:?} disagree",
            indices.shape(),
            updates.shape()
        ))
    };
    let Some((&depth, places)) = indices.shape().split_last() else {
        return disagree();
    };
    let Some((outer, slice)) = shape.split_at_checked(depth) else {
        return disagree();
    };
    if updates.shape() != [places, slice].concat() {
        return disagree();
    }
    let num_places = places.iter().product();
    let slice_bytes = slice.iter().product::<usize>() * updates.dtype().size();
    let values = indices.i64s()?;
    let mut starts = Vec::with_capacity(num_places);
    for place in 0..num_places {
        let index = &values[place * depth..(place + 1) * depth];
        let Some(start) = position(index, outer) else {
            return fault(format!("index {index:?} out of range: `var` has {outer:?}"));
        };
        starts.push(start * slice_bytes);
    }
    for place in shuffled(num_places, seed(node, indices.bytes())) {
        let source = &updates.bytes()[place * slice_bytes..(place + 1) * slice_bytes];
        var[starts[place]..starts[place] + slice_bytes].copy_from_slice(source);
    }
    Ok(())
}

fn position(index: &[i64], shape: &[usize]) -> Option<usize> {
    index.iter().zip(shape).try_fold(0, |position, (&idx, &size)| {
        let idx = usize::try_from(idx).ok().filter(|&idx| idx < size)?;
        Some(position * size + idx)
    })
}

fn seed(node: &str, indices: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (std::env::var("CANN_SIM_SEED").ok(), node, indices).hash(&mut hasher);
    hasher.finish()
}

/// `0..count` in an order given by the seed: Fisher and Yates's shuffle over `SplitMix64`
/// (Steele, Lea and Flood 2014).
fn shuffled(count: usize, mut state: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        order.swap(last, ((bits ^ (bits >> 31)) % (last as u64 + 1)) as usize);
    }
    order
}

//! Operators that move elements and compute nothing.

use super::{Call, Fault, Inferred, axis_of, ensure, shape_fault, size_of, strict_fault};
use crate::ge::graph::Desc;

/// The same elements under another shape, at most one size of which is -1.
pub(super) fn reshape(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let whole = (call.int("axis")?, call.int("num_axes")?) == (0, -1);
    ensure(whole, || strict_fault!("axis and num_axes are not simulated"))?;
    let wanted = call.const_ints("shape")?;
    ensure(!wanted.contains(&0), || strict_fault!("shape {wanted:?} has a size of 0"))?;
    let product = |sizes: &[usize]| {
        sizes.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
    };
    let known: Vec<usize> = wanted
        .iter()
        .filter(|&&size| size != -1)
        .map(|&size| size_of(size))
        .collect::<Result<_, _>>()?;
    let rest = product(&known).filter(|&known| known > 0).map(|known| x.num_elements() / known);
    let open = wanted.len() - known.len();
    ensure(open <= 1, || shape_fault!("shape {wanted:?} has several sizes of -1"))?;
    let shape: Vec<usize> = wanted
        .iter()
        .map(|&size| if size == -1 { rest.unwrap_or(0) } else { size as usize })
        .collect();
    ensure(product(&shape) == Some(x.num_elements()), || {
        shape_fault!("x {x} of {} elements cannot take the shape {wanted:?}", x.num_elements())
    })?;
    Ok(vec![Desc { dtype: x.dtype, shape }])
}

/// Axis `i` of the result is axis `perm[i]` of `x`.
pub(super) fn transpose(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let perm = call.const_ints("perm")?;
    let rank = x.shape.len();
    let axes = perm.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    ensure(sorted == (0..rank).collect::<Vec<_>>(), || {
        shape_fault!("perm {perm:?} is no permutation of {rank} axes")
    })?;
    let shape = axes.into_iter().map(|axis| x.shape[axis]).collect();
    Ok(vec![Desc { dtype: x.dtype, shape }])
}

/// Parts of `x` along an axis; one of the sizes may be -1.
pub(super) fn split(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let (sizes, axis) = if call.op == "SplitV" {
        (call.const_ints("size_splits")?, call.const_int("split_dim")?)
    } else {
        (call.ints("size_splits")?.to_vec(), call.int("split_dim")?)
    };
    let axis = axis_of(axis, x.shape.len())?;
    let num_split = size_of(call.int("num_split")?)?;
    ensure(num_split == sizes.len() && num_split == call.num_outputs, || {
        shape_fault!(
            "num_split is {num_split}, size_splits {sizes:?}, there are {} outputs",
            call.num_outputs
        )
    })?;
    let known: i64 =
        sizes.iter().filter(|&&size| size != -1).fold(0, |sum, &size| sum.saturating_add(size));
    let rest = x.shape[axis] as i64 - known;
    let parts: Vec<i64> = sizes.iter().map(|&size| if size == -1 { rest } else { size }).collect();
    let total = parts.iter().fold(0_i64, |sum, &size| sum.saturating_add(size));
    let is_partition = parts.iter().all(|&size| size > 0) && total == x.shape[axis] as i64;
    ensure(is_partition, || {
        shape_fault!("size_splits {sizes:?} do not add up to axis {axis} of x {x}")
    })?;
    let part = |size: i64| {
        let mut y = x.clone();
        y.shape[axis] = size as usize;
        y
    };
    Ok(parts.into_iter().map(part).collect())
}

/// Tensors one after the other along an axis.
pub(super) fn concat(call: &Call<'_>) -> Inferred {
    let parts = call.dynamic(0);
    let axis =
        if call.op == "ConcatV2" { call.const_int("concat_dim")? } else { call.int("concat_dim")? };
    let first = *parts.first().ok_or_else(|| shape_fault!("x has no part"))?;
    let axis = axis_of(axis, first.shape.len())?;
    ensure(call.int("N")? == parts.len() as i64, || {
        strict_fault!("N is not the {} parts of x", parts.len())
    })?;
    let mut y = first.clone();
    for part in &parts[1..] {
        let is_like = part.dtype == y.dtype
            && part.shape.len() == y.shape.len()
            && (0..y.shape.len()).all(|at| at == axis || part.shape[at] == y.shape[at]);
        ensure(is_like, || shape_fault!("{part} cannot follow {first} on axis {axis}"))?;
        y.shape[axis] = y.shape[axis]
            .checked_add(part.shape[axis])
            .ok_or_else(|| shape_fault!("the sizes overflow"))?;
    }
    Ok(vec![y])
}

/// `size` elements from `offsets` on; a size of -1 takes the rest.
pub(super) fn slice(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let (offsets, sizes) = (call.ints("offsets")?, call.ints("size")?);
    let rank = x.shape.len();
    ensure(offsets.len() == rank && sizes.len() == rank, || {
        shape_fault!("offsets {offsets:?} and size {sizes:?} are not of the rank of x {x}")
    })?;
    let part = |(axis, &whole): (usize, &usize)| {
        let offset = size_of(offsets[axis])?;
        let rest = whole.checked_sub(offset);
        let size = if sizes[axis] == -1 { rest } else { usize::try_from(sizes[axis]).ok() };
        size.filter(|&size| size > 0 && rest.is_some_and(|rest| size <= rest)).ok_or_else(|| {
            shape_fault!("offset {offset}, size {} leave axis {axis} of x {x}", sizes[axis])
        })
    };
    let shape = x.shape.iter().enumerate().map(part).collect::<Result<_, Fault>>()?;
    Ok(vec![Desc { dtype: x.dtype, shape }])
}

/// Every `strides`-th element from `begin` to before `end`.
pub(super) fn strided_slice(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    for name in ["ellipsis_mask", "new_axis_mask", "shrink_axis_mask"] {
        ensure(call.int(name)? == 0, || strict_fault!("{name} is not simulated"))?;
    }
    let (begin, end) = (call.const_ints("begin")?, call.const_ints("end")?);
    let strides = call.const_ints("strides")?;
    let (begin_mask, end_mask) = (call.int("begin_mask")?, call.int("end_mask")?);
    let is_even = begin.len() == end.len() && begin.len() == strides.len();
    ensure(is_even && begin.len() <= x.shape.len(), || {
        shape_fault!("begin {begin:?}, end {end:?}, strides {strides:?} of x {x}")
    })?;
    ensure(strides.iter().all(|&stride| stride > 0), || {
        strict_fault!("strides {strides:?} below 1 are not simulated")
    })?;
    let mut shape = x.shape.clone();
    for (axis, size) in shape.iter_mut().enumerate().take(begin.len()) {
        let whole = *size as i64;
        let clamp = |at: i64| (if at < 0 { at.saturating_add(whole) } else { at }).clamp(0, whole);
        let is_set = |mask: i64| mask.checked_shr(axis as u32).is_some_and(|bits| bits & 1 == 1);
        let from = if is_set(begin_mask) { 0 } else { clamp(begin[axis]) };
        let to = if is_set(end_mask) { whole } else { clamp(end[axis]) };
        *size = (to - from).max(0).unsigned_abs().div_ceil(strides[axis].unsigned_abs()) as usize;
        ensure(*size > 0, || shape_fault!("axis {axis} of the slice is empty"))?;
    }
    Ok(vec![Desc { dtype: x.dtype, shape }])
}

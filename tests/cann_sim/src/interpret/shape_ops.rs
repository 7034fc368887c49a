//! Operators that move elements without looking at them: splits, concatenations, slices,
//! `Transpose`, `Identity`, `TensorMove`.

use super::call::{Call, around, axis};
use super::values::{Buffer, Fault, Tensor, fault};

/// `Identity` and `TensorMove`.
pub(super) fn copy(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    Ok(vec![Buffer::copied(call.tensor("x")?.bytes())])
}

/// `SplitVD`: sizes and axis are attributes.
pub(super) fn split_vd(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    split(call, call.ints("size_splits")?, call.int("split_dim")?)
}

/// `SplitV`: sizes and axis are inputs.
pub(super) fn split_v(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let sizes = call.tensor("size_splits")?.i64s()?;
    split(call, &sizes, call.tensor("split_dim")?.scalar()?)
}

/// One of the sizes may be -1: it takes what is left.
fn split(call: &Call<'_>, sizes: &[i64], along: i64) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let along = axis(along, x.shape().len())?;
    let [before, size, after] = around(x.shape(), along);
    let known: i64 = sizes.iter().filter(|&&size| size != -1).fold(0, |a, &b| a.saturating_add(b));
    let rest = (size as i64).saturating_sub(known);
    let sizes: Option<Vec<usize>> = sizes
        .iter()
        .map(|&size| usize::try_from(if size == -1 { rest } else { size }).ok())
        .collect();
    let sizes = sizes
        .filter(|sizes| sizes.iter().try_fold(0_usize, |a, &b| a.checked_add(b)) == Some(size));
    let Some(sizes) = sizes.filter(|sizes| sizes.len() == call.node().outputs.len()) else {
        return fault(format!("`size_splits` do not make up axis {along} of {:?}", x.shape()));
    };
    let element = x.dtype().size();
    let row = size * after * element;
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for size in sizes {
        let len = size * after * element;
        let mut part = Buffer::zeroed(before * len);
        for (outer, target) in part.bytes_mut().chunks_exact_mut(len.max(1)).enumerate() {
            let from = outer * row + start;
            target.copy_from_slice(&x.bytes()[from..from + len]);
        }
        start += len;
        parts.push(part);
    }
    Ok(parts)
}

/// `ConcatD`: the axis is an attribute.
pub(super) fn concat_d(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    concat(call, call.int("concat_dim")?)
}

/// `ConcatV2`: the axis is an input.
pub(super) fn concat_v2(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    concat(call, call.tensor("concat_dim")?.scalar()?)
}

fn concat(call: &Call<'_>, along: i64) -> Result<Vec<Buffer>, Fault> {
    let parts = call.dynamic("x")?;
    let first = parts[0];
    let along = axis(along, first.shape().len())?;
    let like = |part: &Tensor<'_>| {
        let mut shape = part.shape().to_vec();
        if let Some(size) = shape.get_mut(along) {
            *size = 0;
        }
        (part.dtype(), shape)
    };
    if let Some(other) = parts.iter().find(|part| like(part) != like(&first)) {
        return fault(format!(
            "{:?} {:?} and {:?} {:?} do not concatenate along axis {along}",
            first.dtype(),
            first.shape(),
            other.dtype(),
            other.shape()
        ));
    }
    let [before, ..] = around(first.shape(), along);
    let mut y = Buffer::zeroed(parts.iter().map(|part| part.bytes().len()).sum());
    let mut target = y.bytes_mut();
    for outer in 0..before {
        for part in &parts {
            let len = part.bytes().len() / before;
            let (head, tail) = target.split_at_mut(len);
            head.copy_from_slice(&part.bytes()[outer * len..(outer + 1) * len]);
            target = tail;
        }
    }
    Ok(vec![y])
}

/// Elements of `x` from `start` on, with the given steps along the axes of `shape`, all counted
/// in elements.
fn strided(x: Tensor<'_>, start: i64, steps: &[i64], shape: &[usize]) -> Buffer {
    let element = x.dtype().size();
    let count: usize = shape.iter().product();
    let mut y = Buffer::zeroed(count * element);
    let mut at = vec![0_usize; shape.len()];
    let mut from = start;
    for target in y.bytes_mut().chunks_exact_mut(element) {
        let byte = from as usize * element;
        target.copy_from_slice(&x.bytes()[byte..byte + element]);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            // A step that leaves the tensor is taken back below, however long it is.
            from = from.wrapping_add(steps[axis]);
            if at[axis] < shape[axis] {
                break;
            }
            from = from.wrapping_sub(steps[axis].wrapping_mul(at[axis] as i64));
            at[axis] = 0;
        }
    }
    y
}

/// Elements from one to the next along every axis.
fn strides(shape: &[usize]) -> Vec<i64> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product::<usize>() as i64).collect()
}

/// Axis `i` of the result is axis `perm[i]` of `x`.
pub(super) fn transpose(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let rank = x.shape().len();
    let perm = call.tensor("perm")?.i64s()?;
    let axes: Vec<usize> = perm.iter().map(|&value| axis(value, rank)).collect::<Result<_, _>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..rank) {
        return fault(format!("`perm` {perm:?} is no permutation of {rank} axes"));
    }
    let strides = strides(x.shape());
    let steps: Vec<i64> = axes.iter().map(|&axis| strides[axis]).collect();
    let shape: Vec<usize> = axes.iter().map(|&axis| x.shape()[axis]).collect();
    Ok(vec![strided(x, 0, &steps, &shape)])
}

/// `SliceD`: `size` elements from `offsets` on; a size of -1 takes the rest.
pub(super) fn slice_d(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    let (offsets, sizes) = (call.ints("offsets")?, call.ints("size")?);
    let outside = || fault(format!("offsets {offsets:?} and size {sizes:?} of {:?}", x.shape()));
    if offsets.len() != x.shape().len() || sizes.len() != x.shape().len() {
        return outside();
    }
    let steps = strides(x.shape());
    let (mut start, mut shape) = (0, Vec::with_capacity(sizes.len()));
    for (axis, &whole) in x.shape().iter().enumerate() {
        let rest = usize::try_from(offsets[axis]).ok().and_then(|from| whole.checked_sub(from));
        let size = if sizes[axis] == -1 { rest } else { usize::try_from(sizes[axis]).ok() };
        match (size, rest) {
            (Some(size), Some(rest)) if size <= rest => shape.push(size),
            _ => return outside(),
        }
        start += offsets[axis] * steps[axis];
    }
    Ok(vec![strided(x, start, &steps, &shape)])
}

/// `StridedSlice`: from `begin` to before `end`, in steps; without the masks that add axes.
pub(super) fn strided_slice(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let x = call.tensor("x")?;
    if call.int_or("ellipsis_mask", 0)? != 0 || call.int_or("new_axis_mask", 0)? != 0 {
        return fault("expected ellipsis_mask 0 and new_axis_mask 0");
    }
    let masks = [
        call.int_or("begin_mask", 0)?,
        call.int_or("end_mask", 0)?,
        call.int_or("shrink_axis_mask", 0)?,
    ];
    let [begin, end, by] = [
        call.tensor("begin")?.i64s()?,
        call.tensor("end")?.i64s()?,
        call.tensor("strides")?.i64s()?,
    ];
    if begin.len() != end.len() || begin.len() != by.len() || begin.len() > x.shape().len() {
        return fault(format!("begin {begin:?}, end {end:?} and strides {by:?} disagree"));
    }
    let mut steps = strides(x.shape());
    let mut shape = x.shape().to_vec();
    let mut start = 0;
    for axis in 0..begin.len() {
        let [no_begin, no_end, single] =
            masks.map(|mask| mask.checked_shr(axis as u32).unwrap_or(0) & 1 == 1);
        let range = Range {
            begin: (!no_begin).then_some(begin[axis]),
            end: (!no_end).then_some(end[axis]),
            by: by[axis],
        };
        let (first, count) =
            if single { only(begin[axis], shape[axis])? } else { range.within(shape[axis])? };
        start += first * steps[axis];
        shape[axis] = count;
        steps[axis] = steps[axis].saturating_mul(by[axis]);
    }
    Ok(vec![strided(x, start, &steps, &shape)])
}

/// Where a strided slice is along an axis; `None` is as far as it goes.
struct Range {
    begin: Option<i64>,
    end: Option<i64>,
    by: i64,
}

impl Range {
    /// First element and number of elements.
    fn within(&self, size: usize) -> Result<(i64, usize), Fault> {
        let size = size as i64;
        // Backwards, the end may lie before the first element.
        let bounds = if self.by > 0 { (0, size) } else { (-1, size - 1) };
        let place = |value: i64| {
            let from_start = if value < 0 { value.saturating_add(size) } else { value };
            from_start.clamp(bounds.0, bounds.1)
        };
        let (first, last) = if self.by > 0 { bounds } else { (bounds.1, bounds.0) };
        let (begin, end) = (self.begin.map_or(first, place), self.end.map_or(last, place));
        match self.by {
            0 => fault("expected strides other than 0"),
            by if (end > begin) == (by > 0) && end != begin => {
                Ok((begin, begin.abs_diff(end).div_ceil(by.unsigned_abs()) as usize))
            }
            _ => Ok((0, 0)),
        }
    }
}

fn only(begin: i64, size: usize) -> Result<(i64, usize), Fault> {
    Ok((axis(begin, size)? as i64, 1))
}

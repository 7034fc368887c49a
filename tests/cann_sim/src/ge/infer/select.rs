//! Operators that read or write at indices.

use super::{Call, Inferred, axis_of, ensure, shape_fault, size_of, strict_fault};
use crate::ge::graph::{Attr, DataType, Desc};

/// Rows of `x` along an axis.
pub(super) fn gather(call: &Call<'_>) -> Inferred {
    let (x, indices) = (call.input("x")?, call.input("indices")?);
    let axis = axis_of(call.const_int("axis")?, x.shape.len())?;
    ensure(call.int("batch_dims")? == 0, || strict_fault!("batch_dims is not simulated"))?;
    let shape = [&x.shape[..axis], &indices.shape, &x.shape[axis + 1..]].concat();
    Ok(vec![Desc { dtype: x.dtype, shape }])
}

/// Writes rows of `updates` into `var` where `indices` says.
pub(super) fn scatter_nd_update(call: &Call<'_>) -> Inferred {
    let (var, indices, updates) =
        (call.input("var")?, call.input("indices")?, call.input("updates")?);
    let [outer @ .., depth] = &indices.shape[..] else {
        return Err(shape_fault!("indices {indices} have rank 0"));
    };
    ensure(*depth >= 1 && *depth <= var.shape.len(), || {
        shape_fault!("indices {indices} are deeper than var {var}")
    })?;
    let expected = [outer, &var.shape[*depth..]].concat();
    ensure(updates.shape == expected, || {
        shape_fault!("updates {updates} of var {var} at indices {indices}: expected {expected:?}")
    })?;
    Ok(vec![var.clone()])
}

/// Index of the largest element along an axis.
pub(super) fn arg_max(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let axis = axis_of(call.const_int("dimension")?, x.shape.len())?;
    let dtype = match call.attrs.get("dtype") {
        Some(Attr::DataType(dtype @ (DataType::Int32 | DataType::Int64))) => *dtype,
        other => return Err(shape_fault!("dtype is {other:?}, not int32 or int64")),
    };
    ensure(x.shape[axis] > 0, || shape_fault!("axis {axis} of x {x} is empty"))?;
    let mut shape = x.shape.clone();
    shape.remove(axis);
    Ok(vec![Desc { dtype, shape }])
}

/// The k largest elements along an axis and their indices.
pub(super) fn top_k(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let axis = axis_of(call.int("dim")?, x.shape.len())?;
    let k = size_of(call.const_int("k")?)?;
    ensure((1..=x.shape[axis]).contains(&k), || shape_fault!("k is {k}, x is {x}"))?;
    ensure(axis + 1 == x.shape.len(), || strict_fault!("dim is not the last axis of x {x}"))?;
    if let Some(Attr::Int(number)) = call.attrs.get("indices_dtype") {
        ensure(*number == i64::from(DataType::Int32.acl()), || {
            strict_fault!("indices_dtype {number} is not simulated")
        })?;
    }
    let mut values = x.clone();
    values.shape[axis] = k;
    let indices = Desc { dtype: DataType::Int32, shape: values.shape.clone() };
    Ok(vec![values, indices])
}

//! Operators that work element by element, or on rows of one tensor.

use super::{Call, Fault, Inferred, axis_of, ensure, shape_fault, strict_fault};
use crate::ge::graph::{Attr, DataType, Desc};

/// The shape that two shapes broadcast to.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape[at])
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Ok(a),
            (1, size) | (size, 1) => Ok(size),
            _ => Err(shape_fault!("shapes {a:?} and {b:?} cannot be broadcast")),
        })
        .collect()
}

/// `y = f(x1, x2)`.
pub(super) fn binary(call: &Call<'_>) -> Inferred {
    let (x1, x2) = (call.input("x1")?, call.input("x2")?);
    ensure(x1.dtype == x2.dtype, || shape_fault!("x1 is {x1}, x2 is {x2}: types differ"))?;
    let is_known = x1.dtype.is_float()
        || matches!(x1.dtype, DataType::Int32 | DataType::Int64)
            && !(call.op == "RealDiv" && x1.dtype == DataType::Int64);
    ensure(is_known, || strict_fault!("{} of {x1} has no kernel here", call.op))?;
    Ok(vec![Desc { dtype: x1.dtype, shape: broadcast(&x1.shape, &x2.shape)? }])
}

/// `y = f(x)`.
pub(super) fn unary(call: &Call<'_>) -> Inferred {
    Ok(vec![call.input("x")?.clone()])
}

/// `y = swish(first half of x) * second half of x`.
pub(super) fn swi_glu(call: &Call<'_>) -> Inferred {
    let mut y = call.input("x")?.clone();
    let axis = axis_of(call.int("dim")?, y.shape.len())?;
    ensure(y.shape[axis].is_multiple_of(2), || shape_fault!("axis {axis} of x {y} is odd"))?;
    y.shape[axis] /= 2;
    Ok(vec![y])
}

/// `y = x` in another type.
pub(super) fn cast(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    let number = call.int("dst_type")?;
    let dtype = i32::try_from(number).ok().and_then(DataType::from_acl);
    let dtype = dtype.ok_or_else(|| shape_fault!("dst_type {number} is no type"))?;
    Ok(vec![Desc { dtype, shape: x.shape.clone() }])
}

/// Softmax over the axes.
pub(super) fn softmax(call: &Call<'_>) -> Inferred {
    let x = call.input("x")?;
    ensure(x.dtype.is_float(), || strict_fault!("softmax of {x} has no kernel"))?;
    ensure(!call.bool("half_to_float")?, || strict_fault!("half_to_float is not simulated"))?;
    for &axis in call.ints("axes")? {
        axis_of(axis, x.shape.len())?;
    }
    let is_some = matches!(call.attrs.get("axes"), Some(Attr::ListInt(axes)) if !axes.is_empty());
    ensure(is_some, || shape_fault!("axes is empty"))?;
    Ok(vec![x.clone()])
}

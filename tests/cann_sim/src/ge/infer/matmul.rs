//! Matrix products.

use super::elementwise::broadcast;
use super::{Call, Fault, Inferred, ensure, shape_fault, strict_fault};
use crate::ge::graph::{DataType, Desc};

/// Rows and columns of a matrix, transposed or not.
fn matrix(desc: &Desc, is_transposed: bool) -> Result<(&[usize], usize, usize), Fault> {
    match &desc.shape[..] {
        [batch @ .., rows, columns] if is_transposed => Ok((batch, *columns, *rows)),
        [batch @ .., rows, columns] => Ok((batch, *rows, *columns)),
        _ => Err(shape_fault!("{desc} is no matrix")),
    }
}

fn product(call: &Call<'_>, transpose_x1: &str, transpose_x2: &str) -> Inferred {
    let (x1, x2) = (call.input("x1")?, call.input("x2")?);
    let (batch1, rows, k1) = matrix(x1, call.bool(transpose_x1)?)?;
    let (batch2, k2, columns) = matrix(x2, call.bool(transpose_x2)?)?;
    ensure(k1 == k2, || {
        shape_fault!("The k-axis of a({k1}) and b({k2}) tensors must be the same")
    })?;
    ensure(x1.dtype == x2.dtype && x1.dtype.is_float(), || {
        strict_fault!("a product of {x1} and {x2} has no kernel here")
    })?;
    ensure(call.int("offset_x")? == 0 && call.optional("offset_w").is_none(), || {
        strict_fault!("offset_x and offset_w are for integers")
    })?;
    if let Some(bias) = call.optional("bias") {
        check_bias(bias, x1.dtype, columns)?;
    }
    let mut shape = broadcast(batch1, batch2)?;
    shape.extend([rows, columns]);
    Ok(vec![Desc { dtype: x1.dtype, shape }])
}

fn check_bias(bias: &Desc, dtype: DataType, columns: usize) -> Result<(), Fault> {
    let is_row = matches!(bias.shape[..], [n] | [1, n] if n == columns);
    ensure(is_row, || shape_fault!("bias {bias} is no row of {columns}"))?;
    // Whether a kernel adds a bias in bf16 depends on the kernel that is picked.
    let is_known = bias.dtype == DataType::Float || bias.dtype == dtype && dtype != DataType::Bf16;
    ensure(is_known, || strict_fault!("bias {bias} for a product in {}", dtype.name()))
}

/// `[m, k] x [k, n]`.
pub(super) fn mat_mul(call: &Call<'_>) -> Inferred {
    for name in ["x1", "x2"] {
        let x = call.input(name)?;
        ensure(x.shape.len() == 2, || shape_fault!("{name} {x} is not of rank 2"))?;
    }
    product(call, "transpose_x1", "transpose_x2")
}

/// `[.., m, k] x [.., k, n]`.
pub(super) fn batch_mat_mul(call: &Call<'_>) -> Inferred {
    product(call, "adj_x1", "adj_x2")
}

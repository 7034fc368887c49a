//! Gathers, elementwise functions and norms.

use half::{bf16, f16};

use crate::operands::{Binary, Matrix, WeightRows};

use crate::DType;
use crate::dequantise;

pub(super) fn gather(table: WeightRows<'_>, ids: &[i32], target: &mut [f32]) {
    for (&id, row) in ids.iter().zip(target.chunks_exact_mut(table.columns)) {
        match usize::try_from(id) {
            Ok(id) if id < table.rows => dequantise(table.dtype, table.row(id), row)
                .expect("invariant: a row has as many elements as the table has columns"),
            Ok(_) | Err(_) => row.fill(0.0),
        }
    }
}

/// `target[i] = x[ids[i]]`; zeros for an id outside `x`.
pub fn gather_rows(x: Matrix<'_>, ids: &[i32], target: &mut [f32]) {
    for (&id, row) in ids.iter().zip(target.chunks_exact_mut(x.columns)) {
        match usize::try_from(id) {
            Ok(id) if id < x.rows => row.copy_from_slice(x.row(id)),
            Ok(_) | Err(_) => row.fill(0.0),
        }
    }
}

/// `x sigmoid(x)`.
pub(super) fn silu_of(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

pub(super) fn binary(function: Binary, a: Matrix<'_>, b: Matrix<'_>, target: &mut [f32]) {
    for (t, row) in target.chunks_exact_mut(a.columns).enumerate() {
        let (a, b) = (a.row(t), b.row(if b.rows == 1 { 0 } else { t }));
        for (idx, (y, &a)) in row.iter_mut().zip(a).enumerate() {
            let b = b[idx % b.len()];
            *y = match function {
                Binary::Add => a + b,
                Binary::Mul => a * b,
                Binary::SiluMul => silu_of(a) * b,
            };
        }
    }
}

pub(super) fn silu(x: Matrix<'_>, target: &mut [f32]) {
    for (t, row) in target.chunks_exact_mut(x.columns).enumerate() {
        for (y, &x) in row.iter_mut().zip(x.row(t)) {
            *y = silu_of(x);
        }
    }
}

pub(super) fn rms_norm(x: Matrix<'_>, weight: &[f32], eps: f32, target: &mut [f32]) {
    for (t, row) in target.chunks_exact_mut(x.columns).enumerate() {
        let groups = x.row(t).chunks_exact(weight.len());
        for (x, y) in groups.zip(row.chunks_exact_mut(weight.len())) {
            let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let scale = 1.0 / (squares / weight.len() as f64 + f64::from(eps)).sqrt();
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = (f64::from(x) * scale * f64::from(w)) as f32;
            }
        }
    }
}

/// Rounds to a narrower float type and back.
pub fn round(x: Matrix<'_>, dtype: DType, target: &mut [f32]) {
    for (t, row) in target.chunks_exact_mut(x.columns).enumerate() {
        for (y, &x) in row.iter_mut().zip(x.row(t)) {
            *y = match dtype {
                DType::F16 => f16::from_f32(x).to_f32(),
                DType::BF16 => bf16::from_f32(x).to_f32(),
                DType::F32
                | DType::I32
                | DType::Q8_0
                | DType::Q4_0
                | DType::Q4_1
                | DType::Q5_0
                | DType::Q5_1
                | DType::Q4K
                | DType::Q5K
                | DType::Q6K => x,
            };
        }
    }
}

/// `target = x`, dense.
pub fn copy(x: Matrix<'_>, target: &mut [f32]) {
    for (t, row) in target.chunks_exact_mut(x.columns).enumerate() {
        row.copy_from_slice(x.row(t));
    }
}

//! `y[t, n] = sum over k of x[t, k] w[n, k]`, of what the operands are rounded to.

use half::bf16;

use crate::dequantise;
use crate::operands::{Arithmetic, LinearWeight, Matrix};

pub(super) fn linear(x: Matrix<'_>, weight: LinearWeight<'_>, target: &mut [f32]) {
    let LinearWeight { rows: weight, arithmetic, .. } = weight;
    let rounded_x: Vec<Vec<f64>> = (0..x.rows).map(|t| rounded(arithmetic, x.row(t))).collect();
    let mut row = vec![0.0; weight.columns];
    for n in 0..weight.rows {
        dequantise(weight.dtype, weight.row(n), &mut row)
            .expect("invariant: a row has as many elements as the weight has columns");
        let w = rounded(arithmetic, &row);
        for (t, x) in rounded_x.iter().enumerate() {
            let sum: f64 = x.iter().zip(&w).map(|(x, w)| x * w).sum();
            target[t * weight.rows + n] = sum as f32;
        }
    }
}

/// A row as it is multiplied.
fn rounded(arithmetic: Arithmetic, row: &[f32]) -> Vec<f64> {
    let each = |f: &dyn Fn(f32) -> f64| row.iter().map(|value| f(*value)).collect();
    match arithmetic {
        Arithmetic::F32 => each(&f64::from),
        Arithmetic::Bf16 => each(&|value| f64::from(bf16::from_f32(value).to_f32())),
        Arithmetic::I8 => {
            // Symmetric: the number of the largest magnitude becomes 127.
            let largest = row.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let is_finite = row.iter().all(|value| value.is_finite());
            let scale = match largest {
                _ if !is_finite => f32::NAN,
                0.0 => 1.0,
                largest => largest / 127.0,
            };
            each(&|value| f64::from((value / scale).round_ties_even() as i8) * f64::from(scale))
        }
    }
}

//! `y[t, n] = sum over k of x[t, k] w[n, k]`.

use crate::dequantise;
use crate::operands::{Matrix, WeightRows};

pub(super) fn linear(x: Matrix<'_>, weight: WeightRows<'_>, target: &mut [f32]) {
    let mut row = vec![0.0; weight.columns];
    for n in 0..weight.rows {
        dequantise(weight.dtype, weight.row(n), &mut row)
            .expect("invariant: a row has as many elements as the weight has columns");
        for t in 0..x.rows {
            let products = x.row(t).iter().zip(&row).map(|(&x, &w)| f64::from(x) * f64::from(w));
            target[t * weight.rows + n] = products.sum::<f64>() as f32;
        }
    }
}

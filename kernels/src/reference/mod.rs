//! The readable kernels: each is the definition of its op in plain loops, with sums in f64 where
//! the order would matter. They are the oracle of the fast ones, and never optimised.

mod attention;
mod elementwise;
mod linear;
mod rope;

pub use elementwise::{copy, gather_rows, round};

use crate::operands::{AttentionArgs, Binary, Kernels, LinearWeight, Matrix, RopeArgs, WeightRows};

/// The reference set.
#[derive(Clone, Copy, Debug)]
pub struct Reference;

impl Kernels for Reference {
    fn gather(&self, table: WeightRows<'_>, ids: &[i32], target: &mut [f32]) {
        elementwise::gather(table, ids, target);
    }

    fn linear(&self, x: Matrix<'_>, weight: LinearWeight<'_>, target: &mut [f32]) {
        linear::linear(x, weight, target);
    }

    fn binary(&self, function: Binary, a: Matrix<'_>, b: Matrix<'_>, target: &mut [f32]) {
        elementwise::binary(function, a, b, target);
    }

    fn silu(&self, x: Matrix<'_>, target: &mut [f32]) {
        elementwise::silu(x, target);
    }

    fn rms_norm(&self, x: Matrix<'_>, weight: &[f32], eps: f32, target: &mut [f32]) {
        elementwise::rms_norm(x, weight, eps, target);
    }

    fn rope(&self, args: RopeArgs<'_>, target: &mut [f32]) {
        rope::rope(args, target);
    }

    fn attention(&self, args: AttentionArgs<'_>, target: &mut [f32]) {
        attention::attention(args, target);
    }
}

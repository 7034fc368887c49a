//! Kernels that take each row by itself: elementwise functions, norms, rope.

#![expect(clippy::inline_always, reason = "a vector op that is not inlined loses its instructions")]

use super::simd::{Detected, Kernel, LANES, Simd};
use crate::operands::{Binary, Matrix, RopeArgs, RopeStyle};

use crate::pool::Pool;

/// Below this many elements, handing rows to other threads costs more than it saves.
const PARALLEL_ELEMENTS: usize = 16 * 1024;

/// Calls `f` with the index of each task's first row and its rows of the target.
fn for_tasks(
    pool: &Pool,
    target: &mut [f32],
    columns: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) {
    let rows = target.len() / columns.max(1);
    let threads = pool.num_threads();
    if threads == 1 || rows < 2 || target.len() < PARALLEL_ELEMENTS {
        return f(0, target);
    }
    let task_rows = rows.div_ceil(threads * 2);
    pool.for_chunks(target, task_rows * columns, |task, target| f(task * task_rows, target));
}

/// A matrix without its first rows.
fn from_row(x: Matrix<'_>, first: usize) -> Matrix<'_> {
    if x.rows == 1 {
        return x;
    }
    Matrix { data: &x.data[first * x.stride..], rows: x.rows - first, ..x }
}

/// `e^x` for f32 by the Cody-Waite reduction and a polynomial of degree 6 (coefficients of the
/// Taylor series; the reduced argument is below 0.35, so the remainder is below 2e-7), relative
/// error below 3e-7. Saturates outside [-87, 88]; not a number stays so. Free of branches, so loops
/// over it become vector code.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, so that n times the first is exact.
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut sum = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + coefficient;
    }
    // The low bits of the rounded sum are those of n; 127 is the exponent of 1.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    sum * power
}

#[inline(always)]
fn silu_of(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

pub(super) fn binary(
    isa: Detected,
    pool: &Pool,
    function: Binary,
    a: Matrix<'_>,
    b: Matrix<'_>,
    target: &mut [f32],
) {
    for_tasks(pool, target, a.columns, |first, target| {
        let (a, b) = (from_row(a, first), from_row(b, first));
        isa.dispatch(BinaryRows { function, a, b, target });
    });
}

struct BinaryRows<'a> {
    function: Binary,
    a: Matrix<'a>,
    b: Matrix<'a>,
    target: &'a mut [f32],
}

impl Kernel for BinaryRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (t, row) in self.target.chunks_exact_mut(self.a.columns).enumerate() {
            let a = self.a.row(t);
            let b = self.b.row(if self.b.rows == 1 { 0 } else { t });
            for (row, a) in row.chunks_mut(b.len()).zip(a.chunks(b.len())) {
                // Loops, not closures: those would lose the instructions.
                match self.function {
                    Binary::Add => {
                        for ((y, a), b) in row.iter_mut().zip(a).zip(b) {
                            *y = a + b;
                        }
                    }
                    Binary::Mul => {
                        for ((y, a), b) in row.iter_mut().zip(a).zip(b) {
                            *y = a * b;
                        }
                    }
                    Binary::SiluMul => {
                        for ((y, a), b) in row.iter_mut().zip(a).zip(b) {
                            *y = silu_of(*a) * b;
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn silu(isa: Detected, pool: &Pool, x: Matrix<'_>, target: &mut [f32]) {
    for_tasks(pool, target, x.columns, |first, target| {
        isa.dispatch(SiluRows { x: from_row(x, first), target });
    });
}

struct SiluRows<'a> {
    x: Matrix<'a>,
    target: &'a mut [f32],
}

impl Kernel for SiluRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (t, row) in self.target.chunks_exact_mut(self.x.columns).enumerate() {
            for (y, &x) in row.iter_mut().zip(self.x.row(t)) {
                *y = silu_of(x);
            }
        }
    }
}

pub(super) fn rms_norm(
    isa: Detected,
    pool: &Pool,
    x: Matrix<'_>,
    weight: &[f32],
    eps: f32,
    target: &mut [f32],
) {
    for_tasks(pool, target, x.columns, |first, target| {
        isa.dispatch(NormRows { x: from_row(x, first), weight, eps, target });
    });
}

struct NormRows<'a> {
    x: Matrix<'a>,
    weight: &'a [f32],
    eps: f32,
    target: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.weight.len();
        for (t, row) in self.target.chunks_exact_mut(self.x.columns).enumerate() {
            let groups = self.x.row(t).chunks_exact(width);
            for (x, y) in groups.zip(row.chunks_exact_mut(width)) {
                let mean = sum_of_squares(s, x) / width as f32;
                let scale = 1.0 / (mean + self.eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(self.weight) {
                    *y = x * scale * w;
                }
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for chunk in chunks {
        let x = s.load(chunk);
        sum = s.mul_add(x, x, sum);
    }
    let mut total = s.sum(sum);
    for x in tail {
        total += x * x;
    }
    total
}

pub(super) fn rope(isa: Detected, pool: &Pool, args: RopeArgs<'_>, target: &mut [f32]) {
    for_tasks(pool, target, args.x.columns, |first, target| {
        let (x, cos, sin) =
            (from_row(args.x, first), from_row(args.cos, first), from_row(args.sin, first));
        isa.dispatch(RopeRows { args: RopeArgs { x, cos, sin, ..args }, target });
    });
}

struct RopeRows<'a> {
    args: RopeArgs<'a>,
    target: &'a mut [f32],
}

impl Kernel for RopeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let RopeArgs { x, cos, sin, head_dim, style } = self.args;
        for (t, row) in self.target.chunks_exact_mut(x.columns).enumerate() {
            let (cos, sin) = (cos.row(t), sin.row(t));
            let heads = x.row(t).chunks_exact(head_dim);
            for (x, y) in heads.zip(row.chunks_exact_mut(head_dim)) {
                match style {
                    RopeStyle::Halves => {
                        let (a, b) = x.split_at(head_dim / 2);
                        let (y_a, y_b) = y.split_at_mut(head_dim / 2);
                        let angles = cos.iter().zip(sin);
                        for ((((y_a, y_b), a), b), (cos, sin)) in
                            y_a.iter_mut().zip(y_b).zip(a).zip(b).zip(angles)
                        {
                            *y_a = a * cos - b * sin;
                            *y_b = b * cos + a * sin;
                        }
                    }
                    RopeStyle::Interleaved => {
                        let (pairs, _) = x.as_chunks::<2>();
                        let (places, _) = y.as_chunks_mut::<2>();
                        for ((place, [a, b]), (cos, sin)) in
                            places.iter_mut().zip(pairs).zip(cos.iter().zip(sin))
                        {
                            *place = [a * cos - b * sin, b * cos + a * sin];
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_true_one() {
        let mut worst = 0.0_f64;
        for step in -87_000..88_000 {
            let x = step as f32 / 1000.0;
            let expected = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - expected) / expected).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}

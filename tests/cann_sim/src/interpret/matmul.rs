//! Matrix products: `MatMulV2`, `MatMulV3`, `BatchMatMulV2`.
//!
//! ```text
//!  x [m, k] --f32 once--.
//!                       +--> 4 rows of w at a time: dot products in 8 lanes --> y [m, n]
//!  w [n, k] --by rows---'
//! ```
//!
//! Weights of a decoder come as `[n, k]` and are read where they lie; other layouts are transposed
//! first. A dot product is summed in an order that depends on `k` alone, so a row of `x` gives the
//! same result in every batch.

use std::borrow::Cow;
use std::ops::Range;

use super::call::{Call, checked_product};
use super::elementwise::Broadcast;
use super::threads::in_parts;
use super::values::{Buffer, Fault, Rows, Tensor, fault, is_float};

const LANES: usize = 8;
/// Rows of `x` are taken in tiles that stay in a core's cache while all of `w` goes by.
const TILE_ELEMENTS: usize = 1 << 15;

type Lanes = [f32; LANES];

/// Dot products of one row with four of the same length.
pub(super) fn dot4(one: &[f32], four: [&[f32]; 4]) -> [f32; 4] {
    let (chunks, tail) = one.as_chunks();
    let four = four.map(<[f32]>::as_chunks);
    let sums = lanes4(chunks, four.map(|(chunks, _)| chunks));
    std::array::from_fn(|row| {
        let rest: f32 = tail.iter().zip(four[row].1).map(|(one, other)| one * other).sum();
        folded(sums[row]) + rest
    })
}

/// Not inlined: next to the sums of its results, the compiler would vectorise across the rows
/// instead of along them, at several times the cost.
#[inline(never)]
fn lanes4(one: &[Lanes], [a, b, c, d]: [&[Lanes]; 4]) -> [Lanes; 4] {
    let mut sums = [[0.0; LANES]; 4];
    for ((((one, a), b), c), d) in one.iter().zip(a).zip(b).zip(c).zip(d) {
        for lane in 0..LANES {
            sums[0][lane] += one[lane] * a[lane];
        }
        for lane in 0..LANES {
            sums[1][lane] += one[lane] * b[lane];
        }
        for lane in 0..LANES {
            sums[2][lane] += one[lane] * c[lane];
        }
        for lane in 0..LANES {
            sums[3][lane] += one[lane] * d[lane];
        }
    }
    sums
}

/// The sum of the lanes, in pairs.
fn folded(lanes: Lanes) -> f32 {
    let four: [f32; 4] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `x w^T` with `x [m, k]`, `w [n, k]`, as f32 `[m, n]`.
fn product(x: &[f32], w: &Rows<'_>, sizes: [usize; 3]) -> Vec<f32> {
    let [m, n, k] = sizes;
    let mut parts = in_parts(n, m * n * k, |columns| product_part(x, w, columns, sizes));
    if parts.len() == 1
        && let Some(y) = parts.pop()
    {
        return y;
    }
    let mut y = Vec::with_capacity(m * n);
    for row in 0..m {
        for part in &parts {
            let width = part.len() / m;
            y.extend_from_slice(&part[row * width..(row + 1) * width]);
        }
    }
    y
}

/// Some columns of a product, as `[m, columns]`.
fn product_part(x: &[f32], w: &Rows<'_>, columns: Range<usize>, [m, _, k]: [usize; 3]) -> Vec<f32> {
    let width = columns.len();
    let mut part = vec![0.0; m * width];
    let mut scratch: [Vec<f32>; 4] = std::array::from_fn(|_| vec![0.0; k]);
    let tile = (TILE_ELEMENTS / k.max(1)).max(4);
    for first in (0..m).step_by(tile) {
        for start in columns.clone().step_by(4) {
            let mut idx = start;
            let four = scratch.each_mut().map(|scratch| {
                // Past the end, the last row again: its results are not kept.
                let row = w.row(idx.min(columns.end - 1), scratch);
                idx += 1;
                row
            });
            let kept = 4.min(columns.end - start);
            for row in first..m.min(first + tile) {
                let sums = dot4(&x[row * k..(row + 1) * k], four);
                let at = row * width + start - columns.start;
                part[at..at + kept].copy_from_slice(&sums[..kept]);
            }
        }
    }
    part
}

/// `[columns, rows]` from `[rows, columns]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

/// How a product reads its operands.
struct Matrices {
    sizes: [usize; 3],
    is_x1_transposed: bool,
    is_x2_transposed: bool,
}

impl Matrices {
    /// Of the last two axes of both operands.
    fn new(x1: [usize; 2], x2: [usize; 2], turns: [bool; 2]) -> Result<Self, Fault> {
        let turned = |[a, b]: [usize; 2], turn| if turn { [b, a] } else { [a, b] };
        let [m, k] = turned(x1, turns[0]);
        let [k2, n] = turned(x2, turns[1]);
        if k != k2 {
            return fault(format!(
                "`x1` {x1:?} and `x2` {x2:?} disagree: {k} columns of x1, {k2} rows of x2"
            ));
        }
        if checked_product(&[m, n, k]).is_none() {
            return fault(format!("`x1` {x1:?} and `x2` {x2:?} are too large"));
        }
        let [is_x1_transposed, is_x2_transposed] = turns;
        Ok(Self { sizes: [m, n, k], is_x1_transposed, is_x2_transposed })
    }

    fn x1<'a>(&self, x1: &'a [f32]) -> Cow<'a, [f32]> {
        let [m, _, k] = self.sizes;
        if self.is_x1_transposed { transposed(x1, k, m).into() } else { x1.into() }
    }

    fn x2<'a>(&self, x2: Cow<'a, [f32]>) -> Rows<'a> {
        let [_, n, k] = self.sizes;
        let rows = if self.is_x2_transposed { x2 } else { transposed(&x2, k, n).into() };
        Rows::from_f32s(rows, k)
    }
}

/// `MatMulV2`: `y = x1 x2 + bias`, each operand transposed first if its attribute says so.
pub(super) fn mat_mul(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let (x1, x2) = operands(call)?;
    let turns = [call.bool_or("transpose_x1", false)?, call.bool_or("transpose_x2", false)?];
    let matrices = Matrices::new(x1.sizes("x1")?, x2.sizes("x2")?, turns)?;
    let [_, _, k] = matrices.sizes;
    let rows = if matrices.is_x2_transposed { Rows::new(x2, k) } else { matrices.x2(x2.f32s()) };
    let y = product(&matrices.x1(&x1.f32s()), &rows, matrices.sizes);
    finish(call, y, matrices.sizes[1])
}

/// `BatchMatMulV2`: the same over the last two axes, the others broadcast.
pub(super) fn batch_mat_mul(call: &Call<'_>) -> Result<Vec<Buffer>, Fault> {
    let (x1, x2) = operands(call)?;
    let turns = [call.bool_or("adj_x1", false)?, call.bool_or("adj_x2", false)?];
    let (Some((batch1, last1)), Some((batch2, last2))) =
        (x1.shape().split_last_chunk::<2>(), x2.shape().split_last_chunk::<2>())
    else {
        return fault("expected at least 2 axes of `x1` and `x2`");
    };
    let matrices = Matrices::new(*last1, *last2, turns)?;
    let [m, n, k] = matrices.sizes;
    let (values1, values2) = (x1.f32s(), x2.f32s());
    let mut y = Vec::new();
    for (batch1, batch2) in Broadcast::new(batch1, batch2)?.pairs() {
        let x1 = &values1[batch1 * m * k..(batch1 + 1) * m * k];
        let x2 = &values2[batch2 * n * k..(batch2 + 1) * n * k];
        y.extend(product(&matrices.x1(x1), &matrices.x2(x2.into()), matrices.sizes));
    }
    finish(call, y, n)
}

fn operands<'a>(call: &Call<'a>) -> Result<(Tensor<'a>, Tensor<'a>), Fault> {
    let (x1, x2) = (call.tensor("x1")?, call.tensor("x2")?);
    if !is_float(x1.dtype()) || x1.dtype() != x2.dtype() {
        return fault(format!(
            "expected equal floating-point types of `x1` and `x2`, got {:?} and {:?}",
            x1.dtype(),
            x2.dtype()
        ));
    }
    Ok((x1, x2))
}

/// Adds the bias and rounds.
fn finish(call: &Call<'_>, mut y: Vec<f32>, n: usize) -> Result<Vec<Buffer>, Fault> {
    if let Some(bias) = call.optional("bias") {
        if bias.num_elements() != n {
            return fault(format!("expected {n} elements of `bias`, got {:?}", bias.shape()));
        }
        let bias = bias.f32s();
        for row in y.chunks_exact_mut(n.max(1)) {
            row.iter_mut().zip(&*bias).for_each(|(y, bias)| *y += bias);
        }
    }
    Ok(vec![Buffer::from_f32s(call.output(0)?.dtype, &y)?])
}

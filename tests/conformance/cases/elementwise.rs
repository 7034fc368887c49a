//! Add, mul, silu and their fusions; norms, also over heads; every broadcast that is supported.

use cairn::ir::{Op, ValueId};

use super::{NUM_ROWS, f64s, over_tokens, row};
use crate::case::{Case, CaseBuilder, Tolerance};
use crate::data::Numbers;
use crate::oracle;

/// Columns around vectors of eight and sixteen lanes; the last is worth splitting over threads.
const COLUMNS: [usize; 8] = [1, 6, 15, 16, 18, 33, 100, 600];

fn values(columns: usize, seed: u64) -> Vec<f32> {
    Numbers::new(seed).floats(NUM_ROWS * columns).iter().map(|x| 4.0 * x).collect()
}

/// `f` of each element of two operands of equal shape.
fn of_pairs(op: Op, columns: usize, tolerance: Tolerance, f: fn(f64, f64) -> f64) -> Case {
    let (a, b) = (values(columns, 1), values(columns, 2));
    let name = format!("{} [tokens, {columns}]", op.name());
    over_tokens(
        name,
        tolerance,
        |case, ids| {
            let a = case.activation("a", &a, columns, ids);
            let b = case.activation("b", &b, columns, ids);
            case.op(op, &[a, b])
        },
        |id| row(&a, columns, id).iter().zip(row(&b, columns, id)).map(|(&a, b)| f(a, b)).collect(),
    )
}

fn silu(columns: usize) -> Case {
    // Far out, where the exponential overflows or vanishes.
    let x: Vec<f32> = values(columns, 3).iter().map(|x| 40.0 * x).collect();
    over_tokens(
        format!("silu [tokens, {columns}]"),
        Tolerance::Rounding,
        |case, ids| {
            let x = case.activation("x", &x, columns, ids);
            case.op(Op::Silu, &[x])
        },
        |id| row(&x, columns, id).into_iter().map(oracle::silu).collect(),
    )
}

/// An operand that repeats: what it is, how many numbers it has, and how it is made of them.
type Repeated = (&'static str, usize, fn(&mut CaseBuilder, &[f32]) -> ValueId);

const REPEATED: [Repeated; 7] = [
    ("scalar []", 1, |case, b| case.constant(&[], b)),
    ("scalar [1]", 1, |case, b| case.constant(&[1], b)),
    ("scalar [1, 1, 1]", 1, |case, b| case.constant(&[1, 1, 1], b)),
    ("vector [6]", 6, |case, b| case.constant(&[6], b)),
    ("weight [6]", 6, |case, b| case.floats("b", &[6], b)),
    ("matrix [2, 6]", 12, |case, b| case.constant(&[2, 6], b)),
    ("row [1, 2, 6]", 12, |case, b| case.constant(&[1, 2, 6], b)),
];

/// `op` of `x: [tokens, 2, 6]` and something that repeats, in both orders.
fn broadcast(op: Op, f: fn(f64, f64) -> f64, is_first: bool, of: Repeated) -> Case {
    let (what, size, make) = of;
    let (x, b) = (values(12, 4), Numbers::new(5).floats(size));
    let order = if is_first { "before" } else { "after" };
    over_tokens(
        format!("{}, a {what} {order} [tokens, 2, 6]", op.name()),
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation("x", &x, 12, ids);
            let x = case.reshape(x, &[2, 6]);
            let b = make(case, &b);
            case.op(op, &if is_first { [b, x] } else { [x, b] })
        },
        |id| {
            let x = row(&x, 12, id).into_iter().enumerate();
            x.map(|(idx, x)| f(x, b[idx % size].into())).collect()
        },
    )
}

const EPS: f32 = 1e-5;

/// A norm over each of some heads.
fn rms_norm(heads: usize, columns: usize) -> Case {
    let (x, w) = (values(heads * columns, 6), Numbers::new(7).floats(columns));
    over_tokens(
        format!("rms_norm [tokens, {heads}, {columns}]"),
        Tolerance::Sum,
        |case, ids| {
            let x = case.activation("x", &x, heads * columns, ids);
            let x = if heads > 1 { case.reshape(x, &[heads, columns]) } else { x };
            let w = case.floats("w", &[columns], &w);
            case.op(Op::RmsNorm { eps: EPS }, &[x, w])
        },
        |id| {
            let row = row(&x, heads * columns, id);
            let norm = |x| oracle::rms_norm(x, &f64s(&w), EPS.into());
            row.chunks(columns).flat_map(norm).collect()
        },
    )
}

/// The sum (`result` 0) or the norm of it (`result` 1).
fn add_rms_norm(columns: usize, result: usize) -> Case {
    let (a, b) = (values(columns, 8), values(columns, 9));
    let w = Numbers::new(10).floats(columns);
    over_tokens(
        format!("add_rms_norm [tokens, {columns}], result {result}"),
        if result == 0 { Tolerance::Exact } else { Tolerance::Sum },
        |case, ids| {
            let a = case.activation("a", &a, columns, ids);
            let b = case.activation("b", &b, columns, ids);
            let w = case.floats("w", &[columns], &w);
            case.results(Op::AddRmsNorm { eps: EPS }, &[a, b, w])[result]
        },
        |id| {
            let pairs = row(&a, columns, id).into_iter().zip(row(&b, columns, id));
            let sum: Vec<f64> = pairs.map(|(a, b)| a + b).collect();
            if result == 0 { sum } else { oracle::rms_norm(&sum, &f64s(&w), EPS.into()) }
        },
    )
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for columns in COLUMNS {
        cases.push(of_pairs(Op::Add, columns, Tolerance::Exact, |a, b| a + b));
        cases.push(of_pairs(Op::Mul, columns, Tolerance::Exact, |a, b| a * b));
        cases.push(of_pairs(Op::SiluMul, columns, Tolerance::Rounding, |a, b| oracle::silu(a) * b));
        cases.push(silu(columns));
        cases.push(rms_norm(1, columns));
        cases.push(add_rms_norm(columns, 0));
        cases.push(add_rms_norm(columns, 1));
    }
    for (heads, columns) in [(2, 3), (3, 16), (4, 20), (2, 64)] {
        cases.push(rms_norm(heads, columns));
    }
    for of in REPEATED {
        for is_first in [false, true] {
            cases.push(broadcast(Op::Add, |a, b| a + b, is_first, of));
            cases.push(broadcast(Op::Mul, |a, b| a * b, is_first, of));
        }
    }
    cases
}

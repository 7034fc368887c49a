//! Add, mul, silu and their fusions; norms, also over heads; every broadcast that is supported.

use cairn::ir::{DType, Op, ValueId};

use super::{NUM_ROWS, f64s, over_tokens, row};
use crate::case::{Case, CaseBuilder, Tolerance};
use crate::data::{NARROW_TYPES, Numbers, rounded};
use crate::oracle;

/// Columns around vectors of eight and sixteen lanes; the last is worth splitting over threads.
const COLUMNS: [usize; 8] = [1, 6, 15, 16, 18, 33, 100, 600];

/// From -4 to 4.
fn values(dtype: DType, columns: usize, seed: u64) -> Vec<f32> {
    let values = Numbers::new(seed).floats(NUM_ROWS * columns);
    rounded(dtype, values.iter().map(|x| 4.0 * x).collect())
}

/// The tolerance in f32, or so many roundings to a narrow type.
fn within(dtype: DType, in_f32: Tolerance, roundings: u8) -> Tolerance {
    if dtype == DType::F32 { in_f32 } else { Tolerance::Narrow(dtype, roundings) }
}

/// An op on two elements, its tolerance in f32, and its definition.
type Pairwise = (Op, Tolerance, fn(f64, f64) -> f64);

const PAIRWISE: [Pairwise; 3] = [
    (Op::Add, Tolerance::Exact, |a, b| a + b),
    (Op::Mul, Tolerance::Exact, |a, b| a * b),
    (Op::SiluMul, Tolerance::Rounding, |a, b| oracle::silu(a) * b),
];

/// Each element of two operands of equal shape.
fn of_pairs(dtype: DType, (op, in_f32, f): Pairwise, columns: usize) -> Case {
    let (a, b) = (values(dtype, columns, 1), values(dtype, columns, 2));
    over_tokens(
        format!("{} of {dtype} [tokens, {columns}]", op.name()),
        // The activation may be rounded before it is multiplied; it is as large as its operand.
        within(dtype, in_f32, if op == Op::SiluMul { 2 } else { 1 }),
        |case, ids| {
            let a = case.activation_in(dtype, "a", &a, columns, ids);
            let b = case.activation_in(dtype, "b", &b, columns, ids);
            case.op(op, &[a, b])
        },
        |id| row(&a, columns, id).iter().zip(row(&b, columns, id)).map(|(&a, b)| f(a, b)).collect(),
    )
}

/// Gate and up are the halves of one value, as a fused projection gives them.
fn silu_mul_of_halves(dtype: DType, columns: usize) -> Case {
    let x = values(dtype, 2 * columns, 11);
    over_tokens(
        format!("silu_mul of two halves of {dtype} [tokens, {columns}]"),
        within(dtype, Tolerance::Rounding, 2),
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, 2 * columns, ids);
            let mut half =
                |start| case.op(Op::Slice { start: start as u64, len: columns as u64 }, &[x]);
            let halves = [half(0), half(columns)];
            case.op(Op::SiluMul, &halves)
        },
        |id| {
            let row = row(&x, 2 * columns, id);
            let (gate, up) = row.split_at(columns);
            gate.iter().zip(up).map(|(&gate, up)| oracle::silu(gate) * up).collect()
        },
    )
}

fn silu(dtype: DType, columns: usize) -> Case {
    // Far out, where the exponential overflows or vanishes.
    let x = values(dtype, columns, 3).iter().map(|x| 40.0 * x).collect();
    let x = rounded(dtype, x);
    over_tokens(
        format!("silu of {dtype} [tokens, {columns}]"),
        within(dtype, Tolerance::Rounding, 1),
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, columns, ids);
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
    let (x, b) = (values(DType::F32, 12, 4), Numbers::new(5).floats(size));
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
fn rms_norm([dtype, of_w]: [DType; 2], heads: usize, columns: usize) -> Case {
    let x = values(dtype, heads * columns, 6);
    let w = Numbers::new(7).floats_in(of_w, columns);
    over_tokens(
        format!("rms_norm of {dtype} by {of_w} [tokens, {heads}, {columns}]"),
        within(dtype, Tolerance::Sum, 1),
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, heads * columns, ids);
            let x = if heads > 1 { case.reshape(x, &[heads, columns]) } else { x };
            let w = case.floats_in(of_w, "w", &[columns], &w);
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
fn add_rms_norm([dtype, of_w]: [DType; 2], columns: usize, result: usize) -> Case {
    let (a, b) = (values(dtype, columns, 8), values(dtype, columns, 9));
    let w = Numbers::new(10).floats_in(of_w, columns);
    over_tokens(
        format!("add_rms_norm of {dtype} by {of_w} [tokens, {columns}], result {result}"),
        match result {
            0 => within(dtype, Tolerance::Exact, 1),
            // The norm is that of the rounded sum.
            _ => within(dtype, Tolerance::Sum, 2),
        },
        |case, ids| {
            let a = case.activation_in(dtype, "a", &a, columns, ids);
            let b = case.activation_in(dtype, "b", &b, columns, ids);
            let w = case.floats_in(of_w, "w", &[columns], &w);
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
        cases.extend(PAIRWISE.map(|op| of_pairs(DType::F32, op, columns)));
        cases.push(silu(DType::F32, columns));
        cases.push(rms_norm([DType::F32; 2], 1, columns));
        cases.extend([0, 1].map(|result| add_rms_norm([DType::F32; 2], columns, result)));
    }
    for (heads, columns) in [(2, 3), (3, 16), (4, 20), (2, 64)] {
        cases.push(rms_norm([DType::F32; 2], heads, columns));
    }
    for dtype in NARROW_TYPES {
        for columns in [6, 100] {
            cases.extend(PAIRWISE.map(|op| of_pairs(dtype, op, columns)));
            cases.push(silu(dtype, columns));
            for of_w in [dtype, DType::F32] {
                cases.push(rms_norm([dtype, of_w], 1, columns));
                cases.extend([0, 1].map(|result| add_rms_norm([dtype, of_w], columns, result)));
            }
        }
        cases.push(rms_norm([dtype; 2], 2, 64));
    }
    cases.extend([DType::F32, DType::F16, DType::BF16].map(|dtype| silu_mul_of_halves(dtype, 17)));
    for of in REPEATED {
        for is_first in [false, true] {
            cases.push(broadcast(Op::Add, |a, b| a + b, is_first, of));
            cases.push(broadcast(Op::Mul, |a, b| a * b, is_first, of));
        }
    }
    cases
}

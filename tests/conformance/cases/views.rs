//! Ops that only look at numbers differently, and casts: exact.

use cairn::ir::{DType, Op, Shape};
use half::{bf16, f16};

use super::{NUM_ROWS, over_tokens, row};
use crate::case::{Case, CaseBuilder, CaseStep, Tolerance};
use crate::data::{NARROW_TYPES, Numbers, rounded};
use crate::oracle;

const COLUMNS: usize = 24;

fn x() -> Vec<f32> {
    Numbers::new(1).floats(NUM_ROWS * COLUMNS)
}

fn slice(dtype: DType, start: usize, len: usize) -> Case {
    let x = rounded(dtype, x());
    over_tokens(
        format!("slice of {dtype} {start} + {len}"),
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, COLUMNS, ids);
            case.op(Op::Slice { start: start as u64, len: len as u64 }, &[x])
        },
        |id| row(&x, COLUMNS, id)[start..start + len].to_vec(),
    )
}

/// A slice of a slice, under other shapes, and added to what lies densely.
fn slices_and_reshapes() -> Case {
    let x = x();
    over_tokens(
        "slice, reshape, slice",
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation("x", &x, COLUMNS, ids);
            let left = case.op(Op::Slice { start: 1, len: 20 }, &[x]);
            let left = case.op(Op::Slice { start: 3, len: 12 }, &[left]);
            let left = case.reshape(left, &[2, 6]);
            let right = case.op(Op::Slice { start: 12, len: 12 }, &[x]);
            let right = case.reshape(right, &[2, 6]);
            let sum = case.op(Op::Add, &[left, right]);
            case.reshape(sum, &[3, 2, 2])
        },
        |id| {
            let row = row(&x, COLUMNS, id);
            row[4..16].iter().zip(&row[12..]).map(|(a, b)| a + b).collect()
        },
    )
}

/// With a fixed number of rows, rows may become columns; a slice is made dense for it.
fn rows_to_columns() -> Case {
    let x = Numbers::new(2).floats(4 * 6);
    let mut case = CaseBuilder::new("reshape of rows");
    let tokens = case.symbol("tokens");
    let four = case.input("four", &[4_u64.into()]);
    let ids = case.input("ids", &[tokens]);
    let y = case.activation("x", &x, 6, four);
    let y = case.op(Op::Slice { start: 1, len: 4 }, &[y]);
    let y = case.op(Op::Reshape { shape: Shape::fixed(&[2, 8]) }, &[y]);
    let y = case.op(Op::Gather { dtype: DType::F32 }, &[y, ids]);
    let kept: Vec<f64> = (0..4).flat_map(|id| row(&x, 6, id)[1..5].to_vec()).collect();
    let expected =
        [1, 0, 1].into_iter().flat_map(|id| kept[id * 8..(id + 1) * 8].to_vec()).collect();
    let inputs = vec![vec![0, 1, 2, 3], vec![1, 0, 1]];
    case.finish(
        y,
        Tolerance::Exact,
        vec![CaseStep { symbols: vec![3], inputs, expected, num_padding: 0 }],
    )
}

/// A vector of the weights, or a slice of it, as a matrix.
fn weight_as_a_matrix(start: usize, rows: usize, columns: usize) -> Case {
    let x = Numbers::new(3).floats(12);
    let len = rows * columns;
    let mut case = CaseBuilder::new(format!("reshape of a weight from {start}"));
    let v = case.floats("v", &[12], &x);
    let v = case.op(Op::Slice { start: start as u64, len: len as u64 }, &[v]);
    let y = case.op(Op::Reshape { shape: Shape::fixed(&[rows, columns]) }, &[v]);
    let y = case.op(Op::Silu, &[y]);
    let expected = x[start..start + len].iter().map(|&x| oracle::silu(x.into())).collect();
    let step = CaseStep { symbols: vec![], inputs: vec![], expected, num_padding: 0 };
    case.finish(y, Tolerance::Rounding, vec![step])
}

/// The result is not the last value: what comes after must not take its place in memory.
fn early_result() -> Case {
    let x = x();
    over_tokens(
        "slice, then values that nothing uses",
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation("x", &x, COLUMNS, ids);
            let sum = case.op(Op::Add, &[x, x]);
            let result = case.op(Op::Slice { start: 3, len: 9 }, &[sum]);
            let unused = case.op(Op::Mul, &[x, x]);
            let unused = case.op(Op::Silu, &[unused]);
            case.op(Op::Add, &[unused, x]);
            result
        },
        |id| row(&x, COLUMNS, id)[3..12].iter().map(|x| x + x).collect(),
    )
}

fn constant() -> Case {
    let x = Numbers::new(4).floats(6);
    let mut case = CaseBuilder::new("constant");
    let y = case.constant(&[2, 3], &x);
    let expected = x.iter().map(|&x| x.into()).collect();
    case.finish(
        y,
        Tolerance::Exact,
        vec![CaseStep { symbols: vec![], inputs: vec![], expected, num_padding: 0 }],
    )
}

/// From one narrow type to the other: rows in bf16 have numbers that f16 does not.
fn cast_between_narrow_types(from: DType, to: DType) -> Case {
    let x = rounded(from, x());
    over_tokens(
        format!("cast of {from} to {to}"),
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation_in(from, "x", &x, COLUMNS, ids);
            case.op(Op::Cast { dtype: to }, &[x])
        },
        |id| {
            let row = x[id * COLUMNS..(id + 1) * COLUMNS].to_vec();
            rounded(to, row).into_iter().map(f64::from).collect()
        },
    )
}

fn cast(dtype: DType) -> Case {
    // Ties, numbers that round up to the next power, and some that a half cannot hold.
    let mut x = x();
    let special = [1.0 + 1.0 / 512.0, 1.0 + 3.0 / 512.0, 1.999_999_9, 65504.0, 1e-8, -0.0, 6e-8];
    x[..special.len()].copy_from_slice(&special);
    over_tokens(
        format!("cast to {dtype}"),
        Tolerance::Exact,
        |case, ids| {
            let x = case.activation("x", &x, COLUMNS, ids);
            let y = case.op(Op::Cast { dtype }, &[x]);
            case.op(Op::Cast { dtype: DType::F32 }, &[y])
        },
        |id| {
            let round = |x: &f32| match dtype {
                DType::F16 => f16::from_f32(*x).to_f64(),
                DType::BF16 => bf16::from_f32(*x).to_f64(),
                _ => f64::from(*x),
            };
            x[id * COLUMNS..(id + 1) * COLUMNS].iter().map(round).collect()
        },
    )
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases: Vec<Case> =
        [(0, 24), (0, 1), (23, 1), (5, 17)].map(|(at, len)| slice(DType::F32, at, len)).into();
    cases.extend(NARROW_TYPES.map(|dtype| slice(dtype, 5, 17)));
    cases.push(cast_between_narrow_types(DType::F16, DType::BF16));
    cases.push(cast_between_narrow_types(DType::BF16, DType::F16));
    cases.extend([DType::F32, DType::F16, DType::BF16].map(cast));
    cases.extend([slices_and_reshapes(), rows_to_columns(), early_result(), constant()]);
    cases.extend([weight_as_a_matrix(0, 4, 3), weight_as_a_matrix(2, 2, 3)]);
    cases
}

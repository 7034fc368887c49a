//! Linear: every length of a row's tail, numbers of rows around tiles and tasks, every type of
//! weights for rows in f32, and rows in the type of their weights.

use cairn::ir::{DType, Op};
use cairn::weights::Tensor;

use super::{NUM_ROWS, f64s, over_tokens, row};
use crate::case::{Case, Tolerance};
use crate::data::{NARROW_TYPES, Numbers, WEIGHT_TYPES, rows_of, tensor};
use crate::oracle;

/// A weight of those parts, and rows in f32.
fn linear(columns: usize, parts: Vec<Tensor>) -> Case {
    linear_of(DType::F32, columns, parts)
}

fn linear_of(rows: DType, columns: usize, parts: Vec<Tensor>) -> Case {
    let x = Numbers::new(columns as u64).floats_in(rows, NUM_ROWS * columns);
    let w = rows_of(&parts);
    let shape = format!("[{}, {columns}] of {}", w.len(), parts.len());
    over_tokens(
        format!("linear of {rows} by {} {shape}", parts[0].dtype),
        // Sums in f32, rounded once.
        if rows == DType::F32 { Tolerance::Sum } else { Tolerance::Narrow(rows, 1) },
        |case, ids| {
            let x = case.activation_in(rows, "x", &x, columns, ids);
            let w = case.weight("w", parts);
            case.op(Op::Linear, &[x, w])
        },
        |id| oracle::linear(&row(&x, columns, id), &w),
    )
}

fn whole(dtype: DType, rows: usize, columns: usize) -> Case {
    let seed = (rows * 1000 + columns) as u64;
    linear(columns, vec![tensor("w", dtype, &[rows, columns], seed)])
}

/// Columns of a row that are worth trying for a type.
fn columns_of(dtype: DType) -> &'static [usize] {
    match dtype.block_elements() {
        1 => &[1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 95, 96, 97, 100],
        32 => &[32, 64, 96, 160],
        _ => &[256, 512, 768],
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases: Vec<Case> =
        (1..=100).map(|columns| whole(DType::F32, 1 + columns * 7 % 9, columns)).collect();
    for dtype in WEIGHT_TYPES {
        for (idx, &columns) in columns_of(dtype).iter().enumerate() {
            let rows = [3, 1, 4, 6, 33, 5, 2][(idx + dtype.code() as usize) % 7];
            cases.push(whole(dtype, rows, columns));
        }
        // Several tasks, the last of them short.
        cases.push(whole(
            dtype,
            130,
            if dtype.is_quantised() { dtype.block_elements() } else { 40 },
        ));
        let columns = if dtype.is_quantised() { dtype.block_elements() } else { 33 };
        let part = |(idx, rows): (usize, usize)| tensor("w", dtype, &[rows, columns], idx as u64);
        cases.push(linear(columns, [1, 3, 4, 2, 33].into_iter().enumerate().map(part).collect()));
    }
    for dtype in NARROW_TYPES {
        for columns in [1, 7, 16, 33, 64, 100] {
            let w = tensor("w", dtype, &[1 + columns * 7 % 9, columns], columns as u64);
            cases.push(linear_of(dtype, columns, vec![w]));
        }
        let part = |(idx, rows): (usize, usize)| tensor("w", dtype, &[rows, 40], idx as u64);
        cases.push(linear_of(dtype, 40, [1, 130, 2].into_iter().enumerate().map(part).collect()));
    }
    cases.extend([DType::F32, DType::F16, DType::BF16].map(of_a_slice));
    cases.push(of_a_vector());
    cases
}

/// Rows that do not lie one after the other.
fn of_a_slice(dtype: DType) -> Case {
    let (width, start, columns) = (50, 7, 36);
    let x = Numbers::new(1).floats_in(dtype, NUM_ROWS * width);
    let w = tensor("w", dtype, &[6, columns], 2);
    let rows = rows_of(std::slice::from_ref(&w));
    over_tokens(
        format!("linear of a slice of {dtype}"),
        if dtype == DType::F32 { Tolerance::Sum } else { Tolerance::Narrow(dtype, 1) },
        |case, ids| {
            let x = case.activation_in(dtype, "x", &x, width, ids);
            let x = case.op(Op::Slice { start, len: columns as u64 }, &[x]);
            let w = case.weight("w", vec![w]);
            case.op(Op::Linear, &[x, w])
        },
        |id| {
            let row = row(&x, width, id);
            oracle::linear(&row[start as usize..start as usize + columns], &rows)
        },
    )
}

/// A vector is one row; what it gives is added to every token.
fn of_a_vector() -> Case {
    let (v, w) = (Numbers::new(3).floats(20), tensor("w", DType::F32, &[5, 20], 4));
    let rows = rows_of(std::slice::from_ref(&w));
    let x = vec![0.0; NUM_ROWS * 5];
    over_tokens(
        "linear of a vector",
        Tolerance::Sum,
        |case, ids| {
            let x = case.activation("x", &x, 5, ids);
            let v = case.floats("v", &[20], &v);
            let w = case.weight("w", vec![w]);
            let y = case.op(Op::Linear, &[v, w]);
            case.op(Op::Add, &[x, y])
        },
        |_| oracle::linear(&f64s(&v), &rows),
    )
}

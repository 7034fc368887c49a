//! Gather: dequantised rows, zeros for ids outside the table.

use cairn::ir::{DType, Op};

use crate::case::{Case, CaseBuilder, CaseStep, Tolerance};
use crate::data::{NARROW_TYPES, Numbers, WEIGHT_TYPES, rows_of, tensor};

/// Of a table of five rows.
const INSIDE: [i32; 6] = [3, 0, 4, 0, 1, 2];
const OUTSIDE: [i32; 9] = [3, 0, 4, 0, -1, 5, 6, i32::MIN, i32::MAX];

/// What ids are called in the name of a case.
fn which(ids: &[i32]) -> &'static str {
    if ids == INSIDE { "ids" } else { "ids outside" }
}

/// A step that picks rows, and what that gives.
fn step(ids: &[i32], rows: &[Vec<f64>]) -> CaseStep {
    let pick = |&id: &i32| {
        let row = usize::try_from(id).ok().and_then(|id| rows.get(id));
        row.cloned().unwrap_or_else(|| vec![0.0; rows[0].len()])
    };
    CaseStep {
        symbols: vec![ids.len() as u64],
        inputs: vec![ids.to_vec()],
        expected: ids.iter().flat_map(pick).collect(),
        num_padding: 0,
    }
}

/// Rows of a weight, as `result`, which holds each of its numbers.
fn of_a_weight(dtype: DType, result: DType, parts: &[usize], ids: &[i32]) -> Case {
    let columns = dtype.block_elements().max(7) * 2;
    let tensors: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(idx, &rows)| tensor("table", dtype, &[rows, columns], idx as u64))
        .collect();
    let name = format!("gather by {}: {result} of {dtype} of {}", which(ids), parts.len());
    let mut case = CaseBuilder::new(name);
    let tokens = case.symbol("tokens");
    let steps = vec![step(ids, &rows_of(&tensors))];
    let ids = case.input("ids", &[tokens]);
    let table = case.weight("table", tensors);
    let y = case.op(Op::Gather { dtype: result }, &[table, ids]);
    case.finish(y, Tolerance::Exact, steps)
}

/// The table is computed, and a slice of it.
fn of_rows(dtype: DType, ids: &[i32]) -> Case {
    let values = Numbers::new(5).floats_in(dtype, 5 * 9);
    let mut case = CaseBuilder::new(format!("gather by {}: {dtype} rows", which(ids)));
    let (rows, tokens) = (case.symbol("rows"), case.symbol("tokens"));
    let all = case.input("all", &[rows]);
    let picked_ids = case.input("ids", &[tokens]);
    let x = case.activation_in(dtype, "x", &values, 9, all);
    let x = case.op(Op::Slice { start: 2, len: 6 }, &[x]);
    let y = case.op(Op::Gather { dtype }, &[x, picked_ids]);
    let picked: Vec<Vec<f64>> =
        values.chunks(9).map(|row| row[2..8].iter().map(|&v| v.into()).collect()).collect();
    let mut step = step(ids, &picked);
    step.symbols.insert(0, 5);
    step.inputs.insert(0, (0..5).collect());
    case.finish(y, Tolerance::Exact, vec![step])
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![of_rows(DType::F32, &OUTSIDE)];
    cases.extend([DType::F32, DType::F16, DType::BF16].map(|dtype| of_rows(dtype, &INSIDE)));
    for dtype in WEIGHT_TYPES {
        for parts in [&[5][..], &[1, 3, 1]] {
            for ids in [&INSIDE[..], &OUTSIDE] {
                cases.push(of_a_weight(dtype, DType::F32, parts, ids));
            }
        }
    }
    for dtype in NARROW_TYPES {
        cases.push(of_a_weight(dtype, dtype, &[2, 3], &INSIDE));
    }
    cases
}

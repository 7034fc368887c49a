//! Gather: dequantised rows, zeros for ids outside the table.

use cairn::ir::{DType, Op};

use crate::case::{Case, CaseBuilder, CaseStep, Tolerance};
use crate::data::{Numbers, WEIGHT_TYPES, rows_of, tensor};

const IDS: [i32; 9] = [3, 0, 4, 0, -1, 5, 6, i32::MIN, i32::MAX];

/// A step that picks [`IDS`], and what that gives.
fn step(rows: &[Vec<f64>]) -> CaseStep {
    let pick = |&id: &i32| {
        let row = usize::try_from(id).ok().and_then(|id| rows.get(id));
        row.cloned().unwrap_or_else(|| vec![0.0; rows[0].len()])
    };
    CaseStep {
        symbols: vec![IDS.len() as u64],
        inputs: vec![IDS.to_vec()],
        expected: IDS.iter().flat_map(pick).collect(),
    }
}

fn of_a_weight(dtype: DType, parts: &[usize]) -> Case {
    let columns = dtype.block_elements().max(7) * 2;
    let tensors: Vec<_> = parts
        .iter()
        .enumerate()
        .map(|(idx, &rows)| tensor("table", dtype, &[rows, columns], idx as u64))
        .collect();
    let mut case = CaseBuilder::new(format!("gather {dtype} of {}", parts.len()));
    let tokens = case.symbol("tokens");
    let ids = case.input("ids", &[tokens]);
    let steps = vec![step(&rows_of(&tensors))];
    let table = case.weight("table", tensors);
    let y = case.op(Op::Gather { dtype: DType::F32 }, &[table, ids]);
    case.finish(y, Tolerance::Exact, steps)
}

/// The table is computed, and a slice of it.
fn of_rows() -> Case {
    let values = Numbers::new(5).floats(5 * 9);
    let mut case = CaseBuilder::new("gather of rows");
    let (rows, tokens) = (case.symbol("rows"), case.symbol("tokens"));
    let all = case.input("all", &[rows]);
    let ids = case.input("ids", &[tokens]);
    let x = case.activation("x", &values, 9, all);
    let x = case.op(Op::Slice { start: 2, len: 6 }, &[x]);
    let y = case.op(Op::Gather { dtype: DType::F32 }, &[x, ids]);
    let picked: Vec<Vec<f64>> =
        values.chunks(9).map(|row| row[2..8].iter().map(|&v| v.into()).collect()).collect();
    let mut step = step(&picked);
    step.symbols.insert(0, 5);
    step.inputs.insert(0, (0..5).collect());
    case.finish(y, Tolerance::Exact, vec![step])
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![of_rows()];
    for dtype in WEIGHT_TYPES {
        cases.push(of_a_weight(dtype, &[5]));
        cases.push(of_a_weight(dtype, &[1, 3, 1]));
    }
    cases
}

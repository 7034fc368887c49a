//! The cases, by op.
//!
//! Most are over `[tokens, ..]`: [`over_tokens`] runs one graph at many numbers of tokens, around
//! the numbers at which kernels change their strategy.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod gather;
pub(crate) mod linear;
pub(crate) mod rope;
pub(crate) mod views;

use cairn::ir::ValueId;

use super::case::{Case, CaseBuilder, CaseStep, Tolerance};

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let ops = [linear::all, gather::all, elementwise::all, views::all, rope::all, attention::all];
    ops.iter().flat_map(|all| all()).collect()
}

/// Numbers of tokens; kernels may do one, a few and many differently.
const TOKENS: [usize; 8] = [1, 2, 4, 5, 31, 32, 33, 70];
/// Rows of the tables that activations are picked from.
pub(crate) const NUM_ROWS: usize = 70;

/// A case over activations of which `ids: [tokens]` picks the rows; `row` is the expected row of the
/// result for a picked row.
fn over_tokens(
    name: impl Into<String>,
    tolerance: Tolerance,
    make: impl FnOnce(&mut CaseBuilder, ValueId) -> ValueId,
    row: impl Fn(usize) -> Vec<f64>,
) -> Case {
    let mut case = CaseBuilder::new(name);
    let tokens = case.symbol("tokens");
    let ids = case.input("ids", &[tokens]);
    let output = make(&mut case, ids);
    let steps = TOKENS.map(|tokens| {
        // Not in order, so that a row in the wrong place shows.
        let ids: Vec<usize> = (0..tokens).map(|idx| (idx * 3 + tokens) % NUM_ROWS).collect();
        CaseStep {
            symbols: vec![tokens as u64],
            expected: ids.iter().flat_map(|&id| row(id)).collect(),
            inputs: vec![ids.iter().map(|&id| id as i32).collect()],
            num_padding: 0,
        }
    });
    case.finish(output, tolerance, steps.to_vec())
}

/// A row of a row-major matrix in f64.
fn row(values: &[f32], columns: usize, idx: usize) -> Vec<f64> {
    f64s(&values[idx * columns..(idx + 1) * columns])
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

//! The largest logits that a device finds itself are those that a look at all of them finds; a
//! backend that looks for none gives all of them.

use cairn::backend::{Backend, Output, Rows, Wanted};
use cairn::ir::{DType, Op};

use super::backends::configurations;
use super::case::{CaseBuilder, Loaded, Tolerance, bucket};
use super::data::Numbers;

const ROWS: usize = 7;

/// Rows of a table: logits as they are.
fn rows_of(backend: &dyn Backend, columns: usize, values: &[f32]) -> (Loaded, Vec<Vec<i32>>) {
    let mut case = CaseBuilder::new("logits");
    let ids = case.input("ids", &[(ROWS as u64).into()]);
    let table = case.floats("table", &[ROWS, columns], values);
    let y = case.op(Op::Gather { dtype: DType::F32 }, &[table, ids]);
    let case = case.finish(y, Tolerance::Exact, vec![]);
    let graph = bucket(&case.graph, &[]);
    let loaded = Loaded::new(backend, &graph, &case.tensors, &[]).unwrap();
    (loaded, vec![(0..ROWS as i32).rev().collect()])
}

/// The indices of a row, the largest logit first, the lower index among equals.
fn order(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order
}

fn check(logits: &[f32], columns: usize, wanted: Wanted, output: &Output) {
    let best = logits.chunks(columns).map(|row| (row, order(row)));
    match (wanted, output.rows) {
        (_, Rows::Logits) => assert_eq!(output.logits, logits),
        (Wanted::Argmax, Rows::Argmax) => {
            for ((row, order), (&idx, &value)) in
                best.zip(output.indices.iter().zip(&output.values))
            {
                assert_eq!((idx as usize, value), (order[0], row[order[0]]));
            }
        }
        (Wanted::TopK(wanted), Rows::TopK { k }) => {
            assert!(k >= wanted && output.indices.len() == ROWS * k);
            let pairs = output.indices.chunks(k).zip(output.values.chunks(k));
            for ((row, order), (indices, values)) in best.zip(pairs) {
                assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
                assert!(
                    indices.iter().zip(values).all(|(&idx, &value)| row[idx as usize] == value)
                );
                // Among equals the order is any; those that are wanted are among the candidates.
                let is_there = |idx: &usize| indices.contains(&(*idx as i32));
                assert!(order[..wanted].iter().all(is_there), "{indices:?}, not {order:?}");
            }
        }
        (wanted, got) => panic!("{wanted:?} is answered with {got:?}"),
    }
}

#[test]
fn the_largest_logits_are_those_of_all() {
    for configuration in configurations().iter().filter(|of| !of.computes_nothing) {
        largest_are_those_of_all(configuration.backend.as_ref());
    }
}

fn largest_are_those_of_all(backend: &dyn Backend) {
    for columns in [1, 5, 64, 130, 1000] {
        let mut numbers = Numbers::new(columns as u64);
        let any = numbers.floats(ROWS * columns);
        // Few different ones: equals everywhere, also at the border.
        let equal: Vec<f32> = any.iter().map(|value| (value * 3.0).round()).collect();
        for values in [any, equal] {
            let (mut loaded, inputs) = rows_of(backend, columns, &values);
            let logits = loaded.run(&[], &inputs).unwrap();
            let expected: Vec<f32> = values.chunks(columns).rev().flatten().copied().collect();
            assert_eq!(logits, expected);
            let few = [1, 2, 5, 20, 63, 64, 65].map(|k| Wanted::TopK(k.min(columns)));
            for wanted in few.into_iter().chain([Wanted::Argmax, Wanted::Logits]) {
                let output = loaded.run_wanted(&[], &inputs, wanted).unwrap();
                check(&logits, columns, wanted, &output);
            }
        }
    }
}

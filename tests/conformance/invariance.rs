//! Batch invariance: a row's result has the same bits whatever else is computed with it, on however
//! many threads, for each set of kernels.

use cairn::backend::cpu::KernelSet;
use cairn::ir::{DType, Op, verify};

use super::backends::cpu;
use super::case::{Case, CaseBuilder, Loaded, Tolerance};
use super::cases::NUM_ROWS;
use super::cases::attention::{Attention, Piece};
use super::data::{Numbers, WEIGHT_TYPES, tensor};

/// A backend of each set of kernels on several numbers of threads; the first of each set gives the
/// expected bits.
const SETS: [(KernelSet, &[usize]); 2] =
    [(KernelSet::Reference, &[1]), (KernelSet::Fast, &[1, 2, 3])];

fn load(case: &Case, kernels: KernelSet, threads: usize, symbols: &[u64]) -> Loaded {
    let graph = verify(case.graph.clone()).unwrap();
    Loaded::new(cpu(kernels, threads).as_ref(), &graph, &case.tensors, symbols).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn linear(dtype: DType, rows: usize, columns: usize) -> Case {
    let mut case = CaseBuilder::new(format!("linear {dtype} [{rows}, {columns}]"));
    let tokens = case.symbol("tokens");
    let ids = case.input("ids", &[tokens]);
    let x = case.activation("x", &Numbers::new(1).floats(NUM_ROWS * columns), columns, ids);
    let w = case.weight("w", vec![tensor("w", dtype, &[rows, columns], 2)]);
    let y = case.op(Op::Linear, &[x, w]);
    case.finish(y, Tolerance::Exact, vec![])
}

#[test]
fn a_row_of_a_linear_does_not_depend_on_the_others() {
    for dtype in WEIGHT_TYPES {
        let columns = if dtype.is_quantised() { dtype.block_elements() * 2 } else { 77 };
        for rows in [37, 130] {
            let case = linear(dtype, rows, columns);
            for (kernels, threads) in SETS {
                let mut expected = Vec::new();
                for &threads in threads {
                    let mut loaded = load(&case, kernels, threads, &[1]);
                    let mut run = |ids: &[usize]| {
                        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
                        bits(&loaded.run(&[ids.len() as u64], &[ids]).unwrap())
                    };
                    let all: Vec<usize> = (0..NUM_ROWS).collect();
                    let together = run(&all);
                    if expected.is_empty() {
                        expected.clone_from(&together);
                    }
                    assert!(together == expected, "{} on {threads} threads", case.name);
                    for count in [1, 2, 3, 4, 5, 6, 31, 32, 33, 64] {
                        for (ids, expected) in all.chunks(count).zip(expected.chunks(count * rows))
                        {
                            let what = format!("{} by {count} on {threads} threads", case.name);
                            assert!(run(ids) == expected, "{what}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_of_attention_does_not_depend_on_the_others() {
    for (head_dim, block_size, window) in
        [(16, 3, None), (64, 16, None), (20, 1, Some(4)), (80, 16, Some(6))]
    {
        let batch = Attention {
            head_dim,
            block_size,
            window,
            sequences: vec![(5, 5), (1, 17), (0, 0), (9, 30), (2, 2)],
            ..Attention::default()
        };
        let case = batch.case();
        for (kernels, threads) in SETS {
            let mut expected = Vec::new();
            for &threads in threads {
                pieces_equal_the_batch(&batch, &case, kernels, threads, &mut expected);
            }
        }
    }
}

/// Runs the whole batch, which fills the caches, then parts of it.
fn pieces_equal_the_batch(
    batch: &Attention,
    case: &Case,
    kernels: KernelSet,
    threads: usize,
    expected: &mut Vec<u32>,
) {
    let step = &case.steps[0];
    let mut loaded = load(case, kernels, threads, &step.symbols);
    let together = bits(&loaded.run(&step.symbols, &step.inputs).unwrap());
    if expected.is_empty() {
        expected.clone_from(&together);
    }
    assert!(together == *expected, "{} on {threads} threads", case.name);
    let columns = batch.heads * batch.head_dim;
    for (sequence, &(count, _)) in batch.sequences.iter().enumerate() {
        for size in [1, 2, count.max(1)] {
            for from in (0..count).step_by(size) {
                let queries = from..(from + size).min(count);
                let first = batch.first_query(sequence) + queries.start;
                let own = &expected[first * columns..(first + queries.len()) * columns];
                let piece = Piece { sequence, queries };
                // Alone, and between another sequence and padding.
                let other = Piece { sequence: 1, queries: 0..1 };
                for (pieces, at, padding) in
                    [(vec![piece.clone()], 0, 0), (vec![other, piece], 1, 3)]
                {
                    let (symbols, inputs) = batch.pieces(&pieces, padding, false);
                    let got = bits(&loaded.run(&symbols, &inputs).unwrap());
                    let got = &got[at * columns..][..own.len()];
                    assert!(got == own, "{} on {threads} threads: {pieces:?}", case.name);
                }
            }
        }
    }
}

//! Whether writes to the KV cache are there after the step: two steps write, then the host reads all
//! of it.

use super::super::memory::AscendMemory;
use super::lab::finished;
use super::numbers::{Matrix, Random};
use super::{Answer, Lab, No};
use crate::backend::{BackendError, Executable as _, Step};
use crate::ir::{Builder, DType, Graph, Op, Shape, TypeError};

const BLOCKS: usize = 8;
const BLOCK_SIZE: usize = 128;
const HEADS: usize = 2;
const HEAD_SIZE: usize = 64;
const ROW: usize = HEADS * HEAD_SIZE;
const ROWS: usize = 16;
const TOKENS: usize = 4;
/// Token ids and slots of each step. The first, a middle and the last block; the second step writes
/// beside the first one and over one of its rows; padding goes nowhere.
const STEPS: [([i32; TOKENS], [i32; TOKENS]); 2] =
    [([1, 2, 3, 4], [0, 389, 1023, -1]), ([5, 6, 7, 8], [1, 390, 389, -1])];

pub(super) fn is_changed_in_place(lab: &Lab<'_>) -> Answer {
    lab.session()?;
    let graph = finished(graph())?;
    let mut executable = lab.load(&graph)?;
    let mut random = Random(3);
    let table = Matrix::new(ROWS, ROW, |_, _| random.next());
    let mut memory = lab.place(&graph, &[table.tensor("k")])?;
    let mut expected = vec![vec![0; ROW]; BLOCKS * BLOCK_SIZE];
    let mut output = Vec::new();
    for (ids, slots) in STEPS {
        let step = Step { symbols: &[], inputs: &[&ids, &slots] };
        executable.run(&mut memory, &step, &mut output)?;
        for (id, slot) in ids.into_iter().zip(slots) {
            if slot >= 0 {
                expected[slot as usize] = table.row(id as usize).to_vec();
            }
        }
    }
    let rows = read_state(lab, &memory, 0, ROW)?;
    compare(&rows, &expected)?;
    Ok("two steps changed the rows that they wrote, and no others".to_owned())
}

/// The rows of a state as the device has them, without the block that padding is written to.
pub(super) fn read_state(
    lab: &Lab<'_>,
    memory: &AscendMemory,
    index: u32,
    row: usize,
) -> Result<Vec<Vec<u16>>, No> {
    let slice = memory.state(index);
    let slice = slice.ok_or_else(|| No::Fails(format!("there is no state {index}")))?;
    let session = lab.session()?;
    let mut bytes = vec![0; slice.len()];
    let current = session.enter()?;
    let read = slice.buffer().download(&current, slice.offset(), &mut bytes);
    read.map_err(|error| BackendError::Execution(error.to_string()))?;
    let (words, _) = bytes.as_chunks::<2>();
    let words: Vec<u16> = words.iter().map(|word| u16::from_le_bytes(*word)).collect();
    Ok(words.chunks_exact(row).map(<[u16]>::to_vec).collect())
}

/// Holds rows of a cache to what was written; the dump block, which comes last, may hold anything.
pub(super) fn compare(rows: &[Vec<u16>], expected: &[Vec<u16>]) -> Result<(), No> {
    let wrong = rows.iter().zip(expected).position(|(row, expected)| row != expected);
    let Some(wrong) = wrong else { return Ok(()) };
    let is_zero = |row: &[u16]| row.iter().all(|&bits| bits == 0);
    let what = match (is_zero(&rows[wrong]), is_zero(&expected[wrong])) {
        (true, false) => "a row that was written is zero",
        (false, true) => "a row that nobody wrote is changed",
        _ => "a row has other numbers than were written",
    };
    Err(No::Fails(format!("{what}: number {wrong} of the cache")))
}

fn graph() -> Result<Graph, TypeError> {
    let dtype = DType::BF16;
    let mut graph = Builder::new("writes");
    let tokens = Shape::fixed(&[TOKENS]);
    let ids = graph.input("ids", DType::I32, tokens.clone());
    let slots = graph.input("slots", DType::I32, tokens);
    let table = graph.weight("k", dtype, Shape::fixed(&[ROWS, ROW]));
    let rows = graph.op("rows", Op::Gather { dtype }, &[table, ids])?;
    let shape = Shape::fixed(&[TOKENS, HEADS, HEAD_SIZE]);
    let heads = graph.op("heads", Op::Reshape { shape }, &[rows])?;
    let shape = Shape::fixed(&[BLOCKS, BLOCK_SIZE, HEADS, HEAD_SIZE]);
    let state = graph.state("cache", dtype, shape);
    graph.op("cache", Op::KvWrite, &[heads, state, slots])?;
    let y = graph.op("y", Op::Cast { dtype: DType::F32 }, &[rows])?;
    Ok(graph.finish(&[y]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_row_is_named_with_what_is_wrong() {
        let rows = |values: [u16; 3]| values.map(|value| vec![value]);
        let says = |got, expected| match compare(&rows(got), &rows(expected)) {
            Err(No::Fails(what)) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(compare(&rows([1, 2, 3]), &rows([1, 2, 3])[..2]), Ok(()));
        assert!(says([1, 0, 3], [1, 2, 3]).ends_with("is zero: number 1 of the cache"));
        assert!(says([1, 2, 3], [0, 2, 3]).contains("nobody wrote"));
        assert!(says([1, 2, 3], [1, 2, 4]).contains("other numbers"));
    }
}

//! A small attention over a paged cache, and the same computed on the host.
//!
//! ```text
//! q[id], k[id], v[id]     rows of three tables, by the ids of the step's tokens
//! k, v --kv_write--> caches --paged_attention(q)--> y
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Kind`] | sizes of heads and blocks: they decide on the layout that attention takes |
//! | [`Bucket`] | tokens and sequences of one graph |
//! | [`Scene`] | one kind: its sequences, their cache, and a graph for each bucket |
//!
//! Keys are random. Values are loud where an error of one would show: at the ends of sequences and of
//! blocks, and behind the ends. A result that takes a token too many or too few is off by a
//! twentieth of itself and more; one that is rounded to bf16, by a hundredth at most.

use std::collections::HashMap;
use std::ops::Range;

use super::super::artifact::{CompiledGraph, Role, files};
use super::super::executable::AscendExecutable;
use super::super::memory::AscendMemory;
use super::cache::{compare, read_state};
use super::lab::finished;
use super::numbers::{Matrix, Random};
use super::{Lab, No};
use crate::backend::{Artifact, Executable as _, Step};
use crate::ir::{Builder, DType, Graph, Op, Shape, TypeError};

const HEADS: usize = 4;
const GROUPS: usize = 2;
const BLOCKS: usize = 8;
/// Blocks of one sequence.
const WIDTH: usize = 2;
/// Sequences that there is room for.
const SEQS: usize = BLOCKS / WIDTH;
/// Rows of the tables: of these the last are loud.
const ROWS: usize = 160;
const LOUD_ROWS: Range<usize> = 128..ROWS;
const LOUDNESS: f32 = 16.0;
/// How far a result may be off, as a part of the largest of its row.
const TOLERANCE: f64 = 0.02;

/// Sizes that decide on the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) head_size: usize,
    pub(super) block_size: usize,
}

impl Kind {
    /// Heads of most small models: prefill and decode apart, in every release.
    pub(super) const SMALL: Self = Self { name: "heads of 64", head_size: 64, block_size: 128 };
    /// Packed, where the release has that.
    pub(super) const PACKED: Self =
        Self { name: "packed heads of 128", head_size: 128, block_size: 128 };
    /// The same heads, but in blocks that are not packed.
    pub(super) const SEPARATE: Self =
        Self { name: "heads of 128", head_size: 128, block_size: 256 };
}

/// Sizes of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    pub(super) tokens: usize,
    pub(super) seqs: usize,
}

/// What a step gave.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Of each token that is no padding, in the order of the step.
    pub(super) got: Vec<Vec<f32>>,
    /// The largest error, as a part of the largest of its row.
    pub(super) error: f64,
}

/// Sequences and their cache.
pub(super) struct Scene<'a> {
    lab: &'a Lab<'a>,
    kind: Kind,
    tables: Tables,
    memory: AscendMemory,
    executables: HashMap<Bucket, AscendExecutable>,
    /// Tokens of each sequence.
    pub(super) lens: [usize; SEQS],
    /// Rows of the tables that are in the cache, by slot: what was written, also what was forgotten.
    written: Vec<Option<usize>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(lab: &'a Lab<'a>, kind: Kind) -> Result<Self, No> {
        let graph = finished(graph(kind, Bucket { tokens: 1, seqs: 1 }))?;
        let tables = Tables::new(kind);
        let tensors = [("q", &tables.q), ("k", &tables.k), ("v", &tables.v)];
        let memory = lab.place(&graph, &tensors.map(|(name, table)| table.tensor(name)))?;
        let written = vec![None; BLOCKS * kind.block_size];
        let executables = HashMap::new();
        Ok(Self { lab, kind, tables, memory, executables, lens: [0; SEQS], written })
    }

    /// Runs a step in which sequence after sequence gets so many tokens more.
    pub(super) fn step(&mut self, bucket: Bucket, turns: &[(usize, usize)]) -> Result<Rows, No> {
        let inputs = self.inputs(bucket, turns);
        let output = self.run(bucket, &inputs)?;
        let mut got = output.chunks_exact(HEADS * self.kind.head_size).map(<[f32]>::to_vec);
        let mut rows = Rows { got: Vec::new(), error: 0.0 };
        for &(seq, queries) in turns {
            let start = self.lens[seq];
            for position in start..start + queries {
                self.written[slot(self.kind, seq, position)] = Some(row_of(seq, position));
                let got = got.next().unwrap_or_default();
                let expected = self.tables.attend(seq, position, position + 1);
                rows.error = rows.error.max(error(&got, &expected));
                rows.got.push(got);
            }
            self.lens[seq] += queries;
        }
        Ok(rows)
    }

    /// The same, and the result must be right.
    pub(super) fn checked_step(
        &mut self,
        bucket: Bucket,
        turns: &[(usize, usize)],
    ) -> Result<Rows, No> {
        let rows = self.step(bucket, turns)?;
        if rows.error <= TOLERANCE {
            return Ok(rows);
        }
        let lens: Vec<usize> = turns.iter().map(|&(seq, _)| self.lens[seq]).collect();
        Err(No::Fails(format!(
            "{}: {turns:?} (sequence, new tokens) up to lengths {lens:?} in a graph of {} tokens and \
             {} sequences: off by {}, expected at most {}",
            self.kind.name,
            bucket.tokens,
            bucket.seqs,
            percent(rows.error),
            percent(TOLERANCE),
        )))
    }

    /// Holds the cache to what was written.
    pub(super) fn check_cache(&self) -> Result<(), No> {
        let row = GROUPS * self.kind.head_size;
        for (index, table) in [(0, &self.tables.k), (1, &self.tables.v)] {
            let expected = self.written.iter().map(|written| match written {
                Some(id) => table.row(*id).to_vec(),
                None => vec![0; row],
            });
            let expected: Vec<_> = expected.collect();
            compare(&read_state(self.lab, &self.memory, index, row)?, &expected)?;
        }
        Ok(())
    }

    /// Runs a step of one token of sequence 0 whose first block is one that does not exist.
    pub(super) fn run_with_bad_block(&mut self, block: i32) -> Result<(), No> {
        let bucket = Bucket { tokens: 1, seqs: 1 };
        let artifact = self.lab.compile(&finished(graph(self.kind, bucket))?)?;
        let artifact = with_more_blocks(&artifact)?;
        let executable = self.lab.load_artifact("attention", &artifact.files())?;
        self.executables.insert(bucket, executable);
        let mut inputs = self.inputs(bucket, &[(0, 1)]);
        inputs[2] = vec![block; WIDTH];
        self.run(bucket, &inputs).map(drop)
    }

    fn run(&mut self, bucket: Bucket, inputs: &[Vec<i32>]) -> Result<Vec<f32>, No> {
        if !self.executables.contains_key(&bucket) {
            let graph = finished(graph(self.kind, bucket))?;
            self.executables.insert(bucket, self.lab.load(&graph)?);
        }
        let inputs: Vec<&[i32]> = inputs.iter().map(Vec::as_slice).collect();
        let step = Step { symbols: &[], inputs: &inputs };
        let mut output = Vec::new();
        if let Some(executable) = self.executables.get_mut(&bucket) {
            executable.run(&mut self.memory, &step, &mut output)?;
        }
        Ok(output)
    }

    /// Ids, slots, block tables, ends of queries, lengths; the rest of the bucket is padding.
    fn inputs(&self, bucket: Bucket, turns: &[(usize, usize)]) -> Vec<Vec<i32>> {
        let [mut ids, mut slots, mut tables, mut ends, mut lens] = [const { Vec::new() }; 5];
        for &(seq, queries) in turns {
            let start = self.lens[seq];
            for position in start..start + queries {
                ids.push(row_of(seq, position) as i32);
                slots.push(slot(self.kind, seq, position) as i32);
            }
            tables.extend(blocks(seq).map(|block| block as i32));
            ends.push(ids.len() as i32);
            lens.push((start + queries) as i32);
        }
        let last = ids.len() as i32;
        ids.resize(bucket.tokens, 0);
        slots.resize(bucket.tokens, -1);
        tables.resize(bucket.seqs * WIDTH, 0);
        ends.resize(bucket.seqs, last);
        lens.resize(bucket.seqs, 0);
        vec![ids, slots, tables, ends, lens]
    }
}

/// Blocks of a sequence: neither in order nor side by side.
fn blocks(seq: usize) -> [usize; WIDTH] {
    [0, SEQS].map(|first| (5 * (seq + first) + 6) % BLOCKS)
}

fn slot(kind: Kind, seq: usize, position: usize) -> usize {
    blocks(seq)[position / kind.block_size] * kind.block_size + position % kind.block_size
}

/// The row of the tables of a token.
fn row_of(seq: usize, position: usize) -> usize {
    match position {
        0 | 4..8 | 126..146 => LOUD_ROWS.start + (seq * 11 + position) % LOUD_ROWS.len(),
        _ => (seq * 41 + position * 7) % LOUD_ROWS.start,
    }
}

/// The artifact of a graph that believes in blocks which its cache does not have.
fn with_more_blocks(artifact: &Artifact) -> Result<Artifact, No> {
    let CompiledGraph { mut io, om } = CompiledGraph::read(&artifact.files())?;
    for input in &mut io.inputs {
        if let Role::BlockTables { dump_block, .. } = &mut input.role {
            *dump_block = i32::MAX as u64;
        }
    }
    Ok(Artifact { files: files(&io, om.to_vec())?, ..artifact.clone() })
}

fn graph(kind: Kind, bucket: Bucket) -> Result<Graph, TypeError> {
    let dtype = DType::BF16;
    let Kind { head_size, block_size, .. } = kind;
    let mut graph = Builder::new("attention");
    let mut input =
        |name: &str, shape: &[usize]| graph.input(name, DType::I32, Shape::fixed(shape));
    let [ids, slots] = ["ids", "slots"].map(|name| input(name, &[bucket.tokens]));
    let tables = input("tables", &[bucket.seqs, WIDTH]);
    let [ends, lens] = ["ends", "lens"].map(|name| input(name, &[bucket.seqs]));
    let mut heads = |name: &str, heads: usize| {
        let table = graph.weight(name, dtype, Shape::fixed(&[ROWS, heads * head_size]));
        let rows = graph.op(name, Op::Gather { dtype }, &[table, ids])?;
        let shape = Shape::fixed(&[bucket.tokens, heads, head_size]);
        graph.op(name, Op::Reshape { shape }, &[rows])
    };
    let (q, k, v) = (heads("q", HEADS)?, heads("k", GROUPS)?, heads("v", GROUPS)?);
    let shape = Shape::fixed(&[BLOCKS, block_size, GROUPS, head_size]);
    let mut write = |name: &str, rows| {
        let state = graph.state(name, dtype, shape.clone());
        graph.op(name, Op::KvWrite, &[rows, state, slots])
    };
    let (k, v) = (write("k cache", k)?, write("v cache", v)?);
    let attention = Op::PagedAttention { scale: scale(kind), window: None };
    let y = graph.op("y", attention, &[q, k, v, tables, ends, lens])?;
    let shape = Shape::fixed(&[bucket.tokens, HEADS * head_size]);
    let y = graph.op("y", Op::Reshape { shape }, &[y])?;
    let y = graph.op("y", Op::Cast { dtype: DType::F32 }, &[y])?;
    Ok(graph.finish(&[y]))
}

fn scale(kind: Kind) -> f32 {
    1.0 / (kind.head_size as f32).sqrt()
}

/// Queries, keys and values by token id.
#[derive(Debug)]
struct Tables {
    head_size: usize,
    scale: f64,
    q: Matrix,
    k: Matrix,
    v: Matrix,
}

impl Tables {
    fn new(kind: Kind) -> Self {
        let head_size = kind.head_size;
        let mut random = Random(head_size as u64);
        let mut matrix = |heads: usize, loudness: f32| {
            Matrix::new(ROWS, heads * head_size, |row, _| {
                let loudness = if LOUD_ROWS.contains(&row) { loudness } else { 1.0 };
                random.next() * loudness
            })
        };
        let (q, k, v) = (matrix(HEADS, 1.0), matrix(GROUPS, 1.0), matrix(GROUPS, LOUDNESS));
        Self { head_size, scale: scale(kind).into(), q, k, v }
    }

    /// The attention of the query at a position over the first `len` tokens of its sequence, in f64.
    fn attend(&self, seq: usize, position: usize, len: usize) -> Vec<f64> {
        let query = row_of(seq, position);
        let mut out = Vec::new();
        for head in 0..HEADS {
            let (start, group) = (head * self.head_size, head / (HEADS / GROUPS) * self.head_size);
            let score = |key: usize| -> f64 {
                let products = (0..self.head_size).map(|at| {
                    self.q.at(query, start + at) * self.k.at(row_of(seq, key), group + at)
                });
                products.sum::<f64>() * self.scale
            };
            let weights: Vec<f64> = (0..len).map(|key| score(key).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..self.head_size).map(|at| {
                let values = weights
                    .iter()
                    .enumerate()
                    .map(|(key, weight)| weight / sum * self.v.at(row_of(seq, key), group + at));
                values.sum::<f64>()
            }));
        }
        out
    }
}

/// The largest difference, as a part of the largest expected number.
fn error(got: &[f32], expected: &[f64]) -> f64 {
    if got.len() != expected.len() || got.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let differences = got.iter().zip(expected).map(|(got, value)| (f64::from(*got) - value).abs());
    differences.fold(0.0, f64::max) / largest
}

/// A part of a whole, for people.
pub(super) fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_too_many_or_too_few_shows() {
        for kind in [Kind::SMALL, Kind::PACKED] {
            let tables = Tables::new(kind);
            for (seq, len) in [(0, 132), (0, 133), (0, 130), (0, 128), (0, 141), (1, 5), (1, 6)] {
                let right = tables.attend(seq, len - 1, len);
                for wrong in [len - 1, len + 1] {
                    let got: Vec<f32> = tables
                        .attend(seq, len - 1, wrong)
                        .iter()
                        .map(|&value| value as f32)
                        .collect();
                    let error = error(&got, &right);
                    assert!(error > 3.0 * TOLERANCE, "{kind:?} {seq} {len} {wrong}: {error}");
                }
            }
        }
    }

    #[test]
    fn no_two_tokens_share_a_slot() {
        let kind = Kind::SMALL;
        let slots = (0..SEQS).flat_map(|seq| (0..256).map(move |at| slot(kind, seq, at)));
        let mut slots: Vec<usize> = slots.collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..BLOCKS * kind.block_size).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_number_is_wrong() {
        assert!(error(&[f32::NAN], &[1.0]).is_infinite());
        assert!(error(&[], &[1.0]).is_infinite());
        assert!(error(&[1.0], &[1.0]) < TOLERANCE);
    }
}

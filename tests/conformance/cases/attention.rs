//! Attention and writes to the cache: the graph writes every key and value of every sequence, then
//! attends.
//!
//! ```text
//! kv rows      sequence 0, positions 0 1 2 | sequence 2, positions 0 1 | a row of slot -1
//! tokens       the last ones of sequence 0 | of sequence 2 | padding
//! blocks       taken in a shuffled order, so that neighbours in a sequence are not in memory
//! ```

use std::ops::Range;

use cairn::ir::{Op, ValueId};

use super::{f64s, row};
use crate::case::{Case, CaseBuilder, CaseStep, Tolerance};
use crate::data::Numbers;
use crate::oracle;

/// A batch and the sizes of the model.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) groups: usize,
    pub(crate) head_dim: usize,
    pub(crate) block_size: usize,
    pub(crate) window: Option<u64>,
    /// Tokens in this step and in all, of each sequence.
    pub(crate) sequences: Vec<(usize, usize)>,
    /// Tokens after the last sequence's.
    pub(crate) padding: usize,
}

impl Default for Attention {
    fn default() -> Self {
        Self {
            heads: 4,
            groups: 2,
            head_dim: 16,
            block_size: 3,
            window: None,
            // A prompt, a decode, a padded sequence, a chunk of a prompt, a first token.
            sequences: vec![(5, 5), (1, 17), (0, 0), (3, 9), (1, 1)],
            padding: 2,
        }
    }
}

/// Some of the queries that a sequence has in the batch.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) sequence: usize,
    pub(crate) queries: Range<usize>,
}

/// Rows of each table that keys, values and queries are picked from.
const NUM_ROWS: usize = 80;
const SCALE: f32 = 0.3;

impl Attention {
    fn name(&self) -> String {
        let Self { heads, groups, head_dim, block_size, window, .. } = self;
        format!(
            "paged_attention {heads}/{groups} of {head_dim}, blocks of {block_size}, {window:?}"
        )
    }

    pub(crate) fn width(&self) -> usize {
        let longest = self.sequences.iter().map(|&(_, len)| len).max().unwrap_or(0);
        longest.div_ceil(self.block_size).max(1) + 1
    }

    fn num_blocks(&self) -> usize {
        self.sequences.iter().map(|&(_, len)| len.div_ceil(self.block_size)).sum::<usize>() + 3
    }

    /// The blocks of each sequence, padded with zeros.
    fn tables(&self) -> Vec<Vec<i32>> {
        let mut free: Vec<i32> = (0..self.num_blocks() as i32).collect();
        let mut numbers = Numbers::new(7);
        let mut take = || free.swap_remove(numbers.below(free.len()));
        let table = |&(_, len): &(usize, usize)| {
            let mut table: Vec<i32> = (0..len.div_ceil(self.block_size)).map(|_| take()).collect();
            table.resize(self.width(), 0);
            table
        };
        self.sequences.iter().map(table).collect()
    }

    /// For each sequence, the row of its first key and value.
    fn first_rows(&self) -> Vec<usize> {
        let rows = self.sequences.iter().scan(0, |next, &(_, len)| {
            *next += len;
            Some(*next - len)
        });
        rows.collect()
    }

    /// The case of the batch: writes and attends in one step.
    pub(crate) fn case(&self, tolerance: Tolerance) -> Case {
        let (case, output) = self.graph();
        case.finish(output, tolerance, vec![self.step(true)])
    }

    /// The same in two steps: one writes, the other finds what was written.
    fn case_of_two_steps(&self) -> Case {
        let (case, output) = self.graph();
        let nothing = Self { sequences: vec![(0, 0)], padding: 1, ..self.clone() };
        let mut first = self.step(true);
        let of_nothing = nothing.step(false);
        first.inputs.splice(2.., of_nothing.inputs[2..].iter().cloned());
        first.symbols.splice(1..4, of_nothing.symbols[1..4].iter().copied());
        first.expected = of_nothing.expected;
        let mut case = case.finish(output, Tolerance::Sum, vec![first, self.step(false)]);
        case.name.push_str(", in two steps");
        case
    }

    fn graph(&self) -> (CaseBuilder, ValueId) {
        let Self { heads, groups, head_dim, block_size, window, .. } = *self;
        let mut case = CaseBuilder::new(self.name());
        let [kv_rows, tokens, seqs, width, blocks] =
            ["kv_rows", "tokens", "seqs", "width", "blocks"].map(|name| case.symbol(name));
        let kv_ids = case.input("kv_ids", &[kv_rows]);
        let slots = case.input("slots", &[kv_rows]);
        let ids = case.input("ids", &[tokens]);
        let tables = case.input("tables", &[seqs, width]);
        let ends = case.input("ends", &[seqs]);
        let lens = case.input("lens", &[seqs]);
        let columns = groups * head_dim;
        let caches = [("k", self.keys()), ("v", self.values())].map(|(name, values)| {
            let x = case.activation(name, &values, columns, kv_ids);
            let x = case.reshape(x, &[groups, head_dim]);
            let sizes = [block_size, groups, head_dim].map(Into::into);
            let state = case.state(name, &[blocks, sizes[0], sizes[1], sizes[2]]);
            case.op(Op::KvWrite, &[x, state, slots])
        });
        let q = case.activation("q", &self.queries(), heads * head_dim, ids);
        let q = case.reshape(q, &[heads, head_dim]);
        let op = Op::PagedAttention { scale: SCALE, window };
        let output = case.op(op, &[q, caches[0], caches[1], tables, ends, lens]);
        (case, output)
    }

    fn keys(&self) -> Vec<f32> {
        Numbers::new(1).floats(NUM_ROWS * self.groups * self.head_dim)
    }

    fn values(&self) -> Vec<f32> {
        Numbers::new(2).floats(NUM_ROWS * self.groups * self.head_dim)
    }

    fn queries(&self) -> Vec<f32> {
        Numbers::new(3).floats(NUM_ROWS * self.heads * self.head_dim)
    }

    /// One step over the batch, which writes every key and value or none.
    pub(crate) fn step(&self, writes: bool) -> CaseStep {
        let whole = self
            .sequences
            .iter()
            .enumerate()
            .map(|(sequence, &(count, _))| Piece { sequence, queries: 0..count });
        let (symbols, inputs) = self.pieces(&whole.collect::<Vec<_>>(), self.padding, writes);
        CaseStep { symbols, inputs, expected: self.expected() }
    }

    /// Sizes and inputs of a step over parts of the batch, followed by padding.
    pub(crate) fn pieces(
        &self,
        pieces: &[Piece],
        padding: usize,
        writes: bool,
    ) -> (Vec<u64>, Vec<Vec<i32>>) {
        let tables = self.tables();
        let (mut kv_ids, mut slots) = (Vec::new(), Vec::new());
        for ((&(_, len), table), &first) in
            self.sequences.iter().zip(&tables).zip(&self.first_rows())
        {
            for position in 0..len {
                kv_ids.push((first + position) as i32);
                let block = table[position / self.block_size];
                slots.push(block * self.block_size as i32 + (position % self.block_size) as i32);
            }
        }
        kv_ids.push(0);
        slots.push(-1);
        if !writes {
            slots.fill(-1);
        }
        let (mut ids, mut ends, mut lens, mut used) = (vec![], vec![], vec![], vec![]);
        for Piece { sequence, queries } in pieces {
            let (count, len) = self.sequences[*sequence];
            ids.extend(queries.clone().map(|query| (self.first_query(*sequence) + query) as i32));
            ends.push(ids.len() as i32);
            lens.push((len - count + queries.end) as i32);
            used.extend(&tables[*sequence]);
        }
        ids.resize(ids.len() + padding, 0);
        let sizes = [kv_ids.len(), ids.len(), pieces.len(), self.width(), self.num_blocks()];
        let symbols = sizes.map(|size| size as u64).to_vec();
        (symbols, vec![kv_ids, slots, ids, used, ends, lens])
    }

    /// Of all queries of the batch, the first one of a sequence.
    pub(crate) fn first_query(&self, sequence: usize) -> usize {
        self.sequences[..sequence].iter().map(|&(count, _)| count).sum()
    }

    fn expected(&self) -> Vec<f64> {
        let (k, v, q) = (self.keys(), self.values(), self.queries());
        let (d, group) = (self.head_dim, self.heads / self.groups);
        let mut expected = Vec::new();
        let mut token = 0;
        for (&(count, len), first) in self.sequences.iter().zip(self.first_rows()) {
            for own in len - count..len {
                let seen = self.window.map_or(own + 1, |window| (own + 1).min(window as usize));
                let head_of = |values: &[f32], position: usize, head: usize| {
                    let row = row(values, self.groups * d, first + position);
                    row[head * d..(head + 1) * d].to_vec()
                };
                let q = f64s(&q[token * self.heads * d..(token + 1) * self.heads * d]);
                for (head, q) in q.chunks(d).enumerate() {
                    let of = |values: &[f32]| -> Vec<Vec<f64>> {
                        let positions = own + 1 - seen..=own;
                        positions.map(|position| head_of(values, position, head / group)).collect()
                    };
                    expected.extend(oracle::attention(q, &of(&k), &of(&v), SCALE.into()));
                }
                token += 1;
            }
        }
        expected.resize(expected.len() + self.padding * self.heads * d, 0.0);
        expected
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let heads = [(4, 2), (1, 1), (6, 2), (3, 1), (8, 8), (4, 1)];
    let windows = [None, Some(1), Some(3), Some(7), None, Some(100)];
    let sizes = [8, 16, 20, 32, 64, 80, 128];
    for (idx, head_dim) in sizes.into_iter().enumerate() {
        for (jdx, block_size) in [1, 3, 16].into_iter().enumerate() {
            let pick = idx * 3 + jdx;
            let (heads, groups) = heads[pick % heads.len()];
            let window = windows[(pick / 2) % windows.len()];
            let case =
                Attention { heads, groups, head_dim, block_size, window, ..Attention::default() };
            cases.push(case.case(Tolerance::Sum));
        }
    }
    cases.push(Attention::default().case_of_two_steps());
    // A window of one reads out the cache as it was written.
    let written = Attention {
        window: Some(1),
        sequences: vec![(7, 7), (16, 16), (1, 4), (3, 3)],
        heads: 2,
        head_dim: 20,
        ..Attention::default()
    };
    let mut case = written.case(Tolerance::Exact);
    case.name = format!("kv_write, read out by {}", case.name);
    cases.push(case);
    // Long enough for many vectors of scores.
    let long = Attention { sequences: vec![(1, 70), (2, 5)], ..Attention::default() };
    cases.push(long.case(Tolerance::Sum));
    cases
}

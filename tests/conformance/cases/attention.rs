//! Attention and writes to the cache: the graph writes every key and value of every sequence, then
//! attends.
//!
//! ```text
//! kv rows      sequence 0, positions 0 1 2 | sequence 2, positions 0 1 | a row of slot -1
//! tokens       the last ones of sequence 0 | of sequence 2 | padding
//! blocks       taken in a shuffled order, so that neighbours in a sequence are not in memory
//! ```
//!
//! Caches in f32 come in every size that the definition allows; those in f16 and bf16 in the sizes
//! and batches that a device takes: one query for each sequence, one sequence, or, for large heads in
//! bf16, anything.

use std::ops::Range;

use cairn::ir::{DType, Op, ValueId};

use super::{f64s, row};
use crate::case::{Case, CaseBuilder, CaseStep, Tolerance};
use crate::data::Numbers;
use crate::oracle;

/// A batch and the sizes of the model.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    /// Of the caches, and of all numbers in them.
    pub(crate) cache: DType,
    /// Of queries, new keys and values, and the result.
    pub(crate) rows: DType,
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
            cache: DType::F32,
            rows: DType::F32,
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

/// Rows of each table that keys, values and queries are picked from, at least.
const NUM_ROWS: usize = 80;
const SCALE: f32 = 0.3;

impl Attention {
    fn name(&self) -> String {
        let Self { cache, heads, groups, head_dim, block_size, window, sequences, .. } = self;
        format!(
            "paged_attention over {cache}, {heads}/{groups} of {head_dim}, blocks of {block_size}, \
             {window:?}, {sequences:?}"
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

    /// What the types of caches and rows allow.
    pub(crate) fn tolerance(&self) -> Tolerance {
        match self.cache {
            DType::F32 => Tolerance::Sum,
            narrow => Tolerance::Narrow(narrow, 1),
        }
    }

    /// The case of the batch: writes and attends in one step.
    pub(crate) fn case(&self) -> Case {
        let (case, output) = self.graph();
        case.finish(output, self.tolerance(), vec![self.step(true)])
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
        first.num_padding = of_nothing.num_padding;
        let mut case = case.finish(output, self.tolerance(), vec![first, self.step(false)]);
        case.name.push_str(", in two steps");
        case
    }

    fn graph(&self) -> (CaseBuilder, ValueId) {
        let Self { cache, rows, heads, groups, head_dim, block_size, window, .. } = *self;
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
            let x = case.activation_in(rows, name, &values, columns, kv_ids);
            let x = case.reshape(x, &[groups, head_dim]);
            let sizes = [block_size, groups, head_dim].map(Into::into);
            let state = case.state(name, cache, &[blocks, sizes[0], sizes[1], sizes[2]]);
            case.op(Op::KvWrite, &[x, state, slots])
        });
        let q = case.activation_in(rows, "q", &self.queries(), heads * head_dim, ids);
        let q = case.reshape(q, &[heads, head_dim]);
        let op = Op::PagedAttention { scale: SCALE, window };
        let output = case.op(op, &[q, caches[0], caches[1], tables, ends, lens]);
        (case, output)
    }

    fn num_rows(&self) -> usize {
        self.sequences.iter().map(|&(_, len)| len).sum::<usize>().max(NUM_ROWS)
    }

    fn keys(&self) -> Vec<f32> {
        Numbers::new(1).floats_in(self.cache, self.num_rows() * self.groups * self.head_dim)
    }

    fn values(&self) -> Vec<f32> {
        Numbers::new(2).floats_in(self.cache, self.num_rows() * self.groups * self.head_dim)
    }

    fn queries(&self) -> Vec<f32> {
        Numbers::new(3).floats_in(self.cache, self.num_rows() * self.heads * self.head_dim)
    }

    /// One step over the batch, which writes every key and value or none.
    pub(crate) fn step(&self, writes: bool) -> CaseStep {
        let whole = self
            .sequences
            .iter()
            .enumerate()
            .map(|(sequence, &(count, _))| Piece { sequence, queries: 0..count });
        let (symbols, inputs) = self.pieces(&whole.collect::<Vec<_>>(), self.padding, writes);
        let num_padding = self.padding * self.heads * self.head_dim;
        CaseStep { symbols, inputs, expected: self.expected(), num_padding }
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

/// Every size that the definition allows, with caches in f32.
fn of_any_size() -> Vec<Case> {
    let mut cases = Vec::new();
    let heads = [(4, 2), (1, 1), (6, 2), (3, 1), (8, 8), (4, 1)];
    let windows = [None, Some(1), Some(3), Some(7), None, Some(100)];
    let sizes = [8, 16, 20, 32, 64, 80, 128];
    for (idx, head_dim) in sizes.into_iter().enumerate() {
        for (jdx, block_size) in [1, 3, 16].into_iter().enumerate() {
            let pick = idx * 3 + jdx;
            let (heads, groups) = heads[pick % heads.len()];
            let window = windows[(pick / 2) % windows.len()];
            let batch =
                Attention { heads, groups, head_dim, block_size, window, ..Attention::default() };
            cases.push(batch.case());
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
    cases.push(written.read_out());
    // Long enough for many vectors of scores.
    let long = Attention { sequences: vec![(1, 70), (2, 5)], ..Attention::default() };
    cases.push(long.case());
    cases
}

impl Attention {
    /// Blocks and heads as a device takes them; the batch is still to be said.
    pub(crate) fn on_device(cache: DType, heads: (usize, usize), head_dim: usize) -> Self {
        let (heads, groups) = heads;
        Self { cache, rows: cache, heads, groups, head_dim, block_size: 128, ..Self::default() }
    }

    /// One query for each sequence; those without any are at the end.
    pub(crate) fn decode(self, lens: &[usize]) -> Self {
        let sequences: Vec<_> = lens.iter().map(|&len| (len.min(1), len)).collect();
        let padding = lens.iter().filter(|&&len| len == 0).count();
        Self { sequences, padding, ..self }
    }

    /// One sequence, and tokens of padding after it.
    pub(crate) fn prefill(self, sequence: (usize, usize), padding: usize) -> Self {
        Self { sequences: vec![sequence], padding, ..self }
    }

    /// Sequences of any kind, among them an empty one.
    pub(crate) fn packed(heads: (usize, usize)) -> Self {
        Self {
            sequences: vec![(5, 130), (1, 17), (0, 0), (3, 9), (1, 1)],
            ..Self::on_device(DType::BF16, heads, 128)
        }
    }

    /// The case of a batch whose queries each see one value, which is the result, bit for bit.
    fn read_out(&self) -> Case {
        let mut case = self.case();
        case.name = format!("kv_write, read out by {}", case.name);
        case.tolerance = Tolerance::Exact;
        case
    }
}

/// Caches in a narrow type, one query for each sequence or one sequence.
fn of_narrow_caches(cache: DType) -> Vec<Case> {
    let sizes = [(16, (4, 2)), (64, (9, 3)), (128, (2, 1)), (8, (4, 4)), (80, (1, 1))];
    let mut cases = Vec::new();
    for (head_dim, heads) in sizes {
        let batch = || Attention::on_device(cache, heads, head_dim);
        cases.push(batch().decode(&[130, 17, 1, 128, 0, 0]).case());
        cases.push(batch().prefill((6, 6), 2).case());
        cases.push(batch().prefill((7, 140), 0).case());
        cases.push(batch().prefill((0, 0), 2).case());
    }
    let small = || Attention::on_device(cache, (4, 2), 16);
    cases.push(small().decode(&[129]).case());
    cases.push(small().decode(&[140, 0]).case_of_two_steps());
    cases.push(small().prefill((5, 133), 3).case_of_two_steps());
    cases.push(small().decode(&[1, 1, 1]).read_out());
    // Larger blocks, and a window that hides nothing.
    let large = Attention { block_size: 256, window: Some(512), ..small() };
    cases.push(large.decode(&[256, 3]).case());
    // Activations may stay in f32: only what meets the cache is rounded, here to itself.
    let mut wide = Attention { rows: DType::F32, ..small() }.prefill((3, 150), 1).case();
    wide.name.push_str(", of f32 rows");
    cases.push(wide);
    cases
}

/// Any number of queries for each sequence.
fn of_packed_batches() -> Vec<Case> {
    let batch = || Attention::packed((4, 2));
    let only_padding = Attention { sequences: vec![(0, 0), (0, 0)], padding: 5, ..batch() };
    let mut cases = vec![
        batch().case(),
        batch().case_of_two_steps(),
        Attention::packed((3, 1)).case(),
        Attention { padding: 0, ..batch() }.case(),
        Attention { block_size: 512, ..batch() }.case(),
        // More padding than a table of the batch has blocks for.
        Attention { sequences: vec![(2, 2), (1, 40)], padding: 300, ..batch() }.case(),
        only_padding.case(),
    ];
    for case in &mut cases {
        case.name = case.name.replacen("over", "of a packed batch over", 1);
    }
    cases
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = of_any_size();
    cases.extend([DType::F16, DType::BF16].into_iter().flat_map(of_narrow_caches));
    cases.extend(of_packed_batches());
    cases
}

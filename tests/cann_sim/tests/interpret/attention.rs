//! `FusedInferAttentionScore` against attention written down in f64.

use ascendcl::ge::graph::{Attr, DataType};
use ascendcl::interpret::KernelError;

use crate::support::{FLOATS, Value, assert_close, f32s, i32s, i64s, noise, rounding, run_op};

use DataType::{Bf16, Bool, Float, Float16};

const POISON: f64 = 12345.0;

/// One attention over blocks of keys.
#[derive(Clone)]
struct Case {
    dtype: DataType,
    layout: &'static str,
    /// Of the query.
    shape: Vec<usize>,
    heads: usize,
    kv_heads: usize,
    block_size: usize,
    num_blocks: usize,
    sparse_mode: i64,
    /// As the operator takes them.
    lengths: Option<Vec<i64>>,
    kv_lengths: Vec<i64>,
    /// By sequence.
    block_table: Vec<Vec<i64>>,
    extra: Vec<(&'static str, Attr)>,
    mask: Option<Value>,
    wants_lse: bool,
}

impl Case {
    fn head_size(&self) -> usize {
        let heads_apart = self.layout != "BSH";
        self.shape[self.shape.len() - 1] / if heads_apart { 1 } else { self.heads }
    }

    fn num_rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.heads / self.head_size()
    }

    fn query(&self) -> Value {
        noise(1, self.dtype, &self.shape)
    }

    fn cache(&self, seed: u64) -> Value {
        let width = self.kv_heads * self.head_size();
        noise(seed, self.dtype, &[self.num_blocks, self.block_size, width])
    }

    fn run(&self) -> Result<Vec<Value>, KernelError> {
        let columns = self.block_table.iter().map(Vec::len).max().unwrap_or(0);
        let table: Vec<i64> = self.block_table.concat();
        let mut inputs = vec![
            ("query", self.query()),
            ("key0", self.cache(2)),
            ("value0", self.cache(3)),
            ("actual_seq_lengths_kv", i64s(&[self.kv_lengths.len()], &self.kv_lengths)),
            ("block_table", i32s(&[self.block_table.len(), columns], &table)),
        ];
        if let Some(lengths) = &self.lengths {
            inputs.push(("actual_seq_lengths", i64s(&[lengths.len()], lengths)));
        }
        if let Some(mask) = &self.mask {
            inputs.push(("atten_mask", mask.clone()));
        }
        let mut attrs = vec![
            ("num_heads", Attr::Int(self.heads as i64)),
            ("num_key_value_heads", Attr::Int(self.kv_heads as i64)),
            ("scale", Attr::Float(0.5)),
            ("input_layout", Attr::Str(self.layout.to_owned())),
            ("sparse_mode", Attr::Int(self.sparse_mode)),
            ("block_size", Attr::Int(self.block_size as i64)),
            ("softmax_lse_flag", Attr::Bool(self.wants_lse)),
        ];
        attrs.extend(self.extra.iter().cloned());
        let lse = if self.wants_lse { self.num_rows() * self.heads } else { 0 };
        run_op(
            "FusedInferAttentionScore",
            &inputs,
            &attrs,
            &[(self.dtype, &self.shape), (Float, &[lse])],
        )
    }

    fn complaint(&self) -> String {
        self.run().expect_err("must fail").what
    }

    /// The row of a query that sees some keys of a sequence.
    fn expected(&self, row: usize, sequence: usize, seen: &[usize]) -> Vec<f64> {
        let (size, width) = (self.head_size(), self.heads * self.head_size());
        let kv_width = self.kv_heads * size;
        let (query, key, value) =
            (self.query().numbers(), self.cache(2).numbers(), self.cache(3).numbers());
        let place = |j: usize| {
            let block = self.block_table[sequence][j / self.block_size] as usize;
            (block * self.block_size + j % self.block_size) * kv_width
        };
        (0..width)
            .map(|column| {
                let (head, i) = (column / size, column % size);
                let group = head / (self.heads / self.kv_heads) * size;
                let power = |j: usize| {
                    let q = &query[row * width + head * size..][..size];
                    let k = &key[place(j) + group..][..size];
                    let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                    (0.5 * dot).exp()
                };
                let sum: f64 = seen.iter().map(|&j| power(j)).sum();
                seen.iter().map(|&j| power(j) * value[place(j) + group + i]).sum::<f64>() / sum
            })
            .collect()
    }
}

/// Largest magnitude is that of the poison, so real rows are compared on their own.
#[track_caller]
fn assert_rows(case: &Case, got: &Value, expected: &[Option<Vec<f64>>]) {
    let width = case.heads * case.head_size();
    assert_eq!(case.num_rows(), expected.len());
    for (row, (got, expected)) in got.numbers().chunks(width).zip(expected).enumerate() {
        match expected {
            Some(expected) => {
                let got: Vec<f32> = got.iter().map(|&x| x as f32).collect();
                assert_close(&f32s(&[width], &got), expected, rounding(case.dtype));
            }
            // As near as the type comes.
            None => assert!(got.iter().all(|x| (x - POISON).abs() < 64.0), "row {row}: {got:?}"),
        }
    }
}

fn triangle() -> Value {
    let mut mask = Value::zeros(Bool, &[2048, 2048]);
    for row in 0..2048 {
        mask.bytes[row * 2048 + row + 1..(row + 1) * 2048].fill(1);
    }
    mask
}

fn decode(dtype: DataType) -> Case {
    Case {
        dtype,
        layout: "BSH",
        shape: vec![3, 1, 6 * 8],
        heads: 6,
        kv_heads: 2,
        block_size: 16,
        num_blocks: 7,
        sparse_mode: 0,
        lengths: None,
        kv_lengths: vec![1, 40, 16],
        block_table: vec![vec![4, -1, 99], vec![6, 0, 3], vec![2, -1, -1]],
        extra: vec![],
        mask: None,
        wants_lse: false,
    }
}

fn prefill(dtype: DataType) -> Case {
    Case {
        shape: vec![1, 8, 6 * 8],
        sparse_mode: 3,
        lengths: Some(vec![5]),
        kv_lengths: vec![21],
        block_table: vec![vec![5, 1, -7]],
        mask: Some(triangle()),
        ..decode(dtype)
    }
}

fn packed() -> Case {
    Case {
        layout: "TND",
        shape: vec![9, 4, 8],
        heads: 4,
        kv_heads: 2,
        // Three queries, none, one, three of a first chunk, and two that pad.
        lengths: Some(vec![3, 3, 4, 7, 9]),
        kv_lengths: vec![20, 0, 33, 3, 2],
        block_table: vec![
            vec![1, 2, -1],
            vec![-1, -1, -1],
            vec![3, 0, 4],
            vec![5, 9, 9],
            vec![6, 9, 9],
        ],
        ..prefill(Bf16)
    }
}

#[test]
fn decoding_sees_every_key_of_its_sequence() {
    for dtype in FLOATS {
        let case = decode(dtype);
        let expected: Vec<_> = case
            .kv_lengths
            .iter()
            .enumerate()
            .map(|(row, &len)| {
                Some(case.expected(row, row, &(0..len as usize).collect::<Vec<_>>()))
            })
            .collect();
        assert_rows(&case, &case.run().unwrap()[0], &expected);
        let apart = Case { layout: "BSND", shape: vec![3, 1, 6, 8], ..case };
        assert_rows(&apart, &apart.run().unwrap()[0], &expected);
    }
}

#[test]
fn a_sequence_without_keys_gives_poison() {
    let case = Case { kv_lengths: vec![0, 40, 16], ..decode(Float16) };
    let got = case.run().unwrap();
    assert_eq!(got[0].numbers()[..48], [12344.0; 48]);
}

#[test]
fn a_chunk_of_a_prompt_sees_what_is_cached_and_itself() {
    for dtype in FLOATS {
        let case = prefill(dtype);
        let expected: Vec<_> = (0..8)
            .map(|row| (row < 5).then(|| (0..=16 + row).collect::<Vec<_>>()))
            .enumerate()
            .map(|(row, seen)| seen.map(|seen| case.expected(row, 0, &seen)))
            .collect();
        assert_rows(&case, &case.run().unwrap()[0], &expected);
    }
}

#[test]
fn a_band_sees_a_window() {
    let case = Case {
        sparse_mode: 4,
        extra: vec![("pre_tokens", Attr::Int(3)), ("next_tokens", Attr::Int(0))],
        ..prefill(Float)
    };
    let expected: Vec<_> = (0..8)
        .map(|row| {
            (row < 5).then(|| case.expected(row, 0, &(13 + row..=16 + row).collect::<Vec<_>>()))
        })
        .collect();
    assert_rows(&case, &case.run().unwrap()[0], &expected);
}

#[test]
fn a_mask_of_its_own_hides_single_keys() {
    let mut mask = Value::zeros(Bool, &[8, 32]);
    mask.bytes[2 * 32 + 1] = 1;
    mask.bytes[2 * 32 + 20] = 1;
    let case = Case { sparse_mode: 0, mask: Some(mask), ..prefill(Float) };
    let got = case.run().unwrap();
    let seen: Vec<usize> = (0..21).filter(|j| ![1, 20].contains(j)).collect();
    let expected: Vec<_> = (0..8)
        .map(|row| match row {
            0 | 1 | 3 | 4 => Some(case.expected(row, 0, &(0..21).collect::<Vec<_>>())),
            2 => Some(case.expected(row, 0, &seen)),
            _ => None,
        })
        .collect();
    assert_rows(&case, &got[0], &expected);
}

#[test]
fn a_packed_batch_mixes_chunks_and_decoding() {
    let case = packed();
    // Row, sequence, number of keys seen.
    let seen = [(0, 18), (0, 19), (0, 20), (2, 33), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2)];
    let rows: Vec<Vec<f64>> = seen
        .iter()
        .enumerate()
        .map(|(row, &(sequence, len))| case.expected(row, sequence, &(0..len).collect::<Vec<_>>()))
        .collect();
    assert_close(&case.run().unwrap()[0], &rows.concat(), rounding(Bf16));
}

#[test]
fn rows_of_the_output_do_not_depend_on_the_batch() {
    let case = packed();
    let all = case.run().unwrap()[0].numbers();
    let alone = Case {
        shape: vec![3, 4, 8],
        lengths: Some(vec![3]),
        kv_lengths: vec![20],
        block_table: vec![vec![1, 2]],
        ..case
    };
    assert_eq!(alone.run().unwrap()[0].numbers(), all[..96]);
}

#[test]
fn the_logarithm_of_the_denominator_is_given_when_asked_for() {
    let case = Case { wants_lse: true, kv_lengths: vec![1, 0, 1], ..decode(Float) };
    let got = case.run().unwrap();
    let (query, key) = (case.query().numbers(), case.cache(2).numbers());
    let lse: Vec<f64> = (0..18)
        .map(|at| match at / 6 {
            1 => POISON,
            row => {
                let block = case.block_table[row][0] as usize;
                let k = &key[block * 16 * 16 + at % 6 / 3 * 8..][..8];
                0.5 * query[at * 8..][..8].iter().zip(k).map(|(q, k)| q * k).sum::<f64>()
            }
        })
        .collect();
    assert_close(&got[1], &lse, 1e-9);
}

#[test]
fn keys_may_lie_without_blocks() {
    let query = noise(1, Float, &[2, 1, 2, 4]);
    let [key, value] = [2, 3].map(|seed| noise(seed, Float, &[2, 5, 1, 4]));
    let inputs = [
        ("query", query),
        ("key0", key),
        ("value0", value.clone()),
        ("actual_seq_lengths_kv", i64s(&[2], &[1, 1])),
    ];
    let attrs = [
        ("num_heads", Attr::Int(2)),
        ("num_key_value_heads", Attr::Int(1)),
        ("input_layout", Attr::Str("BSND".to_owned())),
    ];
    let outputs: [(DataType, &[usize]); 2] = [(Float, &[2, 1, 2, 4]), (Float, &[0])];
    let got = run_op("FusedInferAttentionScore", &inputs, &attrs, &outputs).unwrap();
    // One key: its value.
    let values = value.numbers();
    let first = [&values[..4], &values[..4], &values[20..24], &values[20..24]].concat();
    assert_eq!(got[0].numbers(), first);
}

#[test]
fn what_a_length_reaches_must_exist() {
    let table = |rows: [[i64; 3]; 3]| rows.map(|row| row.to_vec()).to_vec();
    let case = decode(Float);
    for block_table in
        [table([[7, 0, 0], [6, 0, 3], [2, 0, 0]]), table([[4, 0, 0], [6, 0, -1], [2, 0, 0]])]
    {
        let case = Case { block_table, ..case.clone() };
        assert!(case.complaint().contains("out of range"), "{}", case.complaint());
    }
    let long = Case { kv_lengths: vec![1, 49, 16], ..case.clone() };
    assert!(long.complaint().contains("do not hold"), "{}", long.complaint());
    let negative = Case { kv_lengths: vec![1, -1, 16], ..case.clone() };
    assert!(negative.complaint().contains("at least 0"), "{}", negative.complaint());
    let few = Case { kv_lengths: vec![1, 2], ..case.clone() };
    assert!(few.complaint().contains("expected 3 lengths"), "{}", few.complaint());
    let other = Case { extra: vec![("block_size", Attr::Int(32))], ..case };
    assert!(other.complaint().contains("block_size"), "{}", other.complaint());
}

#[test]
fn lengths_of_packed_queries_rise_to_their_number() {
    for lengths in [vec![3, 2, 4, 7, 9], vec![3, 3, 4, 7, 8], vec![3, 3, 4, 7, 10]] {
        let case = Case { lengths: Some(lengths), ..packed() };
        assert!(case.complaint().contains("never falls"), "{}", case.complaint());
    }
    let case = Case { lengths: Some(vec![9]), ..prefill(Float) };
    assert!(case.complaint().contains("8 queries"), "{}", case.complaint());
}

#[test]
fn a_causal_attention_needs_the_triangle() {
    let case = Case { mask: None, ..prefill(Float) };
    assert!(case.complaint().contains("needs `atten_mask`"), "{}", case.complaint());
    let mut broken = triangle();
    broken.bytes[18 * 2048 + 3] = 1;
    let case = Case { mask: Some(broken), ..case };
    assert!(case.complaint().contains("row 18"), "{}", case.complaint());
    let case = Case { mask: Some(Value::zeros(Bool, &[8, 21])), ..case };
    assert!(case.complaint().contains("2048"), "{}", case.complaint());
}

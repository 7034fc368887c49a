//! Every fast kernel against its reference, on every instruction set of this processor.

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use proptest::prelude::*;

use super::Fast;
use super::simd::Detected;
use crate::DType;
use crate::operands::{
    Arithmetic, AttentionArgs, Binary, CacheShape, Kernels, LinearWeight, Matrix, Query, RopeArgs,
    RopeStyle, RowBytes, WeightRows,
};
use crate::pool::Pool;
use crate::reference::Reference;

/// A weight in memory.
#[derive(Debug)]
struct Weight {
    dtype: DType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl RowBytes for Weight {
    fn row(&self, idx: usize) -> &[u8] {
        let len = self.dtype.row_bytes(self.columns).unwrap();
        &self.bytes[idx * len..][..len]
    }
}

/// Numbers that differ from call to call, from -1 to 1.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn next(&mut self) -> f32 {
        self.bits() as f32 / (1_u64 << 30) as f32 - 1.0
    }
}

impl Weight {
    fn random(dtype: DType, rows: usize, columns: usize, numbers: &mut Numbers) -> Self {
        let row_bytes = dtype.row_bytes(columns).unwrap();
        let mut bytes: Vec<u8> = (0..rows * row_bytes).map(|_| numbers.bits() as u8).collect();
        let mut small = || numbers.next() / 16.0;
        let mut each = |to_bytes: fn(f32) -> Vec<u8>| {
            let len = to_bytes(0.0).len();
            for bytes in bytes.chunks_exact_mut(len) {
                bytes.copy_from_slice(&to_bytes(small()));
            }
        };
        match dtype {
            DType::F32 => each(|value| value.to_le_bytes().to_vec()),
            DType::I32 => each(|value| ((value * 99.0) as i32).to_le_bytes().to_vec()),
            DType::F16 => each(|value| f16::from_f32(value).to_le_bytes().to_vec()),
            DType::BF16 => each(|value| bf16::from_f32(value).to_le_bytes().to_vec()),
            _ => {
                for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                    for &at in crate::f16_offsets(dtype) {
                        block[at..at + 2].copy_from_slice(&f16::from_f32(small()).to_le_bytes());
                    }
                }
            }
        }
        Self { dtype, rows, columns, bytes }
    }

    fn view(&self) -> WeightRows<'_> {
        WeightRows { dtype: self.dtype, rows: self.rows, columns: self.columns, bytes: self }
    }
}

fn fast(isa: Detected, threads: usize) -> Fast {
    Fast { isa, pool: Arc::new(Pool::new(threads).unwrap()), scratch: Mutex::default() }
}

fn product(
    kernels: &dyn Kernels,
    x: Matrix<'_>,
    weight: &Weight,
    arithmetic: Arithmetic,
) -> Vec<f32> {
    let packed = kernels.pack(&[weight.view()], arithmetic).unwrap().map(|mut all| all.remove(0));
    let mut target = vec![f32::NAN; x.rows * weight.rows];
    let weight = LinearWeight { rows: weight.view(), arithmetic, packed: packed.as_ref() };
    kernels.linear(x, weight, &mut target);
    target
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn products_are_those_of_the_reference_whatever_is_computed_together(
        dtype in proptest::sample::select(DType::ALL.to_vec()),
        arithmetic in proptest::sample::select(vec![Arithmetic::F32, Arithmetic::Bf16, Arithmetic::I8]),
        tokens in prop_oneof![1_usize..30, 30_usize..70],
        rows in 1_usize..150,
        blocks in 1_usize..10,
        odd in 0_usize..32,
        seed in any::<u64>(),
    ) {
        let columns = match dtype.block_elements() {
            1 => blocks * 32 + odd,
            32 => blocks * 32,
            block => blocks.div_ceil(4) * block,
        };
        let mut numbers = Numbers(seed);
        let weight = Weight::random(dtype, rows, columns, &mut numbers);
        let stride = columns + odd;
        let data: Vec<f32> = (0..tokens * stride).map(|_| numbers.next()).collect();
        let x = Matrix { data: &data, rows: tokens, columns, stride };
        let expected = product(&Reference, x, &weight, arithmetic);
        // Sums of so many terms may differ by their order: by less than this of what was added.
        let mut tolerance = 0.0_f32;
        for n in 0..rows {
            let mut values = vec![0.0; columns];
            crate::dequantise(dtype, weight.row(n), &mut values).unwrap();
            tolerance = tolerance.max(values.iter().map(|w| w.abs()).sum::<f32>() * 2e-6);
        }
        for isa in Detected::all() {
            let one = fast(isa, 1);
            let got = product(&one, x, &weight, arithmetic);
            for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                prop_assert!((got - expected).abs() <= tolerance, "{isa:?} {at}: {got} {expected}");
            }
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let together = bits(&product(&fast(isa, 3), x, &weight, arithmetic));
            prop_assert_eq!(&together, &bits(&got), "threads");
            for (t, together) in together.chunks_exact(rows).enumerate() {
                let alone = Matrix { data: x.row(t), rows: 1, ..x };
                prop_assert_eq!(bits(&product(&one, alone, &weight, arithmetic)), together, "token {}", t);
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none_and_spoils_no_other_row() {
    let mut numbers = Numbers(7);
    let weight = Weight::random(DType::BF16, 40, 64, &mut numbers);
    let mut data: Vec<f32> = (0..5 * 64).map(|_| numbers.next()).collect();
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::I8] {
        for isa in Detected::all() {
            for value in [f32::NAN, f32::INFINITY] {
                data[2 * 64 + 9] = value;
                let got = product(&fast(isa, 2), Matrix::dense(&data, 64), &weight, arithmetic);
                for (row, got) in got.chunks_exact(40).enumerate() {
                    let is_finite = got.iter().all(|value| value.is_finite());
                    assert_eq!(is_finite, row != 2, "{isa:?} {arithmetic:?} row {row}");
                }
            }
        }
    }
}

/// A paged cache with some sequences in it, and what is asked of them.
struct Scene {
    cache: CacheShape,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    queries: Vec<Query>,
    tables: Vec<i32>,
    query_heads: usize,
}

impl Scene {
    /// For each sequence its length, and how many of its last tokens ask.
    fn random(
        cache: CacheShape,
        group: usize,
        window: usize,
        sequences: &[(usize, usize)],
        numbers: &mut Numbers,
    ) -> Self {
        let longest = sequences.iter().map(|(len, _)| *len).max().unwrap_or(0);
        let width = longest.div_ceil(cache.block_size);
        let num_blocks = sequences.len() * width;
        // Every sequence has every so-manieth block, the last one first.
        let tables = (0..sequences.len())
            .flat_map(|seq| {
                (0..width).map(move |b| (num_blocks - 1 - b * sequences.len() - seq) as i32)
            })
            .collect();
        let mut queries = Vec::new();
        for (seq, &(len, count)) in sequences.iter().enumerate() {
            for end in len - count + 1..=len {
                queries.push(Query { start: end.saturating_sub(window), end, table: seq * width });
            }
            queries.push(Query::default());
        }
        let numbers_of = |len: usize, numbers: &mut Numbers| -> Vec<f32> {
            (0..len).map(|_| numbers.next() * 2.0).collect()
        };
        let size = num_blocks * cache.block_size * cache.num_heads * cache.head_dim;
        let query_heads = group * cache.num_heads;
        let (k, v) = (numbers_of(size, numbers), numbers_of(size, numbers));
        let q = numbers_of(queries.len() * query_heads * cache.head_dim, numbers);
        Self { cache, k, v, q, queries, tables, query_heads }
    }

    fn attend(&self, kernels: &dyn Kernels, rows: std::ops::Range<usize>) -> Vec<f32> {
        let columns = self.query_heads * self.cache.head_dim;
        let data = &self.q[rows.start * columns..];
        let mut target = vec![f32::NAN; rows.len() * columns];
        let args = AttentionArgs {
            q: Matrix { data, rows: rows.len(), columns, stride: columns },
            k: &self.k,
            v: &self.v,
            cache: self.cache,
            queries: &self.queries[rows],
            block_tables: &self.tables,
            scale: 0.3,
        };
        kernels.attention(args, &mut target);
        target
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_that_of_the_reference_whatever_is_computed_together(
        block_size in proptest::sample::select(vec![1_usize, 3, 4, 8, 16, 32, 128]),
        num_heads in 1_usize..4,
        group in 1_usize..5,
        head_dim in proptest::sample::select(vec![2_usize, 8, 40, 64, 96]),
        window in prop_oneof![1_usize..80, Just(usize::MAX)],
        sequences in proptest::collection::vec((1_usize..150, 1_usize..150), 1..5),
        seed in any::<u64>(),
    ) {
        let sequences: Vec<_> = sequences.into_iter().map(|(len, asked)| (len, asked.min(len))).collect();
        let cache = CacheShape { block_size, num_heads, head_dim };
        let scene = Scene::random(cache, group, window, &sequences, &mut Numbers(seed));
        let all = 0..scene.queries.len();
        let expected = scene.attend(&Reference, all.clone());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for isa in Detected::all() {
            let one = fast(isa, 1);
            let got = scene.attend(&one, all.clone());
            for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                prop_assert!((got - expected).abs() <= 2e-5, "{isa:?} {at}: {got} {expected}");
            }
            let got = bits(&got);
            prop_assert_eq!(&bits(&scene.attend(&fast(isa, 3), all.clone())), &got, "threads");
            let width = group * num_heads * head_dim;
            for row in all.clone().step_by(7) {
                let alone = bits(&scene.attend(&one, row..row + 1));
                prop_assert_eq!(&alone[..], &got[row * width..(row + 1) * width], "row {}", row);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_those_of_the_reference(
        tokens in prop_oneof![1_usize..20, 100_usize..130],
        heads in 1_usize..5,
        half in 1_usize..50,
        is_interleaved in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (head_dim, columns) = (2 * half, heads * 2 * half);
        let mut numbers = Numbers(seed);
        let mut matrix = |rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|_| numbers.next() * 8.0).collect()
        };
        let (a, b) = (matrix(tokens, columns), matrix(tokens, columns));
        let (cos, sin) = (matrix(tokens, half), matrix(tokens, half));
        let style = if is_interleaved { RopeStyle::Interleaved } else { RopeStyle::Halves };
        let results = |kernels: &dyn Kernels| {
            let mut results = vec![vec![f32::NAN; tokens * columns]; 6];
            let (x, y) = (Matrix::dense(&a, columns), Matrix::dense(&b, columns));
            for (function, target) in [Binary::Add, Binary::Mul, Binary::SiluMul].into_iter().zip(&mut results) {
                kernels.binary(function, x, y, target);
            }
            kernels.silu(x, &mut results[3]);
            kernels.rms_norm(x, &b[..head_dim], 1e-5, &mut results[4]);
            let (cos, sin) = (Matrix::dense(&cos, half), Matrix::dense(&sin, half));
            kernels.rope(RopeArgs { x, cos, sin, head_dim, style }, &mut results[5]);
            results
        };
        let expected = results(&Reference);
        for isa in Detected::all() {
            for (function, (got, expected)) in results(&fast(isa, 2)).iter().zip(&expected).enumerate() {
                for (got, expected) in got.iter().zip(expected) {
                    let tolerance = 2e-5 * expected.abs().max(1.0);
                    prop_assert!((got - expected).abs() <= tolerance, "{isa:?} {function}: {got} {expected}");
                }
            }
        }
    }
}

//! What several integration tests share.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn::backend::compile::Compiler;
use cairn::backend::cpu::{Arithmetic, CpuBackend, KernelSet};
use cairn::backend::{Backend, Executable, Memory, StateSpec, Step, Weight};
use cairn::boot::models::{ModelError, fetch_default};
use cairn::ir::SymbolId;
use cairn::model::{Model, WeightPolicy};
use cairn_graph_cache::GraphCache;

/// The folder of golden files.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The default model, fetched by the code that `cairn pull` runs; `None` where `CAIRN_OFFLINE=1`
/// forbids it, after saying what is skipped.
pub(crate) fn default_model(test: &str) -> Option<PathBuf> {
    match fetch_default() {
        Ok(path) => Some(path),
        Err(error @ ModelError::Offline { .. }) => {
            // Not by a macro, whose output the test runner keeps to itself when a test passes.
            #[expect(clippy::explicit_write, reason = "see above")]
            writeln!(io::stderr(), "SKIPPED {test}: it needs the default model ({error})").unwrap();
            None
        }
        Err(error) => panic!("{test} needs the default model: {error:?}"),
    }
}

/// How a [`Runner`] runs a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) policy: WeightPolicy,
    pub(crate) kernels: KernelSet,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) threads: usize,
    /// Most tokens of a prompt in one step; the rest follows in further steps.
    pub(crate) chunk: usize,
    /// Fixed sizes: tokens are padded to whole chunks.
    pub is_static: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: WeightPolicy::AsStored,
            kernels: KernelSet::Fast,
            arithmetic: Arithmetic::F32,
            threads: 2,
            chunk: usize::MAX,
            is_static: false,
        }
    }
}

const BLOCK_SIZE: usize = 16;

/// A model that is run one sequence at a time, without the engine: the graph by hand.
pub(crate) struct Runner {
    setup: Setup,
    executable: Box<dyn Executable>,
    memory: Box<dyn Memory>,
    vocab_size: usize,
    max_len: usize,
    /// Tokens in the KV cache.
    len: usize,
}

impl Runner {
    pub(crate) fn open(path: &Path, max_len: usize, setup: Setup) -> Self {
        let model = Model::open(path, setup.policy).unwrap();
        let backend = CpuBackend::new(Some(setup.threads), setup.kernels).unwrap();
        let backend: Arc<dyn Backend> = Arc::new(backend.with_arithmetic(setup.arithmetic));
        let graph = model.graph(BLOCK_SIZE).unwrap();
        let num_blocks = max_len.div_ceil(BLOCK_SIZE) + 3;
        let mut bucket: Vec<(SymbolId, u64)> = Vec::new();
        if setup.is_static {
            let sizes = [setup.chunk, 2, num_blocks - 2, setup.chunk, num_blocks, max_len];
            bucket = (0..).map(SymbolId).zip(sizes.map(|size| size as u64)).collect();
        }
        let compiler = Compiler::new(Arc::clone(&backend), GraphCache::in_memory("tests"));
        let prepared = compiler.prepare(&graph, &bucket, "test").unwrap();
        let executable = compiler.executable(&prepared).unwrap().executable;
        let tensors = model.tensors(&prepared.graph, max_len).unwrap();
        let weights = tensors.into_iter().map(|parts| Weight { parts }).collect();
        let symbols = [1, 1, 1, 1, num_blocks as u64, max_len as u64];
        let states: Vec<StateSpec> = graph
            .states()
            .map(|id| StateSpec {
                dtype: graph.ty(id).dtype,
                shape: graph.ty(id).shape.resolve(&symbols).unwrap(),
            })
            .collect();
        let memory = backend.place(weights, &states).unwrap();
        let vocab_size = model.config().vocab_size;
        Self { setup, executable, memory, vocab_size, max_len, len: 0 }
    }

    /// Forgets the sequence.
    pub(crate) fn reset(&mut self) {
        self.len = 0;
    }

    /// Appends tokens and returns the logits after each of them.
    pub(crate) fn logits(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let chunk = self.setup.chunk.min(ids.len().max(1));
        ids.chunks(chunk).flat_map(|ids| self.step(ids)).collect()
    }

    /// The most likely continuation.
    pub(crate) fn greedy(&mut self, prompt: &[u32], num_tokens: usize) -> Vec<u32> {
        let mut logits = self.logits(prompt).pop().unwrap();
        let mut tokens = Vec::new();
        loop {
            let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            tokens.push(best.unwrap() as u32);
            if tokens.len() == num_tokens {
                return tokens;
            }
            logits = self.step(&tokens[tokens.len() - 1..]).pop().unwrap();
        }
    }

    fn step(&mut self, ids: &[u32]) -> Vec<Vec<f32>> {
        let (count, first) = (ids.len(), self.len);
        self.len += count;
        assert!(self.len <= self.max_len, "the test's sequence is too long");
        let size = if self.setup.is_static { self.setup.chunk } else { count };
        // Block 0 is never used: a mistake with padding would show there.
        let num_blocks = self.max_len.div_ceil(BLOCK_SIZE) + 3;
        let mut table: Vec<i32> = (1..=num_blocks as i32 - 2).rev().collect();
        let slot = |position: usize| {
            table[position / BLOCK_SIZE] * BLOCK_SIZE as i32 + (position % BLOCK_SIZE) as i32
        };
        let pad = |values: Vec<i32>, with: i32| {
            let mut values = values;
            values.resize(size, with);
            values
        };
        let token_ids = pad(ids.iter().map(|&id| id as i32).collect(), 0);
        let positions = pad((first..self.len).map(|position| position as i32).collect(), 0);
        let slots = pad((first..self.len).map(slot).collect(), -1);
        let rows = pad((0..count as i32).collect(), 0);
        let (mut ends, mut lens) = (vec![count as i32], vec![self.len as i32]);
        let width = table.len();
        if self.setup.is_static {
            ends.push(count as i32);
            lens.push(0);
            table.resize(2 * width, 0);
        }
        let symbols = [
            size as u64,
            ends.len() as u64,
            width as u64,
            size as u64,
            num_blocks as u64,
            self.max_len as u64,
        ];
        let inputs: [&[i32]; 7] = [&token_ids, &positions, &slots, &table, &ends, &lens, &rows];
        let mut output = Vec::new();
        let step = Step { symbols: &symbols, inputs: &inputs };
        self.executable.run(self.memory.as_mut(), &step, &mut output).unwrap();
        assert_eq!(output.len(), size * self.vocab_size);
        output.chunks(self.vocab_size).take(count).map(<[f32]>::to_vec).collect()
    }
}

/// The largest absolute difference.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Little-endian f32 of a file.
pub(crate) fn read_f32s(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

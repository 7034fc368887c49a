//! A deterministic stand-in for a model, for the engine's own tests.
//!
//! Its KV cache holds token ids. The logits of a row depend on the whole history of its sequence,
//! read back through block tables and sequence lengths, so a block that is shared, lost or stale,
//! a wrong position or a wrong chunk changes the output. It refuses inputs that break the rules of
//! `model::io`.
//!
//! Tokens are bytes. [`greedy`] says, without any engine, what must come out.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::backend::{
    BackendError, Batching, Capabilities, DeviceFate, Executable, Memory, Output, Rows, Step,
    Wanted,
};
use crate::model::io::{GraphInput, symbols};
use crate::text::{GgufVocab, Tokenizer};

use super::{EngineHandle, EngineOptions, EngineParts, LoadedModel, plan, start};

/// A device that takes every step as it comes.
pub(crate) const DYNAMIC: Capabilities = Capabilities::ANY;
/// One that pads steps to its graphs.
pub(super) const STATIC: Capabilities = Capabilities { dynamic_shapes: false, ..DYNAMIC };
/// One that runs decodes and prefills apart, and finds the largest logits itself.
pub(super) const SEPARATE: Capabilities =
    Capabilities { batching: Batching::Separate, block_size_multiple: 2, ..STATIC };

/// Tokens of the fake model: the bytes.
pub(super) const VOCAB_SIZE: usize = 256;
/// Most of the largest logits that the separate device finds itself.
const MAX_TOP_K: usize = 64;
/// Its end-of-text token.
pub(super) const EOS: u32 = 0;
/// A special token.
pub(super) const SPECIAL: u32 = 2;
/// A prompt that ends with this token gets logits that are not numbers.
pub(super) const POISON: u32 = 1;
/// Columns of logits that stand for no token, and are often the largest of all.
const NUM_EXTRA_COLUMNS: usize = 3;

/// What the model says.
#[derive(Clone, Debug, Default)]
pub(crate) enum Script {
    /// A hash of the history, over the printable bytes and sometimes [`EOS`].
    #[default]
    Hash,
    /// After a history of n tokens, the nth byte of the text, then [`EOS`].
    Text(Vec<u8>),
}

/// What a test does to the running model.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(super) fails: AtomicBool,
    /// Launches with that many tokens fail, padding included; 0: none do.
    pub(super) fails_for_tokens: AtomicU64,
    pub(crate) panics: AtomicBool,
    /// The device is gone.
    pub(crate) dies: Mutex<Option<DeviceFate>>,
    /// Rows that were answered with their largest logits only.
    pub(super) num_top_rows: AtomicU64,
    gate: Mutex<Option<Receiver<()>>>,
}

impl Control {
    /// From now on every step waits for one message; dropping the sender opens the gate for good.
    pub(crate) fn gate(&self) -> Sender<()> {
        let (sender, receiver) = channel();
        *self.gate.lock().unwrap() = Some(receiver);
        sender
    }

    fn pass(&self) {
        if let Some(gate) = &*self.gate.lock().unwrap() {
            let _ = gate.recv();
        }
        assert!(!self.panics.load(Ordering::SeqCst), "the test wants a panic");
    }
}

/// A fake model's graph; one for all buckets.
#[derive(Debug)]
struct FakeExecutable {
    control: Arc<Control>,
    script: Script,
    block_size: usize,
    batching: Batching,
}

/// The KV cache: tokens as numbers of four bytes.
#[derive(Debug)]
struct FakeMemory {
    block_size: usize,
    /// By slot: the token written there, or -1.
    slots: Vec<i32>,
}

impl FakeMemory {
    /// The slots of a block, of which a buffer has so many bytes.
    fn block(&mut self, block: u32, len: usize) -> Result<&mut [i32], BackendError> {
        let slots = self.slots.chunks_exact_mut(self.block_size).nth(block as usize);
        slots.filter(|slots| slots.len() * 4 == len).ok_or_else(|| {
            BackendError::BadInput(format!("there is no block {block} of {len} bytes"))
        })
    }
}

impl Memory for FakeMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn block_bytes(&self) -> usize {
        self.block_size * 4
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        let mut bytes = vec![0; self.block_bytes()];
        copies.iter().try_for_each(|&(from, to)| {
            self.read_block(from, &mut bytes)?;
            self.write_block(to, &bytes)
        })
    }

    fn read_block(&mut self, block: u32, bytes: &mut [u8]) -> Result<(), BackendError> {
        let slots = self.block(block, bytes.len())?;
        bytes.as_chunks_mut().0.iter_mut().zip(slots).for_each(|(b, s)| *b = s.to_le_bytes());
        Ok(())
    }

    fn write_block(&mut self, block: u32, bytes: &[u8]) -> Result<(), BackendError> {
        let slots = self.block(block, bytes.len())?;
        slots.iter_mut().zip(bytes.as_chunks().0).for_each(|(s, b)| *s = i32::from_le_bytes(*b));
        Ok(())
    }
}

fn hash(history: &[i32]) -> u64 {
    let mix = |hash: u64, &token: &i32| (hash ^ token as u64).wrapping_mul(0x0100_0000_01b3);
    history.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn logits(script: &Script, history: &[i32]) -> Vec<f32> {
    let mut row = vec![-20.0; VOCAB_SIZE];
    let hash = hash(history);
    match script {
        Script::Hash => {
            for (token, logit) in row.iter_mut().enumerate().take(0x7f).skip(0x20) {
                let mixed = (hash ^ token as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                *logit = (mixed >> 40) as f32 / (1 << 22) as f32;
            }
            if hash.is_multiple_of(41) {
                row[EOS as usize] = 20.0;
            }
        }
        Script::Text(text) => {
            let token = text.get(history.len() - 1).copied().unwrap_or(EOS as u8);
            row[usize::from(token)] = 20.0;
        }
    }
    if history.last() == Some(&(POISON as i32)) {
        row[7] = f32::NAN;
    }
    row.extend([if hash.is_multiple_of(3) { 1e9 } else { -30.0 }; NUM_EXTRA_COLUMNS]);
    row
}

/// The tokens that greedy decoding gives, up to `max_tokens` or [`EOS`], both included.
pub(super) fn greedy(script: &Script, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut history: Vec<i32> = prompt.iter().map(|&token| token as i32).collect();
    let mut generated = Vec::new();
    while generated.len() < max_tokens && generated.last() != Some(&EOS) {
        let row = logits(script, &history);
        let mut best = 0;
        for token in 0..VOCAB_SIZE {
            if row[token] > row[best] {
                best = token;
            }
        }
        history.push(best as i32);
        generated.push(best as u32);
    }
    generated
}

impl Executable for FakeExecutable {
    fn run(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        self.control.pass();
        if let Some(fate) = *self.control.dies.lock().unwrap() {
            return Err(BackendError::Device { what: "the device does not answer".into(), fate });
        }
        let num_tokens = step.symbols[symbols::NUM_TOKENS.0 as usize];
        if self.control.fails.load(Ordering::SeqCst)
            || self.control.fails_for_tokens.load(Ordering::SeqCst) == num_tokens
        {
            return Err(BackendError::Execution("the device is on fire".into()));
        }
        let kv = memory.as_any_mut().downcast_mut::<FakeMemory>().expect("its own memory");
        self.compute(&mut kv.slots, step, output).map_err(BackendError::BadInput)
    }

    fn run_wanted(
        &mut self,
        memory: &mut dyn Memory,
        step: &Step<'_>,
        wanted: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        output.rows = Rows::Logits;
        self.run(memory, step, &mut output.logits)?;
        if self.batching == Batching::Separate {
            self.keep_largest(wanted, output);
        }
        Ok(())
    }
}

/// The `k` largest of a row, and whether it is clear which they are. Equal ones come with the
/// higher index first, since that is nobody's promise.
fn largest(row: &[f32], k: usize) -> (Vec<(f32, i32)>, bool) {
    let mut sorted: Vec<(f32, i32)> = row.iter().copied().zip(0..).collect();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    let is_clear = sorted.get(k).is_none_or(|next| next.0 < sorted[k - 1].0);
    sorted.truncate(k);
    (sorted, is_clear)
}

impl FakeExecutable {
    /// As a device does that can find at most [`MAX_TOP_K`] itself.
    fn keep_largest(&self, wanted: Wanted, output: &mut Output) {
        let (k, rows) = match wanted {
            Wanted::Logits => return,
            Wanted::TopK(_) => (MAX_TOP_K, Rows::TopK { k: MAX_TOP_K }),
            Wanted::Argmax => (1, Rows::Argmax),
        };
        let found = output.logits.chunks(VOCAB_SIZE + NUM_EXTRA_COLUMNS).map(|row| largest(row, k));
        let (found, is_clear): (Vec<_>, Vec<_>) = found.unzip();
        if !is_clear.into_iter().all(|is_clear| is_clear) {
            return;
        }
        self.control.num_top_rows.fetch_add(found.len() as u64, Ordering::SeqCst);
        output.rows = rows;
        (output.values, output.indices) = found.into_iter().flatten().unzip();
        output.logits.clear();
    }

    fn check_batching(&self, step: &Step<'_>) -> Result<(), String> {
        let [num_tokens, num_seqs] =
            [symbols::NUM_TOKENS, symbols::NUM_SEQS].map(|id| step.symbols[id.0 as usize]);
        let is_mixed = num_seqs != 1 && num_seqs != num_tokens;
        if self.batching == Batching::Separate && is_mixed {
            return Err(format!("{num_seqs} sequences of {num_tokens} tokens do not mix"));
        }
        Ok(())
    }

    fn compute(
        &self,
        kv: &mut [i32],
        step: &Step<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), String> {
        self.check_batching(step)?;
        let size = |id: crate::ir::SymbolId| step.symbols[id.0 as usize] as usize;
        let input = |input: GraphInput| step.inputs[input as usize];
        let (num_tokens, num_seqs) = (size(symbols::NUM_TOKENS), size(symbols::NUM_SEQS));
        let (max_blocks, num_logits) = (size(symbols::MAX_BLOCKS), size(symbols::NUM_LOGITS));
        for (kind, len) in [
            (GraphInput::TokenIds, num_tokens),
            (GraphInput::Positions, num_tokens),
            (GraphInput::SlotMapping, num_tokens),
            (GraphInput::BlockTables, num_seqs * max_blocks),
            (GraphInput::QueryEnds, num_seqs),
            (GraphInput::SeqLens, num_seqs),
            (GraphInput::LogitRows, num_logits),
        ] {
            if input(kind).len() != len || len == 0 {
                return Err(format!("{kind:?} has {} elements, not {len}", input(kind).len()));
            }
        }
        // The history that each row sees; padded rows see nothing.
        let mut histories = vec![Vec::new(); num_tokens];
        let mut row = 0;
        for seq in 0..num_seqs {
            let table = &input(GraphInput::BlockTables)[seq * max_blocks..][..max_blocks];
            let query_end = input(GraphInput::QueryEnds)[seq] as usize;
            let seq_len = input(GraphInput::SeqLens)[seq] as usize;
            let slot_of = |position: usize| {
                table[position / self.block_size] as usize * self.block_size
                    + position % self.block_size
            };
            let num_queries = query_end.checked_sub(row).ok_or("query ends go down")?;
            if num_queries > seq_len {
                return Err(format!("{num_queries} queries in a sequence of {seq_len}"));
            }
            for position in seq_len - num_queries..seq_len {
                let slot = slot_of(position);
                if input(GraphInput::Positions)[row] as usize != position
                    || input(GraphInput::SlotMapping)[row] as usize != slot
                {
                    return Err(format!("row {row} is not position {position} in slot {slot}"));
                }
                kv[slot] = input(GraphInput::TokenIds)[row];
                let history: Vec<i32> =
                    (0..=position).map(|position| kv[slot_of(position)]).collect();
                if history.contains(&-1) {
                    return Err(format!("row {row} reads a slot that was never written"));
                }
                histories[row] = history;
                row += 1;
            }
        }
        if input(GraphInput::SlotMapping)[row..].iter().any(|&slot| slot != -1) {
            return Err("a padded token has a slot".into());
        }
        output.clear();
        for &row in input(GraphInput::LogitRows) {
            output.extend(logits(&self.script, &histories[row as usize]));
        }
        Ok(())
    }
}

/// An engine over the fake model, and the strings it hangs on.
pub(crate) fn engine(
    capabilities: &Capabilities,
    script: &Script,
    options: &EngineOptions,
) -> (EngineHandle, Arc<Control>) {
    let control = Arc::new(Control::default());
    let executables = plan(capabilities, options).into_iter().map(|bucket| {
        let executable = FakeExecutable {
            control: Arc::clone(&control),
            script: script.clone(),
            block_size: options.block_size,
            batching: capabilities.batching,
        };
        (bucket, Box::new(executable) as Box<dyn Executable>)
    });
    let model = LoadedModel {
        executables: executables.collect(),
        memory: Box::new(FakeMemory {
            block_size: options.block_size,
            slots: vec![-1; options.num_blocks * options.block_size],
        }),
        vocab_size: VOCAB_SIZE + NUM_EXTRA_COLUMNS,
        eos_token_ids: vec![EOS],
    };
    (start(EngineParts::new(model, tokenizer(), options.clone())).unwrap(), control)
}

/// A tokenizer whose tokens are the bytes, but for a special token.
pub(crate) fn tokenizer() -> Tokenizer {
    let (normal, control) = (1, 3);
    let types = (0..VOCAB_SIZE).map(|id| if id == SPECIAL as usize { control } else { normal });
    let vocab = GgufVocab {
        model: "llama".into(),
        tokens: (0..VOCAB_SIZE).map(|byte| format!("<0x{byte:02X}>")).collect(),
        token_types: Some(types.collect()),
        merges: Some(Vec::new()),
        add_space_prefix: Some(false),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf(vocab).unwrap()
}

//! The device model as the runner sees it: graphs that compute nothing and say how long they took.
//!
//! ```text
//! Runner --Step: symbols, query_ends, seq_lens--> SimulatedGraph --LaunchShape--> DeviceModel
//!                                                       `---- Meter: nanoseconds, by bucket
//! ```
//!
//! What this module deliberately does not do: it moves no time; who runs the step reads the meter.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{BackendError, Executable, Memory, Output, Rows, Step, Wanted};
use crate::model::io::{GraphInput, symbols};

use super::super::buckets::Bucket;
use super::device::{DeviceModel, LaunchShape, SequenceShape};
use super::nanos;
use super::report::BucketUse;

/// What the device did: shared by its graphs, its memory, and who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Arc<Mutex<Readings>>);

#[derive(Debug, Default)]
struct Readings {
    nanos: u64,
    by_bucket: Vec<BucketUse>,
}

impl Meter {
    /// One that has a line for each bucket.
    pub(super) fn new(buckets: &[Bucket]) -> Self {
        let by_bucket = buckets.iter().map(BucketUse::new).collect();
        Self(Arc::new(Mutex::new(Readings { nanos: 0, by_bucket })))
    }

    /// Time since it was last asked.
    pub(super) fn take_nanos(&self) -> u64 {
        self.change(|readings| std::mem::take(&mut readings.nanos))
    }

    /// What ran in which bucket.
    pub(super) fn by_bucket(&self) -> Vec<BucketUse> {
        self.change(|readings| readings.by_bucket.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Readings) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A graph of one bucket.
#[derive(Debug)]
pub(super) struct SimulatedGraph {
    pub(super) model: Arc<DeviceModel>,
    pub(super) meter: Meter,
    pub(super) bucket_idx: usize,
    pub(super) is_dynamic: bool,
    /// Kept for its memory.
    pub(super) seqs: Vec<SequenceShape>,
}

impl Executable for SimulatedGraph {
    fn run(
        &mut self,
        _: &mut dyn Memory,
        _: &Step<'_>,
        _: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Err(BackendError::Execution("a simulated graph has no logits".into()))
    }

    fn run_wanted(
        &mut self,
        _: &mut dyn Memory,
        step: &Step<'_>,
        _: Wanted,
        output: &mut Output,
    ) -> Result<(), BackendError> {
        let size = |symbol: crate::ir::SymbolId| step.symbols[symbol.0 as usize] as usize;
        let (num_tokens, num_logits) = (size(symbols::NUM_TOKENS), size(symbols::NUM_LOGITS));
        let query_ends = step.inputs[GraphInput::QueryEnds as usize];
        let lens = step.inputs[GraphInput::SeqLens as usize];
        let mut num_real = 0;
        self.seqs.clear();
        // Sequences that are padding have no tokens.
        for (&end, &len) in query_ends.iter().zip(lens).filter(|&(_, &len)| len > 0) {
            let num_tokens = end as usize - num_real;
            self.seqs.push(SequenceShape { num_tokens, len: len as usize });
            num_real = end as usize;
        }
        let (seqs, is_dynamic) = (self.seqs.as_slice(), self.is_dynamic);
        let launch = LaunchShape { num_tokens, num_logits, seqs, is_dynamic };
        let spent = nanos(self.model.launch_seconds(&launch));
        self.meter.change(|readings| {
            readings.nanos += spent;
            let line = &mut readings.by_bucket[self.bucket_idx];
            line.num_launches += 1;
            line.num_tokens += num_real as u64;
            line.num_padded_tokens += (num_tokens - num_real) as u64;
            line.seconds += super::seconds(spent);
        });
        output.rows = Rows::Argmax;
        output.values.clear();
        output.values.resize(num_logits, 0.0);
        output.indices.clear();
        output.indices.resize(num_logits, 0);
        Ok(())
    }
}

/// Blocks without content, whose copies take time.
#[derive(Debug)]
pub(super) struct SimulatedMemory {
    pub(super) model: Arc<DeviceModel>,
    pub(super) meter: Meter,
    pub(super) block_size: usize,
}

impl Memory for SimulatedMemory {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<(), BackendError> {
        let spent = nanos(self.model.copy_seconds(copies.len(), self.block_size));
        self.meter.change(|readings| readings.nanos += spent);
        Ok(())
    }
}

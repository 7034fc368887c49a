//! From a plan to the inputs of a graph, through the graph, to rows of logits.
//!
//! The layout of the inputs and the meaning of padding are drawn in `model::io`. Buffers are kept
//! from step to step: once they have grown, a step allocates nothing here.
//!
//! What this module deliberately does not do: it decides nothing, neither who runs nor what comes
//! next.

use crate::backend::{Executable, Memory, Step};
use crate::model::io::NUM_GRAPH_INPUTS;

use super::EngineOptions;
use super::block_pool::BlockId;
use super::buckets::{self, Bucket, StepSize};
use super::options::EngineError;
use super::request::RequestId;
use super::scheduler_output::SchedulerOutput;

/// Why a step gave no logits; the text is for the request's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RunError(String);

/// The logits of one step.
#[derive(Debug)]
pub(crate) struct Logits<'a> {
    values: &'a [f32],
    row_len: usize,
    vocab_size: usize,
    /// Rows that were computed only to fill the bucket.
    pub(crate) num_padded_tokens: u64,
}

impl Logits<'_> {
    /// The logits of the `idx`th sampled request of the step: `[vocab_size]`. A graph may compute
    /// more columns than the vocabulary has tokens; they are cut off here.
    pub(crate) fn row(&self, idx: usize) -> &[f32] {
        &self.values[idx * self.row_len..][..self.vocab_size]
    }
}

/// Runs steps on a device.
pub(crate) struct Runner {
    buckets: Vec<Bucket>,
    /// By bucket.
    executables: Vec<Box<dyn Executable>>,
    memory: Box<dyn Memory>,
    vocab_size: usize,
    options: EngineOptions,
    inputs: [Vec<i32>; NUM_GRAPH_INPUTS],
    logits: Vec<f32>,
}

impl Runner {
    /// A runner for engines with those options, which must be valid.
    ///
    /// # Errors
    /// [`EngineError::NoBucket`] when the largest step does not fit into any of the executables.
    pub(crate) fn new(
        executables: Vec<(Bucket, Box<dyn Executable>)>,
        memory: Box<dyn Memory>,
        vocab_size: usize,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let (buckets, executables): (Vec<_>, Vec<_>) = executables.into_iter().unzip();
        let largest = StepSize::largest(options);
        if buckets::choose(&buckets, largest).is_none() {
            return Err(EngineError::NoBucket {
                num_tokens: largest.num_tokens,
                num_seqs: largest.num_seqs,
                max_blocks: largest.max_blocks,
            });
        }
        Ok(Self {
            buckets,
            executables,
            memory,
            vocab_size,
            options: options.clone(),
            inputs: Default::default(),
            logits: Vec::new(),
        })
    }

    /// Runs one planned step, which holds at least one token. `tokens_of` gives the tokens of a
    /// request of the step, prompt and generated.
    ///
    /// # Errors
    /// What the device said, or that it returned logits of the wrong size.
    pub(crate) fn run<'t>(
        &mut self,
        plan: &SchedulerOutput,
        tokens_of: impl Fn(RequestId) -> &'t [u32],
    ) -> Result<Logits<'_>, RunError> {
        let needed = StepSize {
            num_tokens: plan.total_num_scheduled_tokens as u64,
            num_seqs: plan.scheduled.len() as u64,
            max_blocks: plan.max_blocks() as u64,
            // A step that samples nothing still computes one row, since no axis may be empty.
            num_logits: plan.num_sampled().max(1) as u64,
        };
        let (idx, size) = buckets::choose(&self.buckets, needed)
            .expect("invariant: the largest step fits, which `new` checked");
        self.fill(plan, tokens_of, size);
        let symbols = size.bucket().symbol_values(&self.options);
        let step = Step {
            symbols: &symbols.map(|value| value.expect("invariant: a size has no open symbol")),
            inputs: &self.inputs.each_ref().map(Vec::as_slice),
        };
        let executable = &mut self.executables[idx];
        executable
            .run(self.memory.as_mut(), &step, &mut self.logits)
            .map_err(|error| RunError(format!("the step failed: {error}")))?;
        self.logits(size, size.num_tokens - needed.num_tokens)
    }

    fn logits(&self, size: StepSize, num_padded_tokens: u64) -> Result<Logits<'_>, RunError> {
        let num_rows = size.num_logits as usize;
        let row_len = self.logits.len() / num_rows;
        if row_len < self.vocab_size || !self.logits.len().is_multiple_of(num_rows) {
            return Err(RunError(format!(
                "the step failed: expected {num_rows} rows of at least {} logits, got {} in all",
                self.vocab_size,
                self.logits.len()
            )));
        }
        Ok(Logits { values: &self.logits, row_len, vocab_size: self.vocab_size, num_padded_tokens })
    }

    /// Lays out the step. What was checked when the engine started makes every number fit `i32`.
    fn fill<'t>(
        &mut self,
        plan: &SchedulerOutput,
        tokens_of: impl Fn(RequestId) -> &'t [u32],
        size: StepSize,
    ) {
        let block_size = self.options.block_size;
        let max_blocks = size.max_blocks as usize;
        self.inputs.iter_mut().for_each(Vec::clear);
        // In the order of `GraphInput`.
        let [token_ids, positions, slot_mapping, block_tables, query_ends, seq_lens, logit_rows] =
            &mut self.inputs;
        for request in &plan.scheduled {
            let blocks = plan.blocks_of(request);
            let tokens = &tokens_of(request.id)[request.tokens()];
            token_ids.extend(tokens.iter().map(|&token| token as i32));
            positions.extend(request.tokens().map(|position| position as i32));
            slot_mapping
                .extend(request.tokens().map(|position| slot(blocks, block_size, position)));
            block_tables.extend(blocks.iter().map(|block| block.0 as i32));
            query_ends.push(token_ids.len() as i32);
            seq_lens.push(request.tokens().end as i32);
            block_tables.resize(seq_lens.len() * max_blocks, 0);
            if request.is_sampled {
                logit_rows.push(token_ids.len() as i32 - 1);
            }
        }
        let (num_tokens, num_seqs) = (size.num_tokens as usize, size.num_seqs as usize);
        let last_query_end = token_ids.len() as i32;
        token_ids.resize(num_tokens, 0);
        positions.resize(num_tokens, 0);
        slot_mapping.resize(num_tokens, -1);
        block_tables.resize(num_seqs * max_blocks, 0);
        query_ends.resize(num_seqs, last_query_end);
        seq_lens.resize(num_seqs, 0);
        logit_rows.resize(size.num_logits as usize, 0);
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}

fn slot(blocks: &[BlockId], block_size: usize, position: usize) -> i32 {
    let block = blocks[position / block_size].0 as usize;
    (block * block_size + position % block_size) as i32
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::backend::BackendError;
    use crate::model::io::{GraphInput, symbols};

    #[derive(Debug, Default)]
    struct NoMemory;

    impl Memory for NoMemory {
        fn as_any_mut(&mut self) -> &mut dyn Any {
            self
        }

        fn allocated_bytes(&self) -> u64 {
            0
        }
    }

    /// What was run: symbol values and inputs.
    type Seen = Arc<Mutex<(Vec<u64>, Vec<Vec<i32>>)>>;

    /// Writes down what it is given; row `i` of its logits is `[i, i, i, i]`, or `[i]` when short.
    struct Recorder {
        seen: Seen,
        row_len: usize,
    }

    impl Executable for Recorder {
        fn run(
            &mut self,
            _: &mut dyn Memory,
            step: &Step<'_>,
            output: &mut Vec<f32>,
        ) -> Result<(), BackendError> {
            let inputs = step.inputs.iter().map(|input| input.to_vec()).collect();
            *self.seen.lock().unwrap() = (step.symbols.to_vec(), inputs);
            let num_logits = step.symbols[symbols::NUM_LOGITS.0 as usize];
            output.clear();
            for row in 0..num_logits {
                output.extend(std::iter::repeat_n(row as f32, self.row_len));
            }
            Ok(())
        }
    }

    fn runner(dynamic_shapes: bool, row_len: usize) -> (Runner, Seen) {
        let options = EngineOptions {
            max_model_len: 12,
            max_num_seqs: 3,
            max_num_batched_tokens: 8,
            block_size: 4,
            num_blocks: 9,
            max_num_queued_reqs: 0,
        };
        let seen = Seen::default();
        let executables = buckets::plan(dynamic_shapes, &options).into_iter().map(|bucket| {
            let executable = Recorder { seen: Arc::clone(&seen), row_len };
            (bucket, Box::new(executable) as Box<dyn Executable>)
        });
        (Runner::new(executables.collect(), Box::new(NoMemory), 3, &options).unwrap(), seen)
    }

    /// Request 0 decodes its sixth token; request 1 computes its tokens 2..5 of more.
    fn plan() -> SchedulerOutput {
        let mut plan = SchedulerOutput::default();
        plan.push(RequestId(0), 5..6, true, &[BlockId(7), BlockId(2)]);
        plan.push(RequestId(1), 2..5, false, &[BlockId(0), BlockId(5), BlockId(8)]);
        plan
    }

    fn tokens_of(id: RequestId) -> &'static [u32] {
        if id.0 == 0 { &[10, 11, 12, 13, 14, 15] } else { &[20, 21, 22, 23, 24, 25, 26, 27, 28] }
    }

    #[test]
    fn lays_out_a_step_without_padding() {
        let (mut runner, seen) = runner(true, 4);
        let plan = plan();
        let logits = runner.run(&plan, tokens_of).unwrap();
        assert_eq!((logits.row(0), logits.num_padded_tokens), (&[0.0_f32; 3][..], 0));
        let (symbols, inputs) = seen.lock().unwrap().clone();
        assert_eq!(symbols, [4, 2, 3, 1, 9, 12]);
        let input = |input: GraphInput| inputs[input as usize].as_slice();
        assert_eq!(input(GraphInput::TokenIds), [15, 22, 23, 24]);
        assert_eq!(input(GraphInput::Positions), [5, 2, 3, 4]);
        assert_eq!(input(GraphInput::SlotMapping), [2 * 4 + 1, 2, 3, 5 * 4]);
        assert_eq!(input(GraphInput::BlockTables), [7, 2, 0, 0, 5, 8]);
        assert_eq!(input(GraphInput::QueryEnds), [1, 4]);
        assert_eq!(input(GraphInput::SeqLens), [6, 5]);
        assert_eq!(input(GraphInput::LogitRows), [0]);
    }

    #[test]
    fn pads_a_step_to_its_bucket() {
        let (mut runner, seen) = runner(false, 3);
        let mut plan = plan();
        plan.push(RequestId(1), 0..1, true, &[BlockId(1)]);
        let logits = runner.run(&plan, tokens_of).unwrap();
        assert_eq!((logits.row(1), logits.num_padded_tokens), (&[1.0_f32; 3][..], 3));
        let (symbols, inputs) = seen.lock().unwrap().clone();
        assert_eq!(symbols, [8, 3, 3, 3, 9, 12]);
        let input = |input: GraphInput| inputs[input as usize].as_slice();
        assert_eq!(input(GraphInput::TokenIds), [15, 22, 23, 24, 20, 0, 0, 0]);
        assert_eq!(input(GraphInput::SlotMapping)[4..], [4, -1, -1, -1]);
        assert_eq!(input(GraphInput::BlockTables), [7, 2, 0, 0, 5, 8, 1, 0, 0]);
        assert_eq!(input(GraphInput::LogitRows), [0, 4, 0]);
    }

    #[test]
    fn padded_sequences_are_empty_and_a_step_without_samples_has_one_row() {
        let (mut runner, seen) = runner(false, 3);
        let mut plan = SchedulerOutput::default();
        plan.push(RequestId(1), 0..4, false, &[BlockId(1)]);
        runner.run(&plan, tokens_of).unwrap();
        let (symbols, inputs) = seen.lock().unwrap().clone();
        assert_eq!(symbols, [4, 3, 3, 3, 9, 12]);
        assert_eq!(inputs[GraphInput::QueryEnds as usize], [4, 4, 4]);
        assert_eq!(inputs[GraphInput::SeqLens as usize], [4, 0, 0]);
        assert_eq!(inputs[GraphInput::LogitRows as usize], [0, 0, 0]);
        drop(runner);
        let (mut runner, seen) = self::runner(true, 3);
        runner.run(&plan, tokens_of).unwrap();
        assert_eq!(seen.lock().unwrap().0, [4, 1, 1, 1, 9, 12]);
    }

    #[test]
    fn too_few_logits_are_an_error() {
        let (mut runner, _) = runner(true, 2);
        let error = runner.run(&plan(), tokens_of).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the step failed: expected 1 rows of at least 3 logits, got 2 in all"
        );
    }

    #[test]
    fn refuses_to_start_without_a_graph_for_the_largest_step() {
        let options = EngineOptions {
            max_model_len: 12,
            max_num_seqs: 3,
            max_num_batched_tokens: 8,
            block_size: 4,
            num_blocks: 9,
            max_num_queued_reqs: 0,
        };
        let error = Runner::new(Vec::new(), Box::new(NoMemory), 3, &options).unwrap_err();
        assert!(matches!(error, EngineError::NoBucket { num_tokens: 8, num_seqs: 3, .. }));
    }
}

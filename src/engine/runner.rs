//! From a plan to launches of graphs, and from what they give to one row for each request.
//!
//! ```text
//! step --Launches--> launch --Inputs--> graph of the smallest bucket --LaunchResult--> rows
//!                      `- the next one, on the same memory
//! ```
//!
//! A launch that fails takes its own requests with it and no others, unless the device is gone.
//!
//! What this module deliberately does not do: it decides nothing, neither who runs nor what comes
//! next.

use crate::backend::{Executable, Memory, Step, Wanted};

use super::EngineOptions;
use super::buckets::{self, Bucket, StepKind, StepSize};
use super::death::Death;
use super::inputs::Inputs;
use super::launch_result::{Columns, LaunchResult, RunError};
use super::launches::{Launches, Sharing};
use super::options::EngineError;
use super::sampling::{self, Row};
use super::scheduler::TokenBuckets;
use super::scheduler_output::SchedulerOutput;
use super::sequence::SeqKey;

/// What the runner needs to know of a sequence of the step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceView<'t> {
    /// Prompt, generated, and drafts.
    pub(crate) token_ids: &'t [u32],
    /// How much of its logits is needed.
    pub(crate) wanted: Wanted,
    /// Its hidden states are needed in place of logits.
    pub(crate) is_embedded: bool,
}

/// Runs steps on a device.
#[derive(Debug)]
pub(crate) struct Runner {
    graphs: Graphs,
    sharing: Sharing,
    launches: Launches,
    /// By launch; kept for their memory, as the results are.
    bound: Vec<Bound>,
    results: Vec<LaunchResult>,
    /// By place in the step: its launch, and the first of its rows there.
    rows: Vec<(usize, usize)>,
    copies: Vec<(u32, u32)>,
}

/// A launch that only has to be started.
#[derive(Debug, Default)]
struct Bound {
    inputs: Inputs,
    launch: Option<Launch>,
    num_padded_tokens: u64,
}

/// What one step gave.
#[derive(Debug)]
pub(crate) struct StepResults<'a> {
    runner: &'a Runner,
    /// Launches that it took.
    pub(crate) num_launches: u64,
    /// Rows that were computed only to fill buckets.
    pub(crate) num_padded_tokens: u64,
}

impl<'a> StepResults<'a> {
    /// Whether the launch of the sequence at that place of the step gave anything.
    ///
    /// # Errors
    /// What became of it.
    pub(crate) fn check(&self, place: usize) -> Result<(), &'a RunError> {
        self.runner.results[self.runner.rows[place].0].check()
    }

    /// One of the rows of the sequence at that place of the step.
    ///
    /// # Errors
    /// What became of its launch, or of the row.
    pub(crate) fn row(&self, place: usize, idx: usize) -> Result<Row<'a>, &'a RunError> {
        let (launch, first_row) = self.runner.rows[place];
        let result = &self.runner.results[launch];
        result.check()?;
        result.row(first_row + idx)
    }
}

impl Runner {
    /// A runner for engines with those options, which must be valid.
    ///
    /// # Errors
    /// [`EngineError::NoBucket`] when the largest step does not fit into the executables.
    pub(crate) fn new(
        executables: Vec<(Bucket, Box<dyn Executable>)>,
        memory: Box<dyn Memory>,
        columns: Columns,
        embedding_size: usize,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let (buckets, executables): (Vec<_>, Vec<_>) = executables.into_iter().unzip();
        let sharing = sharing(&buckets, options)?;
        let options = options.clone();
        Ok(Self {
            graphs: Graphs { buckets, executables, memory, columns, embedding_size, options },
            sharing,
            launches: Launches::default(),
            bound: Vec::new(),
            results: Vec::new(),
            rows: Vec::new(),
            copies: Vec::new(),
        })
    }

    /// Sizes, in tokens, that whole steps are padded to; none where they are not padded, or run in
    /// several launches.
    pub(crate) fn token_buckets(&self) -> TokenBuckets {
        let is_whole = self.sharing == Sharing::All;
        let mixed = |bucket: &&Bucket| is_whole && bucket.kind != StepKind::Embed;
        let sizes = self.graphs.buckets.iter().filter(mixed);
        TokenBuckets::new(sizes.filter_map(|bucket| bucket.num_tokens).map(|size| size as usize))
    }

    /// Rows of logits that one sequence may have in a step.
    pub(crate) fn max_logits_per_seq(&self) -> usize {
        let options = &self.graphs.options;
        match self.sharing {
            Sharing::All => options.max_num_logits(),
            Sharing::Decodes(_) => options.max_logits_per_seq(),
        }
    }

    /// The device's memory.
    pub(crate) fn memory(&mut self) -> &mut dyn Memory {
        self.graphs.memory.as_mut()
    }

    /// Lays out the inputs of a planned step, which holds at least one token.
    pub(crate) fn bind<'t>(
        &mut self,
        step: &SchedulerOutput,
        view_of: impl Fn(SeqKey) -> SequenceView<'t>,
    ) {
        self.launches.split(step, self.sharing, |key| view_of(key).is_embedded);
        let num_launches = self.launches.len();
        if self.bound.len() < num_launches {
            self.bound.resize_with(num_launches, Bound::default);
            self.results.resize_with(num_launches, LaunchResult::default);
        }
        self.rows.clear();
        self.rows.resize(step.scheduled.len(), (0, 0));
        self.copies.clear();
        self.copies.extend(step.copies.iter().map(|copy| (copy.from.0, copy.to.0)));
        for (idx, (kind, places)) in self.launches.iter().enumerate() {
            let mut num_sampled = 0;
            // What no row at all needs; a device always gives something.
            let mut wanted = Wanted::Argmax;
            for &place in places {
                let share = &step.scheduled[place];
                self.rows[place] = (idx, num_sampled);
                if share.num_logits > 0 {
                    num_sampled += share.num_logits;
                    wanted = sampling::both(wanted, view_of(share.key).wanted);
                }
            }
            let needed = size_of(step, places, num_sampled);
            let launch = self.graphs.choose(kind, needed, num_sampled, wanted);
            let block_size = self.graphs.options.block_size;
            let tokens_of = |key| view_of(key).token_ids;
            let bound = &mut self.bound[idx];
            bound.inputs.fill(step, places, tokens_of, launch.size, block_size);
            bound.num_padded_tokens = launch.size.num_tokens - needed.num_tokens;
            bound.launch = Some(launch);
        }
    }

    /// Runs the step that was bound; calls `meanwhile` once, while the device works.
    ///
    /// # Errors
    /// When the device cannot be used any more. All else is the trouble of a launch, or of a row.
    pub(crate) fn run(&mut self, meanwhile: &mut dyn FnMut()) -> Result<StepResults<'_>, Death> {
        let num_launches = self.launches.len();
        let copied = self.graphs.copy_blocks(&self.copies)?;
        let mut num_padded_tokens = 0;
        for idx in 0..num_launches {
            let (bound, result) = (&self.bound[idx], &mut self.results[idx]);
            let launch = bound.launch.as_ref().expect("invariant: it was bound");
            num_padded_tokens += bound.num_padded_tokens;
            let is_last = idx + 1 == num_launches;
            match &copied {
                Ok(()) if is_last => self.graphs.run(launch, &bound.inputs, result, meanwhile)?,
                Ok(()) => self.graphs.run(launch, &bound.inputs, result, &mut || {})?,
                Err(error) => {
                    result.fail(error.clone());
                    if is_last {
                        meanwhile();
                    }
                }
            }
        }
        Ok(StepResults { runner: self, num_launches: num_launches as u64, num_padded_tokens })
    }
}

/// What the sequences at those places need.
fn size_of(step: &SchedulerOutput, places: &[usize], num_sampled: usize) -> StepSize {
    let shares = places.iter().map(|&place| &step.scheduled[place]);
    let num_tokens: usize = shares.clone().map(|share| share.num_scheduled_tokens).sum();
    let max_blocks = shares.map(|share| step.blocks_of(share).len()).max();
    StepSize {
        num_tokens: num_tokens as u64,
        num_seqs: places.len() as u64,
        max_blocks: max_blocks.unwrap_or(0) as u64,
        // A launch that samples nothing still computes one row, since no axis may be empty.
        num_logits: num_sampled.max(1) as u64,
    }
}

/// How the graphs let requests share a launch, once it is sure that they hold every step.
fn sharing(buckets: &[Bucket], options: &EngineOptions) -> Result<Sharing, EngineError> {
    let check = |kind, largest: StepSize| match buckets::choose(buckets, kind, largest) {
        Some(_) => Ok(()),
        None => Err(EngineError::NoBucket {
            num_tokens: largest.num_tokens,
            num_seqs: largest.num_seqs,
            max_blocks: largest.max_blocks,
        }),
    };
    if buckets.is_empty() || buckets.iter().any(|bucket| bucket.kind == StepKind::Any) {
        check(StepKind::Any, StepSize::largest(options))?;
        if options.has_embeddings {
            check(StepKind::Embed, StepSize::largest(options))?;
        }
        return Ok(Sharing::All);
    }
    let prefill = StepSize::largest_prefill(options);
    if options.has_embeddings {
        check(StepKind::Embed, prefill)?;
    }
    if prefill.num_tokens > 1 {
        check(StepKind::Prefill, prefill)?;
    }
    check(StepKind::Decode, StepSize::decode(1, options))?;
    let fits = |num_seqs: u64| {
        let size = StepSize::decode(num_seqs, options);
        buckets::choose(buckets, StepKind::Decode, size).is_some()
    };
    let max_num_seqs = StepSize::largest(options).num_seqs;
    let sizes = buckets.iter().map(|bucket| bucket.num_seqs.unwrap_or(max_num_seqs));
    let max_num_seqs = sizes.filter(|&num_seqs| fits(num_seqs)).max().unwrap_or(1);
    Ok(Sharing::Decodes(max_num_seqs as usize))
}

/// The loaded graphs and what they run on.
struct Graphs {
    buckets: Vec<Bucket>,
    /// By bucket.
    executables: Vec<Box<dyn Executable>>,
    memory: Box<dyn Memory>,
    columns: Columns,
    /// Numbers of a hidden state.
    embedding_size: usize,
    options: EngineOptions,
}

/// One run of one graph.
#[derive(Clone, Copy, Debug)]
struct Launch {
    graph_idx: usize,
    size: StepSize,
    num_sampled: usize,
    wanted: Wanted,
}

impl Graphs {
    fn choose(
        &self,
        kind: StepKind,
        needed: StepSize,
        num_sampled: usize,
        wanted: Wanted,
    ) -> Launch {
        let (graph_idx, size) = buckets::choose(&self.buckets, kind, needed)
            .expect("invariant: the largest launch fits, which `new` checked");
        // A row has no more than all its columns.
        let wanted = match (kind, wanted) {
            (StepKind::Embed, _) => Wanted::Logits,
            (_, Wanted::TopK(k)) => Wanted::TopK(k.min(self.columns.all)),
            (_, wanted) => wanted,
        };
        Launch { graph_idx, size, num_sampled, wanted }
    }

    /// Columns of what a launch of that kind gives.
    fn columns_of(&self, kind: StepKind) -> Columns {
        match kind {
            StepKind::Embed => Columns { tokens: self.embedding_size, all: self.embedding_size },
            StepKind::Any | StepKind::Decode | StepKind::Prefill => self.columns,
        }
    }

    /// Copies blocks; what went wrong with the step that wanted it is the inner error.
    fn copy_blocks(&mut self, copies: &[(u32, u32)]) -> Result<Result<(), RunError>, Death> {
        if copies.is_empty() {
            return Ok(Ok(()));
        }
        let Err(error) = self.memory.copy_blocks(copies) else { return Ok(Ok(())) };
        match self.buckets.first().and_then(|bucket| Death::of(&error, bucket)) {
            Some(death) => Err(death),
            None => Ok(Err(RunError::new(&error))),
        }
    }

    /// Runs a launch; what went wrong with it alone is in its result.
    fn run(
        &mut self,
        launch: &Launch,
        inputs: &Inputs,
        result: &mut LaunchResult,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), Death> {
        let is_enough = self.try_run(launch, inputs, result, meanwhile)?;
        if !is_enough {
            // The same tokens to the same slots: a launch may be repeated.
            let launch = Launch { wanted: Wanted::Logits, ..*launch };
            self.try_run(&launch, inputs, result, &mut || {})?;
        }
        Ok(())
    }

    /// `false` when too few of a row's largest logits stand for tokens.
    fn try_run(
        &mut self,
        launch: &Launch,
        inputs: &Inputs,
        result: &mut LaunchResult,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<bool, Death> {
        let bucket = &self.buckets[launch.graph_idx];
        let step =
            Step { symbols: &launch.size.symbol_values(&self.options), inputs: &inputs.slices() };
        let executable = &mut self.executables[launch.graph_idx];
        let (memory, output) = (self.memory.as_mut(), result.output_mut());
        let run = executable.run_meanwhile(memory, &step, launch.wanted, output, meanwhile);
        let accepted = match run {
            Ok(()) => result.accept(
                launch.wanted,
                launch.size.num_logits as usize,
                launch.num_sampled,
                self.columns_of(bucket.kind),
            ),
            Err(error) => {
                if let Some(death) = Death::of(&error, bucket) {
                    return Err(death);
                }
                Err(RunError::new(&error))
            }
        };
        Ok(accepted.unwrap_or_else(|error| {
            tracing::error!(%error, %bucket, num_seqs = launch.size.num_seqs, "a launch failed");
            result.fail(error);
            true
        }))
    }
}

impl std::fmt::Debug for Graphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graphs").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

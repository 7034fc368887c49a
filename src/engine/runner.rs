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
use super::request::RequestId;
use super::sampler::{self, Row};
use super::scheduler_output::SchedulerOutput;

/// What the runner needs to know of a request of the step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestView<'t> {
    /// Prompt and generated.
    pub(crate) token_ids: &'t [u32],
    /// How much of its logits is needed.
    pub(crate) wanted: Wanted,
}

/// Runs steps on a device.
#[derive(Debug)]
pub(crate) struct Runner {
    graphs: Graphs,
    sharing: Sharing,
    launches: Launches,
    inputs: Inputs,
    /// By launch. Those that the step does not need are kept for their memory.
    results: Vec<LaunchResult>,
    /// By place in the step: its launch, and its row there if it gets a next token.
    rows: Vec<(usize, Option<usize>)>,
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
    /// What the request at that place of the step is sampled from; `None` when it gets no token.
    ///
    /// # Errors
    /// What became of its launch, or of its row.
    pub(crate) fn row(&self, place: usize) -> Result<Option<Row<'a>>, &'a RunError> {
        let (launch, row) = self.runner.rows[place];
        let result = &self.runner.results[launch];
        result.check()?;
        row.map(|row| result.row(row, self.runner.graphs.columns)).transpose()
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
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let (buckets, executables): (Vec<_>, Vec<_>) = executables.into_iter().unzip();
        let sharing = sharing(&buckets, options)?;
        let options = options.clone();
        Ok(Self {
            graphs: Graphs { buckets, executables, memory, columns, options },
            sharing,
            launches: Launches::default(),
            inputs: Inputs::default(),
            results: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Runs one planned step, which holds at least one token.
    ///
    /// # Errors
    /// When the device cannot be used any more. All else is the trouble of a launch, or of a row.
    pub(crate) fn run<'t>(
        &mut self,
        step: &SchedulerOutput,
        view_of: impl Fn(RequestId) -> RequestView<'t>,
    ) -> Result<StepResults<'_>, Death> {
        self.launches.split(step, self.sharing);
        let num_launches = self.launches.len();
        if self.results.len() < num_launches {
            self.results.resize_with(num_launches, LaunchResult::default);
        }
        self.rows.clear();
        self.rows.resize(step.scheduled.len(), (0, None));
        let mut num_padded_tokens = 0;
        for (idx, (kind, places)) in self.launches.iter().enumerate() {
            let mut num_sampled = 0;
            // What no row at all needs; a device always gives something.
            let mut wanted = Wanted::Argmax;
            for &place in places {
                let request = &step.scheduled[place];
                self.rows[place] = (idx, request.is_sampled.then_some(num_sampled));
                if request.is_sampled {
                    num_sampled += 1;
                    wanted = sampler::both(wanted, view_of(request.id).wanted);
                }
            }
            let needed = size_of(step, places, num_sampled);
            let launch = self.graphs.choose(kind, needed, num_sampled, wanted);
            let block_size = self.graphs.options.block_size;
            let tokens_of = |id| view_of(id).token_ids;
            self.inputs.fill(step, places, tokens_of, launch.size, block_size);
            self.graphs.run(&launch, &self.inputs, &mut self.results[idx])?;
            num_padded_tokens += launch.size.num_tokens - needed.num_tokens;
        }
        Ok(StepResults { runner: self, num_launches: num_launches as u64, num_padded_tokens })
    }
}

/// What the requests at those places need.
fn size_of(step: &SchedulerOutput, places: &[usize], num_sampled: usize) -> StepSize {
    let requests = places.iter().map(|&place| &step.scheduled[place]);
    let num_tokens: usize = requests.clone().map(|request| request.num_scheduled_tokens).sum();
    let max_blocks = requests.map(|request| step.blocks_of(request).len()).max();
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
        return Ok(Sharing::All);
    }
    let prefill = StepSize::largest_prefill(options);
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
        let wanted = match wanted {
            Wanted::TopK(k) => Wanted::TopK(k.min(self.columns.all)),
            wanted => wanted,
        };
        Launch { graph_idx, size, num_sampled, wanted }
    }

    /// Runs a launch; what went wrong with it alone is in its result.
    fn run(
        &mut self,
        launch: &Launch,
        inputs: &Inputs,
        result: &mut LaunchResult,
    ) -> Result<(), Death> {
        let is_enough = self.try_run(launch, inputs, result)?;
        if !is_enough {
            // The same tokens to the same slots: a launch may be repeated.
            let launch = Launch { wanted: Wanted::Logits, ..*launch };
            self.try_run(&launch, inputs, result)?;
        }
        Ok(())
    }

    /// `false` when too few of a row's largest logits stand for tokens.
    fn try_run(
        &mut self,
        launch: &Launch,
        inputs: &Inputs,
        result: &mut LaunchResult,
    ) -> Result<bool, Death> {
        let bucket = &self.buckets[launch.graph_idx];
        let step =
            Step { symbols: &launch.size.symbol_values(&self.options), inputs: &inputs.slices() };
        let executable = &mut self.executables[launch.graph_idx];
        let run =
            executable.run_wanted(self.memory.as_mut(), &step, launch.wanted, result.output_mut());
        let accepted = match run {
            Ok(()) => result.accept(
                launch.wanted,
                launch.size.num_logits as usize,
                launch.num_sampled,
                self.columns,
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

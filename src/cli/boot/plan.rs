//! Everything decided before anything is compiled, and the graphs that follow from it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};
use cairn_graph_cache::{GraphCache, Origin};

use super::open::{Purpose, open_backend};
use super::{BootReport, GraphState, WarmupGraph};
use crate::backend::compile::{Built, Compiler, Prepared};
use crate::backend::{Backend, Capabilities, Executable, StateSpec};
use crate::build_info;
use crate::cli::failure::Hint as _;
use crate::cli::progress::{Amount, Progress};
use crate::cli::values::display_bytes;
use crate::config::EngineConfig;
use crate::engine::{self, Bucket, EngineOptions};
use crate::ir::Graph;
use crate::model::Model;

/// Bytes of the KV cache when nothing says how many. Pages that no token was written to take no
/// memory.
const DEFAULT_KV_CACHE_BYTES: u64 = 1 << 30;

/// Everything decided before anything is compiled.
pub(super) struct Plan {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) compiler: Compiler,
    graph: Graph,
    pub(super) options: EngineOptions,
    pub(super) states: Vec<StateSpec>,
}

impl Plan {
    pub(super) fn new(
        config: &EngineConfig,
        model: &Model,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        Self::with_backend(config, model, open_backend(config, purpose)?)
    }

    pub(super) fn with_backend(
        config: &EngineConfig,
        model: &Model,
        backend: Arc<dyn Backend>,
    ) -> anyhow::Result<Self> {
        let graph = model.graph(config.block_size()).context("building the graph")?;
        let options = engine_options(config, model, &graph, &backend.capabilities(&graph))?;
        let states = states(&graph, &options)?;
        let producer = format!("cairn {} ({})", build_info::VERSION, build_info::GIT_REVISION);
        let cache = match &config.graph_cache {
            Some(path) => GraphCache::open(path, producer),
            None => GraphCache::in_memory(producer),
        };
        let compiler = Compiler::new(Arc::clone(&backend), cache);
        Ok(Self { backend, compiler, graph, options, states })
    }

    /// One graph per bucket, ready for its key to be looked up.
    pub(super) fn prepare(&self) -> anyhow::Result<Vec<(Bucket, Prepared)>> {
        engine::plan(&self.backend.capabilities(&self.graph), &self.options)
            .into_iter()
            .map(|bucket| {
                let bound = bucket.bindings(&self.options);
                let name = bucket.to_string();
                let prepared = self.compiler.prepare(&self.graph, &bound, &name)?;
                Ok((bucket, prepared))
            })
            .collect()
    }

    /// The artifacts of all graphs, several compiled at a time where the backend says so. The first
    /// failure ends it; what was compiled until then stays in the cache.
    pub(super) fn artifacts(
        &self,
        prepared: &[(Bucket, Prepared)],
        progress: &dyn Progress,
    ) -> anyhow::Result<Vec<Built>> {
        let task = progress.begin("compiling graphs", Amount::Items(prepared.len() as u64));
        let jobs =
            self.backend.capabilities(&self.graph).compile_jobs.clamp(1, prepared.len().max(1));
        let (next, num_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let built: Mutex<Vec<Option<anyhow::Result<Built>>>> =
            Mutex::new(prepared.iter().map(|_| None).collect());
        let work = || {
            while let Some((idx, (_, prepared))) = Some(next.fetch_add(1, Ordering::Relaxed))
                .and_then(|idx| Some((idx, prepared.get(idx)?)))
            {
                let result = self.compiler.artifact(prepared);
                let result = result.with_context(|| format!("compiling graph `{}`", prepared.name));
                if result.is_err() {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                }
                built.lock().unwrap_or_else(PoisonError::into_inner)[idx] = Some(result);
                task.advance_to(num_done.fetch_add(1, Ordering::Relaxed) as u64 + 1);
            }
        };
        thread::scope(|scope| {
            for _ in 1..jobs {
                scope.spawn(work);
            }
            work();
        });
        let mut built = built.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The failure first: those after it were never begun.
        if let Some(failed) = built.iter_mut().find(|result| matches!(result, Some(Err(_)))) {
            failed.take().transpose()?;
        }
        built.into_iter().map(|result| result.context("a graph was not compiled")?).collect()
    }

    /// The loaded graphs, compiled where they are missing. The largest is loaded first: what does
    /// not fit shows at once.
    pub(super) fn executables(
        &self,
        prepared: &[(Bucket, Prepared)],
        report: &mut BootReport,
        progress: &dyn Progress,
    ) -> anyhow::Result<Vec<(Bucket, Box<dyn Executable>)>> {
        let built = self.artifacts(prepared, progress)?;
        let task = progress.begin("loading graphs", Amount::Items(prepared.len() as u64));
        let mut executables = Vec::new();
        for ((bucket, prepared), built) in prepared.iter().zip(&built).rev() {
            let (executable, origin) = self
                .compiler
                .load(prepared, built)
                .with_context(|| format!("loading graph `{}`", prepared.name))?;
            match origin {
                Origin::Cache => report.graphs_from_cache += 1,
                Origin::Compiled => report.graphs_compiled += 1,
            }
            executables.push((bucket.clone(), executable));
            task.advance_to(executables.len() as u64);
        }
        executables.reverse();
        Ok(executables)
    }

    /// Whether a graph is there, and if not, why.
    pub(super) fn look_for(&self, prepared: &Prepared) -> WarmupGraph {
        let started = Instant::now();
        let state = if self.compiler.is_cached(prepared) {
            GraphState::FromCache
        } else {
            GraphState::Missing
        };
        let reason = (state == GraphState::Missing).then(|| self.compiler.miss(prepared)).flatten();
        WarmupGraph { reason, ..WarmupGraph::new(prepared, state, started.elapsed()) }
    }

    pub(super) fn kv_cache_bytes(&self) -> u64 {
        let bytes = |state: &StateSpec| state.dtype.tensor_bytes(&state.shape).unwrap_or(0) as u64;
        self.states.iter().map(bytes).sum()
    }
}

/// The states of a graph with their sizes.
fn states(graph: &Graph, options: &EngineOptions) -> anyhow::Result<Vec<StateSpec>> {
    let values = Bucket::DYNAMIC.symbol_values(options).map(|value| value.unwrap_or(0));
    graph
        .states()
        .map(|id| {
            let ty = graph.ty(id);
            let shape = ty.shape.resolve(&values).context("a state of unknown size")?;
            Ok(StateSpec { dtype: ty.dtype, shape })
        })
        .collect()
}

/// How long sequences may be and how many KV blocks there are.
fn engine_options(
    config: &EngineConfig,
    model: &Model,
    graph: &Graph,
    capabilities: &Capabilities,
) -> anyhow::Result<EngineOptions> {
    let (block_size, multiple) = (config.block_size(), capabilities.block_size_multiple);
    if !block_size.is_multiple_of(multiple) {
        let name = config.backend.name();
        return Err(anyhow::anyhow!(
            "`--block-size` is {block_size}, but the {name} backend takes multiples of {multiple}"
        ))
        .hint(format!("leave it out, or use `--block-size {multiple}`"));
    }
    let limit = model.config().max_position_embeddings;
    if let Some(len) = config.max_model_len
        && len > limit
    {
        return Err(anyhow::anyhow!(
            "`--max-model-len` is {len}, but the model's context is {limit}"
        ))
        .hint("positions beyond what a model was trained on give nonsense");
    }
    let one_block = EngineOptions {
        max_model_len: 1,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        block_size: config.block_size(),
        num_blocks: 1,
        max_num_queued_reqs: config.max_num_queued_reqs,
    };
    let block_bytes: u64 = states(graph, &one_block)?
        .iter()
        .map(|state| state.dtype.tensor_bytes(&state.shape).unwrap_or(usize::MAX) as u64)
        .fold(0, u64::saturating_add);
    let block_bytes = block_bytes.max(1);
    let blocks_of = |len: usize| len.div_ceil(config.block_size()) as u64;

    // What was asked for is a promise; what is only a default gives way to the budget.
    let budget = config.kv_cache_bytes.unwrap_or_else(|| {
        let wanted = config.max_model_len.map_or(0, blocks_of).saturating_mul(block_bytes);
        DEFAULT_KV_CACHE_BYTES.max(wanted)
    });
    let affordable = budget / block_bytes;
    if affordable == 0 {
        bail!(
            "the KV cache may take {}, but one block of {} tokens takes {}",
            display_bytes(budget),
            config.block_size(),
            display_bytes(block_bytes)
        );
    }
    let affordable_tokens =
        usize::try_from(affordable).unwrap_or(usize::MAX).saturating_mul(config.block_size());
    let max_model_len = config.max_model_len.unwrap_or_else(|| limit.min(affordable_tokens));
    let useful = blocks_of(max_model_len).saturating_mul(config.max_num_seqs as u64);
    let num_blocks = affordable.min(useful).min(i32::MAX as u64 / config.block_size() as u64);
    let num_blocks = rounded_down(num_blocks, capabilities.num_blocks_step as u64)
        .max(num_blocks.min(blocks_of(max_model_len)));
    Ok(EngineOptions { max_model_len, num_blocks: num_blocks as usize, ..one_block })
}

/// To a multiple of `step`, unless there is none but 0.
const fn rounded_down(value: u64, step: u64) -> u64 {
    if value < step { value } else { value - value % step }
}

//! Everything decided before anything is compiled, and the graphs that follow from it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};
use cairn_graph_cache::{CacheKey, Found, GraphCache, KeyFields, Observer, Origin, RequestGraph};

use super::graph_cache;
use super::open::{Purpose, open_backend};
use super::{BootReport, GraphState, WarmupGraph, request};
use crate::backend::compile::{Built, CompileError, Compiler, NotCached, Prepared};
use crate::backend::{Backend, Capabilities, Executable, StateSpec};
use crate::boot::Hint as _;
use crate::boot::display_bytes;
use crate::boot::{Amount, Progress};
use crate::config::{self, BackendKind, EmbeddingsChoice, EngineConfig};
use crate::engine::{
    self, Bucket, EngineOptions, SchedulingPolicy, Speculation, SpeculativeMethod, StepKind,
};
use crate::ir::{Graph, ValueId, WeightPart};
use crate::model::Model;

/// Bytes of the KV cache when nothing says how many. Pages that no token was written to take no
/// memory.
const DEFAULT_KV_CACHE_BYTES: u64 = 1 << 30;

/// Everything decided before anything is compiled.
pub(super) struct Plan {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) compiler: Compiler,
    graph: Graph,
    /// The one whose output are hidden states, where they are wanted.
    embedding_graph: Option<Graph>,
    pub(super) options: EngineOptions,
    pub(super) states: Vec<StateSpec>,
    /// The key of what is asked for.
    pub(super) request: KeyFields,
}

impl Plan {
    pub(super) fn new(
        config: &EngineConfig,
        model: &Model,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        Self::observed(config, model, purpose, Vec::new())
    }

    /// A plan whose cache tells these observers what happens in it.
    pub(super) fn observed(
        config: &EngineConfig,
        model: &Model,
        purpose: Purpose,
        observers: Vec<Arc<dyn Observer>>,
    ) -> anyhow::Result<Self> {
        let backend = open_backend(config, purpose)?;
        Self::with_parts(config, model, backend, graph_cache::open(&config.graph_cache, observers)?)
    }

    #[cfg(feature = "ascend")]
    pub(super) fn with_backend(
        config: &EngineConfig,
        model: &Model,
        backend: Arc<dyn Backend>,
    ) -> anyhow::Result<Self> {
        let cache = graph_cache::open(&config.graph_cache, Vec::new())?;
        Self::with_parts(config, model, backend, cache)
    }

    fn with_parts(
        config: &EngineConfig,
        model: &Model,
        backend: Arc<dyn Backend>,
        cache: GraphCache,
    ) -> anyhow::Result<Self> {
        let graph = model.graph(config.block_size()).context("building the graph")?;
        let mut options = engine_options(config, model, &graph, &backend.capabilities(&graph))?;
        options.has_embeddings = match config.embeddings {
            EmbeddingsChoice::Off => false,
            EmbeddingsChoice::On if config.backend == BackendKind::Ascend => {
                return Err(anyhow::anyhow!("the ascend backend gives no embeddings yet"))
                    .hint("leave `--embeddings` out, or use `--embeddings off`");
            }
            EmbeddingsChoice::On => true,
            // Where one more graph is one more second, not one more hour.
            EmbeddingsChoice::Auto => backend.capabilities(&graph).dynamic_shapes,
        };
        let embedding_graph = options
            .has_embeddings
            .then(|| model.embedding_graph(config.block_size()).context("building the graph"))
            .transpose()?;
        let states = states(&graph, &options)?;
        let request = request::fields(config, model, &options, &*backend);
        let compiler = Compiler::new(Arc::clone(&backend), cache);
        Ok(Self { backend, compiler, graph, embedding_graph, options, states, request })
    }

    /// The plan of a model that guesses for this one's: the same device, limits and blocks.
    pub(super) fn of_draft(&self, config: &EngineConfig, draft: &Model) -> anyhow::Result<Self> {
        let graph = draft.graph(config.block_size()).context("building the graph")?;
        let options = EngineOptions { has_embeddings: false, ..self.options.clone() };
        let backend = Arc::clone(&self.backend);
        let states = states(&graph, &options)?;
        let request = request::fields(config, draft, &options, &*backend);
        let compiler = Compiler::new(Arc::clone(&backend), Arc::clone(self.compiler.cache()));
        Ok(Self { backend, compiler, graph, embedding_graph: None, options, states, request })
    }

    /// The graph for steps of any size, as the model has it.
    pub(super) fn graph(&self) -> &Graph {
        &self.graph
    }

    fn graph_of(&self, bucket: &Bucket) -> &Graph {
        match (bucket.kind, &self.embedding_graph) {
            (StepKind::Embed, Some(graph)) => graph,
            _ => &self.graph,
        }
    }

    /// One graph per bucket, ready for its key to be looked up.
    pub(super) fn prepare(&self) -> anyhow::Result<Vec<(Bucket, Prepared)>> {
        engine::plan(&self.backend.capabilities(&self.graph), &self.options)
            .into_iter()
            .map(|bucket| {
                let bound = bucket.bindings(&self.options);
                let name = bucket.to_string();
                let graph = self.graph_of(&bucket);
                let prepared = self.compiler.prepare(graph, &bound, &name)?;
                Ok((bucket, prepared))
            })
            .collect()
    }

    /// The artifacts of all graphs, several compiled at a time where the backend says so. The first
    /// failure ends it; what was compiled until then stays in the cache. Where nothing may be
    /// compiled, every graph is looked for, and the error names all that are missing.
    pub(super) fn artifacts(
        &self,
        prepared: &[(Bucket, Prepared)],
        progress: &dyn Progress,
    ) -> anyhow::Result<Vec<Built>> {
        let task = progress.begin("compiling graphs", Amount::Items(prepared.len() as u64));
        let jobs =
            self.backend.capabilities(&self.graph).compile_jobs.clamp(1, prepared.len().max(1));
        let (next, num_done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let built: Mutex<Vec<Option<Result<Built, CompileError>>>> =
            Mutex::new(prepared.iter().map(|_| None).collect());
        let work = || {
            while let Some((idx, (_, prepared))) = Some(next.fetch_add(1, Ordering::Relaxed))
                .and_then(|idx| Some((idx, prepared.get(idx)?)))
            {
                let result = self.compiler.artifact(prepared);
                if result.as_ref().is_err_and(|error| !is_not_cached(error)) {
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
        all_of(prepared, built.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The graphs, loaded. The largest is loaded first: what does not fit shows at once.
    pub(super) fn executables(
        &self,
        prepared: &[(Bucket, Prepared)],
        built: &[Built],
        report: &mut BootReport,
        progress: &dyn Progress,
    ) -> anyhow::Result<Vec<(Bucket, Box<dyn Executable>)>> {
        let task = progress.begin("loading graphs", Amount::Items(prepared.len() as u64));
        let mut executables = Vec::new();
        let (_, prepared_first) = prepared.first().context("no graph to run")?;
        for ((bucket, prepared), built) in prepared.iter().zip(built).rev() {
            let (mut executable, origin) = self
                .compiler
                .load(prepared, built)
                .with_context(|| format!("loading graph `{}`", prepared.name))?;
            if bucket.kind == StepKind::Embed {
                let places = weight_places(&prepared.graph, &prepared_first.graph)?;
                executable.use_weights(&places).context("sharing weights between graphs")?;
            }
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

    /// Remembers which graphs were needed for what was asked for.
    pub(super) fn remember(&self, prepared: &[(Bucket, Prepared)], model_name: &str) {
        let graphs = request_graphs(prepared);
        self.compiler.cache().remember_request(&self.request, model_name, &graphs);
    }

    /// Whether a graph is there, and if not, why.
    pub(super) fn look_for(&self, prepared: &Prepared) -> WarmupGraph {
        let started = Instant::now();
        let graph = |state| WarmupGraph::new(prepared, state, started.elapsed());
        if self.compiler.is_cached(prepared) {
            return graph(GraphState::FromCache);
        }
        let explanation = self.compiler.explain(prepared);
        let reason = match &explanation.found {
            Found::Hit { place, .. } => format!("in {place}, but refused by the backend"),
            Found::Miss { .. } => explanation.found.to_string(),
        };
        WarmupGraph { reason: Some(reason), ..graph(GraphState::Missing) }
    }

    pub(super) fn kv_cache_bytes(&self) -> u64 {
        let bytes = |state: &StateSpec| state.dtype.tensor_bytes(&state.shape).unwrap_or(0) as u64;
        self.states.iter().map(bytes).sum()
    }
}

/// Where the weights of a graph are among those of another one of the same model.
fn weight_places(graph: &Graph, placed: &Graph) -> anyhow::Result<Vec<usize>> {
    let placed: Vec<&[WeightPart]> = placed.weights().map(|(_, parts)| parts).collect();
    let place = |(_, parts): (ValueId, &[WeightPart])| {
        let place = placed.iter().position(|other| *other == parts);
        place.with_context(|| format!("weight {parts:?} is only in one of two graphs"))
    };
    graph.weights().map(place).collect()
}

/// The keys of graphs.
pub(super) fn keys(prepared: &[(Bucket, Prepared)]) -> Vec<CacheKey> {
    prepared.iter().map(|(_, prepared)| prepared.key()).collect()
}

/// The graphs as a request names them.
pub(super) fn request_graphs(prepared: &[(Bucket, Prepared)]) -> Vec<RequestGraph> {
    let graph =
        |prepared: &Prepared| RequestGraph { name: prepared.name.clone(), key: prepared.key() };
    prepared.iter().map(|(_, prepared)| graph(prepared)).collect()
}

const fn is_not_cached(error: &CompileError) -> bool {
    matches!(error, CompileError::NotCached(_))
}

/// All artifacts, or what went wrong: the first failure, or every graph that is missing.
fn all_of(
    prepared: &[(Bucket, Prepared)],
    results: Vec<Option<Result<Built, CompileError>>>,
) -> anyhow::Result<Vec<Built>> {
    let (mut built, mut missing) = (Vec::new(), Vec::new());
    let mut num_unbegun = 0;
    for ((_, prepared), result) in prepared.iter().zip(results) {
        match result {
            Some(Ok(artifact)) => built.push(artifact),
            Some(Err(CompileError::NotCached(not_cached))) => missing.extend(not_cached.missing),
            Some(Err(error)) => {
                return Err(error).with_context(|| format!("compiling graph `{}`", prepared.name));
            }
            None => num_unbegun += 1,
        }
    }
    if !missing.is_empty() {
        return Err(NotCached { missing, num_graphs: prepared.len() }.into());
    }
    anyhow::ensure!(num_unbegun == 0, "{num_unbegun} graphs were not compiled");
    Ok(built)
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
        policy: policy(config.scheduling.policy),
        max_num_queued_tokens: config.scheduling.max_num_queued_tokens,
        is_prefix_cache_on: config.scheduling.is_prefix_cache_on,
        request_timeout: config.scheduling.request_timeout,
        long_prefill_token_threshold: config.scheduling.long_prefill_token_threshold,
        speculation: config.speculation.as_ref().map(speculation),
        has_embeddings: false,
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
    // Beyond what sequences can hold at once, blocks keep prefixes: as many as were asked for.
    let useful = match config.kv_cache_bytes {
        Some(_) if config.scheduling.is_prefix_cache_on => u64::MAX,
        _ => blocks_of(max_model_len).saturating_mul(config.max_num_seqs as u64),
    };
    let num_blocks = affordable.min(useful).min(i32::MAX as u64 / config.block_size() as u64);
    let num_blocks = rounded_down(num_blocks, capabilities.num_blocks_step as u64)
        .max(num_blocks.min(blocks_of(max_model_len)));
    Ok(EngineOptions { max_model_len, num_blocks: num_blocks as usize, ..one_block })
}

fn policy(policy: config::SchedulingPolicy) -> SchedulingPolicy {
    match policy {
        config::SchedulingPolicy::Fcfs => SchedulingPolicy::Fcfs,
        config::SchedulingPolicy::Priority => SchedulingPolicy::Priority,
        config::SchedulingPolicy::Shortest => SchedulingPolicy::ShortestFirst,
        config::SchedulingPolicy::Deadline => SchedulingPolicy::Deadline,
    }
}

fn speculation(wanted: &config::SpeculationConfig) -> Speculation {
    let method = match wanted.method {
        config::SpeculationMethod::Ngram { min, max } => SpeculativeMethod::Ngram { min, max },
        config::SpeculationMethod::Draft { .. } => SpeculativeMethod::Draft,
    };
    Speculation { num_tokens: wanted.num_tokens, method }
}

/// To a multiple of `step`, unless there is none but 0.
const fn rounded_down(value: u64, step: u64) -> u64 {
    if value < step { value } else { value - value % step }
}

//! From a configuration to a running engine: the one path of `serve`, `generate`, `bench` and
//! `warmup`.
//!
//! ```text
//! open model -> tokenizer -> plan memory -> graphs (build, prepare) -> artifacts (cache | compile)
//!            -> load -> place weights and KV cache -> start the engine
//! ```
//!
//! `warmup` stops after the artifacts; so what it compiled is exactly what the others look for.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cairn_graph_cache::{GraphCache, Origin};

use super::failure::{self, Hint as _};
use super::progress::{Amount, Progress, Silent};
use super::values::display_bytes;
use crate::backend::compile::{Built, Compiler, Prepared};
use crate::backend::null::NullBackend;
use crate::backend::{Backend, Capabilities, Executable, StateSpec, Weight};
use crate::build_info;
use crate::config::{BackendKind, DTypeChoice, EngineConfig};
use crate::engine::{self, Bucket, Death, EngineHandle, EngineOptions, Fate, LoadedModel};
use crate::ir::{DType, Graph};
use crate::model::{Model, ModelError, Precision, WeightPolicy};
use crate::text::{ChatTemplate, GgufVocab, Tokenizer};
use crate::weights::{GgufMetadata, Optional as _};

/// Bytes of the KV cache when nothing says how many. Pages that no token was written to take no
/// memory.
const DEFAULT_KV_CACHE_BYTES: u64 = 1 << 30;

/// A loaded model and its running engine.
#[derive(Debug)]
pub struct Booted {
    /// The running engine.
    pub engine: EngineHandle,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// The model's chat template, if it has one.
    pub chat_template: Option<ChatTemplate>,
    /// What booting did.
    pub report: BootReport,
    /// The graphs that the engine runs, to be able to forget them.
    pub(crate) graphs: LoadedGraphs,
}

impl Booted {
    /// Does the work that the engine was started for, then ends it, so that the device gets back
    /// everything that it lent. What the engine died of, if it did, is part of the error.
    pub(crate) fn finish<T>(
        &self,
        work: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let result = work(self);
        self.engine.shutdown();
        self.graphs.forget_stale(&self.engine);
        result.map_err(|error| failure::with_death(error, &self.engine))
    }
}

/// The graphs of an engine and the cache that they are in.
pub(crate) struct LoadedGraphs {
    compiler: Compiler,
    prepared: Vec<(Bucket, Prepared)>,
}

impl LoadedGraphs {
    /// Drops the entry of the graph that the engine died of, if that was it: the next process
    /// compiles it again.
    pub(crate) fn forget_stale(&self, engine: &EngineHandle) {
        let Some(Death { what, fate: Fate::StaleArtifact { bucket: stale } }) = engine.death()
        else {
            return;
        };
        for (_, prepared) in self.prepared.iter().filter(|(bucket, _)| *bucket == stale) {
            self.compiler.drop_entry(prepared, &what);
        }
    }
}

impl std::fmt::Debug for LoadedGraphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LoadedGraphs").field(&self.prepared.len()).finish()
    }
}

/// What booting did.
#[derive(Clone, Debug, Default)]
pub struct BootReport {
    /// The model's name: its folder's, or its file's without the extension.
    pub model_name: String,
    /// The model's architecture, as in `config.json`.
    pub architecture: String,
    /// Graphs that were compiled.
    pub graphs_compiled: usize,
    /// Graphs that were found in the cache.
    pub graphs_from_cache: usize,
    /// Phases in order, with the time each took.
    pub phases: Vec<(&'static str, Duration)>,
    /// Bytes of the weights as they are computed with.
    pub weights_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_cache_bytes: u64,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
}

/// What became of the graphs that a deployment needs.
#[derive(Clone, Debug)]
pub struct WarmupReport {
    /// Every graph, smallest first.
    pub graphs: Vec<WarmupGraph>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct WarmupGraph {
    /// Name of its bucket.
    pub bucket: String,
    /// Its cache key, hexadecimal.
    pub key: String,
    /// Where it came from.
    pub state: GraphState,
    /// Time to compile or find it.
    pub time: Duration,
    /// Of a missing one, how it differs from the nearest that is there.
    pub reason: Option<String>,
}

/// Where a graph came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphState {
    /// It was there.
    FromCache,
    /// It was compiled now.
    Compiled,
    /// It is not there, and nothing was compiled.
    Missing,
}

/// Loads the model, compiles its graphs or takes them from the cache, and starts the engine; shows
/// no progress. For tests and programs that embed an engine.
///
/// # Errors
/// When the model, its tokenizer or a setting cannot be used, or something does not fit.
pub fn start(config: &EngineConfig) -> anyhow::Result<Booted> {
    boot(config, &Silent)
}

/// Loads the model, compiles its graphs or takes them from the cache, and starts the engine.
pub(crate) fn boot(config: &EngineConfig, progress: &dyn Progress) -> anyhow::Result<Booted> {
    let mut ledger = Ledger::default();
    let task = progress.begin("loading the model", Amount::Unknown);
    let model = open_model(config)?;
    ledger.phase("model");
    let (tokenizer, chat_template) = open_text(&config.model, &model)?;
    ledger.phase("tokenizer");
    let plan = Plan::new(config, &model, Purpose::Run)?;
    let prepared = plan.prepare()?;
    ledger.phase("graphs");
    drop(task);

    let mut report = BootReport {
        model_name: model_name(&config.model),
        architecture: model.config().architecture.to_string(),
        kv_cache_bytes: plan.kv_cache_bytes(),
        max_model_len: plan.options.max_model_len,
        ..BootReport::default()
    };
    let executables = plan.executables(&prepared, &mut report, progress)?;
    ledger.phase("executables");

    let task = progress.begin("placing the weights", Amount::Unknown);
    let first = &prepared.first().context("no graph to run")?.1.graph;
    let weights = model.tensors(first, plan.options.max_model_len).context("reading weights")?;
    report.weights_bytes = weights.iter().flatten().map(|tensor| tensor.bytes.len() as u64).sum();
    let weights = weights.into_iter().map(|parts| Weight { parts }).collect();
    let memory =
        plan.backend.place(weights, &plan.states).context("placing weights and KV cache")?;
    drop(task);
    ledger.phase("memory");

    let loaded = LoadedModel {
        executables,
        memory,
        vocab_size: model.config().vocab_size,
        eos_token_ids: model.config().eos_token_ids.clone(),
    };
    let engine = engine::start(loaded, tokenizer.clone(), plan.options)?;
    engine.count_graphs(report.graphs_compiled as u64, report.graphs_from_cache as u64);
    ledger.phase("engine");
    report.phases = ledger.phases;
    let graphs = LoadedGraphs { compiler: plan.compiler, prepared };
    Ok(Booted { engine, tokenizer, chat_template, report, graphs })
}

/// Compiles what [`boot`] would need, or with `verify_only` looks whether it is there.
pub(crate) fn warmup(
    config: &EngineConfig,
    verify_only: bool,
    progress: &dyn Progress,
) -> anyhow::Result<WarmupReport> {
    let task = progress.begin("loading the model", Amount::Unknown);
    let model = open_model(config)?;
    // A deployment whose tokenizer is broken does not start: better now than there.
    open_text(&config.model, &model)?;
    let plan = Plan::new(config, &model, Purpose::Compile)?;
    let prepared = plan.prepare()?;
    drop(task);

    let graphs = if verify_only {
        prepared.iter().map(|(_, prepared)| plan.look_for(prepared)).collect()
    } else {
        let built = plan.artifacts(&prepared, progress)?;
        let graph = |((_, prepared), built): (&(Bucket, Prepared), &Built)| {
            let state = match built.origin {
                Origin::Cache => GraphState::FromCache,
                Origin::Compiled => GraphState::Compiled,
            };
            WarmupGraph::new(prepared, state, built.elapsed)
        };
        prepared.iter().zip(&built).map(graph).collect()
    };
    Ok(WarmupReport { graphs })
}

impl WarmupGraph {
    fn new(prepared: &Prepared, state: GraphState, time: Duration) -> Self {
        let key = prepared.fields.key().to_string();
        Self { bucket: prepared.name.clone(), key, state, time, reason: None }
    }
}

/// The text form of the largest graph, as the backend gets it.
pub(crate) fn graph_text(config: &EngineConfig) -> anyhow::Result<String> {
    // Looking at a graph leaves no folders behind.
    let config = EngineConfig { graph_cache: None, ..config.clone() };
    let model = open_model(&config)?;
    let prepared = Plan::new(&config, &model, Purpose::Inspect)?.prepare()?;
    let (_, largest) = prepared.last().context("no graph to run")?;
    Ok(largest.graph.to_string())
}

/// What a graph becomes on Ascend.
#[cfg(feature = "ascend")]
pub(crate) struct AscendGraph {
    /// Name of its bucket.
    pub(crate) bucket: String,
    /// The text form of the graph that is lowered.
    pub(crate) text: String,
    /// What it is lowered to.
    pub(crate) lowered: crate::backend::ascend::Lowered,
}

/// What all graphs of a deployment become on Ascend, smallest first; `cann` is the release where no
/// toolkit is installed.
#[cfg(feature = "ascend")]
pub(crate) fn ascend_graphs(
    config: &EngineConfig,
    cann: Option<&str>,
) -> anyhow::Result<Vec<AscendGraph>> {
    let config = EngineConfig { graph_cache: None, ..config.clone() };
    let cann = cann.map(str::parse).transpose()?;
    let backend = Arc::new(super::ascend::open(&config, Purpose::Inspect, cann)?);
    let model = open_model(&config)?;
    let plan = Plan::with_backend(&config, &model, Arc::<_>::clone(&backend) as Arc<dyn Backend>)?;
    plan.prepare()?
        .into_iter()
        .map(|(_, prepared)| {
            let lowered = backend.lower(&prepared.graph);
            let lowered = lowered.with_context(|| format!("lowering graph `{}`", prepared.name))?;
            let text = prepared.graph.to_string();
            Ok(AscendGraph { bucket: prepared.name, text, lowered })
        })
        .collect()
}

/// Names and durations of the phases so far.
struct Ledger {
    phases: Vec<(&'static str, Duration)>,
    last: Instant,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { phases: Vec::new(), last: Instant::now() }
    }
}

impl Ledger {
    /// The phase of that name ends now.
    fn phase(&mut self, name: &'static str) {
        let now = Instant::now();
        self.phases.push((name, now - self.last));
        self.last = now;
    }
}

fn open_model(config: &EngineConfig) -> anyhow::Result<Model> {
    let policy = match config.dtype {
        DTypeChoice::Auto => WeightPolicy::AsStored,
        DTypeChoice::F32 => WeightPolicy::F32,
        DTypeChoice::F16 => WeightPolicy::F16,
        DTypeChoice::BF16 => WeightPolicy::BF16,
    };
    let open = || -> Result<Model, ModelError> {
        let model = Model::open(&config.model, policy)?;
        match config.backend {
            BackendKind::Cpu | BackendKind::Null => Ok(model),
            BackendKind::Ascend => {
                let dtype = ascend_dtype(config.dtype, model.stored_dtype()?);
                Ok(model.with_precision(Precision::uniform(dtype)))
            }
        }
    };
    open().with_context(|| format!("loading model `{}`", config.model.display()))
}

/// The type that a model is computed in on Ascend, which multiplies only equal types and knows no
/// block-quantised ones: those become f32, in which nothing of them is lost.
fn ascend_dtype(choice: DTypeChoice, stored: DType) -> DType {
    match (choice, stored) {
        (DTypeChoice::BF16, _) | (DTypeChoice::Auto, DType::BF16) => DType::BF16,
        (DTypeChoice::F16, _) | (DTypeChoice::Auto, DType::F16) => DType::F16,
        (DTypeChoice::F32 | DTypeChoice::Auto, _) => DType::F32,
    }
}

fn model_name(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Tokenizer and chat template: from the folder, or from inside the GGUF file.
fn open_text(path: &Path, model: &Model) -> anyhow::Result<(Tokenizer, Option<ChatTemplate>)> {
    let Some(metadata) = model.checkpoint().gguf() else {
        let tokenizer = Tokenizer::from_folder(path).context("loading the tokenizer")?;
        let template = ChatTemplate::from_folder(path).context("loading the chat template")?;
        return Ok((tokenizer, template));
    };
    let vocab = gguf_vocab(metadata).context("reading the tokenizer's metadata")?;
    let tokenizer = Tokenizer::from_gguf(vocab).context("loading the tokenizer")?;
    let template = metadata.string("tokenizer.chat_template").optional()?;
    let text = |token: Option<(&str, u32)>| token.map(|(text, _)| text.to_owned());
    let (bos, eos) = (text(tokenizer.bos_token()), text(tokenizer.eos_token()));
    let template = template
        .map(|source| ChatTemplate::new(source, bos.as_deref(), eos.as_deref()))
        .transpose()
        .context("loading the chat template")?;
    Ok((tokenizer, template))
}

fn gguf_vocab(metadata: &GgufMetadata) -> anyhow::Result<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| -> anyhow::Result<Option<u32>> {
        let id = metadata.u64(&key(name)).optional()?;
        id.map(|id| u32::try_from(id).with_context(|| format!("`{}` is {id}", key(name))))
            .transpose()
    };
    let flag = |name: &str| metadata.bool(&key(name)).optional();
    Ok(GgufVocab {
        model: metadata.string(&key("model"))?,
        pre: metadata.string(&key("pre")).optional()?,
        tokens: metadata.strings(&key("tokens"))?,
        scores: metadata.f32s(&key("scores")).optional()?,
        token_types: metadata.i32s(&key("token_type")).optional()?,
        merges: metadata.strings(&key("merges")).optional()?,
        bos_token_id: id("bos_token_id")?,
        eos_token_id: id("eos_token_id")?,
        unknown_token_id: id("unknown_token_id")?,
        padding_token_id: id("padding_token_id")?,
        add_bos_token: flag("add_bos_token")?,
        add_eos_token: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// What a backend is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Running graphs.
    Run,
    /// Compiling them.
    Compile,
    /// Looking at them.
    Inspect,
}

fn open_backend(config: &EngineConfig, purpose: Purpose) -> anyhow::Result<Arc<dyn Backend>> {
    match config.backend {
        #[cfg(feature = "cpu")]
        BackendKind::Cpu => {
            use crate::backend::cpu::{CpuBackend, KernelSet};
            let backend = CpuBackend::new(config.threads, KernelSet::Fast)?;
            Ok(Arc::new(backend.with_static_shapes(config.static_shapes)))
        }
        #[cfg(not(feature = "cpu"))]
        BackendKind::Cpu => {
            bail!("this build has no cpu backend: it was built without that feature")
        }
        BackendKind::Null => Ok(Arc::new(NullBackend { dynamic_shapes: !config.static_shapes })),
        #[cfg(feature = "ascend")]
        BackendKind::Ascend => Ok(Arc::new(super::ascend::open(config, purpose, None)?)),
        #[cfg(not(feature = "ascend"))]
        BackendKind::Ascend => {
            bail!("this build has no ascend backend: it was built without that feature")
        }
    }
}

/// Everything decided before anything is compiled.
struct Plan {
    backend: Arc<dyn Backend>,
    compiler: Compiler,
    graph: Graph,
    options: EngineOptions,
    states: Vec<StateSpec>,
}

impl Plan {
    fn new(config: &EngineConfig, model: &Model, purpose: Purpose) -> anyhow::Result<Self> {
        Self::with_backend(config, model, open_backend(config, purpose)?)
    }

    fn with_backend(
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
    fn prepare(&self) -> anyhow::Result<Vec<(Bucket, Prepared)>> {
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
    fn artifacts(
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
    fn executables(
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
    fn look_for(&self, prepared: &Prepared) -> WarmupGraph {
        let started = Instant::now();
        let state = if self.compiler.is_cached(prepared) {
            GraphState::FromCache
        } else {
            GraphState::Missing
        };
        let reason = (state == GraphState::Missing).then(|| self.compiler.miss(prepared)).flatten();
        WarmupGraph { reason, ..WarmupGraph::new(prepared, state, started.elapsed()) }
    }

    fn kv_cache_bytes(&self) -> u64 {
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

//! From a configuration to a running engine: the one path of every command with a model and of the
//! library.
//!
//! ```text
//! open model -> tokenizer -> plan memory -> graphs (build, prepare) -> artifacts (cache | compile)
//!            -> load -> place weights and KV cache -> open the store of prefixes -> start the engine
//!               `------ a start that the cache counts ------'
//! ```
//!
//! `warmup` stops after the artifacts, and `explain` before them; so what they compiled and looked
//! for is exactly what the others look for.
//!
//! Where the cache is required to have every graph, a missing one ends it at the artifacts: before
//! any of the weights is read, and with nothing compiled.
//!
//! | File | Holds |
//! | --- | --- |
//! | [`models`] | MODEL to a path; known models, fetched and verified |
//! | `graph_cache` | what was asked of the graph cache, to an open one |
//! | `open` | the model, its text, the backend |
//! | `ascend` | what the Ascend backend is opened with |
//! | `plan` | everything decided before anything is compiled |
//! | `request` | what a deployment asks for, as a key |
//! | `prefix` | what was asked about prefixes that outlive the process, to an open store |
//! | `failure` | errors with the way out of them |
//! | `events` | what a start tells the event log |
//! | `progress`, `size` | what a start shows while it runs |
//!
//! What this module deliberately does not do: it knows no flags and prints nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cairn_graph_cache::{
    CacheKey, CacheMode, Explanation, GraphCache, Origin, RequestGraph, StatsSnapshot,
};

use crate::backend::compile::{Built, CompileError, Compiler, MAX_COMPARED, Prepared};
use crate::backend::{BackendError, Executable, Memory, Weight};
use crate::config::{EngineConfig, GraphCacheConfig};
use crate::engine::{
    self, Bucket, Death, EngineHandle, EngineOptions, EngineParts, Fate, LoadedModel, PrefixStore,
    StepKind,
};
use crate::ir::Work;
use crate::model::Model;
use crate::prefix_store::DiskPrefixStore;
use crate::text::{ChatTemplate, Tokenizer};

use events::Teller;
use open::{open_model, open_text};
pub(crate) use open::{product_bytes, roofline};
use plan::Plan;

pub(crate) use failure::{Hint, Usage, hint};
pub(crate) use open::Purpose;
pub(crate) use progress::{Amount, Hidden, Progress, Silent, Task};
pub(crate) use size::display_bytes;

#[cfg(feature = "ascend")]
pub(crate) mod ascend;
mod draft;
mod events;
pub(crate) mod failure;
pub(crate) mod graph_cache;
pub mod models;
mod open;
mod plan;
pub(crate) mod prefix;
mod progress;
mod request;
mod size;

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
    /// The cache of compiled graphs, which stays open as long as they are in use.
    pub(crate) cache: Arc<GraphCache>,
    /// Where prefixes outlive the process, if they do.
    pub prefix_store: Option<Arc<DiskPrefixStore>>,
}

impl Booted {
    /// How much the largest of its graphs reads and computes.
    pub fn work(&self) -> Work {
        self.graphs
            .prepared
            .last()
            .map(|(_, prepared)| Work::of(&prepared.graph))
            .unwrap_or_default()
    }

    /// What happened in the cache of compiled graphs until now.
    pub fn cache_stats(&self) -> StatsSnapshot {
        self.cache.stats().snapshot()
    }

    /// Ends the engine, so that the device gets back everything that it lent.
    pub(crate) fn end(&self) {
        self.engine.shutdown();
        self.graphs.forget_stale(&self.engine);
    }

    /// Does the work that the engine was started for, then ends it, so that the device gets back
    /// everything that it lent. What the engine died of, if it did, is part of the error.
    pub(crate) fn finish<T>(
        &self,
        work: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let result = work(self);
        self.end();
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
    /// Bytes of one block of it.
    pub kv_block_bytes: u64,
    /// Bytes that the backend allocated for weights that are not mapped from a file, and for the KV
    /// cache.
    pub held_bytes: u64,
    /// Bytes of a draft model's weights and KV cache.
    pub draft_bytes: u64,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
}

/// What became of the graphs that a deployment needs.
#[derive(Clone, Debug)]
pub struct WarmupReport {
    /// The key of what was asked for, hexadecimal.
    pub request: String,
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
    /// Of a missing one, what was found, and how it differs from the nearest that is there.
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
    let prefix_folder = prefix::open(config)?;
    let task = progress.begin("loading the model", Amount::Unknown);
    let teller = Arc::new(Teller::new(progress.events().cloned()));
    teller.model_loading(config);
    let model = open_model(config)?;
    ledger.phase("model");
    let (tokenizer, chat_template) = open_text(&config.model, &model)?;
    ledger.phase("tokenizer");
    let plan = Plan::observed(config, &model, Purpose::Run, vec![Arc::clone(&teller) as _])?;
    let prepared = plan.prepare()?;
    ledger.phase("graphs");
    drop(task);
    teller.expect_graphs(prepared.len());

    let mut report = BootReport {
        model_name: model_name(&config.model),
        architecture: model.config().architecture.to_string(),
        kv_cache_bytes: plan.kv_cache_bytes(),
        max_model_len: plan.options.max_model_len,
        ..BootReport::default()
    };
    let (cache, keys) = (Arc::clone(plan.compiler.cache()), plan::keys(&prepared));
    // Has the entries of starts that failed again and again moved away before they are looked up.
    // Not counted itself: compiling may take long, and whoever ends it meanwhile blames no entry.
    drop(cache.begin_start(&keys));
    let built = plan.artifacts(&prepared, progress)?;
    let start = cache.begin_start(&keys);
    let loaded = load(&plan, &model, &prepared, &built, &mut report, &mut ledger, progress);
    let (executables, memory) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            if blames_the_graphs(&error) {
                start.failed();
            }
            return Err(error);
        }
    };
    start.ready();
    plan.remember(&prepared, &report.model_name);
    teller.cache_summary(&cache.stats().snapshot(), &place_of(&cache));
    teller.model_loaded(&report, &ledger.phases);

    let prefix_store = match prefix_folder {
        Some(folder) => {
            let store = prefix::store(folder, &model, &plan, memory.block_bytes())?;
            ledger.phase("prefixes");
            store
        }
        None => None,
    };
    report.held_bytes = memory.allocated_bytes();
    let loaded = LoadedModel {
        executables,
        memory,
        vocab_size: model.config().vocab_size,
        eos_token_ids: model.config().eos_token_ids.clone(),
    };
    let draft = draft::open(config, &model, &plan, &mut report, progress)?;
    if draft.is_some() {
        ledger.phase("draft");
    }
    report.kv_block_bytes = plan.kv_cache_bytes() / (plan.options.num_blocks as u64).max(1);
    tracing::info!("memory: {}", memory_plan(&report, &plan.options));
    let mut parts = EngineParts::new(loaded, tokenizer.clone(), plan.options);
    parts.draft = draft;
    parts.hidden_size = model.config().hidden_size;
    let min_hits = config.prefix_cache.min_hits;
    parts.prefix_store =
        prefix_store.clone().map(|store| (store as Arc<dyn PrefixStore>, min_hits));
    let engine = engine::start(parts)?;
    engine.count_graphs(report.graphs_compiled as u64, report.graphs_from_cache as u64);
    ledger.phase("engine");
    report.phases = ledger.phases;
    let graphs = LoadedGraphs { compiler: plan.compiler, prepared };
    Ok(Booted { engine, tokenizer, chat_template, report, graphs, cache, prefix_store })
}

/// Where the memory goes, in words.
fn memory_plan(report: &BootReport, options: &EngineOptions) -> String {
    let EngineOptions { num_blocks, block_size, .. } = options;
    let [weights, kv_cache, held] =
        [report.weights_bytes, report.kv_cache_bytes, report.held_bytes].map(display_bytes);
    let draft = match report.draft_bytes {
        0 => String::new(),
        bytes => format!(", draft model {}", display_bytes(bytes)),
    };
    format!(
        "weights {weights}, KV cache {kv_cache} ({num_blocks} blocks of {block_size} tokens){draft}; \
         {held} allocated for weights that are not mapped from their file, and the KV cache"
    )
}

/// What the engine runs.
type Loaded = (Vec<(Bucket, Box<dyn Executable>)>, Box<dyn Memory>);

/// Loads the graphs, and places weights and KV cache.
fn load(
    plan: &Plan,
    model: &Model,
    prepared: &[(Bucket, Prepared)],
    built: &[Built],
    report: &mut BootReport,
    ledger: &mut Ledger,
    progress: &dyn Progress,
) -> anyhow::Result<Loaded> {
    let mut executables = plan.executables(prepared, built, report, progress)?;
    ledger.phase("executables");
    let task = progress.begin("placing the weights", Amount::Unknown);
    let first = &prepared.first().context("no graph to run")?.1.graph;
    let weights = model.tensors(first, plan.options.max_model_len).context("reading weights")?;
    report.weights_bytes = weights.iter().flatten().map(|tensor| tensor.bytes.len() as u64).sum();
    let weights = weights.into_iter().map(|parts| Weight { parts }).collect();
    let mut memory =
        plan.backend.place(weights, &plan.states).context("placing weights and KV cache")?;
    for (_, executable) in &mut executables {
        executable.prepare(memory.as_mut()).context("preparing the weights")?;
    }
    drop(task);
    ledger.phase("memory");
    Ok((executables, memory))
}

/// Whether a compiled graph may be the reason. Neither a device that is broken or in an unknown state
/// blames one, nor a lack of memory: graphs hold no weights, and compiled again they need as much. A
/// graph that takes the whole process down is counted all the same: nobody is left to say otherwise.
fn blames_the_graphs(error: &anyhow::Error) -> bool {
    let of_backend = |error: &BackendError| {
        matches!(
            error,
            BackendError::BadArtifact { .. }
                | BackendError::StaleArtifact(_)
                | BackendError::Execution(_)
        )
    };
    error.chain().any(|cause| match cause.downcast_ref() {
        Some(CompileError::Backend(error)) => of_backend(error),
        _ => cause.downcast_ref().is_some_and(of_backend),
    })
}

/// Where the cache keeps what it keeps.
fn place_of(cache: &GraphCache) -> String {
    match cache.mode() {
        CacheMode::Off => "turned off".to_owned(),
        mode => format!("{} ({mode})", cache.store().upper().place()),
    }
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
    let config = if verify_only { &read_only(config) } else { config };
    let plan = Plan::new(config, &model, Purpose::Compile)?;
    let prepared = plan.prepare()?;
    drop(task);

    let graphs = if verify_only {
        prepared.iter().map(|(_, prepared)| plan.look_for(prepared)).collect()
    } else {
        let built = plan.artifacts(&prepared, progress)?;
        plan.remember(&prepared, &model_name(&config.model));
        let graph = |((_, prepared), built): (&(Bucket, Prepared), &Built)| {
            let state = match built.origin {
                Origin::Cache => GraphState::FromCache,
                Origin::Compiled => GraphState::Compiled,
            };
            WarmupGraph::new(prepared, state, built.elapsed)
        };
        prepared.iter().zip(&built).map(graph).collect()
    };
    Ok(WarmupReport { request: plan.request.key().to_string(), graphs })
}

/// Which graphs a deployment needs, and what the cache has of them.
#[derive(Clone, Debug)]
pub struct ExplainReport {
    /// The key of what was asked for.
    pub request_key: CacheKey,
    /// Whether it was asked for before, and if not, what differs from the nearest request.
    pub asked: Explanation,
    /// The graphs that it needed when it was last started; `None` when it never was.
    pub request: Option<Vec<RequestGraph>>,
    /// Every graph that it needs now, smallest first: its bucket, and what was found.
    pub graphs: Vec<(String, Explanation)>,
    /// Whether the graphs of before are those of now, or there are none of before.
    pub agrees: bool,
}

/// Says of every graph that [`boot`] would need whether it is there, and if not, what differs from
/// the entry that is most like it. Compiles nothing, changes nothing, and needs no device where
/// [`warmup`] needs none.
pub(crate) fn explain(
    config: &EngineConfig,
    progress: &dyn Progress,
) -> anyhow::Result<ExplainReport> {
    let task = progress.begin("loading the model", Amount::Unknown);
    let model = open_model(config)?;
    let plan = Plan::new(&read_only(config), &model, Purpose::Compile)?;
    let prepared = plan.prepare()?;
    drop(task);
    let request = plan.compiler.cache().request(&plan.request);
    let explained = prepared.iter().map(|(_, graph)| {
        let explanation = plan.compiler.explain(graph);
        (graph.name.clone(), explanation)
    });
    let graphs = explained.collect();
    let agrees = request.as_ref().is_none_or(|graphs| *graphs == plan::request_graphs(&prepared));
    let request_key = plan.request.key();
    let asked = plan.compiler.cache().explain_request(&plan.request, "request", MAX_COMPARED);
    Ok(ExplainReport { request_key, asked, request, graphs, agrees })
}

/// The same configuration, with a cache in which nothing is changed.
fn read_only(config: &EngineConfig) -> EngineConfig {
    let mode = match config.graph_cache.mode {
        CacheMode::Off => CacheMode::Off,
        CacheMode::ReadWrite | CacheMode::ReadOnly | CacheMode::Require => CacheMode::ReadOnly,
    };
    let graph_cache = GraphCacheConfig { mode, ..config.graph_cache.clone() };
    EngineConfig { graph_cache, ..config.clone() }
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
    let config = EngineConfig { graph_cache: GraphCacheConfig::default(), ..config.clone() };
    let model = open_model(&config)?;
    let prepared = Plan::new(&config, &model, Purpose::Inspect)?.prepare()?;
    let generates = |(bucket, _): &&(Bucket, Prepared)| bucket.kind != StepKind::Embed;
    let (_, largest) = prepared.iter().rfind(generates).context("no graph to run")?;
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
    let config = EngineConfig { graph_cache: GraphCacheConfig::default(), ..config.clone() };
    let cann = cann.map(str::parse).transpose()?;
    let backend = std::sync::Arc::new(ascend::open(&config, Purpose::Inspect, cann)?);
    let model = open_model(&config)?;
    let plan = Plan::with_backend(&config, &model, backend.clone())?;
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

/// What a model is called: its folder's name, or its file's without the extension.
pub(crate) fn model_name(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

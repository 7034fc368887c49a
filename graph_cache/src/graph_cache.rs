//! The way from key fields to a loaded graph: the one thing that callers use.
//!
//! ```text
//! fields -> key -> single flight (threads) -> look -> lock (processes, hosts) -> look again
//!                                              |hit                               |hit   |miss
//!                                              v                                  v      v
//!                                             load                               load  bad entry away,
//!                                                                                 compile, load, store
//! ```
//!
//! | Trouble | What happens |
//! | --- | --- |
//! | bad entry, or a right one that the backend refuses | quarantined, rebuilt once, a warning |
//! | nothing can be stored | a warning, the first time; the compiled graph is used |
//! | another process compiles for too long | a warning that names it; compiled here as well |
//! | the process that compiles dies or hangs | its lock is taken over |
//! | compiling fails | the caller's own error, not remembered |
//! | mode `require`, and it is not there | [`GetError::NotCached`], with the explanation |
//!
//! What this module deliberately does not do: it knows neither what a graph is nor how one is
//! compiled or loaded.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::call::Call;
use crate::disk::{DiskAccess, DiskOptions, DiskStore};
use crate::entry::{Artifact, EntryMeta};
use crate::events::{Event, Events};
use crate::explain::{Explanation, explain, nearest};
use crate::gc::GcOptions;
use crate::key::{CacheKey, KeyFields};
use crate::layered::Layered;
use crate::memory::MemoryStore;
use crate::options::{CacheMode, CacheOptions, Layer};
use crate::readonly::ReadOnly;
use crate::request::{self, GRAPH_KIND, REQUEST_KIND, RequestGraph};
use crate::single_flight::SingleFlight;
use crate::starts::{self, StartGuard};
use crate::stats::CacheStats;
use crate::store::{MissReason, Store};

/// What a cache in memory holds.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// Entries that are compared with what is missing, on the way to compiling it. Each costs two small
/// files, and an explanation is not worth reading all of a folder that a whole fleet has filled.
pub(crate) const MAX_COMPARED: usize = 1024;

/// Compiled graphs, kept so that each is compiled once.
#[derive(Debug)]
pub struct GraphCache {
    pub(crate) store: Layered,
    /// The upper store, when it is a folder.
    disk: Option<Arc<DiskStore>>,
    pub(crate) mode: CacheMode,
    budget: Option<Budget>,
    pub(crate) flights: SingleFlight,
    pub(crate) events: Events,
    stats: Arc<CacheStats>,
    producer: String,
    max_wait: Duration,
    max_failed_starts: usize,
    /// A full or read-only disk is worth one warning, not one per graph.
    pub(crate) has_warned_of_writes: AtomicBool,
}

/// What a compiler produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The compiled graph.
    pub artifact: Artifact,
    /// What goes in and comes out of it, for people who read the manifest; or null.
    pub io: serde_json::Value,
    /// What the compiler said; its end is kept.
    pub log_tail: String,
}

impl Compiled {
    /// An artifact of which nothing more is said.
    pub fn new(artifact: Artifact) -> Self {
        Self { artifact, io: serde_json::Value::Null, log_tail: String::new() }
    }
}

/// Why a caller could not load an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadFailure<E> {
    /// The bytes are not an artifact that it can load: another compile may help.
    BadArtifact(E),
    /// Anything else, such as no memory: the artifact is not to blame, and stays.
    Other(E),
}

impl<E> LoadFailure<E> {
    /// The caller's own error.
    pub fn into_inner(self) -> E {
        match self {
            Self::BadArtifact(error) | Self::Other(error) => error,
        }
    }
}

/// Why [`GraphCache::get_or_compile`] gives no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError<E> {
    /// The caller's own error, of loading or compiling.
    #[error(transparent)]
    Caller(#[from] E),
    /// It is not there, and nothing may be compiled.
    #[error("the cache is required to have every graph, and has not: {0}")]
    NotCached(Box<Explanation>),
}

/// Where a graph came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the cache, or from another thread that compiled it while this one waited.
    Cache,
    /// It was compiled by this call.
    Compiled,
}

/// How a graph was obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The graph's key.
    pub key: CacheKey,
    /// Where it came from.
    pub origin: Origin,
    /// Time of the whole call: waiting, compiling and loading.
    pub elapsed: Duration,
    /// What was loaded.
    pub artifact: Arc<Artifact>,
    /// Why it was compiled; `None` when it was not.
    pub miss: Option<MissReason>,
    /// What went wrong on the way, for people; each was logged as a warning already.
    pub warnings: Vec<String>,
}

impl GraphCache {
    /// The cache of these options. Where the folder is not usable, a warning says why, and graphs
    /// are kept in memory; a layer that is not usable is left out with a warning.
    pub fn open(options: CacheOptions) -> Self {
        let stats = Arc::new(CacheStats::default());
        let mut observers = options.observers;
        observers.push(Arc::<CacheStats>::clone(&stats));
        let events = Events::new(observers);
        let is_off = options.mode == CacheMode::Off;
        let folder = |path: &std::path::Path, access| {
            let options = DiskOptions {
                trust: options.trust.clone(),
                access,
                events: events.clone(),
                ..DiskOptions::default()
            };
            let opened = DiskStore::open_with(path, options).map(Arc::new);
            opened.inspect_err(|error| {
                let (place, error) = (path.display().to_string(), error.to_string());
                events.emit(&Event::LayerFailed { place, error });
            })
        };
        let access = match options.mode {
            CacheMode::ReadOnly => DiskAccess::ReadOnly,
            CacheMode::ReadWrite | CacheMode::Require | CacheMode::Off => DiskAccess::ReadWrite,
        };
        let disk = options.folder.filter(|_| !is_off).and_then(|path| folder(&path, access).ok());
        let upper: Box<dyn Store> = match (&disk, options.mode) {
            (Some(disk), CacheMode::ReadOnly) => Box::new(ReadOnly(Arc::clone(disk))),
            (Some(disk), _) => Box::new(Arc::clone(disk)),
            (None, _) => Box::new(MemoryStore::new(MAX_MEMORY_BYTES)),
        };
        let layers = options.layers.into_iter().filter(|_| !is_off).filter_map(|layer| {
            Some(match layer {
                Layer::Folder(path) => {
                    // Somebody named it: an empty store would hide a slip of the pen.
                    if !path.exists() {
                        let (place, error) = (path.display().to_string(), "it is not there".into());
                        events.emit(&Event::LayerFailed { place, error });
                    }
                    Box::new(folder(&path, DiskAccess::Layer).ok()?)
                }
                Layer::Store(store) => store,
            })
        });
        let layers = layers.collect();
        Self {
            store: Layered::new(upper, layers, events.clone()),
            budget: options.max_bytes.filter(|_| disk.is_some()).map(Budget::new),
            disk,
            mode: options.mode,
            flights: SingleFlight::default(),
            events,
            stats,
            producer: options.producer,
            max_wait: options.max_wait,
            max_failed_starts: options.max_failed_starts,
            has_warned_of_writes: AtomicBool::new(false),
        }
    }

    /// A cache that lasts as long as the process.
    pub fn in_memory(producer: impl Into<String>) -> Self {
        Self::open(CacheOptions::new(producer))
    }

    /// What may be done with the cache.
    pub fn mode(&self) -> CacheMode {
        self.mode
    }

    /// The stores, to look into them.
    pub fn store(&self) -> &Layered {
        &self.store
    }

    /// The upper store, when it is a folder.
    pub fn disk(&self) -> Option<&DiskStore> {
        self.disk.as_deref()
    }

    /// What happened since the cache was opened.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Whether the graph of these fields is there, and what differs from the nearest entry where it
    /// is not. Of each store, at most `at_most` entries are compared, and none of those across a
    /// network.
    pub fn explain(&self, fields: &KeyFields, note: &str, at_most: usize) -> Explanation {
        explain(&self.store, fields, note, GRAPH_KIND, at_most)
    }

    /// The same of a request: whether it was made before, and what differs from the nearest one.
    pub fn explain_request(&self, fields: &KeyFields, note: &str, at_most: usize) -> Explanation {
        explain(&self.store, fields, note, REQUEST_KIND, at_most)
    }

    /// What differs from the nearest entry, in words; empty when there is nothing to compare with.
    pub fn differences(&self, fields: &KeyFields) -> String {
        let nearest = nearest(&self.store, fields, GRAPH_KIND, MAX_COMPARED);
        let texts = nearest.iter().flat_map(|nearest| &nearest.differences);
        texts.map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Moves an entry out of the way, so that the graph is compiled again.
    ///
    /// # Errors
    /// When it is still in the way.
    pub fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), crate::StoreError> {
        self.store.quarantine(key, reason)?;
        self.events.emit(&Event::Quarantined { key: *key, reason: reason.to_owned() });
        Ok(())
    }

    /// The graphs that a request needed when it was last made; `None` when it never was.
    pub fn request(&self, fields: &KeyFields) -> Option<Vec<RequestGraph>> {
        request::read(&self.store, &fields.key())
    }

    /// Remembers which graphs a request needs. An event tells when they are not those of before:
    /// then something that matters is missing in the request's key.
    pub fn remember_request(&self, fields: &KeyFields, note: &str, graphs: &[RequestGraph]) {
        if !self.may_write() {
            return;
        }
        let meta = self.meta(REQUEST_KIND, note, 0);
        match request::write(&self.store, fields, graphs, meta) {
            Ok(None) => {}
            Ok(Some(what)) => {
                self.events.emit(&Event::RequestChanged { key: fields.key(), what });
            }
            Err(error) => tracing::debug!(%error, "a request was not remembered"),
        }
    }

    /// Begins a start that loads these entries. When starts with them failed too often, they are
    /// moved away first. Tell the [`Start`] how it went.
    pub fn begin_start(&self, keys: &[CacheKey]) -> Start {
        let Some(disk) = self.disk.as_ref().filter(|_| self.may_write()) else {
            return Start(None);
        };
        let folder = disk.layout().starts();
        let begun = starts::begin(&folder, keys).and_then(|(guard, num_failed)| {
            if num_failed < self.max_failed_starts {
                return Ok(guard);
            }
            let reason = format!("{num_failed} starts in a row failed with it");
            for key in keys {
                // An entry that is not there is compiled anyway.
                if let Err(error) = self.store.quarantine(key, &reason) {
                    tracing::warn!(%error, "an entry of failed starts stays");
                }
            }
            self.events.emit(&Event::CrashLoop { num_failed, keys: keys.to_vec() });
            starts::forget(&folder, keys)?;
            Ok(guard)
        });
        Start(begun.inspect_err(|error| tracing::debug!(%error, "the start is not counted")).ok())
    }

    /// Loads the graph of these fields, compiling it when it is not there or not usable.
    ///
    /// `note` is a word for people about the graph. `load` is called with verified bytes, at most
    /// once with those that `compile` returned. Neither may ask this cache for the same key.
    ///
    /// ```
    /// use cairn_graph_cache::{Artifact, Compiled, GraphCache, KeyFields, LoadFailure, Origin};
    ///
    /// let cache = GraphCache::in_memory("example 1.0");
    /// let fields = KeyFields::new().text("backend", "example");
    /// let load = |artifact: &Artifact| {
    ///     let code = artifact.file("code").unwrap_or_default();
    ///     String::from_utf8(code.to_vec()).map_err(LoadFailure::BadArtifact)
    /// };
    /// let code = Artifact::single("code", b"code".to_vec())?;
    /// let compile = || Ok(Compiled::new(code));
    /// let (graph, outcome) = cache.get_or_compile(&fields, "doc", load, compile)?;
    /// assert_eq!((graph.as_str(), outcome.origin), ("code", Origin::Compiled));
    /// let (_, outcome) = cache.get_or_compile(&fields, "doc", load, || unreachable!())?;
    /// assert_eq!(outcome.origin, Origin::Cache);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of `compile` and `load`: trouble of the cache is a miss and a warning. In the mode
    /// [`CacheMode::Require`], also [`GetError::NotCached`].
    pub fn get_or_compile<T, E: fmt::Display>(
        &self,
        fields: &KeyFields,
        note: &str,
        load: impl Fn(&Artifact) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Compiled, E>,
    ) -> Result<(T, Outcome), GetError<E>> {
        let started = Instant::now();
        let mut call = Call {
            cache: self,
            key: fields.key(),
            fields,
            note,
            deadline: started + self.max_wait,
            miss: None,
            warnings: Vec::new(),
        };
        let found = call.run(load, compile)?;
        let outcome = Outcome {
            key: call.key,
            origin: found.origin,
            elapsed: started.elapsed(),
            artifact: found.artifact,
            miss: match found.origin {
                Origin::Cache => None,
                Origin::Compiled => call.miss,
            },
            warnings: call.warnings,
        };
        Ok((found.graph, outcome))
    }

    pub(crate) fn may_write(&self) -> bool {
        matches!(self.mode, CacheMode::ReadWrite | CacheMode::Require)
    }

    pub(crate) fn meta(&self, kind: &str, note: &str, compile_ms: u64) -> EntryMeta {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        EntryMeta {
            kind: kind.to_owned(),
            note: note.to_owned(),
            producer: self.producer.clone(),
            created_unix_s: now.map_or(0, |since| since.as_secs()),
            compile_ms,
            fields: Vec::new(),
            io: serde_json::Value::Null,
            log_tail: String::new(),
        }
    }

    /// Makes room after something was stored.
    pub(crate) fn keep_budget(&self, stored_bytes: u64) {
        let (Some(budget), Some(disk)) = (&self.budget, &self.disk) else { return };
        let mut used = budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        let now = used.map(|used| used.saturating_add(stored_bytes));
        if now.is_some_and(|now| now <= budget.max_bytes) {
            *used = now;
            return;
        }
        match disk.gc(&GcOptions { max_bytes: Some(budget.max_bytes), dry_run: false }) {
            Ok(report) => *used = Some(report.bytes_after),
            Err(error) => tracing::warn!(%error, "the graph cache was not kept to its budget"),
        }
    }
}

/// A start on its way. Dropped without a word, it counts neither as a success nor as a failure; a
/// process that dies before that has failed.
#[derive(Debug)]
#[must_use = "a start that is dropped at once is not counted"]
pub struct Start(Option<StartGuard>);

impl Start {
    /// The entries did their work: earlier failures are forgotten.
    pub fn ready(self) {
        if let Some(guard) = self.0 {
            guard.ready();
        }
    }

    /// Loading or running the entries failed.
    pub fn failed(self) {
        if let Some(guard) = self.0 {
            guard.failed();
        }
    }
}

/// How much the folder may hold.
#[derive(Debug)]
struct Budget {
    max_bytes: u64,
    /// What it holds, by the last count and what this process has stored since; `None`: not counted.
    used: Mutex<Option<u64>>,
}

impl Budget {
    fn new(max_bytes: u64) -> Self {
        Self { max_bytes, used: Mutex::new(None) }
    }
}

//! The way from key fields to a loaded graph: the one thing that callers use.
//!
//! ```text
//! fields -> key -> single flight (threads) -> look -> lock (processes) -> look again
//!                                              |hit                        |hit      |miss
//!                                              v                           v         v
//!                                             load                        load   bad entry away,
//!                                                                                compile, load, store
//! ```
//!
//! | Trouble | What happens |
//! | --- | --- |
//! | bad entry, or a right one that the backend refuses | quarantined, rebuilt once, a warning |
//! | nothing can be stored | a warning, the first time; the compiled graph is used |
//! | another process compiles for too long | a warning that names it; compiled here as well |
//! | compiling fails | the caller's own error, not remembered |
//!
//! What this module deliberately does not do: it knows neither what a graph is nor how one is
//! compiled or loaded.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::disk::DiskStore;
use crate::explain::{Nearest, nearest};
use crate::key::{CacheKey, KeyFields};
use crate::lock::LockOutcome;
use crate::memory::MemoryStore;
use crate::record::EntryMeta;
use crate::single_flight::{SingleFlight, Turn};
use crate::stats::CacheStats;
use crate::store::{Lookup, MissReason, Put, Store};

/// How long another thread or process may compile before this one does it, too.
const DEFAULT_MAX_WAIT: Duration = Duration::from_mins(30);
/// What a cache in memory holds.
const MAX_MEMORY_BYTES: u64 = 256 << 20;

/// Compiled graphs, kept so that each is compiled once.
#[derive(Debug)]
pub struct GraphCache {
    store: Box<dyn Store>,
    flights: SingleFlight,
    stats: CacheStats,
    producer: String,
    max_wait: Duration,
    /// A full or read-only disk is worth one warning, not one per graph.
    has_warned_of_writes: AtomicBool,
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
    /// Size of the artifact.
    pub artifact_bytes: u64,
    /// Why it was compiled; `None` when it was not.
    pub miss: Option<MissReason>,
    /// What went wrong on the way, for people; each was logged as a warning already.
    pub warnings: Vec<String>,
}

impl GraphCache {
    /// The cache in the folder `root`, created where it is missing; `producer` names the program
    /// in new entries. Where there is no usable folder, a warning is logged and the graphs are
    /// kept in memory.
    pub fn open(root: &Path, producer: impl Into<String>) -> Self {
        match DiskStore::open(root) {
            Ok(store) => Self::new(Box::new(store), producer),
            Err(error) => {
                tracing::warn!(
                    path = %root.display(),
                    "{error}; compiled graphs are kept in memory only"
                );
                Self::in_memory(producer)
            }
        }
    }

    /// A cache that lasts as long as the process.
    pub fn in_memory(producer: impl Into<String>) -> Self {
        Self::new(Box::new(MemoryStore::new(MAX_MEMORY_BYTES)), producer)
    }

    /// A cache over any store.
    pub fn new(store: Box<dyn Store>, producer: impl Into<String>) -> Self {
        Self {
            store,
            flights: SingleFlight::default(),
            stats: CacheStats::default(),
            producer: producer.into(),
            max_wait: DEFAULT_MAX_WAIT,
            has_warned_of_writes: AtomicBool::new(false),
        }
    }

    /// Sets how long another thread or process may compile a graph before this one does it, too.
    pub fn with_max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = max_wait;
        self
    }

    /// The store, to look into it.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// What happened since the cache was opened.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// The entry that is nearest to what these fields ask for, with what differs: why a graph that
    /// somebody expects to be there is not. `None` when the cache is empty or cannot be listed. Of a
    /// cache with more than about a thousand entries, only those are looked at that come first by key.
    pub fn nearest(&self, fields: &KeyFields) -> Option<Nearest> {
        nearest(self.store(), fields)
    }

    /// Loads the graph of these fields, compiling it when it is not there or not usable.
    ///
    /// `note` is a word for people about the graph. `load` is called with verified bytes, at most
    /// once with those that `compile` returned. Neither may ask this cache for the same key.
    ///
    /// ```
    /// use cairn_graph_cache::{GraphCache, KeyFields, LoadFailure, Origin};
    ///
    /// let cache = GraphCache::in_memory("example 1.0");
    /// let fields = KeyFields::new().text("backend", "example");
    /// let load = |bytes: &[u8]| {
    ///     String::from_utf8(bytes.to_vec()).map_err(LoadFailure::BadArtifact)
    /// };
    /// let (graph, outcome) = cache.get_or_compile(&fields, "doc", load, || Ok(b"code".to_vec()))?;
    /// assert_eq!((graph.as_str(), outcome.origin), ("code", Origin::Compiled));
    /// let (_, outcome) = cache.get_or_compile(&fields, "doc", load, || unreachable!())?;
    /// assert_eq!(outcome.origin, Origin::Cache);
    /// # Ok::<(), std::string::FromUtf8Error>(())
    /// ```
    ///
    /// # Errors
    /// Only those of `compile` and `load`: trouble of the cache is a miss and a warning.
    pub fn get_or_compile<T, E: fmt::Display>(
        &self,
        fields: &KeyFields,
        note: &str,
        load: impl Fn(&[u8]) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<(T, Outcome), E> {
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
            artifact_bytes: found.bytes.len() as u64,
            miss: match found.origin {
                Origin::Cache => None,
                Origin::Compiled => call.miss,
            },
            warnings: call.warnings,
        };
        Ok((found.graph, outcome))
    }
}

/// One call of [`GraphCache::get_or_compile`] on its way.
struct Call<'a> {
    cache: &'a GraphCache,
    key: CacheKey,
    fields: &'a KeyFields,
    note: &'a str,
    deadline: Instant,
    /// Why the last look found nothing.
    miss: Option<MissReason>,
    warnings: Vec<String>,
}

/// A loaded graph and the bytes that it was loaded from.
struct Found<T> {
    graph: T,
    bytes: Arc<Vec<u8>>,
    origin: Origin,
}

impl Call<'_> {
    fn run<T, E: fmt::Display>(
        &mut self,
        load: impl Fn(&[u8]) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Found<T>, E> {
        match self.cache.flights.join(self.key, self.deadline) {
            Turn::Lead(lead) => {
                let found = self.find_or_compile(load, compile)?;
                lead.publish(Arc::clone(&found.bytes));
                Ok(found)
            }
            Turn::Shared(bytes) => {
                let graph = load(&bytes).map_err(LoadFailure::into_inner)?;
                Ok(self.hit(graph, bytes))
            }
            Turn::TimedOut => {
                self.gave_up_waiting("another thread");
                self.find_or_compile(load, compile)
            }
        }
    }

    fn find_or_compile<T, E: fmt::Display>(
        &mut self,
        load: impl Fn(&[u8]) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Found<T>, E> {
        if let Some(found) = self.look(&load)? {
            return Ok(found);
        }
        let wait = self.deadline.saturating_duration_since(Instant::now());
        let lock = self.cache.store.lock(&self.key, wait);
        match &lock {
            LockOutcome::Held(_) | LockOutcome::Unneeded => {}
            LockOutcome::TimedOut { owner } => self.gave_up_waiting(owner),
            LockOutcome::Unavailable { reason } => {
                tracing::debug!(reason, "compiling without a lock");
            }
        }
        // Another process may have stored it before we had the lock. And only with the lock is it
        // certain that a bad entry was not replaced by a good one since it was looked at.
        if let Some(found) = self.look(&load)? {
            return Ok(found);
        }
        self.settle_miss();
        let started = Instant::now();
        let artifact = compile()?;
        let compile_ms = started.elapsed().as_millis() as u64;
        self.cache.stats.compiles.add(1);
        self.cache.stats.compile_ms.add(compile_ms);
        // Loaded before it is stored: nobody else shall find an artifact that nobody can load.
        let graph = load(&artifact).map_err(LoadFailure::into_inner)?;
        self.store(&artifact, compile_ms);
        Ok(Found { graph, bytes: Arc::new(artifact), origin: Origin::Compiled })
    }

    /// Looks into the store once; remembers why when there is nothing to use.
    fn look<T, E: fmt::Display>(
        &mut self,
        load: impl Fn(&[u8]) -> Result<T, LoadFailure<E>>,
    ) -> Result<Option<Found<T>>, E> {
        let entry = match self.cache.store.get(&self.key) {
            Lookup::Hit(entry) => entry,
            Lookup::Miss(reason) => {
                self.miss = Some(reason);
                return Ok(None);
            }
        };
        match load(&entry.artifact) {
            Ok(graph) => Ok(Some(self.hit(graph, Arc::new(entry.artifact)))),
            Err(LoadFailure::Other(error)) => Err(error),
            Err(LoadFailure::BadArtifact(error)) => {
                let what = format!("written by {}, but refused: {error}", entry.meta.producer);
                self.miss = Some(MissReason::Bad(what));
                Ok(None)
            }
        }
    }

    fn hit<T>(&self, graph: T, bytes: Arc<Vec<u8>>) -> Found<T> {
        self.cache.stats.hits.add(1);
        self.cache.stats.bytes_read.add(bytes.len() as u64);
        Found { graph, bytes, origin: Origin::Cache }
    }

    /// Counts the miss, tells of it, and has a bad entry moved away.
    fn settle_miss(&mut self) {
        self.cache.stats.misses.add(1);
        let reason = match &self.miss {
            None | Some(MissReason::Absent) => return,
            Some(reason) => reason.clone(),
        };
        self.warn(format!("{reason}; compiling it again"));
        if let MissReason::Bad(what) = reason {
            match self.cache.store.quarantine(&self.key, &what) {
                Ok(()) => self.cache.stats.quarantined.add(1),
                Err(error) => self.warn(error.to_string()),
            }
        }
    }

    fn store(&mut self, artifact: &[u8], compile_ms: u64) {
        let meta = EntryMeta {
            fields: self.fields.clear().to_vec(),
            producer: self.cache.producer.clone(),
            compile_ms,
            created_unix_s: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            note: self.note.to_owned(),
        };
        match self.cache.store.put(&self.key, artifact, &meta) {
            Ok(Put::Stored { bytes }) => self.cache.stats.bytes_written.add(bytes),
            Ok(Put::AlreadyThere) => {}
            Err(error) => {
                self.cache.stats.write_failures.add(1);
                let is_first = !self.cache.has_warned_of_writes.swap(true, Ordering::Relaxed);
                if is_first {
                    self.warn(format!("{error}; the next start will compile again"));
                } else {
                    tracing::debug!(key = %self.key, "{error}");
                }
            }
        }
    }

    fn gave_up_waiting(&mut self, owner: &str) {
        self.cache.stats.lock_timeouts.add(1);
        self.warn(format!(
            "gave up waiting for {owner} to compile the graph; compiling it here as well"
        ));
    }

    fn warn(&mut self, message: String) {
        tracing::warn!(key = %self.key, note = self.note, "{message}");
        self.warnings.push(message);
    }
}

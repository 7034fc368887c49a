//! One call of [`GraphCache::get_or_compile`](crate::GraphCache::get_or_compile) on its way: look,
//! lock, look again, compile, load, store.
//!
//! The drawing is in `graph_cache`.
//!
//! What this module deliberately does not do: it chooses no store and no mode; the cache was opened
//! with them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::entry::{Artifact, Entry, EntryMeta};
use crate::events::Event;
use crate::graph_cache::{Compiled, GetError, GraphCache, LoadFailure, MAX_COMPARED, Origin};
use crate::key::{CacheKey, KeyFields};
use crate::options::CacheMode;
use crate::request::GRAPH_KIND;
use crate::single_flight::Turn;
use crate::store::{LockOutcome, Lookup, MissReason, Put, Store, Wait};

/// One call of [`GraphCache::get_or_compile`] on its way.
pub(crate) struct Call<'a> {
    pub(crate) cache: &'a GraphCache,
    pub(crate) key: CacheKey,
    pub(crate) fields: &'a KeyFields,
    pub(crate) note: &'a str,
    pub(crate) deadline: Instant,
    /// Why the last look found nothing.
    pub(crate) miss: Option<MissReason>,
    pub(crate) warnings: Vec<String>,
}

/// A loaded graph and the artifact that it was loaded from.
pub(crate) struct Found<T> {
    pub(crate) graph: T,
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) origin: Origin,
}

impl Call<'_> {
    pub(crate) fn run<T, E: fmt::Display>(
        &mut self,
        load: impl Fn(&Artifact) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Compiled, E>,
    ) -> Result<Found<T>, GetError<E>> {
        match self.cache.flights.join(self.key, self.deadline) {
            Turn::Lead(lead) => {
                let found = self.find_or_compile(load, compile)?;
                lead.publish(Arc::clone(&found.artifact));
                Ok(found)
            }
            Turn::Shared(artifact) => {
                let graph = load(&artifact).map_err(LoadFailure::into_inner)?;
                Ok(self.hit(graph, artifact, 0))
            }
            Turn::TimedOut => {
                self.gave_up_waiting("another thread".to_owned());
                self.find_or_compile(load, compile)
            }
        }
    }

    fn find_or_compile<T, E: fmt::Display>(
        &mut self,
        load: impl Fn(&Artifact) -> Result<T, LoadFailure<E>>,
        compile: impl FnOnce() -> Result<Compiled, E>,
    ) -> Result<Found<T>, GetError<E>> {
        if let Some(found) = self.look(&self.cache.store, &load)? {
            return Ok(found);
        }
        if self.cache.mode == CacheMode::Require {
            let explanation = self.cache.explain(self.fields, self.note, MAX_COMPARED);
            return Err(GetError::NotCached(Box::new(explanation)));
        }
        let lock = self.lock();
        // Another process may have stored it before we had the lock. And only with the lock is it
        // certain that a bad entry was not replaced by a good one since it was looked at.
        if !matches!(lock, LockOutcome::Unneeded)
            && let Some(found) = self.look(self.cache.store.upper(), &load)?
        {
            return Ok(found);
        }
        self.settle_miss();
        let started = Instant::now();
        let compiled = compile()?;
        let ms = started.elapsed().as_millis() as u64;
        self.tell(Event::Compiled { key: self.key, note: self.note.to_owned(), ms });
        // Loaded before it is stored: nobody else shall find an artifact that nobody can load.
        let graph = load(&compiled.artifact).map_err(LoadFailure::into_inner)?;
        let artifact = self.store(compiled, ms);
        Ok(Found { graph, artifact, origin: Origin::Compiled })
    }

    /// Keeps other processes from compiling the same.
    fn lock(&mut self) -> LockOutcome {
        let started = Instant::now();
        let millis = |time: Duration| time.as_millis() as u64;
        let progress = |owner: &str, waited: Duration| {
            self.cache.events.emit(&Event::Waiting {
                key: self.key,
                note: self.note.to_owned(),
                owner: owner.to_owned(),
                ms: millis(waited),
            });
        };
        let wait = Wait {
            at_most: self.deadline.saturating_duration_since(started),
            note: self.note,
            progress: &progress,
        };
        let lock = self.cache.store.lock(&self.key, &wait);
        let ms = millis(started.elapsed());
        match &lock {
            LockOutcome::Held(_) if ms > 0 => self.tell(Event::Waited { key: self.key, ms }),
            LockOutcome::Held(_) | LockOutcome::Unneeded => {}
            LockOutcome::TimedOut { owner } => {
                self.tell(Event::Waited { key: self.key, ms });
                self.gave_up_waiting(owner.clone());
            }
            LockOutcome::Unavailable { reason } => {
                tracing::debug!(reason, "compiling without a lock");
            }
        }
        lock
    }

    /// Looks into a store once; remembers why when there is nothing to use.
    fn look<T, E: fmt::Display>(
        &mut self,
        store: &dyn Store,
        load: impl Fn(&Artifact) -> Result<T, LoadFailure<E>>,
    ) -> Result<Option<Found<T>>, E> {
        let entry = match store.get(&self.key) {
            Lookup::Hit(entry) => entry,
            Lookup::Miss(reason) => {
                // What is wrong with a layer is still so when only the upper store was asked again.
                if self.miss.is_none() || reason != MissReason::Absent {
                    self.miss = Some(reason);
                }
                return Ok(None);
            }
        };
        let meta = &entry.manifest().meta;
        let (saved_ms, producer) = (meta.compile_ms, meta.producer.clone());
        match load(entry.artifact()) {
            Ok(graph) => Ok(Some(self.hit(graph, Arc::new(entry.into_artifact()), saved_ms))),
            Err(LoadFailure::Other(error)) => Err(error),
            Err(LoadFailure::BadArtifact(error)) => {
                let what = format!("written by {producer}, but refused: {error}");
                self.miss = Some(MissReason::Bad(what));
                Ok(None)
            }
        }
    }

    fn hit<T>(&mut self, graph: T, artifact: Arc<Artifact>, saved_ms: u64) -> Found<T> {
        let (key, note, bytes) = (self.key, self.note.to_owned(), artifact.num_bytes());
        self.tell(Event::Hit { key, note, bytes, saved_ms });
        Found { graph, artifact, origin: Origin::Cache }
    }

    /// Tells of the miss, and has a bad entry moved away.
    fn settle_miss(&mut self) {
        let reason = self.miss.clone().unwrap_or(MissReason::Absent);
        let (key, note) = (self.key, self.note.to_owned());
        self.tell(Event::Miss { key, note, reason: reason.clone() });
        if let MissReason::Bad(reason) = reason
            && self.cache.may_write()
        {
            match self.cache.store.quarantine(&key, &reason) {
                // Of the same matter as the miss: one warning is enough.
                Ok(()) => self.cache.events.emit(&Event::Quarantined { key, reason }),
                Err(error) => {
                    tracing::warn!(%key, "{error}");
                    self.warnings.push(error.to_string());
                }
            }
        }
    }

    fn store(&mut self, compiled: Compiled, ms: u64) -> Arc<Artifact> {
        let Compiled { artifact, io, log_tail } = compiled;
        if self.cache.mode == CacheMode::ReadOnly {
            return Arc::new(artifact);
        }
        let meta = EntryMeta { io, log_tail, ..self.cache.meta(GRAPH_KIND, self.note, ms) };
        let entry = Entry::seal(self.fields, artifact, meta);
        match self.cache.store.put(&entry) {
            Ok(Put::Stored { bytes }) => {
                self.tell(Event::Stored { key: self.key, bytes });
                self.cache.keep_budget(bytes);
            }
            Ok(Put::AlreadyThere) => {}
            Err(error) => self.not_stored(error.to_string()),
        }
        Arc::new(entry.into_artifact())
    }

    fn not_stored(&mut self, error: String) {
        let is_first = !self.cache.has_warned_of_writes.swap(true, Ordering::Relaxed);
        self.tell(Event::StoreFailed { key: self.key, error, is_first });
    }

    fn gave_up_waiting(&mut self, owner: String) {
        self.tell(Event::GaveUpWaiting { key: self.key, owner });
    }

    fn tell(&mut self, event: Event) {
        self.cache.events.emit(&event);
        if event.is_warning() {
            self.warnings.push(event.to_string());
        }
    }
}

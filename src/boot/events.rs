//! What a start tells the event log: the model, every graph that is compiled, the cache.
//!
//! ```text
//! boot ------------------------> Teller --> EventLog, if somebody keeps one
//! graph cache --as Observer----->   '  which graph: 3 of 20
//! ```
//!
//! The cache goes on telling for as long as it is open: a graph that is dropped when the engine dies
//! is an event, too.
//!
//! What this module deliberately does not do: graphs that come from the cache, one by one; the summary
//! counts them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cairn_graph_cache::{Event as CacheEvent, MissReason, Observer, StatsSnapshot};
use serde_json::{Map, Value};

use super::BootReport;
use crate::config::EngineConfig;
use crate::telemetry::events::{Event, EventKind, EventLog};

const CACHE_REMEDY: &str = "the graph is compiled again; if it happens often, look at the disk and at \
                            who else writes to the folder (`cairn cache verify`, `cairn doctor`)";

/// Tells of a start.
#[derive(Debug)]
pub(super) struct Teller {
    log: Option<EventLog>,
    num_graphs: AtomicUsize,
    num_begun: AtomicUsize,
    num_compiled: AtomicUsize,
}

impl Teller {
    pub(super) fn new(log: Option<EventLog>) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { log, num_graphs: zero(), num_begun: zero(), num_compiled: zero() }
    }

    fn emit(&self, event: Event) {
        if let Some(log) = &self.log {
            log.emit(event);
        }
    }

    /// How many graphs there will be.
    pub(super) fn expect_graphs(&self, num_graphs: usize) {
        self.num_graphs.store(num_graphs, Ordering::Relaxed);
    }

    pub(super) fn model_loading(&self, config: &EngineConfig) {
        let event = Event::new(EventKind::ModelLoading, "loading the model")
            .field("path", config.model.display().to_string())
            .field("backend", config.backend.name());
        self.emit(event);
    }

    pub(super) fn model_loaded(&self, report: &BootReport, phases: &[(&'static str, Duration)]) {
        let seconds = phases.iter().map(|(_, took)| took.as_secs_f64()).sum::<f64>();
        let message = format!("`{}` is loaded after {seconds:.1} s", report.model_name);
        let event = Event::new(EventKind::ModelLoaded, message)
            .field("model", report.model_name.as_str())
            .field("architecture", report.architecture.as_str())
            .field("seconds", seconds)
            .field("weights_bytes", report.weights_bytes)
            .field("kv_cache_bytes", report.kv_cache_bytes)
            .field("max_model_len", report.max_model_len);
        self.emit(event);
    }

    pub(super) fn cache_summary(&self, stats: &StatsSnapshot, place: &str) {
        let misses: Map<String, Value> = stats
            .misses_by_reason()
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), (*count).into()))
            .collect();
        let event = Event::new(EventKind::CacheSummary, format!("graph cache: {stats}; {place}"))
            .field("hits", stats.hits)
            .field("misses", misses)
            .field("compile_seconds", seconds(stats.compile_ms))
            .field("saved_seconds", seconds(stats.saved_ms))
            .field("quarantined", stats.quarantined);
        if self.log.is_none() {
            tracing::info!("graph cache: {stats}; {place}");
        }
        self.emit(event);
    }

    fn compile_started(&self, note: &str, reason: &MissReason) {
        let (idx, all) = (count(&self.num_begun), self.num_graphs.load(Ordering::Relaxed));
        let message = format!("compiling graph `{note}`, {idx} of at most {all}: {reason}");
        let event = Event::new(EventKind::GraphCompileStarted, message)
            .field("graph", note)
            .field("index", idx)
            .field("num_graphs", all)
            .field("reason", reason.label())
            // By the compiler, with what differs from the nearest entry.
            .logged_elsewhere();
        self.emit(event);
    }

    fn compile_finished(&self, note: &str, ms: u64) {
        let (idx, all) = (count(&self.num_compiled), self.num_graphs.load(Ordering::Relaxed));
        let message =
            format!("compiled graph `{note}` in {:.1} s, {idx} of at most {all}", seconds(ms));
        let event = Event::new(EventKind::GraphCompileFinished, message)
            .field("graph", note)
            .field("index", idx)
            .field("num_graphs", all)
            .field("seconds", seconds(ms));
        self.emit(event);
    }

    /// What the cache has logged already.
    fn alarm(&self, kind: EventKind, what: &CacheEvent) {
        let event = Event::new(kind, what.to_string()).remedy(CACHE_REMEDY).logged_elsewhere();
        self.emit(match what {
            CacheEvent::Quarantined { key, .. } => event.field("key", key.to_string()),
            CacheEvent::CrashLoop { num_failed, .. } => event.field("num_failed", *num_failed),
            _ => event,
        });
    }
}

impl Observer for Teller {
    fn observe(&self, event: &CacheEvent) {
        match event {
            CacheEvent::Miss { note, reason, .. } => self.compile_started(note, reason),
            CacheEvent::Compiled { note, ms, .. } => self.compile_finished(note, *ms),
            CacheEvent::Waiting { note, owner, ms, .. } => {
                let event = Event::new(EventKind::GraphCompileProgress, event.to_string())
                    .field("graph", note.as_str())
                    .field("waits_for", owner.as_str())
                    .field("seconds", seconds(*ms))
                    .logged_elsewhere();
                self.emit(event);
            }
            CacheEvent::Quarantined { .. } | CacheEvent::CrashLoop { .. } => {
                self.alarm(EventKind::Quarantine, event);
            }
            CacheEvent::LayerFailed { .. }
            | CacheEvent::GaveUpWaiting { .. }
            | CacheEvent::TookOver { .. }
            | CacheEvent::StoreFailed { is_first: true, .. } => {
                self.alarm(EventKind::Alarm, event);
            }
            _ => {}
        }
    }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Counts one more.
fn count(counter: &AtomicUsize) -> usize {
    counter.fetch_add(1, Ordering::Relaxed).saturating_add(1)
}

//! What every handler needs, shared by all of them.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};

use super::access::Access;
use super::batches::Batches;
use super::deep::DeepHealth;
use super::error::ApiError;
use super::metrics::Metrics;
use super::openai::responses::ResponseStore;
use super::options::ServerOptions;
use crate::engine::EngineHandle;
use crate::telemetry::Sample;
use crate::telemetry::events::EventLog;
use crate::telemetry::traces::Tracer;
use crate::text::grammar::{GrammarCompiler, GrammarError};
use crate::text::{ChatTemplate, Tokenizer};

/// What runs here; told by `/version`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// The program's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The revision that it was built from.
    pub revision: String,
    /// The device that runs the model.
    pub backend: String,
    /// The model, as it was asked for.
    pub model: String,
    /// What the start did, in order, and how long each part took.
    pub boot_phases: Vec<(String, Duration)>,
    /// From the start of the process until requests were answered.
    pub start_to_ready: Duration,
}

impl About {
    /// One word for all that decides what a model answers: two servers that tell the same word give
    /// the same answers. FNV-1a, 64 bits.
    fn fingerprint(&self) -> String {
        let parts = [&self.version, &self.revision, &self.backend, &self.model];
        let bytes = parts.into_iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("fp_{hash:016x}")
    }
}

/// The server's shared state; cheap to clone. The engine is warm when this is made.
#[derive(Clone)]
pub struct ServerState(Arc<Inner>);

/// Reads counters that the server does not know.
type Reporter = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

struct Inner {
    engine: EngineHandle,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    options: ServerOptions,
    about: About,
    metrics: Arc<Metrics>,
    /// Files and batches, where there is a place for them.
    batches: OnceLock<Arc<Batches>>,
    /// What others count, if they do.
    reporter: OnceLock<Reporter>,
    events: OnceLock<EventLog>,
    deep_health: DeepHealth,
    started_at: u64,
    fingerprint: String,
    /// Made when it is first asked for: it takes a while, and many servers never need it.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
    responses: ResponseStore,
    is_draining: AtomicBool,
    /// Whether an admin asked for a drain, which ends when it is taken back.
    is_paused: AtomicBool,
    /// Who may do what; everybody everything unless it was said.
    access: OnceLock<Access>,
    num_tickets: watch::Sender<usize>,
    blocking: Arc<Semaphore>,
    body_budget: Arc<Semaphore>,
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerState")
            .field("options", &self.0.options)
            .field("about", &self.0.about)
            .finish_non_exhaustive()
    }
}

impl ServerState {
    /// Puts the parts together.
    pub fn new(
        engine: EngineHandle,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        options: ServerOptions,
        about: About,
    ) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(Arc::new(Inner {
            engine,
            tokenizer,
            chat_template,
            fingerprint: about.fingerprint(),
            about,
            grammars: OnceLock::new(),
            responses: ResponseStore::default(),
            metrics: Arc::default(),
            batches: OnceLock::new(),
            reporter: OnceLock::new(),
            events: OnceLock::new(),
            deep_health: DeepHealth::default(),
            started_at: now.map_or(0, |since| since.as_secs()),
            is_draining: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            access: OnceLock::new(),
            num_tickets: watch::Sender::new(0),
            blocking: permits(options.max_blocking_tasks.max(1)),
            body_budget: permits(options.max_total_body_bytes),
            options,
        }))
    }

    /// From now on, these samples are told with the metrics. Only the first call counts.
    pub fn report(&self, reporter: impl Fn() -> Vec<Sample> + Send + Sync + 'static) {
        let _ = self.0.reporter.set(Box::new(reporter));
    }

    /// Files and batches are kept in this folder from here on, and batches that an earlier server
    /// left there go on. Only the first call counts.
    ///
    /// # Errors
    /// When the folder cannot be read or made.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn keep_batches(&self, folder: &Path) -> io::Result<()> {
        let batches = Batches::open(folder)?;
        if self.0.batches.set(Arc::clone(&batches)).is_ok() {
            batches.start(self.clone());
        }
        Ok(())
    }

    pub(super) fn batches(&self) -> Option<&Arc<Batches>> {
        self.0.batches.get()
    }

    /// From now on, every request to the engine is a span that goes there. Only the first call counts.
    pub fn trace(&self, tracer: Tracer) {
        self.0.metrics.trace(tracer);
    }

    /// From now on, only those may use the server whom this lets in. Only the first call counts, and
    /// only before the server has answered anything.
    pub fn guard(&self, access: Access) {
        let _ = self.0.access.set(access);
    }

    /// Who may do what.
    pub(super) fn access(&self) -> &Access {
        self.0.access.get_or_init(Access::default)
    }

    /// From now on, events go here. Only the first call counts, and only before the first event.
    pub fn keep_events(&self, log: EventLog) {
        let _ = self.0.events.set(log);
    }

    /// Where events go.
    pub(super) fn events(&self) -> &EventLog {
        self.0.events.get_or_init(EventLog::in_memory)
    }

    pub(super) fn deep_health(&self) -> &DeepHealth {
        &self.0.deep_health
    }

    /// What others count.
    pub(super) fn reported(&self) -> Vec<Sample> {
        self.0.reporter.get().map(|read| read()).unwrap_or_default()
    }

    pub(super) fn engine(&self) -> &EngineHandle {
        &self.0.engine
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    pub(super) fn chat_template(&self) -> Option<&ChatTemplate> {
        self.0.chat_template.as_ref()
    }

    /// What compiles the forms of answers; made when it is first asked for, which takes a while.
    pub(super) fn grammars(&self) -> Result<&GrammarCompiler, GrammarError> {
        let compiler = self.0.grammars.get_or_init(|| {
            let engine = &self.0.engine;
            GrammarCompiler::new(&self.0.tokenizer, engine.vocab_size(), engine.eos_token_ids())
        });
        compiler.as_ref().map_err(Clone::clone)
    }

    /// Responses that may be asked for again.
    pub(super) fn responses(&self) -> &ResponseStore {
        &self.0.responses
    }

    pub(super) fn options(&self) -> &ServerOptions {
        &self.0.options
    }

    pub(super) fn about(&self) -> &About {
        &self.0.about
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// One permit per byte of a request body.
    pub(super) fn body_budget(&self) -> &Arc<Semaphore> {
        &self.0.body_budget
    }

    /// Seconds since 1970.
    pub(super) fn started_at(&self) -> u64 {
        self.0.started_at
    }

    /// What answers carry as `system_fingerprint`.
    pub(super) fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Whether the server was told to stop, or to take no new requests for a while.
    pub(super) fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::SeqCst) || self.0.is_paused.load(Ordering::SeqCst)
    }

    /// Takes no new completion requests until this is taken back. Running ones go on.
    pub(super) fn pause(&self, is_paused: bool) {
        self.0.is_paused.store(is_paused, Ordering::SeqCst);
    }

    /// From here on new completion requests are refused.
    pub(super) fn begin_drain(&self) {
        self.0.is_draining.store(true, Ordering::SeqCst);
        self.0.engine.begin_drain();
    }

    /// Lets a completion request in.
    pub(super) fn admit(&self) -> Result<Ticket, ApiError> {
        // Counted before the flag is read: a drain that misses the ticket has set the flag.
        self.0.num_tickets.send_modify(|count| *count += 1);
        let ticket = Ticket(self.clone());
        if self.is_draining() { Err(ApiError::Draining) } else { Ok(ticket) }
    }

    /// Returns when no ticket is out.
    pub(super) async fn all_tickets_returned(&self) {
        let mut count = self.0.num_tickets.subscribe();
        // It fails only when the sender is gone, which lives in this state.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Runs CPU work off the async threads, a bounded number at a time.
    ///
    /// # Errors
    /// [`ApiError::Internal`] when the work panics.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.0.blocking)
            .acquire_owned()
            .await
            .expect("invariant: the semaphore is never closed");
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that leaves does not end the work.
            let _permit = permit;
            span.in_scope(work)
        });
        task.await.map_err(|error| {
            tracing::error!(%error, "preparing a request failed");
            ApiError::Internal
        })
    }
}

/// One completion request that is being answered.
#[derive(Debug)]
pub(super) struct Ticket(ServerState);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.0.num_tickets.send_modify(|count| *count -= 1);
    }
}

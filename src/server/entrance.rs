//! What requests find before the engine is warm: a server that starts, and says how far it is.
//!
//! ```text
//! Entrance::new --begin, advance--> 503 `starting`            live, version, metrics: 200
//!               --open(state)-----> the router of the state   from the next request on
//! ```
//!
//! What this module deliberately does not do: it starts nothing. Who starts the engine tells it what
//! is being done, and opens it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::error::ApiError;
use super::routes::router;
use super::{About, ServerOptions, ServerState, metrics};
use crate::telemetry::events::EventLog;

/// Where a request goes: to a server that starts, or to the one that is ready. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Entrance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: ServerOptions,
    about: About,
    events: EventLog,
    started_at: Instant,
    now: Mutex<Doing>,
    /// The router while it starts.
    starting: OnceLock<Router>,
    /// The router once it is ready.
    ready: OnceLock<Router>,
    state: watch::Sender<Option<ServerState>>,
}

/// What is being done.
#[derive(Clone, Debug, Default)]
struct Doing {
    what: String,
    done: u64,
    total: Option<u64>,
}

impl Entrance {
    /// To a server that starts. Of the options, the limits of connections hold already; of `about`,
    /// what is known before the model is.
    pub fn new(options: ServerOptions, about: About, events: EventLog) -> Self {
        let what = "starting".to_owned();
        Self(Arc::new(Inner {
            options,
            about,
            events,
            started_at: Instant::now(),
            now: Mutex::new(Doing { what, ..Doing::default() }),
            starting: OnceLock::new(),
            ready: OnceLock::new(),
            state: watch::Sender::new(None),
        }))
    }

    /// This is what is being done now, and how much there is to do, if that is known.
    pub fn begin(&self, what: &str, total: Option<u64>) {
        *self.doing() = Doing { what: what.to_owned(), done: 0, total };
    }

    /// So much of it is done.
    pub fn advance(&self, done: u64) {
        self.doing().done = done;
    }

    /// From the next request on, this state answers. Only the first call counts.
    pub fn open(&self, state: ServerState) {
        self.0.ready.get_or_init(|| router(state.clone()));
        self.0.state.send_if_modified(|slot| {
            let is_first = slot.is_none();
            slot.get_or_insert(state);
            is_first
        });
    }

    /// Whether it was opened.
    pub fn is_open(&self) -> bool {
        self.0.ready.get().is_some()
    }

    pub(super) fn options(&self) -> &ServerOptions {
        &self.0.options
    }

    pub(super) fn events(&self) -> &EventLog {
        &self.0.events
    }

    /// Who answers a request that comes now.
    pub(super) fn router(&self) -> Router {
        let starting = || self.0.starting.get_or_init(|| starting(self));
        self.0.ready.get().unwrap_or_else(starting).clone()
    }

    /// Returns once it was opened.
    pub(super) async fn opened(&self) -> ServerState {
        let mut state = self.0.state.subscribe();
        let opened = state.wait_for(Option::is_some).await.ok().and_then(|state| state.clone());
        match opened {
            Some(state) => state,
            // It fails only when the sender is gone, which lives in this struct.
            None => std::future::pending().await,
        }
    }

    fn doing(&self) -> std::sync::MutexGuard<'_, Doing> {
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that is ready.
impl From<ServerState> for Entrance {
    fn from(state: ServerState) -> Self {
        let (options, about) = (state.options().clone(), state.about().clone());
        let entrance = Self::new(options, about, state.events().clone());
        entrance.open(state);
        entrance
    }
}

/// The endpoints of a server that starts. The router holds no clone of the entrance that holds it.
fn starting(entrance: &Entrance) -> Router {
    let weak = Arc::downgrade(&entrance.0);
    Router::new()
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/v2/health/live", get(live))
        .route("/ping", get(live))
        .route("/health/ready", get(ready))
        .route("/v2/health/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(page))
        .fallback(not_yet)
        .with_state(weak)
}

type Weak = State<std::sync::Weak<Inner>>;

async fn live() -> Response {
    Json(json!({ "status": "starting" })).into_response()
}

async fn not_yet(State(inner): Weak) -> ApiError {
    let doing = inner.upgrade().map(|inner| Entrance(inner).doing().what.clone());
    ApiError::Starting { what: doing.unwrap_or_default() }
}

async fn ready(State(inner): Weak) -> Response {
    let body = inner.upgrade().map(|inner| progress(&Entrance(inner))).unwrap_or_default();
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], Json(body)).into_response()
}

fn progress(entrance: &Entrance) -> Value {
    let Doing { what, done, total } = entrance.doing().clone();
    json!({
        "status": "starting",
        "phase": what,
        "done": total.map(|_| done),
        "total": total,
        "seconds": entrance.0.started_at.elapsed().as_secs_f64(),
    })
}

async fn version(State(inner): Weak) -> Response {
    let Some(inner) = inner.upgrade() else { return StatusCode::NOT_FOUND.into_response() };
    let About { name, version, revision, backend, model, .. } = &inner.about;
    Json(json!({
        "name": name,
        "version": version,
        "revision": revision,
        "backend": backend,
        "model": model,
        "boot_id": inner.events.boot(),
        "is_ready": false,
    }))
    .into_response()
}

async fn page(State(inner): Weak) -> Response {
    let Some(inner) = inner.upgrade() else { return StatusCode::NOT_FOUND.into_response() };
    let text = metrics::starting_page(&inner.options.served_model_name, &inner.events);
    ([(CONTENT_TYPE, metrics::PAGE_TYPE)], text).into_response()
}

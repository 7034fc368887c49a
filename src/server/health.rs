//! `/health`, `/health/live`, `/health/ready`, `/ping`, `/load`, `/version`.
//!
//! | Path | 200 when | A supervisor that sees 503 |
//! | --- | --- | --- |
//! | `/health`, `/health/live`, `/v2/health/live`, `/ping` | the engine's thread is well | restarts the process |
//! | `/health/ready`, `/v2/health/ready` | that, and no drain has begun | sends requests elsewhere |
//! | `/health/deep` | a token comes in time; see `deep` | tells a person |
//!
//! Before the engine is warm, `entrance` answers: alive and not ready.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::ServerState;

fn status(code: StatusCode, word: &str) -> Response {
    (code, Json(json!({ "status": word }))).into_response()
}

/// Whether the process is worth keeping.
pub(super) async fn live(State(state): State<ServerState>) -> Response {
    if state.engine().is_healthy() {
        status(StatusCode::OK, "ok")
    } else {
        status(StatusCode::SERVICE_UNAVAILABLE, "engine stopped")
    }
}

/// Whether new requests should be sent here.
pub(super) async fn ready(State(state): State<ServerState>) -> Response {
    if !state.engine().is_healthy() {
        status(StatusCode::SERVICE_UNAVAILABLE, "engine stopped")
    } else if state.is_draining() {
        status(StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        status(StatusCode::OK, "ready")
    }
}

/// Whether new requests are taken.
pub(super) fn is_ready(state: &ServerState) -> bool {
    state.engine().is_healthy() && !state.is_draining()
}

/// Requests that are not finished: what balancers choose the least of.
pub(super) async fn load(State(state): State<ServerState>) -> Response {
    Json(json!({ "server_load": state.engine().num_unfinished() })).into_response()
}

/// What runs here, and what its start cost.
pub(super) async fn version(State(state): State<ServerState>) -> Response {
    let about = state.about();
    let stats = state.engine().stats();
    let boot_seconds: Map<String, Value> = about
        .boot_phases
        .iter()
        .map(|(phase, took)| (phase.clone(), took.as_secs_f64().into()))
        .collect();
    let version = json!({
        "name": about.name,
        "version": about.version,
        "revision": about.revision,
        "backend": about.backend,
        "model": about.model,
        "served_model_name": state.options().served_model_name,
        "max_model_len": state.engine().max_model_len(),
        "graphs": {
            "compiled": stats.graphs_compiled,
            "from_cache": stats.graphs_from_cache,
            "compiled_after_ready": stats.compiles_after_ready,
        },
        "boot_seconds": boot_seconds,
        "start_to_ready_seconds": about.start_to_ready.as_secs_f64(),
        "boot_id": state.events().boot(),
        "is_ready": is_ready(&state),
    });
    Json(version).into_response()
}

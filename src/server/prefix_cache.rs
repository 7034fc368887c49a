//! `POST /reset_prefix_cache`: forgets every cached prefix.
//!
//! Requests that are running keep what they use; what comes after them computes anew. For an operator
//! who measures, or whose cache was filled with what nobody will ask for again.
//!
//! What this module deliberately does not do: prefixes on disk stay; deleting files does that.

use axum::extract::State;
use axum::http::StatusCode;

use super::ServerState;

/// The endpoint. The body, if any, is not read.
pub(super) async fn reset(State(state): State<ServerState>) -> StatusCode {
    state.engine().reset_prefix_cache();
    tracing::info!("the prefix cache was reset");
    StatusCode::OK
}

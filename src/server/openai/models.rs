//! `GET /v1/models` and `GET /v1/models/{id}`: a list of the one model that is served.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::types::{ModelList, ModelObject};
use crate::server::ServerState;
use crate::server::error::ApiError;

const JSON: [(axum::http::HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

fn served(state: &ServerState) -> ModelObject<'_> {
    ModelObject {
        id: &state.options().served_model_name,
        object: "model",
        created: state.started_at(),
        owned_by: "cairn",
        max_model_len: state.engine().max_model_len(),
    }
}

/// All models.
pub(crate) async fn list(State(state): State<ServerState>) -> Response {
    (JSON, ModelList { object: "list", data: [served(&state)] }.to_json()).into_response()
}

/// One model; its id may contain slashes.
pub(crate) async fn retrieve(
    State(state): State<ServerState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let model = served(&state);
    let Path(id) = id.map_err(|error| ApiError::invalid("model", error.body_text()))?;
    if model.id == id {
        Ok((JSON, model.to_json()).into_response())
    } else {
        Err(ApiError::ModelNotFound { model: id, served: model.id.to_owned() })
    }
}

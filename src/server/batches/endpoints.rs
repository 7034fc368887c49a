//! `POST /v1/batches`, `GET /v1/batches`, `GET /v1/batches/{id}`, `POST /v1/batches/{id}/cancel`.
//!
//! What this module deliberately does not do: it answers no line; see `runner`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::object::{BatchObject, BatchStatus, COMPLETION_WINDOW};
use super::{Page, PageQuery, batches_of, failed, id_of, not_found, owner_of};
use crate::server::access::Grant;
use crate::server::error::ApiError;
use crate::server::observe::RequestTag;
use crate::server::openai::json::{parse, wire_object};
use crate::server::openapi::schema::{OneOf, Required};
use crate::server::{ServerState, body};

/// Endpoints that a batch may name.
const ENDPOINTS: [&str; 4] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"];
/// Most entries of `metadata`, and the longest key and value, as `OpenAI` has it.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);
const MAX_LISTED: usize = 100;

wire_object! {
    /// The body of `POST /v1/batches`.
    "a JSON object" => pub(in crate::server) BatchRequest {
        /// A file with the purpose `batch`.
        input_file_id: String where Required,
        endpoint: String where (Required, OneOf(&ENDPOINTS)),
        completion_window: String where (Required, OneOf(&[COMPLETION_WINDOW])),
        metadata: Map<String, Value>,
    }
}

/// Begins a batch.
pub(crate) async fn create(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let batches = batches_of(&state)?;
    let owner = owner_of(&request);
    let grant = request.extensions().get::<Grant>().cloned().unwrap_or_default();
    drop(state.admit()?);
    let body = body::read(&state, request).await?;
    let made = {
        let batches = Arc::clone(&batches);
        state.blocking(move || {
            let request: BatchRequest = parse(body.as_bytes(), &[])?;
            let batch = checked(request, |id| batches.store.file(id, &owner).map(|f| f.purpose))?;
            // Its lines may do no more than requests of the same key.
            grant.check_endpoint(&batch.endpoint)?;
            batches.store.insert_batch(batch.clone(), owner).map_err(failed)?;
            Ok::<_, ApiError>(batch)
        })
    };
    let batch = made.await??;
    batches.wakes.notify_one();
    Ok(Json(batch).into_response())
}

fn checked(
    request: BatchRequest,
    purpose_of: impl Fn(&str) -> Option<String>,
) -> Result<BatchObject, ApiError> {
    let missing =
        |param: &str| ApiError::invalid(param, format!("`{param}` is missing, expected a string"));
    let endpoint = request.endpoint.ok_or_else(|| missing("endpoint"))?;
    if !ENDPOINTS.contains(&endpoint.as_str()) {
        let known = ENDPOINTS.join("`, `");
        let message = format!("invalid endpoint: expected `{known}`, got `{endpoint}`");
        return Err(ApiError::invalid("endpoint", message));
    }
    let window = request.completion_window.ok_or_else(|| missing("completion_window"))?;
    if window != COMPLETION_WINDOW {
        let message =
            format!("invalid completion_window: expected `{COMPLETION_WINDOW}`, got `{window}`");
        return Err(ApiError::invalid("completion_window", message));
    }
    let metadata = request.metadata.map(checked_metadata).transpose()?;
    let file = request.input_file_id.ok_or_else(|| missing("input_file_id"))?;
    match purpose_of(&file).as_deref() {
        Some("batch") => {}
        Some(other) => {
            let message = format!(
                "invalid input_file_id: expected a file with the purpose `batch`, got `{other}`"
            );
            return Err(ApiError::invalid("input_file_id", message));
        }
        None => {
            let message = format!("invalid input_file_id: there is no file `{file}`");
            return Err(ApiError::invalid("input_file_id", message));
        }
    }
    let id = format!("batch_{}", RequestTag::random().as_str());
    Ok(BatchObject::new(id, endpoint, file, metadata))
}

fn checked_metadata(metadata: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let (max_entries, max_key, max_value) = MAX_METADATA;
    let is_good = |(key, value): (&String, &Value)| {
        key.len() <= max_key && value.as_str().is_some_and(|value| value.len() <= max_value)
    };
    if metadata.len() <= max_entries && metadata.iter().all(is_good) {
        return Ok(metadata);
    }
    let message = format!(
        "invalid metadata: expected at most {max_entries} texts of at most {max_value} bytes, under \
         keys of at most {max_key}"
    );
    Err(ApiError::invalid("metadata", message))
}

/// All batches, newest first.
pub(crate) async fn list(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = PageQuery::of(&request)?;
    let all = batches_of(&state)?.store.batches(&owner_of(&request));
    Ok(Json(Page::of(all, &query, MAX_LISTED, |batch| &batch.id)?).into_response())
}

/// One batch.
pub(crate) async fn retrieve(
    State(state): State<ServerState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(path)?;
    let batch = batches_of(&state)?.store.batch(&id, &owner_of(&request));
    let batch = batch.ok_or_else(|| not_found("batch", &id))?;
    Ok(Json(batch).into_response())
}

/// Ends a batch after its lines in work.
pub(crate) async fn cancel(
    State(state): State<ServerState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(path)?;
    let batches = batches_of(&state)?;
    let batch = batches.store.batch(&id, &owner_of(&request));
    let batch = batch.ok_or_else(|| not_found("batch", &id))?;
    if batch.status.is_final() || batch.status == BatchStatus::Finalizing {
        let message = format!("the batch has ended or is about to: it is {:?}", batch.status);
        return Err(ApiError::Invalid { param: None, message });
    }
    let cancelling = batches.update(&id, |batch| {
        if matches!(batch.status, BatchStatus::Validating | BatchStatus::InProgress) {
            batch.enter(BatchStatus::Cancelling);
        }
    });
    let batch = cancelling.await.map_err(|error| {
        tracing::error!(error = format!("{error:#}"), "the store of files failed");
        ApiError::Internal
    })?;
    batches.stop(&id);
    Ok(Json(batch.ok_or_else(|| not_found("batch", &id))?).into_response())
}

//! `POST /v1/files`, `GET /v1/files`, `GET` and `DELETE /v1/files/{id}`, `GET /v1/files/{id}/content`.
//!
//! An upload is written to disk as it comes: its size costs no memory.
//!
//! What this module deliberately does not do: it does not look into files; what is wrong with a line
//! of a batch is said in that line's result.

use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest as _, Multipart, Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use fs_err as fs;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::{Batches, Page, PageQuery, batches_of, failed, id_of, not_found, owner_of};
use crate::server::ServerState;
use crate::server::error::ApiError;

/// Largest file, as `OpenAI` has it for batches.
const MAX_FILE_BYTES: u64 = 200 << 20;
const MAX_FIELD_BYTES: usize = 4096;
/// What is written at once.
const WRITE_BYTES: usize = 1 << 20;
const PURPOSES: [&str; 5] = ["batch", "assistants", "fine-tune", "user_data", "evals"];
const MAX_LISTED: usize = 10_000;

/// Takes a file.
pub(crate) async fn upload(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let batches = batches_of(&state)?;
    let owner = owner_of(&request);
    drop(state.admit()?);
    let form = Multipart::from_request(request, &()).await.map_err(|error| {
        let message = format!("expected a multipart form with `purpose` and `file`: {error}");
        ApiError::Invalid { param: None, message }
    })?;
    let (upload, filename, purpose) = read_form(&state, &batches, form).await?;
    let store = Arc::clone(&batches);
    let kept = state.blocking(move || store.store.keep(upload, filename, &purpose, owner));
    Ok(Json(kept.await?.map_err(failed)?).into_response())
}

async fn read_form(
    state: &ServerState,
    batches: &Arc<Batches>,
    mut form: Multipart,
) -> Result<(NamedTempFile, String, String), ApiError> {
    let (mut file, mut purpose) = (None, None);
    while let Some(field) = in_time(state, form.next_field()).await? {
        match field.name() {
            Some("purpose") => purpose = Some(text(state, field).await?),
            Some("file") if file.is_none() => {
                let filename = field.file_name().unwrap_or("upload").to_owned();
                file = Some((receive(state, batches, field).await?, filename));
            }
            // Among them when a file is to be deleted by itself, which none is.
            _ => drop(text(state, field).await?),
        }
    }
    let missing = |param: &str| ApiError::invalid(param, format!("`{param}` is missing"));
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    if !PURPOSES.contains(&purpose.as_str()) {
        let known = PURPOSES.join("`, `");
        let message = format!("invalid purpose: expected `{known}`, got `{purpose}`");
        return Err(ApiError::invalid("purpose", message));
    }
    let (upload, filename) = file.ok_or_else(|| missing("file"))?;
    let filename: String = filename.chars().filter(|c| !c.is_control()).take(255).collect();
    Ok((upload, filename, purpose))
}

/// What a client sends next; it may take as long as a whole body of another request.
async fn in_time<T>(
    state: &ServerState,
    next: impl Future<Output = Result<T, MultipartError>>,
) -> Result<T, ApiError> {
    let limit = state.options().body_read_timeout;
    let next = tokio::time::timeout(limit, next).await;
    let next = next.map_err(|_| ApiError::BodyTimeout { seconds: limit.as_secs() })?;
    next.map_err(|error| {
        let message = format!("the form cannot be read: {}", error.body_text());
        ApiError::Invalid { param: None, message }
    })
}

async fn text(state: &ServerState, mut field: Field<'_>) -> Result<String, ApiError> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut text = Vec::new();
    while let Some(chunk) = in_time(state, field.chunk()).await? {
        if text.len() + chunk.len() > MAX_FIELD_BYTES {
            let message = format!("invalid {name}: expected at most {MAX_FIELD_BYTES} bytes");
            return Err(ApiError::invalid(&name, message));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text)
        .map_err(|_| ApiError::invalid(&name, format!("invalid {name}: it is not UTF-8")))
}

async fn receive(
    state: &ServerState,
    batches: &Arc<Batches>,
    mut field: Field<'_>,
) -> Result<NamedTempFile, ApiError> {
    let store = Arc::clone(batches);
    let begun = state.blocking(move || store.store.begin_upload()).await?;
    let mut upload = begun.map_err(|error| failed(error.into()))?;
    let (mut buffer, mut num_bytes) = (Vec::with_capacity(WRITE_BYTES), 0_u64);
    while let Some(chunk) = in_time(state, field.chunk()).await? {
        num_bytes = num_bytes.saturating_add(chunk.len() as u64);
        if num_bytes > MAX_FILE_BYTES {
            return Err(ApiError::BodyTooLarge { limit: MAX_FILE_BYTES as usize });
        }
        buffer.extend_from_slice(&chunk);
        if buffer.len() >= WRITE_BYTES {
            upload = write(state, upload, std::mem::take(&mut buffer)).await?;
        }
    }
    write(state, upload, buffer).await
}

async fn write(
    state: &ServerState,
    mut upload: NamedTempFile,
    bytes: Vec<u8>,
) -> Result<NamedTempFile, ApiError> {
    let written = state.blocking(move || upload.write_all(&bytes).map(|()| upload)).await?;
    written.map_err(|error| failed(error.into()))
}

/// All files, newest first.
pub(crate) async fn list_files(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let query = PageQuery::of(&request)?;
    let mut all = batches_of(&state)?.store.files(&owner_of(&request));
    if let Some(purpose) = &query.purpose {
        all.retain(|file| file.purpose == *purpose);
    }
    Ok(Json(Page::of(all, &query, MAX_LISTED, |file| &file.id)?).into_response())
}

/// What is known of a file.
pub(crate) async fn retrieve_file(
    State(state): State<ServerState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(path)?;
    let file = batches_of(&state)?.store.file(&id, &owner_of(&request));
    Ok(Json(file.ok_or_else(|| not_found("file", &id))?).into_response())
}

/// Removes a file.
pub(crate) async fn delete_file(
    State(state): State<ServerState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(path)?;
    let (batches, owner) = (batches_of(&state)?, owner_of(&request));
    let wanted = id.clone();
    let deleted = state.blocking(move || batches.store.delete_file(&wanted, &owner)).await?;
    if !deleted.map_err(failed)? {
        return Err(not_found("file", &id));
    }
    Ok(Json(json!({"id": id, "object": "file", "deleted": true})).into_response())
}

/// What is in a file, read from disk as the client reads it.
pub(crate) async fn content(
    State(state): State<ServerState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(path)?;
    let batches = batches_of(&state)?;
    let known = batches.store.file(&id, &owner_of(&request));
    if known.is_none() {
        return Err(not_found("file", &id));
    }
    let path = batches.store.content_path(&id);
    let opened = state.blocking(move || {
        let file = fs::File::open(path)?;
        let len = file.metadata()?.len();
        Ok::<_, std::io::Error>((file, len))
    });
    let (file, len) = opened.await?.map_err(|error| failed(error.into()))?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || send(file, &sender));
    let headers =
        [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, len.to_string())];
    Ok((headers, Body::from_stream(Chunks(receiver))).into_response())
}

/// Reads to the end, or until nobody wants more.
fn send(mut file: fs::File, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    loop {
        let mut buffer = vec![0; WRITE_BYTES >> 2];
        let read = std::io::Read::read(&mut file, &mut buffer).map(|len| {
            buffer.truncate(len);
            Bytes::from(buffer)
        });
        let is_last = read.as_ref().map_or(true, Bytes::is_empty);
        if read.as_ref().is_ok_and(Bytes::is_empty)
            || sender.blocking_send(read).is_err()
            || is_last
        {
            return;
        }
    }
}

struct Chunks(mpsc::Receiver<std::io::Result<Bytes>>);

impl futures_core::Stream for Chunks {
    type Item = std::io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

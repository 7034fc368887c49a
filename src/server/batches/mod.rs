//! `/v1/files` and `/v1/batches`: many requests in a file, answered when there is room.
//!
//! ```text
//! POST /v1/files (multipart) --> store --> POST /v1/batches --> runner --lines--> the endpoints' own code
//!                                  ^                               |
//! GET /v1/files/{id}/content <-----'------ results as files -------'
//! ```
//!
//! | File | Holds |
//! | --- | --- |
//! | `object` | files and batches as clients see them |
//! | `store` | both on disk |
//! | `runner` | answering one batch after the other |
//! | `files`, `endpoints` | the two groups of endpoints |
//! | `described` | what the document of the API tells about them |
//!
//! What this module deliberately does not do: it reads no line; [`batch`](crate::batch) does, for the
//! command line, too.

mod described;
mod endpoints;
mod files;
mod object;
mod runner;
mod store;

use std::io;
use std::path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use tokio::sync::{Notify, watch};

use super::ServerState;
use super::access::Grant;
use super::error::ApiError;
use super::query;
use crate::batch::work::Stop;
use object::BatchObject;
use store::{BatchStore, Owner, StoreError};

pub(super) use described::ENDPOINTS;
pub(super) use endpoints::{cancel, create, list, retrieve};
pub(super) use files::{content, delete_file, list_files, retrieve_file, upload};

/// All files and batches, and the batch in work.
#[derive(Debug)]
pub(super) struct Batches {
    store: BatchStore,
    /// There may be more to do.
    wakes: Notify,
    /// The batch in work, and how it is stopped.
    current: Mutex<Option<(String, watch::Sender<Stop>)>>,
}

impl Batches {
    /// Opens the folder.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub(super) fn open(folder: &path::Path) -> io::Result<Arc<Self>> {
        let store = BatchStore::open(folder)?;
        Ok(Arc::new(Self { store, wakes: Notify::new(), current: Mutex::new(None) }))
    }

    /// Works on batches until the server ends; those of an earlier server first.
    pub(super) fn start(self: &Arc<Self>, state: ServerState) {
        tokio::spawn(runner::run(Arc::clone(self), state));
    }

    fn begin(&self, id: &str) -> (watch::Sender<Stop>, watch::Receiver<Stop>) {
        let (sender, receiver) = watch::channel(Stop::No);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((id.to_owned(), sender.clone()));
        (sender, receiver)
    }

    fn end(&self, id: &str) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|(of, _)| of == id) {
            *current = None;
        }
    }

    /// Lets the batch end after its lines in work, if it is the one that is worked on.
    fn stop(&self, id: &str) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stop)) = current.as_ref().filter(|(of, _)| of == id) {
            let _ = stop.send(Stop::Finish);
        }
        drop(current);
        self.wakes.notify_one();
    }

    /// Counts one more result. A count is not worth a write: the results are on disk.
    fn count(&self, id: &str, is_failed: bool) {
        let counted = self.store.update_batch(id, |batch| {
            let counts = &mut batch.request_counts;
            let counter = if is_failed { &mut counts.failed } else { &mut counts.completed };
            *counter += 1;
        });
        debug_assert!(counted.is_ok(), "nothing is written");
    }

    /// Changes a batch, off the async threads.
    async fn update(
        self: &Arc<Self>,
        id: &str,
        change: impl FnOnce(&mut BatchObject) + Send + 'static,
    ) -> anyhow::Result<Option<BatchObject>> {
        let (batches, id) = (Arc::clone(self), id.to_owned());
        let updated =
            tokio::task::spawn_blocking(move || batches.store.update_batch(&id, change)).await?;
        Ok(updated?)
    }
}

/// The batches of a server that has a place for them.
fn batches_of(state: &ServerState) -> Result<Arc<Batches>, ApiError> {
    state.batches().cloned().ok_or_else(|| ApiError::NotFound {
        param: None,
        message: "this server keeps no files: it was started without a folder for them, see \
                  `--state-dir`"
            .to_owned(),
    })
}

/// Whose files and batches a request is about.
fn owner_of(request: &Request) -> Owner {
    let grant = request.extensions().get::<Grant>();
    grant.and_then(|grant| grant.name().map(str::to_owned))
}

fn not_found(kind: &str, id: &str) -> ApiError {
    ApiError::NotFound { param: None, message: format!("there is no {kind} `{id}`") }
}

fn failed(error: StoreError) -> ApiError {
    match error {
        StoreError::Full(_) | StoreError::InUse(_) => {
            ApiError::Invalid { param: None, message: error.to_string() }
        }
        StoreError::Io(error) => {
            tracing::error!(%error, "the store of files failed");
            ApiError::Internal
        }
    }
}

/// A page of a list: `after` and `limit` of a request's query.
#[derive(Debug, Default)]
struct PageQuery {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
    purpose: Option<String>,
}

impl PageQuery {
    fn of(request: &Request) -> Result<Self, ApiError> {
        let mut query = Self::default();
        for (name, value) in query::pairs(request.uri().query())? {
            match name.as_str() {
                "after" => query.after = Some(value),
                "limit" => query.limit = Some(number(&value)?),
                "order" => query.order = Some(value),
                "purpose" => query.purpose = Some(value),
                // As of bodies, what is not known is not looked at.
                _ => {}
            }
        }
        Ok(query)
    }
}

fn number(text: &str) -> Result<usize, ApiError> {
    text.parse().map_err(|_| {
        ApiError::invalid("limit", format!("invalid limit: expected a number, got `{text}`"))
    })
}

/// The id in a path.
fn id_of(path: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    path.map(|Path(id)| id).map_err(|error| ApiError::Invalid {
        param: None,
        message: format!("invalid id: {}", error.body_text()),
    })
}

/// One page, and whether there is more.
#[derive(Debug, serde::Serialize)]
struct Page<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> Page<T> {
    /// The part of a list that a query asks for.
    fn of(
        mut all: Vec<T>,
        query: &PageQuery,
        max: usize,
        id_of: impl Fn(&T) -> &str,
    ) -> Result<Self, ApiError> {
        let limit = query.limit.unwrap_or(max.min(20));
        if !(1..=max).contains(&limit) {
            let message = format!("invalid limit: expected 1 to {max}, got {limit}");
            return Err(ApiError::invalid("limit", message));
        }
        match query.order.as_deref() {
            None | Some("desc") => {}
            Some("asc") => all.reverse(),
            Some(other) => {
                let message = format!("invalid order: expected `asc` or `desc`, got `{other}`");
                return Err(ApiError::invalid("order", message));
            }
        }
        if let Some(after) = &query.after {
            let Some(place) = all.iter().position(|object| id_of(object) == after) else {
                let message = format!("invalid after: there is no `{after}`");
                return Err(ApiError::invalid("after", message));
            };
            all.drain(..=place);
        }
        let has_more = all.len() > limit;
        all.truncate(limit);
        let id = |object: Option<&T>| object.map(|object| id_of(object).to_owned());
        let (first_id, last_id) = (id(all.first()), id(all.last()));
        Ok(Self { object: "list", data: all, first_id, last_id, has_more })
    }
}

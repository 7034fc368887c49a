//! Reading a request body within limits of size, time and total memory.
//!
//! ```text
//! 0 ............ max_body_bytes ............ + LINGER_BYTES
//! | kept         | read and dropped, then 413 | 413 at once
//! ```
//!
//! A body that is a little too large is read to its end all the same: a client that is still
//! sending when the connection closes often sees a reset instead of the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use futures_core::Stream;
use tokio::sync::OwnedSemaphorePermit;

use super::ServerState;
use super::error::ApiError;

/// How much of a body that is too large is read before the connection is given up.
const LINGER_BYTES: usize = 64 << 20;

/// A body, and its share of the memory for bodies.
pub(super) struct ReceivedBody {
    bytes: Vec<u8>,
    /// One permit per byte, given back when the body is dropped.
    budget: Option<OwnedSemaphorePermit>,
}

impl ReceivedBody {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body to its end.
///
/// # Errors
/// Too large, too slow, compressed, broken off, or no memory left for bodies.
pub(super) async fn read(state: &ServerState, request: Request) -> Result<ReceivedBody, ApiError> {
    let limit = state.options().max_body_bytes;
    check_encoding(request.headers())?;
    if declared_bytes(request.headers())
        .is_some_and(|bytes| bytes > limit.saturating_add(LINGER_BYTES))
    {
        return Err(ApiError::BodyTooLarge { limit });
    }
    let timeout = state.options().body_read_timeout;
    tokio::time::timeout(timeout, read_all(state, request))
        .await
        .unwrap_or(Err(ApiError::BodyTimeout { seconds: timeout.as_secs() }))
}

async fn read_all(state: &ServerState, request: Request) -> Result<ReceivedBody, ApiError> {
    let limit = state.options().max_body_bytes;
    let mut stream = request.into_body().into_data_stream();
    let mut body = ReceivedBody { bytes: Vec::new(), budget: None };
    let mut total = 0_usize;
    while let Some(chunk) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        let chunk = chunk.map_err(|error| {
            tracing::debug!(%error, "a request body broke off");
            let message = "the request body broke off or is not framed as its headers say";
            ApiError::Invalid { param: None, message: message.to_owned() }
        })?;
        total = total.saturating_add(chunk.len());
        if total <= limit {
            body.reserve(state, chunk.len())?;
            body.bytes.extend_from_slice(&chunk);
        } else if total <= limit.saturating_add(LINGER_BYTES) {
            body = ReceivedBody { bytes: Vec::new(), budget: None };
        } else {
            break;
        }
    }
    if total > limit { Err(ApiError::BodyTooLarge { limit }) } else { Ok(body) }
}

impl ReceivedBody {
    /// Takes permits for more bytes, without waiting: bodies that wait for each other's memory
    /// would wait for ever.
    fn reserve(&mut self, state: &ServerState, bytes: usize) -> Result<(), ApiError> {
        let full = || ApiError::Overloaded {
            message: "the memory for request bodies is in use".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        let permits = u32::try_from(bytes).map_err(|_| full())?;
        let more =
            state.body_budget().clone().try_acquire_many_owned(permits).map_err(|_| full())?;
        match &mut self.budget {
            Some(budget) => budget.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

fn declared_bytes(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(encoding) => Err(ApiError::ContentEncoding {
            encoding: String::from_utf8_lossy(encoding.as_bytes()).into_owned(),
        }),
    }
}

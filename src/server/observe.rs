//! Around every request: an id, a span, a panic turned into an answer, a count.
//!
//! The id is the client's `x-request-id` when that is a short plain word, else a new one. It is on
//! every response, in every log line of the request, and part of a completion's `id`.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::error::ApiError;
use super::panics::catch_panic;
use super::{ServerState, routes, traced};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_TAG_BYTES: usize = 64;

/// The id of one HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestTag(String);

impl RequestTag {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Self {
        let is_plain = |tag: &&str| {
            (1..=MAX_TAG_BYTES).contains(&tag.len())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        given.filter(is_plain).map_or_else(Self::random, |tag| Self(tag.to_owned()))
    }

    /// 128 bits that no other process and no other request of this one has.
    fn random() -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{:016x}{:016x}", KEYS.0.hash_one(count), KEYS.1.hash_one(count)))
    }
}

/// The outermost layer.
pub(super) async fn observe(
    State(state): State<ServerState>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let tag = RequestTag::of(request.headers());
    let path = routes::label(request.uri().path());
    request.extensions_mut().insert(tag.clone());
    let span = tracing::error_span!("request", request_id = tag.as_str());

    let trace = state
        .metrics()
        .is_traced()
        .then(|| traced::Context::new(request.headers(), path, &state.options().served_model_name));
    let answer = traced::within(trace, next.run(request));
    let answered = catch_panic(answer).instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!(path, "a handler panicked"));
        ApiError::Internal.into_response()
    });

    let status = response.status().as_u16();
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    span.in_scope(|| tracing::debug!(path, status, elapsed_ms, "answered"));
    state.metrics().http_request(path, status);
    let value = HeaderValue::from_str(tag.as_str());
    let value = value.expect("invariant: a tag is alphanumeric or one of -_.");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_kept_and_anything_else_replaced() {
        let tag = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(value).unwrap());
            RequestTag::of(&headers).0
        };
        assert_eq!(tag("job-7.a_B"), "job-7.a_B");
        for odd in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_ne!(tag(odd), odd);
        }
    }

    #[test]
    fn ids_differ() {
        let (a, b) = (RequestTag::random(), RequestTag::random());
        assert_ne!(a, b);
        assert_eq!(a.0.len(), 32);
    }
}

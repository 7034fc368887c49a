//! Around every request: an id, a span, a panic turned into an answer, a count, a line in the log.
//!
//! The id is the client's `x-request-id` when that is a short plain word, else a new one. It is on
//! every response, in every log line of the request, and part of a completion's `id`. A `traceparent`
//! of the client, as distributed tracing has it, is on every log line too.
//!
//! ```text
//! INFO request{request_id=job-7}: cairn::access: answered method=POST path=/v1/completions
//!      status=200 elapsed_ms=812.4 bytes=9120 key=team-a whole=true
//! ```
//!
//! The line comes when the last byte was handed to the connection, or when the client has left
//! (`whole=false`). Health and metrics, which machines ask for all day, have theirs at `debug`.
//!
//! What this module deliberately does not do: it logs nothing that a client wrote but those two ids.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tracing::{Instrument, Span};

use super::error::ApiError;
use super::panics::catch_panic;
use super::{ServerState, routes, traced};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const MAX_TAG_BYTES: usize = 64;
/// The status, in the log alone, of a request whose client left before it had an answer.
const CLIENT_LEFT: u16 = 499;
/// Where the lines about requests go.
const ACCESS: &str = "cairn::access";

/// Whether a text can be part of an id.
pub(super) fn is_plain_tag(tag: &str) -> bool {
    (1..=MAX_TAG_BYTES).contains(&tag.len())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The id of one HTTP request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestTag(String);

impl RequestTag {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        given.filter(|tag| is_plain_tag(tag)).map_or_else(Self::random, |tag| Self(tag.to_owned()))
    }

    /// 128 bits that no other process and no other request of this one has.
    pub(super) fn random() -> Self {
        static KEYS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{:016x}{:016x}", KEYS.0.hash_one(count), KEYS.1.hash_one(count)))
    }
}

/// Where whoever checks keys leaves the name of the one that was used; in a request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyName(Arc<OnceLock<String>>);

impl KeyName {
    /// The request came with this key. Only the first call counts.
    pub(super) fn set(&self, name: &str) {
        let _ = self.0.set(name.to_owned());
    }
}

/// The outermost layer.
pub(super) async fn observe(
    State(state): State<ServerState>,
    mut request: Request,
    next: Next,
) -> Response {
    let tag = RequestTag::of(request.headers());
    let mut line = AccessLine::new(&state, &request, &tag);
    request.extensions_mut().insert(tag.clone());
    request.extensions_mut().insert(line.key.clone());
    let (path, span) = (line.path, line.span.clone());

    let is_too_long = request.uri().to_string().len() > state.options().max_uri_bytes;
    let trace = state
        .metrics()
        .is_traced()
        .then(|| traced::Context::new(request.headers(), path, &state.options().served_model_name));
    let answering = async {
        if is_too_long { ApiError::UriTooLong.into_response() } else { next.run(request).await }
    };
    let answered = catch_panic(traced::within(trace, answering)).instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!(path, "a handler panicked"));
        ApiError::Internal.into_response()
    });

    line.status = response.status().as_u16();
    state.metrics().http_request(path, line.status);
    let value = HeaderValue::from_str(tag.as_str());
    let value = value.expect("invariant: a tag is alphanumeric or one of -_.");
    response.headers_mut().insert(X_REQUEST_ID, value);
    response.map(|body| Body::new(Counted { body, line }))
}

/// What the log says about a request; said when dropped.
struct AccessLine {
    start: Instant,
    span: Span,
    method: &'static str,
    path: &'static str,
    status: u16,
    num_bytes: u64,
    is_whole: bool,
    key: KeyName,
    is_wanted: bool,
}

impl AccessLine {
    fn new(state: &ServerState, request: &Request, tag: &RequestTag) -> Self {
        let parent = request.headers().get(TRACEPARENT).and_then(traceparent);
        let span = tracing::error_span!(
            "request",
            request_id = tag.as_str(),
            traceparent = tracing::field::Empty
        );
        if let Some(parent) = parent {
            span.record("traceparent", parent);
        }
        Self {
            start: Instant::now(),
            span,
            method: method(request.method()),
            path: routes::label(request.uri().path()),
            status: CLIENT_LEFT,
            num_bytes: 0,
            is_whole: false,
            key: KeyName::default(),
            is_wanted: state.options().logs_access,
        }
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        if !self.is_wanted {
            return;
        }
        let Self { method, path, status, num_bytes: bytes, is_whole: whole, .. } = *self;
        let elapsed_ms = self.start.elapsed().as_secs_f64() * 1e3;
        let key = self.key.0.get();
        let _entered = self.span.enter();
        if routes::is_of_machines(path) {
            tracing::debug!(
                target: ACCESS, method, path, status, elapsed_ms, bytes, key, whole, "answered"
            );
        } else {
            tracing::info!(
                target: ACCESS, method, path, status, elapsed_ms, bytes, key, whole, "answered"
            );
        }
    }
}

/// An answer's body, counted.
struct Counted {
    body: Body,
    line: AccessLine,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let num_bytes = frame.data_ref().map_or(0, Bytes::len);
            self.line.num_bytes = self.line.num_bytes.saturating_add(num_bytes as u64);
        }
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.line.is_whole = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A method as one of a fixed set, whatever clients send.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The value, if it is as the W3C's recommendation of trace contexts has it.
fn traceparent(value: &HeaderValue) -> Option<&str> {
    const LENGTHS: [usize; 4] = [2, 32, 16, 2];
    let text = value.to_str().ok()?;
    let mut fields = text.split('-');
    let is_hex = |field: &str| {
        field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_field =
        |length: usize| fields.next().is_some_and(|field| field.len() == length && is_hex(field));
    (LENGTHS.into_iter().all(is_field) && text.len() == 55).then_some(text)
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

    #[test]
    fn a_trace_is_followed_only_when_it_is_one() {
        let of = |text: &str| traceparent(&HeaderValue::from_str(text).unwrap()).is_some();
        assert!(of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for odd in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        ] {
            assert!(!of(odd), "{odd}");
        }
    }

    #[test]
    fn the_first_name_of_a_key_stays() {
        let key = KeyName::default();
        key.clone().set("team-a");
        key.set("team-b");
        assert_eq!(key.0.get().map(String::as_str), Some("team-a"));
    }
}

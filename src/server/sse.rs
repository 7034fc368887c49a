//! Server-sent events: a bounded channel from the task that makes them to the response's body.
//!
//! ```text
//! producer task --Events (bounded)--> EventStream = body --> socket
//!      ^                                   | dropped when the client is gone
//!      `------------- aborted -------------'
//! ```
//!
//! A client that reads slowly fills the channel, and the producer waits. A client that is gone
//! drops the body, which aborts the producer, which drops what it holds. A comment line is sent
//! when nothing else was for a while, so that proxies keep the connection and a vanished client is
//! noticed while its request still waits.
//!
//! What this module deliberately does not do: it knows no event's content.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::Instrument;

use super::error::ApiError;
use super::panics::catch_panic;
use super::state::Ticket;

/// Events that wait for the client to read.
const CAPACITY: usize = 16;

/// One event, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event(Bytes);

impl Event {
    /// An event whose data is JSON text without line ends.
    pub(super) fn json(json: &[u8]) -> Self {
        debug_assert!(!json.contains(&b'\n'), "compact JSON has no line ends");
        Self([b"data: ", json, b"\n\n"].concat().into())
    }

    /// The last event of a stream that ended well.
    pub(super) fn done() -> Self {
        Self(Bytes::from_static(b"data: [DONE]\n\n"))
    }

    fn keep_alive() -> Self {
        Self(Bytes::from_static(b": keep-alive\n\n"))
    }
}

/// Nobody reads the stream any more.
#[derive(Debug)]
pub(super) struct ClientGone;

/// Where a producer puts its events.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::Sender<Event>);

impl Events {
    /// Sends one event, waiting while the client is slow.
    pub(super) async fn send(&self, event: Event) -> Result<(), ClientGone> {
        self.0.send(event).await.map_err(|_| ClientGone)
    }
}

/// A response whose events `produce` makes on a task of its own. The ticket, if any, is held until
/// the last event was handed to the connection.
pub(super) fn respond<F>(
    keep_alive_interval: Duration,
    ticket: impl Into<Option<Ticket>>,
    produce: impl FnOnce(Events) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let events = Events(sender);
    let production = produce(events.clone());
    let mut producer = JoinSet::new();
    let task = async move {
        if catch_panic(production).await.is_err() {
            let _ = events.send(Event::json(&ApiError::Internal.body().to_json())).await;
        }
    };
    producer.spawn(task.in_current_span());

    let period = keep_alive_interval.max(Duration::from_millis(1));
    let mut keep_alive = interval_at(Instant::now() + period, period);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = EventStream { receiver, keep_alive, _producer: producer, _ticket: ticket.into() };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Asks reverse proxies not to collect the events.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(stream)).into_response()
}

struct EventStream {
    receiver: mpsc::Receiver<Event>,
    keep_alive: Interval,
    _producer: JoinSet<()>,
    _ticket: Option<Ticket>,
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(next) = self.receiver.poll_recv(cx) {
            self.keep_alive.reset();
            return Poll::Ready(next.map(|event| Ok(event.0)));
        }
        self.keep_alive.poll_tick(cx).map(|_| Some(Ok(Event::keep_alive().0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_data_line_and_a_blank_one() {
        assert_eq!(Event::json(br#"{"a":"\n"}"#).0, &b"data: {\"a\":\"\\n\"}\n\n"[..]);
        assert_eq!(Event::done().0, &b"data: [DONE]\n\n"[..]);
        assert!(Event::keep_alive().0.starts_with(b":"));
    }
}

//! Server-sent events: a bounded channel from the task that makes them to the response's body.
//!
//! ```text
//! producer task --Events (bounded)--> EventStream = body --> socket
//!      ^                                   | dropped when the client is gone
//!      `------------- aborted -------------'
//! ```
//!
//! A client that reads slowly fills the channel, which is bounded in events and in bytes, and the
//! producer waits. A client that is gone
//! drops the body, which aborts the producer, which drops what it holds. A comment line is sent
//! when nothing else was for a while, so that proxies keep the connection and a vanished client is
//! noticed while its request still waits.
//!
//! What this module deliberately does not do: it knows no event's content.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::Instrument;

use super::panics::catch_panic;
use super::state::Ticket;

/// Events that wait for the client to read.
const CAPACITY: usize = 16;
/// Their bytes, unless one alone is larger.
const CAPACITY_BYTES: u32 = 256 << 10;

/// One event, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event(Bytes);

impl Event {
    /// An event whose data is JSON text without line ends.
    pub(super) fn json(json: &[u8]) -> Self {
        debug_assert!(!json.contains(&b'\n'), "compact JSON has no line ends");
        Self([b"data: ", json, b"\n\n"].concat().into())
    }

    /// An event of a named type.
    pub(super) fn named(name: &str, json: &[u8]) -> Self {
        debug_assert!(!name.contains(['\n', '\r']), "a name has no line ends");
        debug_assert!(!json.contains(&b'\n'), "compact JSON has no line ends");
        Self([b"event: ", name.as_bytes(), b"\ndata: ", json, b"\n\n"].concat().into())
    }

    /// `OpenAI`'s last event of a stream of completions that ended well.
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
pub(super) struct Events {
    sender: mpsc::Sender<Waiting>,
    /// One permit per byte that may wait.
    room: Arc<Semaphore>,
}

/// An event, and its room until it is handed to the connection.
#[derive(Debug)]
struct Waiting(Event, #[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Events {
    fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let room = Arc::new(Semaphore::new(CAPACITY_BYTES as usize));
        (Self { sender, room }, receiver)
    }

    /// Sends one event, waiting while the client is slow.
    pub(super) async fn send(&self, event: Event) -> Result<(), ClientGone> {
        let bytes = u32::try_from(event.0.len()).unwrap_or(u32::MAX).min(CAPACITY_BYTES);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        let room = room.await.expect("invariant: the semaphore is never closed");
        self.sender.send(Waiting(event, room)).await.map_err(|_| ClientGone)
    }

    /// Sends events in order and leaves the list empty.
    pub(super) async fn send_all(&self, events: &mut Vec<Event>) -> Result<(), ClientGone> {
        for event in events.drain(..) {
            self.send(event).await?;
        }
        Ok(())
    }
}

/// A response whose events `produce` makes on a task of its own; `panicked` is the last one should
/// that task panic. The ticket, if any, is held until the last event was handed to the connection.
pub(super) fn respond<F>(
    keep_alive_interval: Duration,
    ticket: impl Into<Option<Ticket>>,
    panicked: Event,
    produce: impl FnOnce(Events) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (events, receiver) = Events::new();
    let production = produce(events.clone());
    let mut producer = JoinSet::new();
    let task = async move {
        if catch_panic(production).await.is_err() {
            let _ = events.send(panicked).await;
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
    receiver: mpsc::Receiver<Waiting>,
    keep_alive: Interval,
    _producer: JoinSet<()>,
    _ticket: Option<Ticket>,
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(next) = self.receiver.poll_recv(cx) {
            self.keep_alive.reset();
            return Poll::Ready(next.map(|Waiting(event, _)| Ok(event.0)));
        }
        self.keep_alive.poll_tick(cx).map(|_| Some(Ok(Event::keep_alive().0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let (events, mut receiver) = Events::new();
        let large = Event::json(&vec![b'1'; CAPACITY_BYTES as usize / 3]);
        for _ in 0..2 {
            events.send(large.clone()).await.unwrap();
        }
        let mut third = std::pin::pin!(events.send(large.clone()));
        let mut poll = || third.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(poll().is_pending(), "there is no room");
        drop(receiver.recv().await);
        assert!(poll().is_ready(), "room was given back");
        drop((receiver.recv().await, receiver.recv().await));
        let huge = Event::json(&vec![b'1'; 2 * CAPACITY_BYTES as usize]);
        events.send(huge).await.unwrap();
        assert!(receiver.recv().await.is_some(), "one alone may be larger");
        let waits = events.clone();
        for _ in 0..CAPACITY {
            events.send(Event::done()).await.unwrap();
        }
        drop(receiver);
        assert!(waits.send(large).await.is_err(), "nobody reads");
    }

    #[test]
    fn an_event_is_one_data_line_and_a_blank_one() {
        assert_eq!(Event::json(br#"{"a":"\n"}"#).0, &b"data: {\"a\":\"\\n\"}\n\n"[..]);
        assert_eq!(Event::named("a.b", b"{}").0, &b"event: a.b\ndata: {}\n\n"[..]);
        assert_eq!(Event::done().0, &b"data: [DONE]\n\n"[..]);
        assert!(Event::keep_alive().0.starts_with(b":"));
    }
}

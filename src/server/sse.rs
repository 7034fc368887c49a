//! Server-sent events: a producer that runs whenever the connection asks its answer's body for more.
//!
//! ```text
//! socket <-- connection's task <-- EventBody --polls--> producer --polls--> engine's output
//!                                      ^                   |
//!                                      `----- Events <-----'  all that is ready, as one piece
//! ```
//!
//! The producer has no task of its own: a token wakes the task of its connection and nobody else.
//! A client that reads slowly leaves the body alone, and so the producer too, which puts no more
//! than a bounded number of bytes ahead of it. A client that is gone drops the body, and the
//! producer and what it holds with it. A comment line is sent
//! when nothing else was for a while, so that proxies keep the connection and a vanished client is
//! noticed while its request still waits.
//!
//! What this module deliberately does not do: it knows no event's content.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::panics::{Panicked, catch_panic};
use super::state::Ticket;

/// Bytes that wait for the connection to ask for them, beyond which no event is added.
const CAPACITY_BYTES: usize = 256 << 10;
/// What most events need; a longer one grows its buffer.
const TYPICAL_BYTES: usize = 384;
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Events as they are sent, one behind the other.
#[derive(Debug, Default)]
pub(super) struct EventText(Vec<u8>);

impl EventText {
    /// Adds an event whose data is a value's JSON text.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        self.between(b"", value, b"");
    }

    /// Adds an event of a named type.
    pub(super) fn named(&mut self, name: &str, value: &impl Serialize) {
        debug_assert!(!name.contains(['\n', '\r']), "a name has no line ends");
        self.0.reserve(TYPICAL_BYTES);
        self.0.extend_from_slice(b"event: ");
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.json(value);
    }

    /// Adds `OpenAI`'s last event of a stream of completions that ended well.
    pub(super) fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// Adds an event whose data is a value's JSON text between two texts that make it whole.
    pub(super) fn between(&mut self, before: &[u8], value: &impl Serialize, after: &[u8]) {
        self.0.reserve(TYPICAL_BYTES);
        self.0.extend_from_slice(b"data: ");
        self.0.extend_from_slice(before);
        // Compact JSON has no line ends.
        serde_json::to_writer(&mut self.0, value)
            .expect("invariant: wire types have string keys and no failing parts");
        self.0.extend_from_slice(after);
        self.0.extend_from_slice(b"\n\n");
    }

    /// Moves the events of another text behind these.
    fn append(&mut self, more: &mut Self) {
        if self.0.is_empty() {
            mem::swap(&mut self.0, &mut more.0);
        } else {
            self.0.append(&mut more.0);
        }
    }

    /// Each event by itself.
    #[cfg(test)]
    pub(super) fn events(&self) -> Vec<&str> {
        str::from_utf8(&self.0).unwrap().split_inclusive("\n\n").collect()
    }
}

/// Where a producer puts its events. For the producer that [`respond`] was given, and nobody else.
#[derive(Debug)]
pub(super) struct Events(Waiting);

/// What the producer has put there and the body did not take.
#[derive(Clone, Debug, Default)]
struct Waiting(Arc<Mutex<EventText>>);

impl Waiting {
    /// Nothing that is done under the lock can panic halfway, so a poisoned one is still good.
    fn lock(&self) -> MutexGuard<'_, EventText> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Sends events and leaves their text empty. Waits while the client is slow.
    pub(super) async fn send(&self, events: &mut EventText) {
        self.0.lock().append(events);
        // Nobody has to be woken when there is room: who makes room is the body, which polls the
        // producer, and so this, before it does anything else.
        poll_fn(|_| match self.0.lock().0.len() {
            ..CAPACITY_BYTES => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
    }
}

/// A response whose events `produce` makes; `panicked` are the last ones should it panic. The
/// ticket, if any, is held until the last event was handed to the connection. The producer runs in
/// no span: entering one costs as much as making an event, and few events log.
pub(super) fn respond<F>(
    keep_alive_interval: Duration,
    ticket: impl Into<Option<Ticket>>,
    panicked: EventText,
    produce: impl FnOnce(Events) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let body = EventBody {
        _ticket: ticket.into(),
        ..EventBody::new(keep_alive_interval, panicked, produce)
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Asks reverse proxies not to collect the events.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(body)).into_response()
}

/// Puts its events into [`Events`] until it ends.
type Producer = Pin<Box<dyn Future<Output = Result<(), Panicked>> + Send>>;

struct EventBody {
    /// Until it has ended.
    producer: Option<Producer>,
    waiting: Waiting,
    panicked: EventText,
    keep_alive: Interval,
    _ticket: Option<Ticket>,
}

impl EventBody {
    fn new<F>(
        keep_alive_interval: Duration,
        panicked: EventText,
        produce: impl FnOnce(Events) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let waiting = Waiting::default();
        let production = catch_panic(produce(Events(waiting.clone())));
        let producer = Some(Box::pin(production) as Producer);
        let period = keep_alive_interval.max(Duration::from_millis(1));
        let mut keep_alive = interval_at(Instant::now() + period, period);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { producer, waiting, panicked, keep_alive, _ticket: None }
    }

    /// Lets the producer do what it can now.
    fn produce(&mut self, cx: &mut Context<'_>) {
        let Some(producer) = &mut self.producer else { return };
        if let Poll::Ready(result) = producer.as_mut().poll(cx) {
            self.producer = None;
            if result.is_err() {
                self.waiting.lock().append(&mut self.panicked);
            }
        }
    }
}

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.produce(cx);
        let EventText(text) = mem::take(&mut *self.waiting.lock());
        if !text.is_empty() {
            self.keep_alive.reset();
            return Poll::Ready(Some(Ok(Frame::data(text.into()))));
        }
        if self.producer.is_none() {
            return Poll::Ready(None);
        }
        let keep_alive = || Some(Ok(Frame::data(Bytes::from_static(KEEP_ALIVE))));
        self.keep_alive.poll_tick(cx).map(|_| keep_alive())
    }

    fn is_end_stream(&self) -> bool {
        self.producer.is_none() && self.waiting.lock().0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn body<F: Future<Output = ()> + Send + 'static>(
        produce: impl FnOnce(Events) -> F,
    ) -> Pin<Box<EventBody>> {
        let mut panicked = EventText::default();
        panicked.json(&"it panicked");
        Box::pin(EventBody::new(LONG, panicked, produce))
    }

    fn poll(body: &mut Pin<Box<EventBody>>) -> Poll<Option<Bytes>> {
        let frame = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        frame.map(|frame| frame.map(|Ok(frame)| frame.into_data().unwrap()))
    }

    fn ready(text: &str) -> Poll<Option<Bytes>> {
        Poll::Ready(Some(Bytes::copy_from_slice(text.as_bytes())))
    }

    #[test]
    fn an_event_is_one_data_line_and_a_blank_one() {
        let mut text = EventText::default();
        text.json(&serde_json::json!({"a": "\n"}));
        text.named("a.b", &serde_json::json!({}));
        text.done();
        let expected =
            ["data: {\"a\":\"\\n\"}\n\n", "event: a.b\ndata: {}\n\n", "data: [DONE]\n\n"];
        assert_eq!(text.events(), expected);
        assert!(KEEP_ALIVE.starts_with(b":") && KEEP_ALIVE.ends_with(b"\n\n"));
    }

    #[tokio::test]
    async fn all_that_is_ready_is_one_piece() {
        let (sender, mut receiver) = mpsc::unbounded_channel::<u32>();
        let mut body = body(|events| async move {
            let mut text = EventText::default();
            while let Some(number) = receiver.recv().await {
                text.json(&number);
                events.send(&mut text).await;
            }
            text.done();
            events.send(&mut text).await;
        });
        assert_eq!(poll(&mut body), Poll::Pending);
        (1..=2).for_each(|number| sender.send(number).unwrap());
        assert_eq!(poll(&mut body), ready("data: 1\n\ndata: 2\n\n"));
        assert_eq!(poll(&mut body), Poll::Pending);
        sender.send(3).unwrap();
        drop(sender);
        assert!(!body.is_end_stream());
        assert_eq!(poll(&mut body), ready("data: 3\n\ndata: [DONE]\n\n"));
        assert!(body.is_end_stream());
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes() {
        let num_made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&num_made);
        let mut body = body(|events| async move {
            let large = "x".repeat(CAPACITY_BYTES / 3);
            let mut text = EventText::default();
            loop {
                text.json(&large);
                count.fetch_add(1, Ordering::Relaxed);
                events.send(&mut text).await;
            }
        });
        for num_asked in 0..3 {
            assert_eq!(num_made.load(Ordering::Relaxed), 3 * num_asked);
            let Poll::Ready(Some(piece)) = poll(&mut body) else { panic!("there is always more") };
            assert!((CAPACITY_BYTES..2 * CAPACITY_BYTES).contains(&piece.len()));
        }
    }

    #[tokio::test]
    async fn a_producer_that_panics_says_so_and_has_ended() {
        let mut body = body(|events| async move {
            let mut text = EventText::default();
            text.json(&1);
            events.send(&mut text).await;
            panic!("as the test wants it");
        });
        assert_eq!(poll(&mut body), ready("data: 1\n\ndata: \"it panicked\"\n\n"));
        assert_eq!(poll(&mut body), Poll::Ready(None));
    }

    #[tokio::test]
    async fn whoever_drops_the_body_drops_the_producer() {
        let (sender, mut receiver) = mpsc::unbounded_channel::<u32>();
        let mut body = body(|_| async move { while receiver.recv().await.is_some() {} });
        assert_eq!(poll(&mut body), Poll::Pending);
        drop(body);
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn who_sends_nothing_for_a_while_sends_a_comment() {
        let period = Duration::from_millis(20);
        let produce = |_| std::future::pending();
        let mut body = Box::pin(EventBody::new(period, EventText::default(), produce));
        let start = Instant::now();
        for num_sent in 1..=2 {
            let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), KEEP_ALIVE);
            assert!(start.elapsed() >= period * num_sent);
        }
    }
}

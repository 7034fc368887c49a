//! Between HTTP and the socket: what the protocol's implementation does not do for clients.
//!
//! ```text
//!                      bytes          head read      body read      head ready       sent
//! phase      (new) --> Head --------> Body --------> Waiting -----> Answering ----+--> Idle --+
//!                       ^                                                         |           |
//!                       '---------------------- next request -------------------- ' <---------'
//! limit      header_timeout     (body's own)     (none)           write stall      idle_timeout
//! the client's end   closes        closes        asked: below       hidden           closes
//! ```
//!
//! **Refusals.** Bytes that are no request are answered by the protocol's implementation with a
//! status and no body. On its way out, such an answer gets an error object.
//!
//! **Half-closed clients.** A client that ends its side after the request may be waiting for the
//! answer, or gone: TCP says the same in both cases. So the end is hidden, and the client is sent
//! `100 Continue`, which means nothing and may be sent at any time before an answer. A machine whose
//! program is gone answers that with a reset, and the next write fails; a client that waits ignores
//! it. HTTP/1.0 has no such answer: there the client's end is soon taken for its end of everything.
//!
//! What this module deliberately does not do: it parses nothing, and it does not limit writes; see
//! [`stall`](super::stall).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::super::error::ApiError;
use super::refusal;

/// What a half-closed client is asked with.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How long after the client's end the first question follows, since most answers take less time;
/// each further wait is twice the one before.
const FIRST_PROBE_WAIT: Duration = Duration::from_millis(100);
const LONGEST_PROBE_WAIT: Duration = Duration::from_secs(10);
/// How long after the client's end a body may take to be read.
const BODY_GRACE: Duration = Duration::from_millis(200);

/// Where a connection is in its exchange of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between two requests.
    Idle,
    /// A request's head is expected or arriving.
    Head,
    /// A request's body is arriving, or the client speaks HTTP/1.0.
    Body,
    /// The request is here, and nothing of its answer.
    Waiting,
    /// The answer is being sent.
    Answering,
}

/// The phase of one connection, told by those who see requests and answers.
#[derive(Debug)]
pub(super) struct Exchange {
    phase: AtomicU8,
    /// Bytes of an answer may wait to be written.
    has_unsent: AtomicBool,
}

impl Exchange {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { phase: AtomicU8::new(Phase::Head as u8), has_unsent: false.into() })
    }

    fn phase(&self) -> Phase {
        let phases = [Phase::Idle, Phase::Head, Phase::Body, Phase::Waiting, Phase::Answering];
        phases[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// A head was read.
    pub(super) fn request_began(&self) {
        self.set(Phase::Body);
    }

    /// The request was read to its end, and its client understands interim answers.
    pub(super) fn request_is_whole(&self) {
        // A body may be read while its answer is sent.
        if self.phase() == Phase::Body {
            self.set(Phase::Waiting);
        }
    }

    /// The answer's head is known.
    pub(super) fn answer_began(&self) {
        self.has_unsent.store(true, Ordering::SeqCst);
        self.set(Phase::Answering);
    }

    /// The answer's last byte is known.
    pub(super) fn answer_ended(&self) {
        self.set(Phase::Idle);
    }
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) header_timeout: Duration,
    pub(super) idle_timeout: Duration,
}

/// A connection as HTTP sees it.
#[derive(Debug)]
pub(super) struct Wire<T> {
    inner: T,
    exchange: Arc<Exchange>,
    patience: Patience,
    /// What must be written before anything else, and how much of it was.
    first: Vec<u8>,
    num_written: usize,
    /// Something of a head has arrived, and not all.
    is_mid_head: bool,
    /// The client has ended its side.
    is_half_closed: bool,
    /// Ends the current phase, or is when to ask again.
    timer: Option<(Phase, Pin<Box<Sleep>>)>,
    probe_wait: Duration,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    pub(super) fn new(inner: T, exchange: Arc<Exchange>, patience: Patience) -> Self {
        Self {
            inner,
            exchange,
            patience,
            first: Vec::new(),
            num_written: 0,
            is_mid_head: false,
            is_half_closed: false,
            timer: None,
            probe_wait: FIRST_PROBE_WAIT,
        }
    }

    /// Whether a phase has lasted for longer than it may.
    fn has_expired(&mut self, phase: Phase, limit: Duration, cx: &mut Context<'_>) -> bool {
        match &mut self.timer {
            Some((of, timer)) if *of == phase => timer.as_mut().poll(cx).is_ready(),
            _ => {
                let mut timer = Box::pin(sleep(limit));
                let has_expired = timer.as_mut().poll(cx).is_ready();
                self.timer = Some((phase, timer));
                has_expired
            }
        }
    }

    /// Nothing can be read now.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.exchange.phase() {
            Phase::Head if self.has_expired(Phase::Head, self.patience.header_timeout, cx) => {
                if self.is_mid_head {
                    // Best effort: who is this slow may not read either.
                    let refusal = refusal::answer(&ApiError::HeadTimeout);
                    let _ = Pin::new(&mut self.inner).poll_write(cx, &refusal);
                    let _ = Pin::new(&mut self.inner).poll_flush(cx);
                }
                let error = io::Error::new(io::ErrorKind::TimedOut, "no request came");
                Poll::Ready(Err(error))
            }
            // As if the client had closed: there is nothing to lose.
            Phase::Idle if self.has_expired(Phase::Idle, self.patience.idle_timeout, cx) => {
                Poll::Ready(Ok(()))
            }
            Phase::Head | Phase::Idle => Poll::Pending,
            Phase::Body | Phase::Waiting | Phase::Answering => {
                self.timer = None;
                Poll::Pending
            }
        }
    }

    /// The client has ended its side.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_unsent = self.exchange.has_unsent.load(Ordering::SeqCst);
        match self.exchange.phase() {
            _ if has_unsent => Poll::Pending,
            Phase::Waiting => self.probe(cx),
            Phase::Answering => Poll::Pending,
            // The end may be behind a body that nobody has looked at yet.
            Phase::Body if !self.has_expired(Phase::Body, BODY_GRACE, cx) => Poll::Pending,
            Phase::Idle | Phase::Head | Phase::Body => Poll::Ready(Ok(())),
        }
    }

    /// Asks whether the client is still there, again and again.
    fn probe(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_expired(Phase::Waiting, self.probe_wait, cx) {
            match Pin::new(&mut self.inner).poll_write(cx, PROBE) {
                Poll::Ready(Ok(num_bytes)) if num_bytes == PROBE.len() => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // Nothing else was written: no room for this little means no reader.
                Poll::Ready(Ok(_)) | Poll::Pending => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.timer = None;
            self.probe_wait = (self.probe_wait * 2).min(LONGEST_PROBE_WAIT);
        }
        Poll::Pending
    }

    /// Writes what comes first.
    fn write_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.num_written < self.first.len() {
            let rest = &self.first[self.num_written..];
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                num_bytes => self.num_written += num_bytes,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a refusal that has no body, and puts one that has in its place.
    fn replaced(&mut self, bytes: &[u8]) -> bool {
        let phase = self.exchange.phase();
        let is_between = matches!(phase, Phase::Idle | Phase::Head);
        let Some(refusal) = is_between.then(|| refusal::with_body(bytes)).flatten() else {
            return false;
        };
        self.first = refusal;
        self.num_written = 0;
        true
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_half_closed {
            return this.end(cx);
        }
        let num_filled = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Pending => this.wait(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(()))
                if buffer.filled().len() == num_filled && buffer.remaining() > 0 =>
            {
                this.is_half_closed = true;
                this.end(cx)
            }
            Poll::Ready(Ok(())) => {
                let phase = this.exchange.phase();
                if phase == Phase::Idle {
                    this.exchange.set(Phase::Head);
                }
                this.is_mid_head = matches!(phase, Phase::Idle | Phase::Head);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_first(cx))?;
        if this.replaced(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_first(cx))?;
        if let [only] = slices
            && this.replaced(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut this.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_first(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        // Everything that was known of answers before has been written by now.
        if this.exchange.phase() != Phase::Answering
            && this.exchange.has_unsent.swap(false, Ordering::SeqCst)
            && this.is_half_closed
        {
            // Its end, hidden until now, can be told.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_first(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

//! One connection, from its handshake to its last byte.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Version;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::Service;

use super::super::ServerOptions;
use super::super::access::Peer;
use super::super::error::ApiError;
use super::listener::Stream;
use super::refusal;
use super::stall::StallGuard;
use super::tls::Tls;
use super::wire::{Exchange, Patience, Wire};

/// First byte of an encrypted connection: a record of a handshake.
const HANDSHAKE: u8 = 22;

/// Who answers at a listener. Asked at every request: it changes once the engine is warm.
pub(super) type Door = Arc<dyn Fn() -> Router + Send + Sync>;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) options: ServerOptions,
    pub(super) closing: watch::Sender<Closing>,
}

/// How much longer connections may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closing {
    /// As long as their clients like.
    No,
    /// For the request that they are in.
    AfterAnswer,
    /// No longer.
    Now,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    stream: Stream,
    tls: Option<Tls>,
    door: Door,
    conditions: Arc<Conditions>,
) {
    let peer = stream.peer();
    let Some(tls) = tls else { return answer(stream, peer, door, &conditions).await };
    let mut closing = conditions.closing.subscribe();
    let shaken = tokio::select! {
        shaken = shake_hands(stream, &tls, &conditions.options) => shaken,
        () = reached(&mut closing, Closing::Now) => None,
    };
    if let Some(stream) = shaken {
        answer(stream, peer, door, &conditions).await;
    }
}

/// Waits until connections have to close this soon.
async fn reached(closing: &mut watch::Receiver<Closing>, wanted: Closing) {
    // It fails only when the server is gone, which is as good a reason.
    let _ = closing.wait_for(|closing| *closing >= wanted).await;
}

/// Encrypts a connection; `None` when its client does not.
async fn shake_hands(
    stream: Stream,
    tls: &Tls,
    options: &ServerOptions,
) -> Option<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let shaken = async {
        let first = stream.peek().await?;
        if first.is_some_and(|byte| byte != HANDSHAKE) {
            // Best effort: whoever speaks plainly is told so.
            let _ = stream.try_write(&refusal::answer(&ApiError::NotEncrypted));
            return Err(std::io::Error::other("the client does not encrypt"));
        }
        tls.acceptor().accept(stream).await
    };
    let problem = match timeout(options.handshake_timeout, shaken).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::debug!(problem, "no encrypted connection came to be");
    None
}

/// Answers the requests of one connection, until that or the server ends.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    door: Door,
    conditions: &Conditions,
) {
    let options = &conditions.options;
    let patience = Patience {
        header_timeout: options.header_read_timeout,
        idle_timeout: options.idle_timeout,
    };
    let exchange = Exchange::new();
    let stream = StallGuard::new(stream, options.write_stall_timeout);
    let io = TokioIo::new(Wire::new(stream, Arc::clone(&exchange), patience));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        exchange.request_began();
        let exchange = Arc::clone(&exchange);
        // Older clients understand no interim answer.
        let asks = request.version() >= Version::HTTP_11;
        let mut request =
            request.map(|body| Body::new(Asked::new(body, asks.then(|| Arc::clone(&exchange)))));
        request.extensions_mut().insert(peer);
        let answered = door().call(request);
        async move {
            let response = answered.await?;
            exchange.answer_began();
            Ok::<_, Infallible>(response.map(|body| Answered { body, exchange }))
        }
    });
    let mut closing = conditions.closing.subscribe();
    let is_serving = *closing.borrow_and_update() == Closing::No;
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            // The wire has its own.
            .header_read_timeout(None)
            .max_headers(options.max_headers)
            // The implementation's own bound is on what it holds at one time.
            .max_buf_size(options.max_header_bytes.max(MIN_BUFFER_BYTES))
            .max_header_size(options.max_header_bytes)
            // While draining, a connection is good for one answer.
            .keep_alive(is_serving)
            .serve_connection(io, service)
    );
    // One wait for both, one after the other: it is looked at whenever an event is sent.
    let mut wanted = if is_serving { Closing::AfterAnswer } else { Closing::Now };
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    // Clients leave, stall and speak other protocols every day.
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = reached(&mut closing, wanted) => {
                if wanted == Closing::Now {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                wanted = Closing::Now;
            }
        }
    }
}

/// The least that the protocol's implementation takes.
const MIN_BUFFER_BYTES: usize = 8192;

/// A request's body, which tells when it has come whole.
struct Asked {
    body: Incoming,
    /// Whom to tell, once.
    exchange: Option<Arc<Exchange>>,
}

impl Asked {
    /// `exchange` is whom to tell, if anyone.
    fn new(body: Incoming, exchange: Option<Arc<Exchange>>) -> Self {
        let mut asked = Self { body, exchange };
        asked.tell_if(false);
        asked
    }

    fn tell_if(&mut self, is_over: bool) {
        if (is_over || self.body.is_end_stream())
            && let Some(exchange) = self.exchange.take()
        {
            exchange.request_is_whole();
        }
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.tell_if(matches!(polled, Poll::Ready(None)));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which tells when it is not needed any more.
struct Answered {
    body: Body,
    exchange: Arc<Exchange>,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.exchange.answer_ended();
    }
}

//! Accepting connections, and stopping without losing an answer.
//!
//! ```text
//!            shutdown             no ticket is out, or drain_timeout
//! serving ------------> draining ----------------------------------> stopping ---> returned
//! accepts, answers      accepts, answers health and metrics;          port closed, engine
//!                       completions: 503                              shut down, last bytes sent
//! ```
//!
//! A connection costs a task and a file descriptor, both bounded. Accepting never ends: an error
//! such as "too many open files" waits a moment and tries again.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service;

use super::routes::router;
use super::stall::StallGuard;
use super::{ServerOptions, ServerState};

/// How long connections may take for their last bytes once nothing is left to answer.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// First and longest pause after a failed accept.
const ACCEPT_BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// Told to a connection above the limit, without reading from it.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\ncontent-length: 116\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"error\":{\"message\":\"too many connections; try again later\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}";

/// Serves until `shutdown` completes, then drains and returns.
///
/// While draining, `/health/ready` and completions answer 503; requests that were accepted before
/// go on for at most [`ServerOptions::drain_timeout`].
///
/// # Errors
/// The listener has no address any more; everything else is survived.
pub async fn serve(
    listener: TcpListener,
    state: ServerState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving");
    let mut connections = Connections::new(&state);
    tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        () = shutdown => {}
    }

    state.begin_drain();
    connections.begin_close();
    let drain_timeout = state.options().drain_timeout;
    tracing::info!(unfinished = state.engine().num_unfinished(), "draining");
    tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        drained = timeout(drain_timeout, state.all_tickets_returned()) => if drained.is_err() {
            let unfinished = state.engine().num_unfinished();
            tracing::warn!(unfinished, ?drain_timeout, "the drain took too long, requests are cut");
        }
    }

    drop(listener);
    let engine = state.engine().clone();
    // It may wait for a step to end; what panics there has no caller left to tell.
    if let Err(error) = tokio::task::spawn_blocking(move || engine.shutdown()).await {
        tracing::error!(%error, "stopping the engine failed");
    }
    connections.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// All open connections.
struct Connections {
    router: Router,
    options: ServerOptions,
    tasks: JoinSet<()>,
    is_closing: watch::Sender<bool>,
}

impl Connections {
    fn new(state: &ServerState) -> Self {
        Self {
            router: router(state.clone()),
            options: state.options().clone(),
            tasks: JoinSet::new(),
            is_closing: watch::Sender::new(false),
        }
    }

    /// Accepts for ever.
    async fn accept_from(&mut self, listener: &TcpListener) -> Infallible {
        let [first_pause, longest_pause] = ACCEPT_BACKOFF;
        let mut pause = first_pause;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = self.tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    pause = first_pause;
                    self.open(stream);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?pause, "accepting a connection failed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest_pause);
                }
            }
        }
    }

    fn open(&mut self, stream: TcpStream) {
        if self.tasks.len() >= self.options.max_connections {
            tracing::warn!(max_connections = self.options.max_connections, "too many connections");
            // Best effort: a client that does not get it sees a closed connection.
            let _ = stream.try_write(TOO_MANY_CONNECTIONS);
            return;
        }
        // Events are small and must not wait for each other's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection cannot send without delay");
        }
        let is_closing = self.is_closing.subscribe();
        self.tasks.spawn(answer(stream, self.router.clone(), self.options.clone(), is_closing));
    }

    /// Connections end after the request they are in.
    fn begin_close(&self) {
        self.is_closing.send_replace(true);
    }

    /// Waits a moment for the last bytes, then cuts what is left.
    async fn close(mut self) {
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(CLOSE_GRACE, all_ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// Whether the error ends one connection before it began, and says nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Answers the requests of one connection.
async fn answer(
    stream: TcpStream,
    router: Router,
    options: ServerOptions,
    mut is_closing: watch::Receiver<bool>,
) {
    let io = TokioIo::new(StallGuard::new(stream, options.write_stall_timeout));
    let service =
        service_fn(|request: hyper::Request<Incoming>| router.clone().call(request.map(Body::new)));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_read_timeout)
            // While draining, a connection is good for one answer.
            .keep_alive(!*is_closing.borrow_and_update())
            .serve_connection(io, service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = is_closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients leave, stall and speak other protocols every day.
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_connection_is_a_whole_answer() {
        let text = str::from_utf8(TOO_MANY_CONNECTIONS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}

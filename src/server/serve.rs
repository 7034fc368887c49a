//! Accepting connections, and stopping without losing an answer.
//!
//! ```text
//!            shutdown, or the
//!            engine's death       no ticket is out, or drain_timeout
//! serving ------------> draining ----------------------------------> stopping ---> returned
//! accepts, answers      accepts, answers health and metrics;          port closed, engine
//!                       completions: 503                              shut down, last bytes sent
//! ```
//!
//! Before that, while the entrance is not open, it is starting: a shutdown then ends it at once.
//!
//! When the engine dies there is nothing left to wait for but the last bytes of answers that have
//! failed: the drain is then short, so that a supervisor can start the next process.
//!
//! A connection costs a task and a file descriptor, both bounded. Accepting never ends: an error
//! such as "too many open files" waits a moment and tries again.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::time::Duration;

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

use super::access::Peer;
use super::stall::StallGuard;
use super::{Entrance, ServerOptions, ServerState};
use crate::engine::{Death, Fate};
use crate::telemetry::events::{Event, EventKind};

/// How long connections may take for their last bytes once nothing is left to answer.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// How long answers may take to be read to their end once the engine has died.
const DEATH_GRACE: Duration = Duration::from_secs(5);
/// First and longest pause after a failed accept.
const ACCEPT_BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// Told to a connection above the limit, without reading from it.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\ncontent-length: 116\r\nretry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"error\":{\"message\":\"too many connections; try again later\",\
    \"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}";

/// Serves until `shutdown` completes or the engine dies, then drains and returns. Before the entrance
/// is open, `shutdown` ends it at once.
///
/// While draining, `/health/ready` and completions answer 503; requests that were accepted before
/// go on for at most [`ServerOptions::drain_timeout`]. After a death, which
/// [`EngineHandle::death`](crate::engine::EngineHandle::death) tells, they have failed already.
///
/// # Errors
/// The listener has no address any more; everything else is survived.
pub async fn serve(
    listener: TcpListener,
    entrance: impl Into<Entrance>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let entrance = entrance.into();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = Connections::new(&entrance);
    let state = tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        state = entrance.opened() => state,
        () = shutdown.as_mut() => return Ok(()),
    };
    tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        () = shutdown => {}
        death = state.engine().died() => tell_of(&state, &death),
    }

    state.begin_drain();
    connections.begin_close();
    let drain_timeout = state.options().drain_timeout;
    let unfinished = state.engine().num_unfinished();
    let message = format!("draining: {unfinished} requests have {drain_timeout:?} to finish");
    let draining = Event::new(EventKind::Draining, message);
    state.events().emit(draining.field("unfinished_requests", unfinished));
    tokio::select! {
        never = connections.accept_from(&listener) => match never {},
        drained = drained(&state) => if !drained {
            let unfinished = state.engine().num_unfinished();
            tracing::warn!(unfinished, ?drain_timeout, "the drain took too long, requests are cut");
        }
    }

    drop(listener);
    stop_engine(&state).await;
    connections.close().await;
    Ok(())
}

fn tell_of(state: &ServerState, death: &Death) {
    let message = format!("the engine died: {}", death.what);
    let (fate, remedy) = match &death.fate {
        Fate::Restart => ("restart", "restart the process"),
        Fate::Lost => ("lost", "look at the device and its links before a restart"),
        Fate::StaleArtifact { .. } => {
            ("stale_artifact", "restart the process, which compiles the graph again")
        }
    };
    // It has been logged where it happened.
    let event = Event::new(EventKind::EngineDied, message).remedy(remedy).logged_elsewhere();
    state.events().emit(event.field("fate", fate));
}

/// Waits for the engine's end; not for long when it is dead, for its device may not let it go.
async fn stop_engine(state: &ServerState) {
    let engine = state.engine().clone();
    let is_dead = engine.death().is_some();
    // It may wait for a step to end.
    let stopping = tokio::task::spawn_blocking(move || engine.shutdown());
    let patience = if is_dead { DEATH_GRACE } else { Duration::MAX };
    match timeout(patience, stopping).await {
        Ok(Ok(())) => {}
        // What panics there has no caller left to tell.
        Ok(Err(error)) => tracing::error!(%error, "stopping the engine failed"),
        Err(_) => tracing::warn!(?patience, "the dead engine's thread does not end, it is left"),
    }
}

/// Waits for the last answer; `false` when it takes too long.
async fn drained(state: &ServerState) -> bool {
    let all_returned = state.all_tickets_returned();
    let long_after_death = async {
        state.engine().died().await;
        tokio::time::sleep(DEATH_GRACE).await;
    };
    tokio::select! {
        drained = timeout(state.options().drain_timeout, all_returned) => drained.is_ok(),
        () = long_after_death => false,
    }
}

/// All open connections.
struct Connections {
    entrance: Entrance,
    options: ServerOptions,
    tasks: JoinSet<()>,
    is_closing: watch::Sender<bool>,
}

impl Connections {
    fn new(entrance: &Entrance) -> Self {
        Self {
            entrance: entrance.clone(),
            options: entrance.options().clone(),
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
        self.tasks.spawn(answer(stream, self.entrance.clone(), self.options.clone(), is_closing));
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
    entrance: Entrance,
    options: ServerOptions,
    mut is_closing: watch::Receiver<bool>,
) {
    let peer = Peer::of(stream.peer_addr().ok());
    let io = TokioIo::new(StallGuard::new(stream, options.write_stall_timeout));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        entrance.router().call(request.map(Body::new))
    });
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
    use std::io::{Read as _, Write as _};
    use std::net;
    use std::sync::atomic::Ordering;

    use super::super::About;
    use super::*;
    use crate::backend::DeviceFate;
    use crate::engine::EngineOptions;
    use crate::engine::fake::{self, Script};

    /// Sends a request.
    fn ask(address: net::SocketAddr, method: &str, path: &str, body: &str) -> net::TcpStream {
        let mut stream = net::TcpStream::connect(address).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// The answer to its end.
    fn rest(mut stream: net::TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A server whose engine dies, by a panic or with its device, while it answers: what the
    /// running answer ends with, what health says meanwhile, and what the engine died of.
    fn dies(fate: Option<DeviceFate>) -> (String, String, Fate) {
        let options = EngineOptions {
            max_model_len: 64,
            max_num_seqs: 4,
            max_num_batched_tokens: 32,
            block_size: 4,
            num_blocks: 64,
            max_num_queued_reqs: 4,
            ..EngineOptions::default()
        };
        let (engine, control) = fake::engine(&fake::DYNAMIC, &Script::Hash, &options);
        let state = ServerState::new(
            engine.clone(),
            fake::tokenizer(),
            None,
            // Far longer than the test may take.
            ServerOptions { drain_timeout: Duration::from_mins(50), ..ServerOptions::new("fake") },
            About::default(),
        );
        // One more ticket keeps the drain from ending before health was asked.
        let ticket = state.admit().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = runtime.spawn(serve(listener, state, std::future::pending()));

        let gate = control.gate();
        let body = r#"{"model":"fake","prompt":"a","stream":true,"ignore_eos":true}"#;
        let mut stream = ask(address, "POST", "/v1/completions", body);
        gate.send(()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        *control.dies.lock().unwrap() = fate;
        control.panics.store(fate.is_none(), Ordering::SeqCst);
        drop(gate);
        let answer = rest(stream);
        let health = rest(ask(address, "GET", "/health", ""));
        drop(ticket);
        runtime.block_on(server).unwrap().unwrap();
        (answer, health, engine.death().unwrap().fate)
    }

    #[test]
    fn a_server_whose_engine_dies_tells_everyone_and_ends() {
        for (how, code, expected) in [
            (Some(DeviceFate::Restart), "engine_died", Fate::Restart),
            (Some(DeviceFate::Lost), "engine_died", Fate::Lost),
            (None, "engine_stopped", Fate::Restart),
        ] {
            let (answer, health, fate) = dies(how);
            assert!(answer.contains(&format!(r#""code":"{code}""#)), "{answer}");
            assert!(!answer.contains("[DONE]") && !answer.contains("does not answer"), "{answer}");
            assert!(health.starts_with("HTTP/1.1 503"), "{health}");
            assert_eq!(fate, expected);
        }
    }

    #[test]
    fn the_refusal_of_a_connection_is_a_whole_answer() {
        let text = str::from_utf8(TOO_MANY_CONNECTIONS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
    }
}

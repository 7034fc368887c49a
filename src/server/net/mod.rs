//! Listening, accepting connections, and stopping without losing an answer.
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
//! ```text
//! listener --> accept --> connection: tls -> stall -> wire -> HTTP --> router
//! (several)    slots, 503                             (refusals, half-closed clients, time-outs)
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Listener`] | a port or a file where clients connect, plain or encrypted |
//! | [`Tls`] | certificate and key of a listener, which may change while it listens |
//! | slot | one open connection; bounded in all and by client |
//! | refusal | an answer without the router: to what is no request, or one connection too many |
//!
//! A connection costs a task and a file descriptor, both bounded. Accepting never ends: an error
//! such as "too many open files" waits a moment and tries again.
//!
//! What this module deliberately does not do: it binds nothing, it knows no path, and it catches no
//! signal.

mod accept;
mod connection;
mod listener;
mod refusal;
mod slots;
mod stall;
mod tls;
mod wire;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Entrance, ServerState};
use crate::engine::{Death, Fate};
use crate::telemetry::events::{Event, EventKind};
use accept::Acceptor;
use connection::{Closing, Conditions, Door};
pub use listener::Listener;
use slots::Slots;
pub use tls::{ClientCertificates, Reloaded, Tls, TlsError, TlsFiles};

/// How long connections may take for their last bytes once nothing is left to answer.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// How long answers may take to be read to their end once the engine has died.
const DEATH_GRACE: Duration = Duration::from_secs(5);

/// Serves all of the API at every listener until `shutdown` completes or the engine dies, then
/// drains and returns. Before the entrance is open, `shutdown` ends it at once.
///
/// While draining, `/health/ready` and completions answer 503; requests that were accepted before
/// go on for at most [`ServerOptions::drain_timeout`](super::ServerOptions::drain_timeout). After a
/// death, which [`EngineHandle::death`](crate::engine::EngineHandle::death) tells, they have failed
/// already.
pub async fn serve(
    listeners: Vec<Listener>,
    entrance: impl Into<Entrance>,
    shutdown: impl Future<Output = ()>,
) {
    let entrance = entrance.into();
    let asked = entrance.clone();
    let door: Door = Arc::new(move || asked.router());
    let sites = listeners.into_iter().map(|listener| (listener, Arc::clone(&door))).collect();
    serve_sites(sites, entrance, shutdown).await;
}

/// The same, with who answers at each listener.
pub(super) async fn serve_sites(
    sites: Vec<(Listener, Door)>,
    entrance: Entrance,
    shutdown: impl Future<Output = ()>,
) {
    let (closing, _) = watch::channel(Closing::No);
    let options = entrance.options();
    let acceptor = Acceptor {
        slots: Slots::new(options.max_connections, options.max_connections_per_ip),
        conditions: Arc::new(Conditions { options: options.clone(), closing }),
    };
    // All of them end when this is dropped.
    let mut listening = JoinSet::<Infallible>::new();
    let mut watching = JoinSet::new();
    for (listener, door) in sites {
        if let Some(tls) = listener.tls() {
            watching.spawn(tls.clone().watch(entrance.events().clone()));
        }
        let acceptor = acceptor.clone();
        listening.spawn(async move { acceptor.accept_from(&listener, &door).await });
    }
    let mut shutdown = std::pin::pin!(shutdown);
    let state = tokio::select! {
        state = entrance.opened() => state,
        () = shutdown.as_mut() => return,
    };
    tokio::select! {
        () = shutdown => {}
        death = state.engine().died() => tell_of(&state, &death),
    }

    state.begin_drain();
    acceptor.conditions.closing.send_replace(Closing::AfterAnswer);
    let drain_timeout = state.options().drain_timeout;
    let unfinished = state.engine().num_unfinished();
    let message = format!("draining: {unfinished} requests have {drain_timeout:?} to finish");
    let draining = Event::new(EventKind::Draining, message);
    state.events().emit(draining.field("unfinished_requests", unfinished));
    if !drained(&state).await {
        let unfinished = state.engine().num_unfinished();
        tracing::warn!(unfinished, ?drain_timeout, "the drain took too long, requests are cut");
    }

    // The ports are closed before the engine is: nobody is let in who could not be answered.
    listening.shutdown().await;
    stop_engine(&state).await;
    close(&acceptor).await;
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

/// Waits a moment for the last bytes, then cuts what is left.
async fn close(acceptor: &Acceptor) {
    if timeout(CLOSE_GRACE, acceptor.slots.all_given_back()).await.is_err() {
        acceptor.conditions.closing.send_replace(Closing::Now);
        acceptor.slots.all_given_back().await;
    }
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net;
    use std::sync::atomic::Ordering;

    use super::super::{About, ServerOptions};
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
        let socket = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = runtime.block_on(async { Listener::tcp(socket) }).unwrap();
        let server = runtime.spawn(serve(vec![listener], state, std::future::pending()));

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
        runtime.block_on(server).unwrap();
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
}

//! Accepting connections, whatever happens.
//!
//! ```text
//! accept -- slot free --> a task for the connection
//!    |  `-- none -------> 503, closed
//!    `-- no descriptor -> the one in reserve is given up for a moment: 503, closed; then a pause
//! ```
//!
//! Without a descriptor in reserve, a client that comes when all are in use would wait in the
//! socket's queue until another one leaves.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use tokio::time::timeout;

use super::super::error::ApiError;
use super::connection::{self, Conditions, Door};
use super::listener::{Listener, Stream};
use super::refusal;
use super::slots::Slots;

/// First and longest pause after a failed accept.
const BACKOFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];
/// How long a connection that waits in the socket's queue may take to leave it.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_millis(10);
/// A file that is always there.
const SPARE_FILE: &str = "/dev/null";

/// The open connections, and what it takes to open more; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Acceptor {
    pub(super) conditions: Arc<Conditions>,
    pub(super) slots: Slots,
}

impl Acceptor {
    /// Accepts for ever.
    pub(super) async fn accept_from(&self, listener: &Listener, door: &Door) -> Infallible {
        let [first_pause, longest_pause] = BACKOFF;
        let mut pause = first_pause;
        let mut spare = spare();
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    pause = first_pause;
                    match self.slots.take(address) {
                        Ok(slot) => {
                            if let Err(error) = stream.send_without_delay() {
                                tracing::debug!(%error, "a connection cannot send without delay");
                            }
                            let tls = listener.tls().cloned();
                            let served = connection::serve(
                                stream,
                                tls,
                                Arc::clone(door),
                                Arc::clone(&self.conditions),
                            );
                            tokio::spawn(async move {
                                served.await;
                                drop(slot);
                            });
                        }
                        Err(reason) => {
                            tracing::warn!(%reason, "a connection is refused");
                            turn_away(listener, stream);
                        }
                    }
                    if spare.is_none() {
                        spare = self::spare();
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?pause, "accepting a connection failed");
                    if is_out_of_descriptors(&error) && spare.take().is_some() {
                        // Only one that is there already: a later one may find a free descriptor.
                        if let Ok(Ok((stream, _))) =
                            timeout(TURN_AWAY_TIMEOUT, listener.accept()).await
                        {
                            turn_away(listener, stream);
                        }
                        spare = self::spare();
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest_pause);
                }
            }
        }
    }
}

/// Tells a client that there is no room, without reading from it, and closes.
fn turn_away(listener: &Listener, stream: Stream) {
    if listener.tls().is_none() {
        // Best effort: a client that does not get it sees a closed connection.
        let _ = stream.try_write(&refusal::answer(&ApiError::TooManyConnections));
    }
}

/// A descriptor to give up.
fn spare() -> Option<fs::File> {
    fs::File::open(SPARE_FILE).ok()
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

/// Whether the process or the machine has no descriptor left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

//! An address of its own for admins: `127.0.0.1:9000`, or `unix:/run/cairn/admin.sock`.
//!
//! Whoever reaches it is an admin, so it belongs on this machine or into a network of its own; a
//! socket file is for its owner only. It answers as the main address does, but its admin endpoints,
//! metrics and health need no key.
//!
//! What this module deliberately does not do: no TLS, and few connections at a time.

use std::fmt;
use std::io;
use std::net;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use fs_err as fs;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Service as _;

use super::peer::Peer;
use crate::server::ServerState;
use crate::server::routes::router;

const MAX_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const UNIX: &str = "unix:";

/// Where admins are listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and a port.
    Tcp(net::SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(UNIX) {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "expected an address and a port as in `127.0.0.1:9000`, or `unix:PATH`, got \
                     `{text}`"
                )
            }),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// A socket that admins can connect to.
#[derive(Debug)]
pub struct AdminListener {
    socket: Socket,
    address: AdminAddress,
}

#[derive(Debug)]
enum Socket {
    Tcp(net::TcpListener),
    Unix(unix::UnixListener),
}

impl AdminListener {
    /// Takes the address.
    ///
    /// # Errors
    /// It is taken, or not ours to take.
    pub fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(address) => {
                let socket = net::TcpListener::bind(address)?;
                socket.set_nonblocking(true)?;
                let address = AdminAddress::Tcp(socket.local_addr()?);
                Ok(Self { socket: Socket::Tcp(socket), address })
            }
            AdminAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = bind_privately(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self { socket: Socket::Unix(socket), address: address.clone() })
            }
        }
    }

    /// Where it listens; a port that was asked for as 0 is the real one.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Answers for ever; dropped, it closes all of its connections.
    ///
    /// # Errors
    /// The socket does not fit the runtime.
    pub async fn serve(&self, state: ServerState) -> io::Result<()> {
        let mut connections = Connections::new(&state);
        match &self.socket {
            Socket::Tcp(socket) => {
                let socket = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
                loop {
                    connections.open(socket.accept().await.map(|(stream, _)| stream)).await;
                }
            }
            Socket::Unix(socket) => {
                let socket = tokio::net::UnixListener::from_std(socket.try_clone()?)?;
                loop {
                    connections.open(socket.accept().await.map(|(stream, _)| stream)).await;
                }
            }
        }
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if let AdminAddress::Unix(path) = &self.address {
            // If it is gone, nothing is left to do.
            let _ = fs::remove_file(path);
        }
    }
}

/// A socket file that nobody but its owner could connect to at any time: it is made in a folder that
/// only the owner can enter, and moved to its place when it is as it shall be.
fn bind_privately(path: &Path) -> io::Result<unix::UnixListener> {
    if fs::symlink_metadata(path).is_ok() {
        let message = format!("{} exists, and is not a socket that was left over", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let private =
        tempfile::Builder::new().prefix(".admin-").tempdir_in(folder.unwrap_or(Path::new(".")))?;
    let inside = private.path().join("s");
    let socket = unix::UnixListener::bind(&inside)?;
    let mut permissions = fs::metadata(&inside)?.permissions();
    permissions.set_mode(0o600);
    fs::set_permissions(&inside, permissions)?;
    fs::rename(&inside, path)?;
    Ok(socket)
}

/// Removes a socket file that nobody listens at any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && unix::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    Ok(())
}

struct Connections {
    router: Router,
    header_read_timeout: Duration,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn new(state: &ServerState) -> Self {
        Self {
            router: router(state.clone()),
            header_read_timeout: state.options().header_read_timeout,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            tasks: JoinSet::new(),
        }
    }

    async fn open<S>(&mut self, accepted: io::Result<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting an admin's connection failed");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        // One more waits until another has ended.
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("invariant: the semaphore is never closed");
        let (router, header_read_timeout) = (self.router.clone(), self.header_read_timeout);
        self.tasks.spawn(async move {
            let _place = place;
            let service = service_fn(|mut request: hyper::Request<Incoming>| {
                request.extensions_mut().insert(Peer::Admin);
                router.clone().call(request.map(Body::new))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(header_read_timeout)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin's connection ended early");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_tcp_or_a_file() {
        let parse = |text: &str| text.parse::<AdminAddress>();
        assert_eq!(parse("unix:/a/b"), Ok(AdminAddress::Unix("/a/b".into())));
        assert_eq!(parse("[::1]:9").unwrap().to_string(), "http://[::1]:9");
        for bad in ["", "unix:", "9000", "localhost:9000", "127.0.0.1", "/a/b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let address = AdminAddress::Unix(path.clone());
        let first = AdminListener::bind(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(AdminListener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // As after a kill: the file is there, and nobody listens.
        drop(first);
        drop(unix::UnixListener::bind(&path).unwrap());
        drop(AdminListener::bind(&address).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(AdminListener::bind(&address).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}

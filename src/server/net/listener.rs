//! Where connections come from: a port or a file, plain or encrypted.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::super::access::Peer;
use super::tls::Tls;

/// A bound socket, and whether what is said there is encrypted.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, String),
}

impl Listener {
    /// Listens on a port. To be called within a runtime.
    ///
    /// # Errors
    /// The socket cannot be used without blocking.
    pub fn tcp(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let socket = Socket::Tcp(TcpListener::from_std(socket)?, address);
        Ok(Self { socket, tls: None })
    }

    /// Listens on a socket in the file system. To be called within a runtime.
    ///
    /// # Errors
    /// The socket cannot be used without blocking.
    pub fn unix(socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().map(|path| path.display().to_string());
        let socket = Socket::Unix(UnixListener::from_std(socket)?, path.unwrap_or_default());
        Ok(Self { socket, tls: None })
    }

    /// Everything that is said here is encrypted.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The next connection, and its client's address where it has one.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match &self.socket {
            Socket::Tcp(listener, _) => {
                let (stream, address) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(address.ip())))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), None))
            }
        }
    }
}

/// As a client names it: `http://127.0.0.1:8000`, `https://...`, `unix:/run/cairn.sock`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.socket, &self.tls) {
            (Socket::Tcp(_, address), None) => write!(f, "http://{address}"),
            (Socket::Tcp(_, address), Some(_)) => write!(f, "https://{address}"),
            (Socket::Unix(_, path), _) => write!(f, "unix:{path}"),
        }
    }
}

/// One accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Small writes leave at once.
    pub(super) fn send_without_delay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Where the client is.
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(stream) => Peer::of(stream.peer_addr().ok()),
            Self::Unix(_) => Peer::Local,
        }
    }

    /// Writes what fits without waiting.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// The first byte, once there is one; it stays to be read. `None` when the client has left, and
    /// where nobody can look without reading.
    pub(super) async fn peek(&self) -> io::Result<Option<u8>> {
        match self {
            Self::Tcp(stream) => {
                let mut first = [0];
                let num_bytes = stream.peek(&mut first).await?;
                Ok((num_bytes > 0).then_some(first[0]))
            }
            Self::Unix(_) => Ok(None),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

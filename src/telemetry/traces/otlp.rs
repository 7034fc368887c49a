//! Spans to a collector: OTLP over HTTP, as protobuf, in batches.
//!
//! What this module deliberately does not do: TLS, compression, and trying again; a span that is lost is
//! no loss to a request.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{RequestSpan, TraceError, wire};

const MAX_BATCH: usize = 512;
/// How long a batch is waited for after its first span.
const LINGER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a collector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `HOST:PORT`, as in the request and to connect to.
    authority: String,
    path: String,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]`; as OTLP has it, the port is 4318 and the path `/v1/traces`
    /// where there is none.
    pub(super) fn parse(url: &str) -> Result<Self, TraceError> {
        let bad = || TraceError::BadEndpoint(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"@?#\\".contains(&byte);
        if !rest.bytes().all(is_plain) {
            return Err(bad());
        }
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_bracketed = host.ends_with(']');
        let (name, port) = match host.rsplit_once(':').filter(|_| !is_bracketed) {
            Some((name, port)) => (name, port.parse::<u16>().map_err(|_| bad())?),
            None => (host, 4318),
        };
        if name.is_empty() || port == 0 {
            return Err(bad());
        }
        let path = if path.len() <= 1 { "/v1/traces" } else { path };
        Ok(Self { authority: format!("{name}:{port}"), path: path.to_owned() })
    }
}

/// Sends until nobody records any more.
pub(super) async fn send_all(
    endpoint: Endpoint,
    version: String,
    mut spans: mpsc::Receiver<RequestSpan>,
) {
    let mut has_warned = false;
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, MAX_BATCH).await > 0 {
        if batch.len() < MAX_BATCH {
            sleep(LINGER).await;
            while batch.len() < MAX_BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let body = wire::body(&batch, &version);
        batch.clear();
        let sent = match timeout(PATIENCE, post(&endpoint, &body)).await {
            Ok(sent) => sent,
            Err(_) => Err(io::Error::other(format!("no answer within {PATIENCE:?}"))),
        };
        match sent {
            Ok(()) => has_warned = false,
            Err(error) if !std::mem::replace(&mut has_warned, true) => {
                let Endpoint { authority, path } = &endpoint;
                tracing::warn!(%error, "spans were not taken by http://{authority}{path}");
            }
            Err(_) => {}
        }
    }
}

async fn post(endpoint: &Endpoint, body: &[u8]) -> io::Result<()> {
    let Endpoint { authority, path } = endpoint;
    let mut stream = TcpStream::connect(authority).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    // `HTTP/1.1 200`: all that is of interest.
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    if status.starts_with(b"HTTP/1.") && status[9] == b'2' {
        return Ok(());
    }
    Err(io::Error::other(format!("it answered `{}`", String::from_utf8_lossy(&status))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_without_tls() {
        let parse =
            |url: &str| Endpoint::parse(url).map(|at| format!("{}{}", at.authority, at.path));
        for (url, expected) in [
            ("http://127.0.0.1:4318/v1/traces", "127.0.0.1:4318/v1/traces"),
            ("http://collector", "collector:4318/v1/traces"),
            ("http://[::1]:80/x", "[::1]:80/x"),
            ("http://[::1]", "[::1]:4318/v1/traces"),
        ] {
            assert_eq!(parse(url).unwrap(), expected);
        }
        for url in [
            "",
            "https://a",
            "a:4318",
            "http://",
            "http://a:b",
            "http://a:0",
            "http://a b",
            "http://u@a",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}

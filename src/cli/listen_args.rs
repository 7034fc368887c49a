//! Flags about where `serve` listens, what a client may send and how long it may take, and which web
//! pages may call.
//!
//! ```text
//! --host --port --uds --ssl-...   ListenArgs::bind --> Bound --listeners--> server::Listener
//! all others                      ListenArgs::options --> ServerOptions
//! ```
//!
//! What this module deliberately does not do: binding is `listen`'s, and HTTP is `server`'s.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::failure::{Hint as _, Usage};
use super::listen::{self, SocketFile};
use super::values;
use crate::server::{ClientCertificates, CorsOptions, Listener, ServerOptions, Tls, TlsFiles};

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 8000;
const MAX_CONNECTIONS: u64 = 1_000_000;
/// No head of a request is sensibly larger.
const MAX_HEADER_BYTES: u64 = 16 << 20;

// The variables of host and port are not CAIRN_HOST and CAIRN_PORT: Kubernetes sets CAIRN_PORT to
// `tcp://...` in every pod beside a service named cairn, and NAME_SERVICE_HOST likewise.
/// Where to listen, and to what.
#[derive(Clone, Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where marks are noise")]
#[command(next_help_heading = "Connection options")]
pub(crate) struct ListenArgs {
    /// Address to listen on, or a host name that means one; 0.0.0.0: every IPv4 address
    /// [default: 127.0.0.1].
    #[arg(long, value_name = "HOST", env = "CAIRN_LISTEN_HOST")]
    host: Option<String>,

    /// Port to listen on; 0 picks a free one [default: 8000].
    #[arg(long, value_name = "PORT", env = "CAIRN_LISTEN_PORT")]
    #[arg(value_parser = values::whole::<u16>(0..=65_535), allow_hyphen_values = true)]
    port: Option<u16>,

    /// Listen on a socket in the file system, and on a port only if `--host` or `--port` is given
    /// too.
    #[arg(long, value_name = "PATH", env = "CAIRN_UDS")]
    uds: Option<PathBuf>,

    /// Permissions of that socket, as `chmod` takes them.
    #[arg(long, value_name = "MODE", env = "CAIRN_UDS_MODE", default_value = "660")]
    #[arg(value_parser = mode)]
    uds_mode: u32,

    /// Encrypt what is said on the port: file of the server's certificate and those between it and
    /// the root, in PEM. The files are read again when they change, and on SIGHUP.
    #[arg(long, value_name = "FILE", env = "CAIRN_SSL_CERTFILE", requires = "ssl_keyfile")]
    ssl_certfile: Option<PathBuf>,

    /// File of the certificate's private key, in PEM, not encrypted.
    #[arg(long, value_name = "FILE", env = "CAIRN_SSL_KEYFILE", requires = "ssl_certfile")]
    ssl_keyfile: Option<PathBuf>,

    /// File of the certificates that sign those of clients, in PEM.
    #[arg(long, value_name = "FILE", env = "CAIRN_SSL_CA_CERTS", requires = "ssl_certfile")]
    ssl_ca_certs: Option<PathBuf>,

    /// Whether clients must show a certificate: 0 or none, 1 or optional, 2 or required.
    #[arg(long, value_name = "DEMAND", env = "CAIRN_SSL_CERT_REQS", default_value = "0")]
    #[arg(value_parser = client_certificates)]
    ssl_cert_reqs: ClientCertificates,

    /// Most connections at one time; one more gets status 503.
    #[arg(long, value_name = "N", env = "CAIRN_MAX_CONNECTIONS", default_value = "4096")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_CONNECTIONS), allow_hyphen_values = true)]
    max_connections: usize,

    /// Most connections of one address, or of one IPv6 network of 64 bits [default: no limit].
    #[arg(long, value_name = "N", env = "CAIRN_MAX_CONNECTIONS_PER_IP")]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_CONNECTIONS), allow_hyphen_values = true)]
    max_connections_per_ip: Option<usize>,

    /// Most headers of a request; more get status 431.
    #[arg(long, alias = "h11-max-header-count", value_name = "N", env = "CAIRN_MAX_HEADERS")]
    #[arg(value_parser = values::whole::<usize>(1..=10_000), allow_hyphen_values = true)]
    #[arg(default_value = "256")]
    max_headers: usize,

    /// Most bytes of a request's first line and headers; more get status 431.
    #[arg(long, alias = "h11-max-incomplete-event-size", value_name = "BYTES")]
    #[arg(env = "CAIRN_MAX_HEADER_BYTES", default_value = "64KiB")]
    #[arg(value_parser = header_bytes, allow_hyphen_values = true)]
    max_header_bytes: usize,

    /// Seconds that a client has for a request's headers, and for encrypting a connection.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_HEADER_TIMEOUT", default_value = "30")]
    #[arg(value_parser = values::positive_seconds, allow_hyphen_values = true)]
    header_timeout: Duration,

    /// Seconds that a client has for a request's body.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_BODY_TIMEOUT", default_value = "60")]
    #[arg(value_parser = values::positive_seconds, allow_hyphen_values = true)]
    body_timeout: Duration,

    /// Seconds that a client may not read while there is something to send.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_WRITE_TIMEOUT", default_value = "60")]
    #[arg(value_parser = values::positive_seconds, allow_hyphen_values = true)]
    write_timeout: Duration,

    /// Seconds that a connection stays open between two requests.
    #[arg(long, value_name = "SECONDS", env = "CAIRN_TIMEOUT_KEEP_ALIVE", default_value = "75")]
    #[arg(value_parser = values::positive_seconds, allow_hyphen_values = true)]
    timeout_keep_alive: Duration,

    /// No line in the log about every request.
    #[arg(long, alias = "disable-uvicorn-access-log", env = "CAIRN_DISABLE_ACCESS_LOG")]
    #[arg(value_parser = values::switch())]
    disable_access_log: bool,

    /// Origins of web pages that may call from a browser, as in https://example.com, or *: a JSON
    /// list, or one for each time the flag is given [default: none].
    #[arg(long, value_name = "ORIGIN", env = "CAIRN_ALLOWED_ORIGINS")]
    #[arg(value_parser = texts)]
    allowed_origins: Vec<Texts>,

    /// Methods that those pages may use, likewise [default: all].
    #[arg(long, value_name = "METHOD", env = "CAIRN_ALLOWED_METHODS")]
    #[arg(value_parser = texts)]
    allowed_methods: Vec<Texts>,

    /// Headers that those pages may send, likewise [default: all].
    #[arg(long, value_name = "HEADER", env = "CAIRN_ALLOWED_HEADERS")]
    #[arg(value_parser = texts)]
    allowed_headers: Vec<Texts>,

    /// Let those pages send cookies and certificates of their reader.
    #[arg(long, env = "CAIRN_ALLOW_CREDENTIALS", value_parser = values::switch())]
    allow_credentials: bool,
}

/// One or more texts in the value of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Texts(Vec<String>);

/// What is listened on, and with which encryption.
#[derive(Debug)]
pub(crate) struct Bound {
    port: Option<TcpListener>,
    socket: Option<(UnixListener, SocketFile)>,
    tls: Option<Tls>,
}

/// Sockets ready to be served.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listeners: Vec<Listener>,
    /// Its file is removed when this is dropped.
    pub(crate) socket_file: Option<Arc<SocketFile>>,
    pub(crate) tls: Option<Tls>,
}

impl ListenArgs {
    /// Binds everything, and reads the certificates.
    pub(crate) fn bind(&self) -> anyhow::Result<Bound> {
        let tls = self.tls_files()?.map(Tls::load).transpose();
        let tls = tls
            .hint("`--ssl-certfile` and `--ssl-keyfile` take files in PEM that belong together")?;
        let wants_port = self.uds.is_none() || self.host.is_some() || self.port.is_some();
        let host = self.host.as_deref().unwrap_or(DEFAULT_HOST);
        let port = wants_port.then(|| listen::port(host, self.port.unwrap_or(DEFAULT_PORT)));
        let socket = self.uds.as_ref().map(|path| listen::socket(path, self.uds_mode));
        listen::raise_descriptor_limit();
        Ok(Bound { port: port.transpose()?, socket: socket.transpose()?, tls })
    }

    /// Tells this server from others that serve the same model on this machine.
    pub(crate) fn label(&self) -> String {
        match (&self.uds, self.port) {
            (Some(path), None) => path.display().to_string(),
            (_, port) => port.unwrap_or(DEFAULT_PORT).to_string(),
        }
    }

    fn tls_files(&self) -> Result<Option<TlsFiles>, Usage> {
        let (Some(certificate), Some(key)) = (&self.ssl_certfile, &self.ssl_keyfile) else {
            return Ok(None);
        };
        if self.ssl_cert_reqs != ClientCertificates::None && self.ssl_ca_certs.is_none() {
            let message = "`--ssl-cert-reqs` asks for certificates of clients: `--ssl-ca-certs` \
                           must say who signs them";
            return Err(Usage(message.to_owned()));
        }
        Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_roots: self.ssl_ca_certs.clone(),
            client_certificates: self.ssl_cert_reqs,
        }))
    }

    /// Adds what the flags mean to the server's options.
    pub(crate) fn options(&self, options: ServerOptions) -> Result<ServerOptions, Usage> {
        Ok(ServerOptions {
            max_connections: self.max_connections,
            max_connections_per_ip: self.max_connections_per_ip,
            max_headers: self.max_headers,
            max_header_bytes: self.max_header_bytes,
            max_uri_bytes: options.max_uri_bytes.min(self.max_header_bytes),
            header_read_timeout: self.header_timeout,
            handshake_timeout: self.header_timeout,
            body_read_timeout: self.body_timeout,
            write_stall_timeout: self.write_timeout,
            idle_timeout: self.timeout_keep_alive,
            logs_access: !self.disable_access_log,
            cors: self.cors()?,
            ..options
        })
    }

    fn cors(&self) -> Result<Option<CorsOptions>, Usage> {
        let all = |given: &[Texts]| -> Vec<String> {
            given.iter().flat_map(|Texts(texts)| texts.clone()).collect()
        };
        let or_any = |given: &[Texts]| {
            if given.is_empty() { vec!["*".to_owned()] } else { all(given) }
        };
        let origins = all(&self.allowed_origins);
        if origins.is_empty() {
            return Ok(None);
        }
        let (methods, headers) = (or_any(&self.allowed_methods), or_any(&self.allowed_headers));
        CorsOptions::new(&origins, &methods, &headers, self.allow_credentials)
            .map(Some)
            .map_err(|error| Usage(error.to_string()))
    }
}

impl Bound {
    /// Makes listeners. To be called within a runtime.
    pub(crate) fn listeners(self) -> anyhow::Result<Listening> {
        let Self { port, socket, tls } = self;
        let mut listeners = Vec::new();
        if let Some(port) = port {
            let listener = Listener::tcp(port).context("preparing the port")?;
            listeners.push(match &tls {
                Some(tls) => listener.with_tls(tls.clone()),
                None => listener,
            });
        }
        let mut socket_file = None;
        if let Some((socket, file)) = socket {
            listeners.push(Listener::unix(socket).context("preparing the socket")?);
            socket_file = Some(Arc::new(file));
        }
        Ok(Listening { listeners, socket_file, tls })
    }
}

/// Parser of permissions in octal digits.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected permissions as `chmod` takes them, as in 660".to_owned())
}

/// Parser of what is asked of clients: vLLM has numbers, which are those of Python.
fn client_certificates(text: &str) -> Result<ClientCertificates, String> {
    match text {
        "0" | "none" => Ok(ClientCertificates::None),
        "1" | "optional" => Ok(ClientCertificates::Optional),
        "2" | "required" => Ok(ClientCertificates::Required),
        _ => Err("expected 0 or none, 1 or optional, 2 or required".to_owned()),
    }
}

/// Parser of the size of a request's head.
fn header_bytes(text: &str) -> Result<usize, String> {
    let bytes = values::bytes(text)?;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes as u64 <= MAX_HEADER_BYTES);
    bytes.ok_or_else(|| format!("expected at most {MAX_HEADER_BYTES} bytes"))
}

/// Parser of one text, or of a JSON list of texts.
fn texts(text: &str) -> Result<Texts, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(Texts(vec![text.to_owned()]));
    }
    serde_json::from_str(text)
        .map(Texts)
        .map_err(|error| format!("expected a list of texts: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        listen: ListenArgs,
    }

    fn flags(flags: &[&str]) -> Result<ListenArgs, clap::Error> {
        Flags::try_parse_from([&["cairn"], flags].concat()).map(|flags| flags.listen)
    }

    fn options(typed: &[&str]) -> Result<ServerOptions, Usage> {
        flags(typed).unwrap().options(ServerOptions::new("x"))
    }

    #[test]
    fn nothing_typed_is_the_default() {
        assert_eq!(
            options(&[]).unwrap(),
            ServerOptions { handshake_timeout: Duration::from_secs(30), ..ServerOptions::new("x") }
        );
    }

    #[test]
    fn a_list_is_json_or_given_one_by_one() {
        let one = options(&["--allowed-origins", "https://a", "--allowed-origins", "https://b"]);
        let list = options(&["--allowed-origins", r#"["https://a", "https://b"]"#]);
        assert!(one.as_ref().unwrap().cors.is_some());
        assert_eq!(one.unwrap(), list.unwrap());
        assert!(flags(&["--allowed-origins", "[5]"]).is_err());
        assert!(options(&["--allowed-origins", "[]"]).unwrap().cors.is_none());
        assert!(options(&["--allowed-origins", "*", "--allow-credentials"]).is_err());
    }

    #[test]
    fn encryption_needs_both_files_and_roots_where_clients_are_asked() {
        assert!(flags(&["--ssl-certfile", "a"]).is_err());
        assert!(flags(&["--ssl-keyfile", "a"]).is_err());
        let both = ["--ssl-certfile", "a", "--ssl-keyfile", "b", "--ssl-cert-reqs"];
        let demand = |demand| flags(&[&both[..], &[demand]].concat());
        assert!(demand("0").unwrap().tls_files().unwrap().is_some());
        assert!(demand("required").unwrap().tls_files().is_err());
        assert!(demand("3").is_err());
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("0o600"), Ok(0o600));
        for bad in ["", "rw", "1777", "9", "-1"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}

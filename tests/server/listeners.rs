//! Ports, sockets in the file system, encryption, and what is told when one cannot be had.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::client::{PATIENCE, Server, post_bytes};
use super::model::write_model;
use super::{serve_command, start_server};

const READY: &[u8] = b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A file of certificates or keys; `first`, `second` and `client` were signed by `ca`.
fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls").join(name)
}

/// Sends a request and reads the answer to its end.
fn ask(mut stream: impl Read + Write, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Runs a program that ends by itself: its exit code and what it said.
fn ended(mut command: Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A model's folder, and one for sockets and certificates.
fn folders() -> (tempfile::TempDir, tempfile::TempDir) {
    let (model, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_model(model.path());
    (model, other)
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Started without waiting for a port.
struct Quiet(Child);

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_socket_in_the_file_system_serves_and_is_removed() {
    let (model, folder) = folders();
    let path = folder.path().join("s");
    let flags = ["--uds", path.to_str().unwrap()];
    // Left by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let mut command = serve_command(":", model.path(), &flags);
    let mut child = Quiet(command.stderr(Stdio::null()).spawn().unwrap());
    wait_until("the socket does not answer", || {
        UnixStream::connect(&path).is_ok_and(|stream| ask(stream, READY).contains(" 200 "))
    });
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let (code, said) = ended(serve_command(":", model.path(), &flags));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another program listens there") && said.contains("hint:"), "{said}");
    let body = br#"{"prompt": "a", "max_tokens": 1}"#;
    let request = post_bytes("/v1/completions", body);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&request).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    drop(stream);
    assert!(Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
    assert!(child.0.wait().unwrap().success());
    assert!(!path.exists(), "the socket is still there");
}

#[test]
fn what_is_no_socket_is_not_replaced() {
    let (model, folder) = folders();
    let path = folder.path().join("data");
    fs::write(&path, "precious").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for place in [&path, &link] {
        let flags = ["--uds", place.to_str().unwrap()];
        let (code, said) = ended(serve_command(":", model.path(), &flags));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is no socket"), "{said}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_port_and_a_socket_serve_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = start_server(&["--uds", path.to_str().unwrap(), "--uds-mode", "600"]);
    assert_eq!(server.get("/health").status, 200);
    let answer = ask(UnixStream::connect(&path).unwrap(), HEALTH);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_address_that_cannot_be_had_is_told_with_the_remedy() {
    let (model, _) = folders();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for (flags, code, words) in [
        (["--port", &*port], 1, "hint: stop the program"),
        (["--port", "65536"], 2, "from 0 to 65535"),
        (["--port", "-1"], 2, "from 0 to 65535"),
        (["--port", "http"], 2, "from 0 to 65535"),
        (["--host", "192.0.2.1"], 1, "hint: `--host` takes an address of this machine"),
        (["--host", "no such host"], 1, "hint: `--host` takes"),
        (["--host", ""], 1, "cannot listen"),
        (["--ssl-certfile", "/none"], 2, "--ssl-keyfile"),
        (["--uds", "/no/such/folder/s"], 1, "hint: `--uds`"),
        (["--allowed-origins", "example.com"], 2, "is no origin"),
    ] {
        let (found, said) = ended(serve_command(":", model.path(), &flags));
        assert_eq!(found, Some(code), "{flags:?}: {said}");
        assert!(said.contains(words), "{flags:?}: {said}");
    }
}

#[test]
fn an_ipv6_address_is_listened_on_by_any_of_its_names() {
    if TcpListener::bind("[::1]:0").is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this machine has no IPv6");
        return;
    }
    for host in ["::1", "[::1]"] {
        let server = start_server(&["--host", host]);
        assert!(server.address.is_ipv6(), "{}", server.address);
        assert_eq!(server.get("/health").status, 200);
    }
}

/// A client that trusts the tests' root; it shows a certificate or none.
fn encrypted(server: &Server, shows: bool) -> StreamOwned<ClientConnection, TcpStream> {
    let certificates = |name| CertificateDer::pem_file_iter(pem(name)).unwrap().map(Result::unwrap);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = if shows {
        let key = PrivateKeyDer::from_pem_file(pem("client.key")).unwrap();
        builder.with_client_auth_cert(certificates("client.pem").collect(), key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// Starts an encrypted server; `demand` is whether clients must show a certificate.
fn start_encrypted(certificate: &Path, key: &Path, demand: &str, more: &[&str]) -> Server {
    let (certificate, key, roots) =
        (certificate.to_str().unwrap(), key.to_str().unwrap(), pem("ca.pem"));
    let flags = [
        "--ssl-certfile",
        certificate,
        "--ssl-keyfile",
        key,
        "--ssl-ca-certs",
        roots.to_str().unwrap(),
        "--ssl-cert-reqs",
        demand,
    ];
    start_server(&[&flags, more].concat())
}

#[test]
fn an_encrypted_port_serves_and_tells_plain_clients_so() {
    let server =
        start_encrypted(&pem("first.pem"), &pem("first.key"), "0", &["--header-timeout", "1"]);
    let answer = ask(encrypted(&server, false), HEALTH);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let body = br#"{"prompt": "a", "max_tokens": 3, "stream": true}"#;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = ask(encrypted(&server, false), &[head.as_bytes(), body].concat());
    assert!(answer.contains("data: [DONE]"), "{answer}");
    // Plain words, words that are neither, and none at all.
    let plain = server.get("/health");
    assert_eq!(plain.status, 400);
    assert!(plain.error()["message"].as_str().unwrap().contains("https://"));
    let broken = ask(TcpStream::connect(server.address).unwrap(), &[0x16; 200]);
    assert!(!broken.contains("HTTP"), "{broken}");
    assert_eq!(ask(TcpStream::connect(server.address).unwrap(), b""), "", "it has to be closed");
    let answer = ask(encrypted(&server, false), HEALTH);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_client_without_its_certificate_is_let_in_only_where_it_may() {
    for (demand, without) in [("1", true), ("required", false)] {
        let server = start_encrypted(&pem("first.pem"), &pem("first.key"), demand, &[]);
        assert!(ask(encrypted(&server, true), HEALTH).starts_with("HTTP/1.1 200 "), "{demand}");
        let mut stream = encrypted(&server, false);
        let _ = stream.write_all(HEALTH);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer.starts_with(b"HTTP/1.1 200 "), without, "{demand}");
    }
}

/// The certificate that the server shows.
fn shown(server: &Server) -> Vec<u8> {
    let mut stream = encrypted(server, false);
    stream.write_all(HEALTH).unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_changed_certificate_is_used_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("c"), folder.path().join("k"));
    let put = |name: &str| {
        fs::copy(pem(&format!("{name}.pem")), &certificate).unwrap();
        fs::copy(pem(&format!("{name}.key")), &key).unwrap();
    };
    let der = |name: &str| CertificateDer::from_pem_file(pem(name)).unwrap().to_vec();
    put("first");
    let server = start_encrypted(&certificate, &key, "0", &[]);
    assert_eq!(shown(&server), der("first.pem"));
    let hang_up = || server.signal("-HUP");
    // A key that belongs to another certificate, then no certificate at all.
    fs::copy(pem("second.key"), &key).unwrap();
    hang_up();
    assert_eq!(shown(&server), der("first.pem"));
    fs::write(&certificate, "nonsense").unwrap();
    hang_up();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(shown(&server), der("first.pem"));
    put("second");
    hang_up();
    wait_until("the new certificate is not used", || shown(&server) == der("second.pem"));
    // Without being told to look.
    put("first");
    wait_until("the files are not looked at", || shown(&server) == der("first.pem"));
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_start() {
    let (model, folder) = folders();
    let none = folder.path().join("none");
    let (first, key, other) = (pem("first.pem"), pem("first.key"), pem("second.key"));
    for (certificate, key, words) in [
        (&first, &other, "cannot be used together"),
        (&key, &key, "holds no certificate"),
        (&first, &first, "unencrypted private key"),
        (&none, &key, "none"),
    ] {
        let flags = [
            "--ssl-certfile",
            certificate.to_str().unwrap(),
            "--ssl-keyfile",
            key.to_str().unwrap(),
        ];
        let (code, said) = ended(serve_command(":", model.path(), &flags));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words) && said.contains("hint:"), "{said}");
    }
}

//! A client in plain TCP, because half of what these tests send no HTTP library would send.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::MODEL;

/// Nothing may take this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    /// How long to wait for it.
    pub(crate) patience: Duration,
    /// Deleted with the server.
    pub(crate) _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Runs `serve` until it answers. The folder, if any, is deleted with the server.
    pub(crate) fn start(command: Command, folder: Option<tempfile::TempDir>) -> Self {
        let (server, mut stderr) = Self::start_and_listen(command, folder);
        // Somebody must go on reading, or the program blocks when the pipe is full.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        server
    }

    /// The same, but nobody reads what it says from then on.
    pub(crate) fn start_and_look_away(command: Command, folder: Option<tempfile::TempDir>) -> Self {
        Self::start_and_listen(command, folder).0
    }

    /// The same, with what it says from then on.
    pub(crate) fn start_and_listen(
        mut command: Command,
        folder: Option<tempfile::TempDir>,
    ) -> (Self, BufReader<ChildStderr>) {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let start = said.len();
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "it ended: {said}");
            if let Some((_, url)) = said[start..].split_once("listening on http") {
                break url.split_once("://").unwrap().1.trim().parse().unwrap();
            }
        };
        (Self { address, child, patience: PATIENCE, _folder: folder }, stderr)
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, as `kill` names it.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the program's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < self.patience, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(self.patience)).unwrap();
        stream.set_write_timeout(Some(self.patience)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.connect().exchange(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.connect().exchange(&post_bytes(path, body.as_ref()))
    }

    /// Sends a request with headers of its own, each a line.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        self.connect().exchange(request_bytes(method, path, headers, body).as_bytes())
    }

    pub(crate) fn complete(&self, fields: &Value) -> Reply {
        self.post("/v1/completions", with_model(fields).to_string())
    }

    pub(crate) fn chat(&self, fields: &Value) -> Reply {
        self.post("/v1/chat/completions", with_model(fields).to_string())
    }

    /// The `data:` lines of a streamed answer, which must end with `[DONE]`.
    pub(crate) fn chunks(&self, path: &str, fields: &Value) -> Vec<Value> {
        let reply = self.post(path, with_model(fields).to_string());
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
        let text = String::from_utf8(reply.body).unwrap();
        let mut data: Vec<&str> = text
            .split("\n\n")
            .filter(|event| !event.is_empty() && !event.starts_with(':'))
            .map(|event| event.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|json| serde_json::from_str(json).unwrap()).collect()
    }

    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = String::from_utf8(self.get("/metrics").body).unwrap();
        let line = page.lines().find(|line| line.starts_with(series));
        line.unwrap_or_else(|| panic!("no {series}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    pub(crate) fn assert_serves(&self, after: &str) {
        let reply = self.complete(&json!({"prompt": "a", "max_tokens": 1}));
        assert_eq!(reply.status, 200, "after {after}: {reply:?}");
    }

    /// Waits until no request is left in the engine.
    pub(crate) fn wait_until_idle(&self) {
        let start = Instant::now();
        while self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting")
            > 0.0
        {
            assert!(start.elapsed() < self.patience, "requests of clients that left still run");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

pub(crate) fn with_model(fields: &Value) -> Value {
    let mut body = json!({"model": MODEL});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

pub(crate) fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(crate) fn request_bytes(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().flat_map(|line| [line, "\r\n"]).collect();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error object, checked for its shape.
    pub(crate) fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["message", "type", "param", "code"], "{self:?}");
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        assert!(error["code"].is_string() || error["code"].is_null(), "{self:?}");
        error
    }
}

impl Client {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The server may answer and close before it has read everything.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    pub(crate) fn exchange(mut self, bytes: &[u8]) -> Reply {
        self.send(bytes);
        self.read_reply().expect("an answer")
    }

    /// Status and headers; `None` when the server closed the connection instead.
    pub(crate) fn read_head(&mut self) -> Option<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let Some((key, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Reply { status, headers, body: Vec::new() })
    }

    /// The next answer. What comes before it and says nothing is skipped.
    pub(crate) fn read_reply(&mut self) -> Option<Reply> {
        let mut reply = self.read_head()?;
        while reply.status == 100 {
            reply = self.read_head()?;
        }
        if let Some(length) = reply.header("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut reply.body).unwrap();
        } else if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.read_chunk() {
                reply.body.extend(chunk);
            }
        } else {
            self.stream.read_to_end(&mut reply.body).unwrap();
        }
        Some(reply)
    }

    /// One chunk of a chunked body; `None` after the last.
    pub(crate) fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).unwrap();
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }
}

pub(crate) fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

pub(crate) fn user(content: &str) -> Value {
    json!([{"role": "user", "content": content}])
}

//! As much of HTTP/1.1 as an S3 client speaks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use cairn_graph_cache::Digest;

pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the first slash, decoded.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The length that is announced, where it is not that of the body.
    pub(crate) claimed_bytes: Option<u64>,
}

/// Answers the requests of one connection. One that promised more than it sent is closed.
pub(crate) fn serve(stream: TcpStream, mut answer: impl FnMut(Request) -> Response) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        let is_head = request.method == "HEAD";
        let response = answer(request);
        let is_whole = response.claimed_bytes.is_none();
        if writer.write_all(&response.bytes(is_head)).is_err() || !(is_whole || is_head) {
            return;
        }
    }
}

impl Request {
    fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = decoded(path.trim_start_matches('/'));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Self { method, path, query, headers, body })
    }

    /// The name of what is asked for.
    pub(crate) fn action(&self) -> &'static str {
        let has = |name: &str| self.query.contains_key(name);
        match self.method.as_str() {
            "GET" if has("list-type") => "LIST",
            "GET" => "GET",
            "HEAD" => "HEAD",
            "PUT" if has("uploadId") => "PART",
            "PUT" if self.headers.contains_key("x-amz-copy-source") => "COPY",
            "PUT" => "PUT",
            "POST" if has("uploads") => "BEGIN",
            "POST" if has("uploadId") => "COMPLETE",
            "DELETE" if has("uploadId") => "ABORT",
            "DELETE" => "DELETE",
            _ => "UNKNOWN",
        }
    }

    /// Whether it is signed by the one whom there is, and for this body.
    pub(crate) fn check_signature(&self) -> Result<(), String> {
        let header = |name: &str| self.headers.get(name).ok_or(format!("no header {name}"));
        let signed = header("authorization")?;
        if !signed.starts_with("AWS4-HMAC-SHA256 Credential=ACCESS/") {
            return Err(format!("signed as {signed}"));
        }
        header("x-amz-date")?;
        let digest = header("x-amz-content-sha256")?;
        if digest != "UNSIGNED-PAYLOAD" && *digest != Digest::of(&self.body).to_string() {
            return Err("another body".to_owned());
        }
        Ok(())
    }
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), claimed_bytes: None }
    }

    pub(crate) fn xml(status: u16, xml: &str) -> Self {
        Self { body: xml.as_bytes().to_vec(), ..Self::new(status) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn bytes(&self, is_head: bool) -> Vec<u8> {
        let length = self.claimed_bytes.unwrap_or(self.body.len() as u64);
        let mut text = format!("HTTP/1.1 {} X\r\nContent-Length: {length}\r\n", self.status);
        for (name, value) in &self.headers {
            text.extend([*name, ": ", value, "\r\n"]);
        }
        let mut bytes = (text + "\r\n").into_bytes();
        if !is_head {
            bytes.extend(&self.body);
        }
        bytes
    }
}

/// Without its `%xx`.
pub(crate) fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("a name in UTF-8")
}

//! A small S3 server on this machine that does what S3 does, and whatever wrong it is told to do.
//!
//! It knows objects, conditional puts, ranges, copies, pages of listings and uploads in parts. Every
//! request must be signed and have the body that its signature covers; whether the signature is
//! right is left to real services.

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use cairn_graph_cache::Digest;
use http::{Request, Response};

pub(crate) const BUCKET: &str = "cache";
const LAST_MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

/// What is there, and what is to go wrong.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    num_uploads: usize,
    /// Method and path of every request, in order; an action such as `LIST` in place of the method.
    pub(crate) log: Vec<String>,
    /// Objects per page of a listing; 0: all.
    pub(crate) page: usize,
    /// Actions that are answered with 403: `GET`, `HEAD`, `PUT`, `DELETE`, `LIST`, `COPY`, `PART`.
    pub(crate) denied: BTreeSet<&'static str>,
    /// The message of these answers.
    pub(crate) denial: String,
    /// So many requests are answered with 500.
    pub(crate) num_failures: usize,
    /// This status and code is the answer to everything.
    pub(crate) answer: Option<(u16, &'static str)>,
    /// So many bodies end in the middle.
    pub(crate) num_cut: usize,
    /// A bit of every body is another one.
    pub(crate) flips: bool,
    /// Every answer comes so late.
    pub(crate) delay: Duration,
    /// Every object is said to have so many bytes.
    pub(crate) claimed_bytes: Option<u64>,
    /// Conditional puts are answered with 501.
    pub(crate) is_unconditional: bool,
}

/// A running server.
pub(crate) struct FakeS3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FakeS3 {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // Ends with the process: a test has no server to wait for.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || {
                    http::serve(stream, |request| {
                        let delay = state.lock().unwrap().delay;
                        thread::sleep(delay);
                        state.lock().unwrap().answer(request)
                    });
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl State {
    /// How many requests were of this action.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.log.iter().filter(|line| line.split(' ').next() == Some(action)).count()
    }

    /// Parts of uploads that were neither completed nor aborted.
    pub(crate) fn num_open_uploads(&self) -> usize {
        self.uploads.len()
    }

    fn answer(&mut self, request: Request) -> Response {
        let action = request.action();
        self.log.push(format!("{action} {}", request.path));
        if let Err(what) = request.check_signature() {
            return error(403, "SignatureDoesNotMatch", &what);
        }
        if let Some((status, code)) = self.answer {
            return error(status, code, "as told");
        }
        if self.num_failures > 0 {
            self.num_failures -= 1;
            return error(500, "InternalError", "as told");
        }
        if self.denied.contains(action) {
            return error(403, "AccessDenied", &self.denial);
        }
        let (bucket, key) = request.path.split_once('/').unwrap_or((&request.path, ""));
        if bucket != BUCKET {
            return error(404, "NoSuchBucket", "The specified bucket does not exist");
        }
        let key = key.to_owned();
        match action {
            "LIST" => self.list(&request),
            "GET" | "HEAD" => self.get(&key, &request),
            "COPY" => self.copy(&key, &request),
            "PUT" => self.put(key, request),
            "DELETE" => {
                self.objects.remove(&key);
                Response::new(204)
            }
            "BEGIN" => {
                self.num_uploads += 1;
                let id = format!("upload-{}", self.num_uploads);
                self.uploads.insert(id.clone(), BTreeMap::new());
                let name = "InitiateMultipartUploadResult";
                Response::xml(200, &format!("<{name}><UploadId>{id}</UploadId></{name}>"))
            }
            "PART" => self.put_part(request),
            "COMPLETE" => self.complete(key, &request),
            "ABORT" => match self.uploads.remove(&request.query["uploadId"]) {
                Some(_) => Response::new(204),
                None => error(404, "NoSuchUpload", ""),
            },
            other => error(405, "MethodNotAllowed", other),
        }
    }

    fn get(&mut self, key: &str, request: &Request) -> Response {
        let Some(object) = self.objects.get(key) else {
            return error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let etag = format!("\"{}\"", Digest::of(object));
        let mut body = object.clone();
        let mut response = Response::new(200);
        if let Some(range) = request.headers.get("range") {
            let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let last = last.min(body.len() - 1);
            let of = format!("bytes {first}-{last}/{}", body.len());
            response = Response::new(206).header("Content-Range", of);
            body = body[first..=last].to_vec();
        }
        response = response.header("ETag", etag).header("Last-Modified", LAST_MODIFIED);
        if self.flips
            && let Some(byte) = body.get_mut(object.len() / 2)
        {
            *byte ^= 1;
        }
        response.claimed_bytes = self.claimed_bytes;
        if self.num_cut > 0 && request.method == "GET" {
            self.num_cut -= 1;
            response.claimed_bytes = Some(body.len() as u64);
            body.truncate(body.len() / 2);
        }
        response.body = body;
        response
    }

    fn put(&mut self, key: String, request: Request) -> Response {
        if request.headers.contains_key("if-none-match") {
            if self.is_unconditional {
                return error(501, "NotImplemented", "A header implies what is not there.");
            } else if self.objects.contains_key(&key) {
                return error(412, "PreconditionFailed", "At least one precondition failed");
            }
        }
        let etag = format!("\"{}\"", Digest::of(&request.body));
        self.objects.insert(key, request.body);
        Response::new(200).header("ETag", etag)
    }

    fn copy(&mut self, key: &str, request: &Request) -> Response {
        let from = http::decoded(&request.headers["x-amz-copy-source"]);
        let from = from.trim_start_matches('/').strip_prefix(BUCKET).unwrap();
        match self.objects.get(from.trim_start_matches('/')).cloned() {
            None => error(404, "NoSuchKey", ""),
            Some(object) => {
                self.objects.insert(key.to_owned(), object);
                Response::xml(200, "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
            }
        }
    }

    fn put_part(&mut self, request: Request) -> Response {
        let number = request.query["partNumber"].parse().unwrap();
        let etag = format!("\"{}\"", Digest::of(&request.body));
        match self.uploads.get_mut(&request.query["uploadId"]) {
            None => error(404, "NoSuchUpload", ""),
            Some(parts) => {
                parts.insert(number, request.body);
                Response::new(200).header("ETag", etag)
            }
        }
    }

    fn complete(&mut self, key: String, request: &Request) -> Response {
        let Some(parts) = self.uploads.remove(&request.query["uploadId"]) else {
            return error(404, "NoSuchUpload", "");
        };
        let listed = String::from_utf8_lossy(&request.body).matches("<PartNumber>").count();
        assert_eq!(listed, parts.len());
        self.objects.insert(key, parts.into_values().flatten().collect());
        let name = "CompleteMultipartUploadResult";
        Response::xml(200, &format!("<{name}><ETag>x</ETag></{name}>"))
    }

    fn list(&self, request: &Request) -> Response {
        let prefix = request.query.get("prefix").map_or("", String::as_str);
        let after = request.query.get("continuation-token").cloned().unwrap_or_default();
        let page = if self.page == 0 { usize::MAX } else { self.page };
        let mut found = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && **key > after)
            .peekable();
        let mut xml = String::from("<ListBucketResult>");
        let mut last = "";
        for (key, object) in found.by_ref().take(page) {
            let size = object.len().to_string();
            xml.extend(["<Contents><Key>", key, "</Key><Size>", &size, "</Size><LastModified>"]);
            xml.push_str("2015-10-21T07:28:00.000Z</LastModified><ETag>x</ETag></Contents>");
            last = key;
        }
        if found.peek().is_some() {
            xml.extend(["<NextContinuationToken>", last, "</NextContinuationToken>"]);
        }
        Response::xml(200, &(xml + "</ListBucketResult>"))
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    Response::xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

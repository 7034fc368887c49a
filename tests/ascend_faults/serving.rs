//! The device fails under a server with running requests.
//!
//! ```text
//! 4 requests, 2 at a time --> the k-th execution fails --> each gets an error, or its whole answer
//!                                                     `--> the server ends with a code, or goes on
//! ```

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{COMPLETIONS, Client, PATIENCE, Reply, Server, post_bytes, with_model};
use crate::place::{NUM_GRAPHS, Place, SMALL};

/// Tokens of one answer: with their prompt they fill the context of 256 tokens.
const NUM_TOKENS: usize = 200;
const NUM_REQUESTS: usize = 4;

/// A server in a place, with calls that fail on order.
struct Served<'a> {
    place: &'a Place,
    server: Server,
}

impl<'a> Served<'a> {
    fn start(place: &'a Place, script: &str) -> Self {
        let log = place.toolkit.file("calls.log");
        let _ = std::fs::remove_file(log);
        let own = ["serve", "model", "--backend", "ascend", "--port", "0", "--device-timeout", "3"];
        let args = [&own[..], &SMALL, &["--served-model-name", crate::MODEL]].concat();
        let stderr = place.deployment.path("serve.log");
        let mut command = place.deployment.process(&args);
        command.env("CANN_SIM_FAIL", script).stdout(Stdio::null());
        let child = command.stderr(File::create(&stderr).unwrap()).spawn().unwrap();
        // Killed when it does not come to listen.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server { address: nowhere, child, patience: PATIENCE, _folder: None };
        let mut served = Self { place, server };
        served.server.address = served.wait_for_address();
        served
    }

    fn wait_for_address(&mut self) -> SocketAddr {
        let start = Instant::now();
        loop {
            let said = self.stderr();
            if let Some((_, address)) = said.split_once("listening on http://")
                && let Some((address, _)) = address.split_once('\n')
            {
                return address.parse().unwrap();
            }
            assert!(self.server.child.try_wait().unwrap().is_none(), "it ended: {said}");
            assert!(start.elapsed() < PATIENCE, "it does not listen: {said}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.place.deployment.path("serve.log")).unwrap()
    }

    /// Sends all requests at once, every other one streamed, and waits for all answers. Who comes too
    /// late, to a server that ends, has none.
    fn answers(&self) -> Vec<Answer> {
        let clients: Vec<Client> = (0..NUM_REQUESTS).map(|_| self.server.connect()).collect();
        let clients = clients.into_iter().enumerate().map(|(idx, mut client)| {
            client.send(&request(idx, idx % 2 == 0));
            client
        });
        let clients: Vec<Client> = clients.collect();
        let replies = clients.into_iter().map(|mut client| client.read_reply());
        replies
            .map(|reply| reply.map_or_else(Answer::too_late, |reply| Answer::of(&reply)))
            .collect()
    }

    /// The code that it ends with by itself.
    fn exit_code(&mut self) -> Option<i32> {
        self.server.ended().code()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.toolkit.file("calls.log")).unwrap()
    }
}

fn request(idx: usize, stream: bool) -> Vec<u8> {
    let fields = json!({
        "prompt": format!("{idx}"), "max_tokens": NUM_TOKENS, "ignore_eos": true,
        "temperature": 0, "stream": stream,
    });
    post_bytes(COMPLETIONS, with_model(&fields).to_string().as_bytes())
}

/// What a client got.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    /// What came before the end or the error.
    text: String,
    /// The error object, in place of an answer or within its stream.
    error: Option<Value>,
}

impl Answer {
    fn too_late() -> Self {
        Self { text: String::new(), error: Some(json!({"code": "engine_stopped"})) }
    }

    fn of(reply: &Reply) -> Self {
        let mut answer = Self { text: String::new(), error: None };
        let is_stream =
            reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        if !is_stream {
            let body = reply.json();
            match body.get("error") {
                Some(_) => answer.error = Some(reply.error()),
                None => answer.add(&body),
            }
            assert_eq!(reply.status == 200, answer.error.is_none(), "{reply:?}");
            return answer;
        }
        let text = String::from_utf8(reply.body.clone()).unwrap();
        let mut events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        // The end of a stream is its last event: that it is done, or why it is not.
        loop {
            let event = events.next().unwrap_or_else(|| panic!("the stream was cut: {text}"));
            if event == "[DONE]" {
                break;
            }
            let event: Value = serde_json::from_str(event).unwrap();
            if let Some(error) = event.get("error") {
                answer.error = Some(error.clone());
                break;
            }
            answer.add(&event);
        }
        assert_eq!(events.next(), None, "something follows the end: {text}");
        answer
    }

    fn add(&mut self, body: &Value) {
        self.text += body["choices"][0]["text"].as_str().unwrap_or_default();
    }
}

/// A place with a full cache, and the right answers.
fn warm() -> (Place, Vec<Answer>) {
    let place = Place::warm();
    let served = Served::start(&place, "");
    let right = served.answers();
    assert!(right.iter().all(|answer| answer.error.is_none()), "{right:?}");
    drop(served);
    (place, right)
}

/// No answer is wrong: each is whole, or an error, and what came before it is right.
fn assert_right_so_far(answers: &[Answer], right: &[Answer]) {
    for (answer, right) in answers.iter().zip(right) {
        match &answer.error {
            None => assert_eq!(answer, right),
            Some(_) => assert!(right.text.starts_with(&answer.text), "{answer:?}, {right:?}"),
        }
    }
}

/// The device fails for good: everybody is told, the server ends, and the next one is as good as new.
fn assert_server_dies(script: &str, exit_code: i32, num_stale: usize) {
    let (place, right) = warm();
    let mut served = Served::start(&place, script);
    let answers = served.answers();
    assert_right_so_far(&answers, &right);
    let errors: Vec<&Value> = answers.iter().filter_map(|answer| answer.error.as_ref()).collect();
    let is_code = |error: &Value, code| error["code"] == code;
    // Those whose requests were there are told that it died; those who come later, that it is over.
    assert!(errors.iter().any(|error| is_code(error, "engine_died")), "{script}: {answers:?}");
    let codes = ["engine_died", "engine_stopped", "draining"];
    for error in errors {
        assert!(codes.iter().any(|code| is_code(error, *code)), "{script}: {answers:?}");
    }
    // Somebody has been told: from now on it is not ready, if it is still there at all.
    if let Ok(stream) = std::net::TcpStream::connect(served.server.address) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { stream: std::io::BufReader::new(stream) };
        client.send(b"GET /health/ready HTTP/1.1\r\nhost: x\r\n\r\n");
        let head = client.read_head();
        assert!(head.as_ref().is_none_or(|head| head.status == 503), "{script}: {head:?}");
    }
    assert_eq!(served.exit_code(), Some(exit_code), "{script}: {}", served.stderr());
    let said = served.stderr();
    assert!(said.contains("the engine died: every request fails"), "{said}");
    assert!(said.contains("error: serving: ") && said.contains("\nhint: "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(served.log().contains("violations: 0"), "{script}");

    let next = Served::start(&place, "");
    assert_eq!(next.answers(), right, "{script}");
    let expected = format!("graphs: {num_stale} compiled, {} from cache", NUM_GRAPHS - num_stale);
    assert!(next.stderr().contains(&expected), "{}", next.stderr());
}

#[test]
fn an_exception_of_the_device_ends_the_server_with_3() {
    assert_server_dies("aclmdlExecuteAsync:30=async:507015", 3, 0);
}

#[test]
fn a_lost_device_ends_the_server_with_4() {
    assert_server_dies("aclmdlExecuteAsync:1=507054", 4, 0);
    assert_server_dies("aclrtSynchronizeStreamWithTimeout:100=507010", 4, 0);
}

#[test]
fn a_step_that_never_ends_ends_the_server_with_3() {
    assert_server_dies("aclmdlExecuteAsync:50=hang", 3, 0);
    assert_server_dies("aclrtSynchronizeStreamWithTimeout:7=hang", 3, 0);
}

#[test]
fn a_stale_graph_ends_the_server_with_3_and_is_compiled_by_the_next() {
    assert_server_dies("aclmdlExecuteAsync:40=145020", 3, 1);
}

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    let (place, right) = warm();
    for (function, nth, code) in [
        ("aclmdlExecuteAsync", 30, 107_002),
        ("aclrtMemcpyAsync", 61, 207_018),
        ("aclrtSynchronizeStreamWithTimeout", 20, 207_001),
        ("aclmdlExecuteAsync", 150, 100_000),
    ] {
        let script = format!("{function}:{nth}={code}");
        let mut served = Served::start(&place, &script);
        let answers = served.answers();
        assert_right_so_far(&answers, &right);
        let failed: Vec<&Value> =
            answers.iter().filter_map(|answer| answer.error.as_ref()).collect();
        // Two at a time were running.
        assert!((1..=2).contains(&failed.len()), "{script}: {answers:?}");
        for error in failed {
            assert_eq!(error["type"], "server_error", "{script}: {answers:?}");
            assert!(!error.to_string().contains("acl"), "inner matters are told: {error}");
        }
        assert!(served.stderr().contains(&format!("`{function}` failed: ")), "{}", served.stderr());
        assert_eq!(served.server.get("/health/ready").status, 200);
        assert_eq!(served.answers(), right, "{script}");
        served.server.terminate();
        assert_eq!(served.exit_code(), Some(0), "{script}");
        let log = served.log();
        assert!(log.ends_with("leaks: 0\nviolations: 0\n"), "{script}: {:?}", log.lines().last());
    }
}

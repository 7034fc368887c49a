//! Bad inputs, as a table: what is sent, and the status and the error object that come back.
//!
//! | Group | Of | File |
//! | --- | --- | --- |
//! | J | JSON that is none, or odd | `json` |
//! | P | parameters | `parameters` |
//! | Q, M | prompts, messages | `prompts` |
//! | S | schemas and other shapes of the output | `schemas` |
//! | Z | sizes | `sizes` |
//! | H | HTTP itself | `http` |
//!
//! Each group has a server of its own, whose address space is limited: what takes memory without
//! bound ends the server and fails the test. After every case the server is ready, after every
//! group it still generates, and it has not grown by much.
//!
//! Clients that leave, stall or come in crowds are not data: see `clients`.

mod clients;
mod http;
mod json;
mod parameters;
mod prompts;
mod schemas;
mod sizes;

use std::collections::BTreeSet;
use std::net::Shutdown;

use serde_json::Value;

use super::client::{CHAT, COMPLETIONS, Reply, Server, post_bytes};
use super::start_server_within;

/// The server's address space, in KiB: a few times what it needs.
const ADDRESS_SPACE_KIB: u64 = 6 << 20;
/// What a group may leave behind in memory.
const MAX_GROWTH_KIB: u64 = 192 << 10;
/// There must be at least as many cases.
const MIN_CASES: usize = 120;

/// One line of the table.
pub(super) struct Case {
    name: String,
    bytes: Vec<u8>,
    expected: Expected,
}

/// What comes back.
enum Expected {
    /// An answer.
    Ok,
    /// An error object.
    Error(Refused),
    /// An answer, or an error object of the client's.
    OkOrRefused,
    /// The connection closes; a refusal may come before.
    Closed,
}

/// What an error says.
struct Refused {
    status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    param: Param,
}

/// The field that an error names.
enum Param {
    None,
    Is(String),
    /// The field, or something in it.
    Within(&'static str),
    /// It is not said which.
    Any,
}

/// A request as it is on the wire.
fn raw(name: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name: name.into(), bytes: bytes.into(), expected }
}

/// A body for `/v1/completions`.
fn completion(name: impl Into<String>, body: impl AsRef<[u8]>, expected: Expected) -> Case {
    raw(name, post_bytes(COMPLETIONS, body.as_ref()), expected)
}

/// A body for `/v1/chat/completions`.
fn chat(name: impl Into<String>, body: impl AsRef<[u8]>, expected: Expected) -> Case {
    raw(name, post_bytes(CHAT, body.as_ref()), expected)
}

/// 400, with no field to blame.
fn bad() -> Expected {
    Refused::expected(400, None, Param::None)
}

/// 400 because of one field.
fn bad_param(param: &str) -> Expected {
    Refused::expected(400, None, Param::Is(param.to_owned()))
}

/// 400 because of something in one field.
fn bad_within(param: &'static str) -> Expected {
    Refused::expected(400, None, Param::Within(param))
}

/// The client's fault, by status and code.
fn refused(status: u16, code: Option<&'static str>) -> Expected {
    Refused::expected(status, code, Param::Any)
}

impl Refused {
    fn expected(status: u16, code: Option<&'static str>, param: Param) -> Expected {
        Expected::Error(Self { status, kind: "invalid_request_error", code, param })
    }

    fn check(&self, name: &str, reply: &Reply) {
        assert_eq!(reply.status, self.status, "{name}: {reply:?}");
        let error = reply.error();
        assert_eq!(error["type"], self.kind, "{name}: {error}");
        assert_eq!(error["code"].as_str(), self.code, "{name}: {error}");
        let param = error["param"].as_str();
        match &self.param {
            Param::None => assert_eq!(param, None, "{name}: {error}"),
            Param::Is(expected) => assert_eq!(param, Some(&**expected), "{name}: {error}"),
            Param::Within(field) => {
                assert!(param.is_some_and(|param| param.starts_with(field)), "{name}: {error}");
            }
            Param::Any => {}
        }
    }
}

impl Case {
    fn run(&self, server: &Server) {
        let name = &self.name;
        let mut client = server.connect();
        client.send(&self.bytes);
        // What is cut short shows only when no more can come.
        let _ = client.stream.get_mut().shutdown(Shutdown::Write);
        let reply = client.read_reply();
        let answer = || reply.as_ref().unwrap_or_else(|| panic!("{name}: no answer"));
        match &self.expected {
            Expected::Ok => assert_eq!(answer().status, 200, "{name}: {reply:?}"),
            Expected::Error(refused) => refused.check(name, answer()),
            Expected::OkOrRefused => {
                let reply = answer();
                assert!([200, 400].contains(&reply.status), "{name}: {reply:?}");
                if reply.status == 400 {
                    assert_eq!(reply.error()["type"], "invalid_request_error", "{name}");
                }
            }
            Expected::Closed => {
                assert!(
                    reply.as_ref().is_none_or(|reply| reply.status >= 400),
                    "{name}: {reply:?}"
                );
            }
        }
        assert_eq!(server.get("/health/ready").status, 200, "after {name}");
    }
}

/// Runs a group on a server of its own.
fn run(group: &str, cases: &[Case]) {
    let server = start_server_within(&format!("ulimit -v {ADDRESS_SPACE_KIB}"), &[]);
    server.assert_serves("nothing");
    let before = rss_kib(&server);
    for case in cases {
        case.run(&server);
    }
    server.wait_until_idle();
    server.assert_serves(group);
    let growth = rss_kib(&server).saturating_sub(before);
    assert!(growth < MAX_GROWTH_KIB, "{group}: {growth} KiB were not given back");
}

/// The memory that the server has now.
fn rss_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_table_is_long_and_each_case_has_its_name() {
    let groups = [
        json::cases(),
        parameters::cases(),
        prompts::cases(),
        schemas::cases(),
        sizes::cases(),
        http::cases(),
    ];
    let cases: Vec<&Case> = groups.iter().flatten().collect();
    assert!(cases.len() >= MIN_CASES, "{}", cases.len());
    let names: BTreeSet<&str> = cases.iter().map(|case| &*case.name).collect();
    assert_eq!(names.len(), cases.len());
}

#[test]
fn json_that_is_none_is_refused() {
    run("J", &json::cases());
}

#[test]
fn parameters_that_cannot_be_are_named() {
    run("P", &parameters::cases());
}

#[test]
fn prompts_and_messages_that_are_none_are_named() {
    run("Q and M", &prompts::cases());
}

#[test]
fn schemas_that_cannot_be_are_refused() {
    run("S", &schemas::cases());
}

#[test]
fn sizes_are_bounded() {
    run("Z", &sizes::cases());
}

#[test]
fn http_that_is_none_is_refused() {
    run("H", &http::cases());
}

/// A value as JSON text, for the name of a case.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let end = text.floor_char_boundary(40);
    text[..end].to_owned()
}

//! Clients that leave, wait or come in crowds, and the way out.

use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{COMPLETIONS, Client, PATIENCE, Reply, Server, post_bytes};
use super::model::write_model;
use super::{CONTEXT, serve_command, start_server, start_server_within};

fn long_stream() -> Vec<u8> {
    let body = json!({"prompt": "a", "max_tokens": CONTEXT, "ignore_eos": true, "stream": true});
    post_bytes(COMPLETIONS, body.to_string().as_bytes())
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let server = start_server(&[]);
    for reads_first in [false, true] {
        for _ in 0..20 {
            let mut client = server.connect();
            client.send(&long_stream());
            if reads_first {
                assert_eq!(client.read_head().unwrap().status, 200);
                client.read_chunk().unwrap();
            }
        }
    }
    // Not streamed: nothing is read until the answer is whole.
    let whole = json!({"prompt": ["a", "b"], "max_tokens": 1_900, "ignore_eos": true});
    server.connect().send(&post_bytes(COMPLETIONS, whole.to_string().as_bytes()));
    server.wait_until_idle();
    server.assert_serves("clients that left");
}

#[test]
fn half_open_and_idle_connections_delay_nobody() {
    let server = start_server(&[]);
    let idle: Vec<Client> = (0..300)
        .map(|i| {
            let mut client = server.connect();
            if i < 200 {
                client.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-le");
            }
            client
        })
        .collect();
    let start = Instant::now();
    assert_eq!(server.get("/health").status, 200);
    server.assert_serves("300 open connections");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(idle);
}

#[test]
fn a_full_queue_says_429_and_when_to_come_back() {
    let server = start_server(&["--max-num-seqs", "1", "--max-num-queued-reqs", "1"]);
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&long_stream());
    }
    let heads: Vec<Reply> = clients.iter_mut().map(|client| client.read_head().unwrap()).collect();
    assert!(heads.iter().any(|head| head.status == 200), "{heads:?}");
    let refused: Vec<&Reply> = heads.iter().filter(|head| head.status != 200).collect();
    assert!(!refused.is_empty());
    for head in refused {
        assert_eq!(head.status, 429, "{head:?}");
        assert!(seconds_to_wait(head) >= 1);
    }
    drop(clients);
    server.wait_until_idle();
    server.assert_serves("overload");
}

/// What `retry-after` says.
fn seconds_to_wait(reply: &Reply) -> u64 {
    reply.header("retry-after").unwrap().parse().unwrap()
}

#[test]
fn a_queue_full_of_tokens_says_429_too() {
    // The KV cache holds one sequence, and hardly more may wait.
    let limits =
        ["--max-num-seqs", "1", "--max-model-len", "1000", "--max-num-queued-tokens", "10"];
    let server = start_server(&limits);
    let body =
        json!({"prompt": "x".repeat(600), "ignore_eos": true, "stream": true, "max_tokens": 400});
    let mut first = server.connect();
    first.send(&post_bytes(COMPLETIONS, body.to_string().as_bytes()));
    assert_eq!(first.read_head().unwrap().status, 200);
    let refused = server.post(COMPLETIONS, body.to_string());
    assert_eq!((refused.status, &refused.error()["code"]), (429, &json!("rate_limit_exceeded")));
    assert!(seconds_to_wait(&refused) >= 1);
    server.assert_serves("a prompt that was too much");
    drop(first);
    server.wait_until_idle();
    let alone = json!({"prompt": "x".repeat(600), "max_tokens": 1});
    assert_eq!(server.complete(&alone).status, 200);
}

#[test]
fn a_request_that_takes_too_long_fails_and_the_next_is_served() {
    let server = start_server(&[]);
    let mut fields =
        json!({"prompt": "a", "max_tokens": 2_000, "ignore_eos": true, "timeout": 0.01});
    let late = server.complete(&fields);
    assert_eq!((late.status, &late.error()["code"]), (504, &json!("request_timed_out")));
    fields["stream"] = true.into();
    let stream = server.complete(&fields);
    let text = String::from_utf8(stream.body).unwrap();
    assert_eq!(stream.status, 200, "what has begun cannot be taken back");
    assert!(text.contains(r#""code":"request_timed_out""#) && !text.contains("[DONE]"), "{text}");
    assert!(server.metric("cairn_requests_timed_out_total") >= 2.0);
    server.assert_serves("requests that took too long");

    let server = start_server(&["--request-timeout", "0.01"]);
    fields = json!({"prompt": "a", "max_tokens": 2_000, "ignore_eos": true});
    assert_eq!(server.complete(&fields).status, 504);
    fields["timeout"] = 60.into();
    fields["max_tokens"] = 1_000.into();
    assert_eq!(server.complete(&fields).status, 200, "a request may ask for more");
}

#[test]
fn every_policy_serves() {
    for policy in ["fcfs", "priority", "shortest", "deadline"] {
        let server = start_server(&["--scheduling-policy", policy]);
        let fields = json!({"prompt": "a", "max_tokens": 2, "priority": -1, "deadline": 0.5});
        assert_eq!(server.complete(&fields).status, 200, "{policy}");
    }
}

#[cfg(unix)]
#[test]
fn a_terminated_server_finishes_its_answers_and_exits_well() {
    let mut server = start_server(&[]);
    let mut client = server.connect();
    client.send(&long_stream());
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut text = client.read_chunk().unwrap();
    server.terminate();
    while let Some(chunk) = client.read_chunk() {
        text.extend(chunk);
    }
    assert!(text.ends_with(b"data: [DONE]\n\n"), "the stream was cut");
    let status = server.ended();
    assert!(status.success(), "{status}");
    assert!(TcpStream::connect(server.address).is_err(), "the port is still open");
}

#[test]
fn a_request_that_is_never_finished_holds_up_no_drain() {
    // Far longer than the test waits.
    let mut server = start_server(&["--drain-timeout", "3000"]);
    let (mut half_head, mut half_body) = (server.connect(), server.connect());
    half_head.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n");
    half_body.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
    // An answer on a later connection: the server has seen the two.
    server.assert_serves("two requests were begun");
    server.terminate();
    let status = server.ended();
    assert!(status.success(), "{status}");
}

#[test]
fn a_terminated_server_under_load_refuses_what_is_new_and_finishes_the_rest() {
    let mut server = start_server(&["--drain-timeout", "3000"]);
    let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(&long_stream());
        assert_eq!(client.read_head().unwrap().status, 200);
    }
    let mut open = server.connect();
    open.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(open.read_reply().unwrap().status, 200);
    server.terminate();
    let start = Instant::now();
    let draining = loop {
        let ready = server.get("/health/ready");
        if ready.status == 503 {
            break ready;
        }
        assert!(start.elapsed() < PATIENCE, "it is still ready");
    };
    assert_eq!(draining.json()["status"], "draining");
    assert_eq!(draining.header("connection"), Some("close"));
    let refused = server.complete(&json!({"prompt": "a", "max_tokens": 1}));
    assert_eq!((refused.status, &refused.error()["code"]), (503, &json!("draining")));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(seconds_to_wait(&refused) >= 1);
    for client in &mut clients {
        let mut text = Vec::new();
        while let Some(chunk) = client.read_chunk() {
            text.extend(chunk);
        }
        assert!(text.ends_with(b"data: [DONE]\n\n"), "a stream was cut");
    }
    assert!(server.ended().success());
}

#[test]
fn a_second_signal_stops_at_once_and_says_which() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut server = start_server(&["--drain-timeout", "3000"]);
        let mut client = server.connect();
        // Far more than is generated while the test looks.
        let body = json!({
            "prompt": "a", "max_tokens": CONTEXT, "ignore_eos": true, "stream": true, "n": 16,
        });
        client.send(&post_bytes(COMPLETIONS, body.to_string().as_bytes()));
        assert_eq!(client.read_head().unwrap().status, 200);
        server.terminate();
        while server.get("/health/ready").status != 503 {}
        server.signal(signal);
        assert_eq!(server.ended().code(), Some(code), "{signal}");
    }
}

#[test]
fn a_server_without_descriptors_refuses_clients_and_recovers() {
    let server = start_server_within("ulimit -n 64", &["--max-connections", "1000"]);
    server.assert_serves("nothing");
    let mut open: Vec<Client> = (0..64).map(|_| server.connect()).collect();
    // Whoever comes too late is told so; everybody else is still connected.
    let mut late = server.connect();
    let refused = late.read_reply().expect("a refusal");
    assert_eq!((refused.status, &refused.error()["code"]), (503, &json!("overloaded")));
    open[0].send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(open[0].read_reply().unwrap().status, 200);
    drop((open, late));
    let start = Instant::now();
    loop {
        let mut client = server.connect();
        client.send(&post_bytes(COMPLETIONS, br#"{"prompt": "a", "max_tokens": 1}"#));
        match client.read_reply() {
            Some(reply) if reply.status == 200 => break,
            reply => assert!(start.elapsed() < PATIENCE, "it does not recover: {reply:?}"),
        }
    }
}

#[test]
fn closed_streams_of_the_process_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    // Stderr tells the port and is closed then; stdout and stdin were never open.
    let flags = ["--port", "0", "--log-level", "debug"];
    let command = serve_command("exec <&- >&-", folder.path(), &flags);
    let mut server = Server::start_and_look_away(command, Some(folder));
    for _ in 0..50 {
        server.assert_serves("its log went nowhere");
    }
    server.terminate();
    assert!(server.ended().success());
}

#[test]
fn a_killed_server_starts_again_on_the_same_port_and_cache() {
    let (model, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_model(model.path());
    let mut port = "0".to_owned();
    for round in 0..4 {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cairn"));
        command
            .arg("serve")
            .arg(model.path())
            .args(["--served-model-name", super::MODEL, "--port", &port, "--cache-dir"])
            .arg(cache.path())
            .stdin(Stdio::null());
        let mut server = Server::start(command, None);
        port = server.address.port().to_string();
        let mut client = server.connect();
        client.send(&long_stream());
        assert_eq!(client.read_head().unwrap().status, 200, "round {round}");
        server.child.kill().unwrap();
        server.child.wait().unwrap();
    }
    let left: Vec<_> = walk(cache.path()).filter(|name| name.contains(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The names of all files in a folder.
fn walk(folder: &std::path::Path) -> Box<dyn Iterator<Item = String>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    Box::new(entries.flat_map(|entry| {
        let name = std::iter::once(entry.file_name().into_string().unwrap());
        let inside: Box<dyn Iterator<Item = String>> =
            if entry.path().is_dir() { walk(&entry.path()) } else { Box::new(std::iter::empty()) };
        name.chain(inside)
    }))
}

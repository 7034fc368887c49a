//! Clients that leave, wait or come in crowds, and the way out.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{COMPLETIONS, Client, Reply, post_bytes};
use super::{CONTEXT, start_server};

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

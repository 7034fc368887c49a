//! D: clients that stall, vanish or come in crowds. Those that leave are in `lifecycle`.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::client::{COMPLETIONS, Client, PATIENCE, post_bytes};
use super::super::start_server;

#[test]
fn a_client_that_never_reads_loses_its_request() {
    let server = start_server(&["--write-timeout", "1"]);
    // More than the buffers of both machines hold.
    let body = json!({
        "prompt": "a", "max_tokens": 1_900, "ignore_eos": true, "stream": true, "n": 8, "logprobs": 20,
    });
    let mut client = server.connect();
    client.send(&post_bytes(COMPLETIONS, body.to_string().as_bytes()));
    assert_eq!(client.read_head().unwrap().status, 200);
    server.wait_until_idle();
    server.assert_serves("a client that never reads");
    drop(client);
}

#[test]
fn slow_heads_are_told_so_and_fresh_connections_are_closed() {
    let server = start_server(&["--header-timeout", "2", "--timeout-keep-alive", "2"]);
    let mut half: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = server.connect();
            client.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-le");
            client
        })
        .collect();
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(idle.read_reply().unwrap().status, 200);
    assert_eq!(server.get("/health").status, 200, "with 200 half-open connections");
    for client in &mut half {
        let reply = client.read_reply().unwrap();
        assert_eq!((reply.status, &reply.error()["type"]), (408, &json!("invalid_request_error")));
    }
    assert!(silent.read_reply().is_none() && idle.read_reply().is_none());
    server.assert_serves("slow clients");
}

#[test]
fn a_slow_body_is_told_so() {
    let server = start_server(&["--body-timeout", "0.5"]);
    let mut client = server.connect();
    client.send(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{");
    assert_eq!(client.read_reply().unwrap().status, 408);
    server.assert_serves("a slow body");
}

#[test]
fn a_client_that_has_said_all_gets_its_answer() {
    let server = start_server(&[]);
    for stream in [false, true] {
        let body = json!({"prompt": "a", "max_tokens": 500, "ignore_eos": true, "stream": stream});
        let mut client = server.connect();
        client.send(&post_bytes(COMPLETIONS, body.to_string().as_bytes()));
        client.stream.get_mut().shutdown(Shutdown::Write).unwrap();
        let reply = client.read_reply().unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        if stream {
            assert!(reply.body.ends_with(b"data: [DONE]\n\n"));
        } else {
            assert_eq!(reply.json()["usage"]["completion_tokens"], 500);
        }
        assert!(client.read_reply().is_none(), "there is nothing more to say");
    }
}

#[test]
fn a_client_that_is_gone_before_its_answer_is_noticed() {
    let server = start_server(&["--max-num-seqs", "1"]);
    let body = json!({"prompt": "a", "max_tokens": 1_900, "ignore_eos": true, "n": 1});
    // One after the other they would take far longer than anybody waits.
    for _ in 0..200 {
        server.connect().send(&post_bytes(COMPLETIONS, body.to_string().as_bytes()));
    }
    let is_abort = |line: &&str| line.contains(r#"finished_reason="abort""#);
    let start = Instant::now();
    loop {
        let page = String::from_utf8(server.get("/metrics").body).unwrap();
        let (_, count) = page.lines().find(is_abort).unwrap().rsplit_once(' ').unwrap();
        if count.parse::<f64>().unwrap() > 100.0 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "only {count} were noticed");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.wait_until_idle();
    server.assert_serves("clients that are gone");
}

#[test]
fn one_address_cannot_take_every_connection() {
    let server = start_server(&["--max-connections-per-ip", "3"]);
    let open: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    let mut one_more = server.connect();
    let refused = one_more.read_reply().unwrap();
    assert_eq!((refused.status, &refused.error()["code"]), (503, &json!("overloaded")));
    drop(open);
    std::thread::sleep(Duration::from_millis(200));
    server.assert_serves("too many connections");
}

#[test]
fn a_server_takes_as_many_connections_as_it_is_told() {
    let server = start_server(&["--max-connections", "2"]);
    let open = [server.connect(), server.connect()];
    let refused = server.connect().read_reply().unwrap();
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("connection"), Some("close"));
    drop(open);
    std::thread::sleep(Duration::from_millis(200));
    server.assert_serves("too many connections");
}

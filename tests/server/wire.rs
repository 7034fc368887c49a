//! HTTP itself: sizes, paths, methods, bytes that are no request, and the lesser used parts.

use std::net::Shutdown;

use serde_json::json;

use super::client::{COMPLETIONS, post_bytes};
use super::start_server;

#[test]
fn a_body_that_is_too_large_is_refused_whether_declared_or_not() {
    let server = start_server(&["--max-body-bytes", "64KiB"]);
    let body = "x".repeat(100_000);
    let reply = server.post(COMPLETIONS, &body);
    assert_eq!((reply.status, &reply.error()["code"]), (413, &json!("body_too_large")));
    let head =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(server.connect().exchange(format!("{head}{chunk}").as_bytes()).status, 413);
    let huge = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
         content-length: 999999999999\r\n\r\n"
    );
    assert_eq!(server.connect().exchange(huge.as_bytes()).status, 413);
    server.assert_serves("large bodies");
}

#[test]
fn paths_and_methods_that_are_none_are_told_so() {
    let server = start_server(&[]);
    for path in
        ["/x", "/v1", "/v1/rerank", "/../../etc/passwd", "/v1/models/../../health", "/%2e%2e/x"]
    {
        let reply = server.get(path);
        assert_eq!(
            (reply.status, &reply.error()["type"]),
            (404, &json!("invalid_request_error")),
            "{path}"
        );
    }
    for (request, allow) in [
        ("GET /v1/completions", "POST"),
        ("DELETE /v1/chat/completions", "POST"),
        ("BREW /v1/completions", "POST"),
        ("POST /v1/models", "GET,HEAD"),
        ("PUT /health", "GET,HEAD"),
        ("POST /v1/models/tiny", "GET,HEAD"),
    ] {
        let bytes = format!("{request} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let reply = server.connect().exchange(bytes.as_bytes());
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{request}");
        reply.error();
        let all: Vec<_> = reply.headers.iter().filter(|(key, _)| key == "allow").collect();
        assert_eq!(all.len(), 1, "{request}");
    }
}

#[test]
fn bytes_that_are_no_request_end_the_connection_and_nothing_else() {
    let server = start_server(&[]);
    let post = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n");
    let headers = (0..20_000).fold(String::new(), |headers, i| headers + &format!("h{i}: v\r\n"));
    let cases: Vec<Vec<u8>> = [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "hello\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".to_owned() + &"\0".repeat(500),
        format!("{post}content-length: -1\r\n\r\n{{}}"),
        format!("{post}content-length: 99999999999999999999999\r\n\r\n{{}}"),
        format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
        format!("{post}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
        format!("{post}x: {}\r\n\r\n", "a".repeat(1 << 20)),
        format!("{post}{headers}\r\n"),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100 << 10)),
        "GET /health HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        format!("{post}content-length: 100\r\n\r\n{{\"prompt\""),
        format!("{post}content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{{}}"),
    ]
    .map(String::into_bytes)
    .into_iter()
    .collect();
    for case in &cases {
        let shown = String::from_utf8_lossy(&case[..case.len().min(90)]).into_owned();
        let mut client = server.connect();
        client.send(case);
        let _ = client.stream.get_mut().shutdown(Shutdown::Write);
        let reply = client.read_reply();
        assert!(reply.as_ref().is_none_or(|reply| reply.status >= 400), "{shown}: {reply:?}");
        assert_eq!(server.get("/health").status, 200, "after {shown}");
    }
    server.assert_serves("bytes that are no request");
}

#[test]
fn lesser_used_parts_of_http_work() {
    let server = start_server(&[]);
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let length = body.len();
    // HTTP/1.0, without a host.
    let old = format!("POST {COMPLETIONS} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
    assert_eq!(server.connect().exchange(old.as_bytes()).status, 200);
    // A content type that is not JSON's.
    let form = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    assert_eq!(server.connect().exchange(form.as_bytes()).status, 200);
    // A client that asks before it sends.
    let mut client = server.connect();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
         content-length: {length}\r\n\r\n"
    );
    client.send(head.as_bytes());
    assert_eq!(client.read_head().unwrap().status, 100);
    client.send(body.as_bytes());
    assert_eq!(client.read_reply().unwrap().status, 200);
    // Two requests at once, then a third on the same connection.
    let mut client = server.connect();
    client.send(&[post_bytes(COMPLETIONS, body.as_bytes()), post_bytes("/nowhere", b"")].concat());
    assert_eq!(client.read_reply().unwrap().status, 200);
    assert_eq!(client.read_reply().unwrap().status, 404);
    client.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(client.read_reply().unwrap().status, 200);
    // Byte by byte.
    let mut client = server.connect();
    for byte in post_bytes(COMPLETIONS, body.as_bytes()) {
        client.send(&[byte]);
    }
    assert_eq!(client.read_reply().unwrap().status, 200);
}

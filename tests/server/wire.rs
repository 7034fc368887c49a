//! HTTP itself: sizes, paths, methods, bytes that are no request, and the lesser used parts.

use std::io::BufRead;
use std::net::Shutdown;

use serde_json::{Value, json};

use super::client::{COMPLETIONS, Reply, Server, post_bytes};
use super::model::write_model;
use super::{serve_command, start_server};

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

/// A request with an origin, as a browser sends it for a page.
fn as_page(server: &Server, method: &str, path: &str, headers: &str) -> Reply {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\n{headers}\r\n"
    );
    server.connect().exchange(request.as_bytes())
}

const ALLOWED: &str = "access-control-allow-origin";

#[test]
fn pages_of_others_may_call_only_where_they_are_allowed() {
    let asks = "access-control-request-method: POST\r\n\
                access-control-request-headers: authorization,content-type\r\n";
    let server = start_server(&[]);
    assert_eq!(as_page(&server, "OPTIONS", COMPLETIONS, asks).status, 405);
    assert_eq!(as_page(&server, "GET", "/health", "").header(ALLOWED), None);

    let server = start_server(&["--allowed-origins", r#"["https://a.example", "https://b"]"#]);
    for path in [COMPLETIONS, "/v1/models", "/v1/models/tiny", "/health", "/metrics", "/none"] {
        let told = as_page(&server, "OPTIONS", path, asks);
        assert_eq!((told.status, told.header(ALLOWED)), (200, Some("https://a.example")), "{path}");
        assert_eq!(told.header("access-control-allow-methods"), Some("POST"));
        let headers = told.header("access-control-allow-headers").unwrap();
        assert_eq!(headers, "authorization,content-type");
    }
    let read = as_page(&server, "GET", "/health", "");
    assert_eq!(read.header(ALLOWED), Some("https://a.example"));
    assert!(read.header("access-control-expose-headers").unwrap().contains("x-request-id"));
    let refused = as_page(&server, "GET", "/none", "");
    assert_eq!((refused.status, refused.header(ALLOWED)), (404, Some("https://a.example")));

    let server = start_server(&["--allowed-origins", "https://b", "--allow-credentials"]);
    assert_eq!(as_page(&server, "OPTIONS", COMPLETIONS, asks).header(ALLOWED), None);
    assert_eq!(as_page(&server, "GET", "/health", "").header(ALLOWED), None);
}

#[test]
fn the_log_has_a_line_about_every_request_and_no_prompt() {
    for (flags, num_lines) in [(&[][..], 3), (&["--disable-access-log"], 0)] {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path());
        let flags = [&["--port", "0", "--log-format", "json"], flags].concat();
        let command = serve_command(":", folder.path(), &flags);
        let (mut server, log) = Server::start_and_listen(command, Some(folder));
        let body = json!({"prompt": "secret words", "max_tokens": 3, "stream": true});
        let whole = server.complete(&body);
        assert!(String::from_utf8_lossy(&whole.body).contains("[DONE]"));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let request = format!(
            "GET /nowhere/secret HTTP/1.1\r\nhost: x\r\nx-request-id: job-7\r\n\
             traceparent: {trace}\r\n\r\n"
        );
        let told = server.connect().exchange(request.as_bytes());
        assert_eq!(told.header("x-request-id"), Some("job-7"));
        assert_eq!(server.get("/health").status, 200);
        let long = json!({"prompt": "secret", "max_tokens": 1_900, "ignore_eos": true});
        server.connect().send(&post_bytes(COMPLETIONS, long.to_string().as_bytes()));
        server.wait_until_idle();
        server.terminate();
        assert!(server.ended().success());
        let log: Vec<String> = log.lines().map(Result::unwrap).collect();
        assert!(log.iter().all(|line| !line.contains("secret")), "{log:?}");
        let lines: Vec<Value> = log
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Value| line["target"] == "cairn::access")
            .collect();
        assert_eq!(lines.len(), num_lines, "{log:?}");
        let [first, second, third] = &lines[..] else { continue };
        assert_eq!((&first["path"], &first["status"]), (&json!(COMPLETIONS), &json!(200)));
        assert_eq!((&first["bytes"], &first["whole"]), (&json!(whole.body.len()), &json!(true)));
        assert!(first["elapsed_ms"].is_number() && first["span"]["request_id"].is_string());
        assert_eq!((&second["path"], &second["status"]), (&json!("other"), &json!(404)));
        assert_eq!(second["span"]["request_id"], "job-7");
        assert_eq!(second["span"]["traceparent"], trace);
        assert_eq!((&third["status"], &third["whole"]), (&json!(499), &json!(false)), "{third}");
    }
}

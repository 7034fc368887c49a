//! H: HTTP that is none, that is odd, or that tries something.

use super::super::client::{COMPLETIONS, post_bytes};
use super::{Case, Expected, bad, raw, refused};

const BODY: &str = r#"{"prompt": "a", "max_tokens": 1}"#;

/// A `POST` with these headers and this body.
fn post(name: &str, headers: &str, body: &str, expected: Expected) -> Case {
    raw(name, format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}"), expected)
}

fn get(name: &str, target: &str, expected: Expected) -> Case {
    raw(name, format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n"), expected)
}

fn method(name: &str, line: &str, expected: Expected) -> Case {
    raw(name, format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"), expected)
}

pub(super) fn cases() -> Vec<Case> {
    let length = BODY.len();
    let many =
        |count: usize| (0..count).fold(String::new(), |all, i| all + &format!("h{i}: v\r\n"));
    let too_large = || refused(431, Some("headers_too_large"));
    let hello = [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".as_slice(), &[0; 500]].concat();
    let mut cases = vec![
        raw("H01 zeros", "\0\0\0\0\r\n\r\n", bad()),
        raw("H01 a word", "hello\r\n\r\n", bad()),
        raw("H01 bytes", b"\xff\xfe\xfd\xfc\r\n\r\n".as_slice(), bad()),
        raw("H02 TLS", hello, bad()),
        post("H03 a negative length", "content-length: -1\r\n", "{}", bad()),
        post(
            "H04 a length beyond numbers",
            &format!("content-length: {}\r\n", "9".repeat(30)),
            "{}",
            bad(),
        ),
        post("H05 two lengths", "content-length: 2\r\ncontent-length: 3\r\n", "{}", bad()),
        post("H05 two lengths in one", "content-length: 2, 3\r\n", "{}", bad()),
        post("H05 a length with a sign", "content-length: +2\r\n", "{}", bad()),
        post(
            "H06 a length and chunks",
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
            bad(),
        ),
        post("H06 chunks are not last", "transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n", bad()),
        post("H06 an unknown coding", "transfer-encoding: x\r\n", "{}", bad()),
        post(
            "H07 a chunk without a size",
            "transfer-encoding: chunked\r\n",
            "ZZ\r\n{}\r\n0\r\n\r\n",
            bad(),
        ),
        post(
            "H07 a chunk beyond numbers",
            "transfer-encoding: chunked\r\n",
            "ffffffffffffffffff\r\n",
            bad(),
        ),
        post(
            "H07 a chunk that is longer",
            "transfer-encoding: chunked\r\n",
            "1\r\n{}\r\n0\r\n\r\n",
            bad(),
        ),
        post("H08 a header of 1 MiB", &format!("x: {}\r\n", "a".repeat(1 << 20)), "", too_large()),
        post("H09 20,000 headers", &many(20_000), "", too_large()),
        post("H09 300 headers", &many(300), "", too_large()),
        get("H10 an address of 100 KiB", &format!("/{}", "a".repeat(100 << 10)), too_large()),
        get(
            "H10 an address of 20 KiB",
            &format!("/{}", "a".repeat(20 << 10)),
            refused(414, Some("uri_too_long")),
        ),
        get(
            "H10 a query of 20 KiB",
            &format!("/health?{}", "a".repeat(20 << 10)),
            refused(414, Some("uri_too_long")),
        ),
        get("H11 up", "/../../etc/passwd", refused(404, None)),
        get("H11 up, encoded", "/%2e%2e/%2e%2e/etc/passwd", refused(404, None)),
        get(
            "H11 up from a model",
            "/v1/models/../../health",
            refused(404, Some("model_not_found")),
        ),
        get("H11 a NUL, encoded", "/v1/models/a%00b", refused(404, Some("model_not_found"))),
        get("H11 no UTF-8, encoded", "/v1/models/%ff%fe", refused(400, None)),
        get("H11 an address without a slash", "health", refused(404, None)),
        method("H12 an unknown method", &format!("BREW {COMPLETIONS}"), refused(405, None)),
        method("H13 the wrong method", &format!("DELETE {COMPLETIONS}"), refused(405, None)),
        method("H13 the wrong method for health", "PUT /health", refused(405, None)),
        method("H13 a proxy is wanted", "CONNECT evil.example:443", refused(404, None)),
        raw("H14 HTTP/9.9", "GET /health HTTP/9.9\r\nhost: x\r\n\r\n", bad()),
        raw("H14 HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Expected::Closed),
        raw(
            "H15 HTTP/1.0",
            format!(
                "POST {COMPLETIONS} HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: {length}\r\n\r\n{BODY}"
            ),
            Expected::OkOrRefused,
        ),
        post(
            "H16 another content type",
            &format!("content-type: text/plain\r\ncontent-length: {length}\r\n"),
            BODY,
            Expected::Ok,
        ),
        post(
            "H17 gzip",
            "content-encoding: gzip\r\ncontent-length: 4\r\n",
            "\u{1f}\u{8b}",
            refused(415, None),
        ),
        post(
            "H18 asks first",
            &format!("expect: 100-continue\r\ncontent-length: {length}\r\n"),
            BODY,
            Expected::Ok,
        ),
        raw(
            "H19 two at once",
            [post_bytes(COMPLETIONS, BODY.as_bytes()), post_bytes("/nowhere", b"")].concat(),
            Expected::Ok,
        ),
        post("H20 a body that is cut", "content-length: 100\r\n", "{\"prompt\"", bad()),
        post("H20 chunks that are cut", "transfer-encoding: chunked\r\n", "ff\r\n{", bad()),
        post("H21 a name with a space", "x y: z\r\n", "", bad()),
        post("H21 a value with a NUL", "x: a\0b\r\n", "", bad()),
        post("H21 a folded header", "x: a\r\n b\r\n", "", bad()),
        post("H22 no end of the headers", "x: y", "", Expected::Closed),
    ];
    for (idx, path) in
        ["/x", "/v1", "/v1/", "//v1/models", "/V1/MODELS", "/metrics/x"].iter().enumerate()
    {
        cases.push(get(&format!("H23.{idx} no such path {path}"), path, refused(404, None)));
    }
    cases
}

//! The web page, as far as it is HTTP; `tests/clients/page.mjs` drives it in a browser.

use super::start_server;

/// Asks for a path with this method and these header lines.
fn ask(server: &super::client::Server, request: &str, headers: &str) -> super::client::Reply {
    // An answer without a body has no length, and is read to the end of the connection.
    let bytes = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    server.connect().exchange(bytes.as_bytes())
}

#[test]
fn the_page_is_served_with_a_strict_policy_and_sent_once() {
    let server = start_server(&[]);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let whole = server.get(path);
        assert_eq!((whole.status, whole.header("content-type")), (200, Some(kind)), "{path}");
        assert!(whole.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert_eq!(whole.header("cache-control"), Some("no-cache"), "{path}");
        let tag = whole.header("etag").unwrap();
        let again = ask(&server, &format!("GET {path}"), &format!("if-none-match: {tag}\r\n"));
        assert_eq!((again.status, again.header("etag")), (304, Some(tag)), "{path}");
        assert!(again.body.is_empty(), "{path}");
        let changed = ask(&server, &format!("GET {path}"), "if-none-match: \"old\"\r\n");
        assert_eq!((changed.status, changed.body), (200, whole.body), "{path}");
        let post = ask(&server, &format!("POST {path}"), "content-length: 0\r\n");
        assert_eq!((post.status, post.header("allow")), (405, Some("GET,HEAD")), "{path}");
    }
    assert_eq!(server.get("/page/other.js").status, 404);
    assert_eq!(server.get("/page/../../etc/passwd").status, 404);
}

#[test]
fn without_the_page_its_paths_are_unknown() {
    let server = start_server(&["--no-page"]);
    for path in ["/", "/page/app.js", "/favicon.ico"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        reply.error();
    }
    server.assert_serves("no page");
}

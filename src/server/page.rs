//! `/`: a small web page to try the model and to see how the server is doing.
//!
//! ```text
//! GET /               index.html   asks for the rest by relative paths, so that a proxy may put the
//! GET /page/style.css              whole server below a prefix
//! GET /page/app.js    wires the parts: chat.js, live.js (reads metrics.js), events.js
//! GET /favicon.ico    icon.svg
//! ```
//!
//! The files are part of the program: plain HTML, CSS and JavaScript modules, with no build step
//! and nothing from elsewhere, so that the page works where there is no other network. Its policy
//! lets it talk to this server alone, and forbids scripts that did not come with it: whatever a
//! model says is text. Files are small and change with the program only; a browser asks each time
//! whether its copy is still right, and is told so in a few bytes.
//!
//! What this module deliberately does not do: it knows no keys and keeps no state. The page asks the
//! same endpoints as every client, with the key that its user gives it, and is itself public.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use super::ServerState;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON: &str = "image/svg+xml";

/// What a browser lets the page do. `require-trusted-types-for` makes it refuse to read any text as
/// HTML, should a script ever try to.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// One file, as it is sent.
struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
}

macro_rules! file {
    ($path:literal, $content_type:ident, $name:literal) => {
        File {
            path: $path,
            content_type: $content_type,
            content: include_str!(concat!("page/", $name)),
        }
    };
}

const FILES: [File; 11] = [
    file!("/", HTML, "index.html"),
    file!("/favicon.ico", ICON, "icon.svg"),
    file!("/page/icon.svg", ICON, "icon.svg"),
    file!("/page/style.css", CSS, "style.css"),
    file!("/page/app.js", SCRIPT, "app.js"),
    file!("/page/api.js", SCRIPT, "api.js"),
    file!("/page/chat.js", SCRIPT, "chat.js"),
    file!("/page/markdown.js", SCRIPT, "markdown.js"),
    file!("/page/live.js", SCRIPT, "live.js"),
    file!("/page/metrics.js", SCRIPT, "metrics.js"),
    file!("/page/events.js", SCRIPT, "events.js"),
];

/// The digests of [`FILES`], quoted.
static TAGS: LazyLock<Vec<HeaderValue>> =
    LazyLock::new(|| FILES.iter().map(|file| tag(file.content)).collect());

/// The page's endpoints.
pub(super) fn routes() -> Router<ServerState> {
    FILES.iter().zip(TAGS.iter()).fold(Router::new(), |router, (file, tag)| {
        router.route(file.path, get(async move |headers: HeaderMap| answer(file, tag, &headers)))
    })
}

fn answer(file: &File, tag: &HeaderValue, asked: &HeaderMap) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (ETAG, tag.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if is_known(tag, asked) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let content_type = HeaderValue::from_static(file.content_type);
    (headers, [(CONTENT_TYPE, content_type)], file.content).into_response()
}

/// Whether the client holds what it would be sent. Proxies that compress make a tag weak.
fn is_known(tag: &HeaderValue, asked: &HeaderMap) -> bool {
    let lists = asked.get_all(IF_NONE_MATCH).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|held| {
        held == "*" || held.strip_prefix("W/").unwrap_or(held).as_bytes() == tag.as_bytes()
    })
}

fn tag(content: &str) -> HeaderValue {
    let digest = Sha256::digest(content);
    let hex = digest.iter().take(16).fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    HeaderValue::from_str(&format!("\"{hex}\"")).expect("invariant: hex digits in quotes are plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_its_tag_weak_or_in_a_list() {
        let (tag, other) = (tag("a"), tag("b"));
        let known = |list: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(list).unwrap());
            is_known(&tag, &headers)
        };
        let (text, other) = (tag.to_str().unwrap(), other.to_str().unwrap());
        for list in [text, "*", &format!("W/{text}"), &format!("{other}, {text}")] {
            assert!(known(list), "{list}");
        }
        for list in [other, "", "\"\"", text.trim_matches('"')] {
            assert!(!known(list), "{list}");
        }
        assert!(!is_known(&tag, &HeaderMap::new()));
    }

    /// What a file names in quotes after one of these words.
    fn named<'a>(content: &'a str, words: &'a [&str]) -> impl Iterator<Item = &'a str> {
        words
            .iter()
            .flat_map(|word| content.split(word).skip(1))
            .filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn every_file_that_the_page_names_is_served_and_none_lies_elsewhere() {
        let is_served = |path: &str| FILES.iter().any(|file| file.path == path);
        for file in &FILES {
            let names = named(file.content, &["src=\"", "href=\""]);
            for name in names.filter(|name| !name.starts_with('#')) {
                assert!(is_served(&format!("/{name}")), "{}: {name}", file.path);
            }
            for name in named(file.content, &["from \"./"]) {
                assert!(is_served(&format!("/page/{name}")), "{}: {name}", file.path);
            }
            let content = file.content.replace("http://www.w3.org/2000/svg", "");
            for elsewhere in ["http://", "https://", "\"//", "url(", "@import"] {
                assert!(!content.contains(elsewhere), "{} names {elsewhere}", file.path);
            }
        }
    }

    #[test]
    fn no_script_makes_html_of_text() {
        for file in &FILES {
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "<script>",
            ] {
                assert!(!file.content.contains(way), "{} uses {way}", file.path);
            }
        }
    }
}

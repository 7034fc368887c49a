//! Which web pages of other sites may call this server from a browser.
//!
//! | Header of an answer | Says |
//! | --- | --- |
//! | `access-control-allow-origin` | this page may read it |
//! | `access-control-expose-headers` | and these headers of it |
//!
//! A browser asks before it calls (`OPTIONS`, without any key): that is answered before keys are
//! looked at. Without [`CorsOptions`] nothing of this happens, and only programs and pages of this
//! server itself can read its answers.
//!
//! What this module deliberately does not do: it refuses no request. A browser that is not told
//! otherwise keeps the answer from the page; every other client does not care.

use std::time::Duration;

use axum::http::header::{InvalidHeaderName, RETRY_AFTER};
use axum::http::method::InvalidMethod;
use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

/// Means everything, in any of the lists.
const ANY: &str = "*";
/// How long a browser may remember what it was told.
const MAX_AGE: Duration = Duration::from_mins(10);
/// Headers of answers that pages may read.
const EXPOSED: [&str; 7] = [
    "x-request-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// Which pages may call, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CorsOptions {
    origins: List<HeaderValue>,
    methods: List<Method>,
    headers: List<HeaderName>,
    allow_credentials: bool,
}

/// Some, or all that there are.
#[derive(Clone, Debug, PartialEq)]
enum List<T> {
    Any,
    Only(Vec<T>),
}

impl<T> List<T> {
    fn parse<E>(
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, E>,
        error: impl Fn(&str) -> CorsError,
    ) -> Result<Self, CorsError> {
        if texts.iter().any(|text| text == ANY) {
            return Ok(Self::Any);
        }
        let items = texts.iter().map(|text| parse(text).map_err(|_| error(text)));
        Ok(Self::Only(items.collect::<Result<_, _>>()?))
    }
}

/// What was asked for makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorsError {
    /// An origin is none.
    #[error("`{0}` is no origin: expected `*`, or as in `https://example.com` without a path")]
    Origin(String),
    /// A method is none.
    #[error("`{0}` is no method of HTTP")]
    Method(String),
    /// A header is none.
    #[error("`{0}` is no name of a header")]
    Header(String),
    /// Every page may not act for its reader.
    #[error("credentials are not allowed for every origin: name the origins")]
    CredentialsForAny,
}

impl CorsOptions {
    /// Reads the lists, in each of which `*` means everything.
    ///
    /// # Errors
    /// Something in them is not what it should be.
    pub fn new(
        origins: &[String],
        methods: &[String],
        headers: &[String],
        allow_credentials: bool,
    ) -> Result<Self, CorsError> {
        let origins = List::parse(origins, origin, |text| CorsError::Origin(text.to_owned()))?;
        if allow_credentials && origins == List::Any {
            return Err(CorsError::CredentialsForAny);
        }
        let method = |text: &str| -> Result<Method, InvalidMethod> { text.parse() };
        let header = |text: &str| -> Result<HeaderName, InvalidHeaderName> { text.parse() };
        Ok(Self {
            origins,
            methods: List::parse(methods, method, |text| CorsError::Method(text.to_owned()))?,
            headers: List::parse(headers, header, |text| CorsError::Header(text.to_owned()))?,
            allow_credentials,
        })
    }

    /// What adds the headers and answers browsers that ask first.
    pub(super) fn layer(&self) -> CorsLayer {
        let origins = match &self.origins {
            List::Any => AllowOrigin::any(),
            List::Only(origins) => AllowOrigin::list(origins.clone()),
        };
        // With credentials, `*` would be the name of a method or a header.
        let methods = match &self.methods {
            List::Any => AllowMethods::mirror_request(),
            List::Only(methods) => AllowMethods::list(methods.clone()),
        };
        let headers = match &self.headers {
            List::Any => AllowHeaders::mirror_request(),
            List::Only(headers) => AllowHeaders::list(headers.clone()),
        };
        let exposed = EXPOSED.map(HeaderName::from_static).into_iter().chain([RETRY_AFTER]);
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods(methods)
            .allow_headers(headers)
            .allow_credentials(self.allow_credentials)
            .expose_headers(ExposeHeaders::list(exposed))
            .max_age(MAX_AGE)
    }
}

/// As a browser sends it: scheme and host, perhaps a port, and nothing else.
fn origin(text: &str) -> Result<HeaderValue, ()> {
    let (scheme, rest) = text.split_once("://").ok_or(())?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_host = !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@,*\"".contains(&byte));
    let is_origin = is_scheme && is_host && text == text.to_ascii_lowercase();
    if is_origin { text.parse().map_err(|_| ()) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(origin: &str, with_credentials: bool) -> Result<CorsOptions, CorsError> {
        let any = [ANY.to_owned()];
        CorsOptions::new(&[origin.to_owned()], &any, &any, with_credentials)
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for good in ["*", "https://example.com", "http://localhost:3000", "http://[::1]:80"] {
            assert!(options(good, false).is_ok(), "{good}");
        }
        for bad in ["", "example.com", "https://", "https://a/", "https://A.com", "https://*.a"] {
            assert_eq!(options(bad, false), Err(CorsError::Origin(bad.to_owned())));
        }
    }

    #[test]
    fn no_page_at_all_may_act_for_its_reader() {
        assert_eq!(options("*", true), Err(CorsError::CredentialsForAny));
        assert!(options("https://example.com", true).is_ok());
    }

    #[test]
    fn names_are_checked() {
        let list = |text: &str| [text.to_owned()];
        let any = list("*");
        assert!(CorsOptions::new(&any, &list("G T"), &any, false).is_err());
        assert!(CorsOptions::new(&any, &any, &list("a b"), false).is_err());
    }
}

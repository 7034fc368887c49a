//! The layer in front of every endpoint: no key, no answer.
//!
//! ```text
//!            open paths ------------------------------------------------------------> endpoint
//! request -< all others: key -> valid now? -> endpoint, model allowed? -> limits ---> endpoint
//!            admin paths: admin address, or a key of an admin ----------------------> endpoint
//!                         401      403             403                  429
//! ```
//!
//! | Paths | Need |
//! | --- | --- |
//! | `/` and the page's files, `/openapi.json`, `/version`, `/ping`, `/health`, and `live` and `ready` below it | nothing |
//! | `/metrics` | nothing, or any key, as the server was told |
//! | `/admin/...` | an admin; see [`peer`](super::peer) |
//! | all others, also those that do not exist | a key, when the server has keys |
//!
//! The places that a request takes, of its key and of the server, are held until the last byte of
//! its answer was handed over or the client is gone.
//!
//! What this module deliberately does not do: it reads no body. The model is the one that is served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::clock::{Now, rfc3339};
use super::digest::{Digest, MAX_KEY_BYTES};
use super::entry::KeyEntry;
use super::gate::Inside;
use super::grant::Grant;
use super::ledger::{Limited, Running, Standing, Window};
use super::peer::Peer;
use super::registry::{Access, Key};
use super::usage::Refusal;
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::server::observe::KeyName;

/// Who may use a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// A key, if metrics are guarded.
    KeyForMetrics,
    Key,
    Admin,
}

/// What tells everybody how the server is, and how to use it.
const OPEN: &[&str] = &[
    "/",
    "/favicon.ico",
    "/openapi.json",
    "/version",
    "/ping",
    "/health",
    "/health/live",
    "/health/ready",
    "/v2/health/live",
    "/v2/health/ready",
];
/// Where the page's files are.
const OPEN_PREFIX: &str = "/page/";

fn need(path: &str) -> Need {
    match path {
        _ if OPEN.contains(&path) || path.starts_with(OPEN_PREFIX) => Need::Nothing,
        "/metrics" => Need::KeyForMetrics,
        _ if path == "/admin" || path.starts_with("/admin/") => Need::Admin,
        _ => Need::Key,
    }
}

/// The layer.
pub(crate) async fn guard(
    State(state): State<ServerState>,
    mut request: Request,
    next: Next,
) -> Response {
    let (standing, passed) = pass(&state, &request);
    let mut response = match passed {
        Ok(passed) => {
            if let (Some(name), Some(noted)) =
                (passed.grant.name(), request.extensions().get::<KeyName>())
            {
                noted.set(name);
            }
            request.extensions_mut().insert(passed.grant);
            let response = next.run(request).await;
            match passed.held {
                None => response,
                Some(held) => response.map(|body| Body::new(HeldBody { body, _held: held })),
            }
        }
        Err(error) => error.into_response(),
    };
    standing_headers(standing, response.headers_mut());
    response
}

/// A request that may go on.
#[derive(Default)]
struct Passed {
    grant: Grant,
    held: Option<Held>,
}

/// The places that a request takes.
#[expect(dead_code, reason = "held for what dropping them does")]
struct Held {
    inside: Inside,
    running: Option<Running>,
}

fn pass(state: &ServerState, request: &Request) -> (Standing, Result<Passed, ApiError>) {
    let access = state.access();
    let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
    let (path, headers) = (request.uri().path(), request.headers());
    let plainly = |passed: Result<Passed, ApiError>| (Standing::default(), passed);
    match need(path) {
        Need::Nothing => plainly(Ok(Passed::default())),
        Need::KeyForMetrics if !access.options().is_metrics_guarded => {
            plainly(Ok(Passed::default()))
        }
        // Whoever reaches the admin address may do what costs no other client anything.
        _ if peer == Peer::Admin && !path.starts_with("/v1/") => plainly(Ok(Passed::default())),
        Need::Admin if access.is_open() => {
            let may = peer.may_administer_openly(request.method(), headers);
            plainly(if may { Ok(Passed::default()) } else { Err(admin_needed()) })
        }
        Need::Key | Need::KeyForMetrics if access.is_open() => plainly(enter(access, None)),
        Need::Admin => plainly(administers(access, headers)),
        Need::KeyForMetrics => plainly(identified(access, headers).map(|_| Passed::default())),
        Need::Key => {
            let model = &state.options().served_model_name;
            match keyed(access, request, model) {
                Ok(key) => limited(access, &key),
                Err(error) => plainly(Err(error)),
            }
        }
    }
}

/// Takes a place in the server.
fn enter(access: &Access, running: Option<Running>) -> Result<Passed, ApiError> {
    let inside = access.gate().enter().ok_or_else(|| ApiError::Overloaded {
        message: "the server answers as many requests as it may".to_owned(),
        retry_after: Duration::from_secs(1),
    })?;
    Ok(Passed { grant: Grant::default(), held: Some(Held { inside, running }) })
}

/// The key of a request, valid now.
fn identified(access: &Access, headers: &HeaderMap) -> Result<Arc<Key>, ApiError> {
    let found = presented(headers).and_then(|key| {
        let found = key.filter(|key| key.len() <= MAX_KEY_BYTES);
        let found = found.and_then(|key| access.find(&Digest::of(key)));
        found.ok_or(if key.is_some() { WRONG } else { MISSING })
    });
    let key = found.map_err(|message| {
        access.note_unknown();
        ApiError::Unauthorized { message }
    })?;
    let now = access.now();
    match validity(&key.entry, now) {
        None => Ok(key),
        Some((refusal, code, message)) => {
            refuse(access, &key, refusal);
            Err(ApiError::Forbidden { code, message })
        }
    }
}

const MISSING: &str = "this server needs a key: send `Authorization: Bearer KEY`";
const WRONG: &str = "the key is not one of this server's";
const SEVERAL: &str = "the request carries several keys: send one";

/// The key that a request carries, if it carries one.
fn presented(headers: &HeaderMap) -> Result<Option<&[u8]>, &'static str> {
    let one = |name: HeaderName| -> Result<Option<&[u8]>, &'static str> {
        let mut values = headers.get_all(name).iter();
        let value = values.next();
        if values.next().is_some() {
            return Err(SEVERAL);
        }
        Ok(value.map(|value| value.as_bytes().trim_ascii()))
    };
    let bearer = one(AUTHORIZATION)?.and_then(|value| {
        let (scheme, key) = value.split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
    });
    let others =
        [one(HeaderName::from_static("x-api-key"))?, one(HeaderName::from_static("api-key"))?];
    let mut all = std::iter::once(bearer).chain(others).flatten().filter(|key| !key.is_empty());
    let Some(first) = all.next() else { return Ok(None) };
    // The same one twice is what careful clients send.
    if all.all(|other| other == first) { Ok(Some(first)) } else { Err(SEVERAL) }
}

fn validity(entry: &KeyEntry, now: Now) -> Option<(Refusal, &'static str, String)> {
    if entry.is_disabled {
        return Some((Refusal::Disabled, "key_disabled", "this key is disabled".to_owned()));
    }
    if let Some(from) = entry.not_before.filter(|from| now.unix < *from) {
        let message = format!("this key is valid from {} on", rfc3339(from));
        return Some((Refusal::NotYetValid, "key_not_yet_valid", message));
    }
    let until = entry.expires.filter(|until| now.unix >= *until)?;
    let message = format!("this key expired at {}", rfc3339(until));
    Some((Refusal::Expired, "key_expired", message))
}

/// A grant of the key with that name for work that was asked for with it before; `None`: it is gone or
/// not valid now.
pub(crate) fn grant_of(access: &Access, name: &str) -> Option<Grant> {
    let key = access.keys().into_iter().find(|key| key.entry.name == name)?;
    let is_valid = validity(&key.entry, access.now()).is_none();
    is_valid.then(|| Grant::new(access.clone(), key))
}

fn refuse(access: &Access, key: &Key, refusal: Refusal) {
    key.ledger.refuse(refusal, access.now());
    access.note_usage();
}

fn admin_needed() -> ApiError {
    let message = "this endpoint needs a key with `admin = true`, or the server's admin address \
                   (`--admin-listen`)";
    ApiError::Forbidden { code: "admin_required", message: message.to_owned() }
}

fn administers(access: &Access, headers: &HeaderMap) -> Result<Passed, ApiError> {
    let key = identified(access, headers)?;
    if !key.entry.is_admin {
        refuse(access, &key, Refusal::Admin);
        return Err(admin_needed());
    }
    key.ledger.count_request(access.now());
    access.note_usage();
    Ok(Passed { grant: Grant::new(access.clone(), key), held: None })
}

/// The key of a request that may use the path and, where it uses one, the model.
fn keyed(access: &Access, request: &Request, model: &str) -> Result<Arc<Key>, ApiError> {
    let key = identified(access, request.headers())?;
    let path = request.uri().path();
    let grant = Grant::new(access.clone(), Arc::clone(&key));
    grant.check_endpoint(path).inspect_err(|_| refuse(access, &key, Refusal::Endpoint))?;
    if *request.method() == Method::POST {
        grant.check_model(model).inspect_err(|_| refuse(access, &key, Refusal::Model))?;
    }
    Ok(key)
}

fn limited(access: &Access, key: &Arc<Key>) -> (Standing, Result<Passed, ApiError>) {
    // Its own place last: whom the server has no room for has used nothing.
    let mut passed = match enter(access, None) {
        Ok(passed) => passed,
        Err(error) => return (Standing::default(), Err(error)),
    };
    let (standing, admitted) = key.ledger.admit(access.now());
    access.note_usage();
    let passed = admitted.map_err(|limited| too_much(&key.entry, limited)).map(|running| {
        if let Some(held) = &mut passed.held {
            held.running = Some(running);
        }
        passed.grant = Grant::new(access.clone(), Arc::clone(key));
        passed
    });
    (standing, passed)
}

fn too_much(entry: &KeyEntry, Limited { limit, retry_after }: Limited) -> ApiError {
    let most = match limit {
        Refusal::RequestsPerSecond => entry.requests_per_second.map(|rate| rate.to_string()),
        Refusal::MaxConcurrentRequests => entry.max_concurrent_requests.map(|max| max.to_string()),
        Refusal::TokensPerMinute => entry.tokens_per_minute.map(|max| max.to_string()),
        _ => entry.tokens_per_day.map(|max| max.to_string()),
    };
    let (limit, most) = (limit.as_str(), most.unwrap_or_default());
    let message = format!("rate limit reached: {limit} of this key is {most}");
    ApiError::Overloaded { message, retry_after }
}

/// `OpenAI`'s headers.
fn standing_headers(standing: Standing, headers: &mut HeaderMap) {
    let mut put = |window: Option<Window>, [limit, remaining, reset]: [&'static str; 3]| {
        let Some(window) = window else { return };
        headers.insert(limit, window.limit.into());
        headers.insert(remaining, window.remaining.into());
        let text = HeaderValue::from_str(&short(window.reset));
        headers.insert(reset, text.expect("invariant: digits, letters and a point"));
    };
    put(
        standing.requests,
        [
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
        ],
    );
    put(
        standing.tokens,
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    );
}

/// A time as in `17ms`, `8.64s`, `6m0s` and `1h2m3s`, rounded up.
fn short(time: Duration) -> String {
    let ms = time.as_nanos().div_ceil(1_000_000);
    if ms > 0 && ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// An answer's body, and the places that are held until it is gone.
struct HeldBody {
    body: Body,
    _held: Held,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_open_needs_a_key() {
        for (path, expected) in [
            ("/", Need::Nothing),
            ("/health/ready", Need::Nothing),
            ("/page/app.js", Need::Nothing),
            ("/health/deep", Need::Key),
            ("/metrics", Need::KeyForMetrics),
            ("/v1/models", Need::Key),
            ("/reset_prefix_cache", Need::Key),
            ("/nowhere", Need::Key),
            ("//admin/keys", Need::Key),
            ("/health/../admin/keys", Need::Key),
            ("/admin", Need::Admin),
            ("/admin/keys", Need::Admin),
            ("/administer", Need::Key),
        ] {
            assert_eq!(need(path), expected, "{path}");
        }
    }

    #[test]
    fn a_key_comes_in_one_of_three_headers() {
        let presented = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_str(value).unwrap());
            }
            presented(&headers).map(|key| key.map(|key| String::from_utf8(key.to_vec()).unwrap()))
        };
        for headers in [
            &[("authorization", "Bearer k")][..],
            &[("authorization", "bEARER   k ")],
            &[("x-api-key", "k")],
            &[("api-key", "k")],
            &[("authorization", "Basic abc"), ("x-api-key", "k")],
            &[("authorization", "Bearer k"), ("api-key", "k")],
        ] {
            assert_eq!(presented(headers), Ok(Some("k".to_owned())), "{headers:?}");
        }
        for headers in [
            &[][..],
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "k")],
            &[("authorization", "Basic k")],
            &[("x-api-key", " ")],
        ] {
            assert_eq!(presented(headers), Ok(None), "{headers:?}");
        }
        for headers in [
            [("authorization", "Bearer k"), ("authorization", "Bearer k")],
            [("x-api-key", "a"), ("x-api-key", "b")],
            [("authorization", "Bearer a"), ("x-api-key", "b")],
        ] {
            assert_eq!(presented(&headers), Err(SEVERAL), "{headers:?}");
        }
    }

    #[test]
    fn validity_is_from_one_second_to_the_one_before_another() {
        let entry = KeyEntry {
            not_before: Some(100),
            expires: Some(200),
            ..KeyEntry::new("a", Digest::of(b"a"))
        };
        let refusal = |unix| {
            let now = Now { unix, ..Now::default() };
            validity(&entry, now).map(|(refusal, ..)| refusal)
        };
        assert_eq!(refusal(0), Some(Refusal::NotYetValid));
        assert_eq!(refusal(99), Some(Refusal::NotYetValid));
        assert_eq!((refusal(100), refusal(199)), (None, None));
        assert_eq!(refusal(200), Some(Refusal::Expired));
        assert_eq!(refusal(u64::MAX), Some(Refusal::Expired));
    }

    #[test]
    fn times_are_written_shortly() {
        for (ms, expected) in [
            (0, "0s"),
            (17, "17ms"),
            (1000, "1s"),
            (8640, "8.64s"),
            (60_000, "1m0s"),
            (83_456, "1m23.456s"),
            (86_400_000, "24h0m0s"),
            (3_600_001, "1h0m0.001s"),
        ] {
            assert_eq!(short(Duration::from_millis(ms)), expected);
        }
        assert_eq!(short(Duration::from_nanos(1)), "1ms");
        assert!(short(Duration::MAX).ends_with('s'));
    }
}

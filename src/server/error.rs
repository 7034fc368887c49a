//! The one table from what went wrong to an HTTP status and an `OpenAI` error object.
//!
//! ```text
//! {"error": {"message": "...", "type": "...", "param": "temperature" | null, "code": "..." | null}}
//! ```
//!
//! The table is [`ApiError::row`]. What this module deliberately does not do: it sends no internal
//! detail. What only the operator should read is logged where it happens, under the request's id.

use std::time::Duration;

use axum::Extension;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::openai::types::{ErrorBody, ErrorObject};
use crate::engine::{InvalidParam, RequestError, SubmitError};

/// Longest message sent; parsers quote their input, which may be megabytes.
const MAX_MESSAGE_BYTES: usize = 600;

/// Everything that a request can be refused or fail with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{message}")]
    Invalid { param: Option<String>, message: String },
    #[error("`{param}` is not supported by this version{}", neutral_hint(.neutral))]
    Unsupported { param: String, neutral: &'static [&'static str] },
    // Clients' libraries know by these words, and not by the code, that a shorter prompt would do.
    #[error("this model's maximum context length is exceeded: {message}")]
    ContextLength { param: &'static str, message: String },
    #[error("{message}")]
    Unauthorized { message: &'static str },
    #[error("{message}")]
    Forbidden { code: &'static str, message: String },
    #[error("{message}")]
    KeyNotFound { message: String },
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    #[error("the model `{model}` does not exist; this server has `{served}`")]
    ModelNotFound { model: String, served: String },
    #[error("{message}")]
    NotFound { param: Option<&'static str>, message: String },
    #[error("invalid URL ({method} {path})")]
    UnknownPath { method: String, path: String },
    #[error("method {method} is not allowed for {path}; allowed: {allow}")]
    MethodNotAllowed { method: String, path: String, allow: &'static str },
    #[error("the request body is larger than {limit} bytes, the most that is accepted")]
    BodyTooLarge { limit: usize },
    #[error("the request body did not arrive within {seconds} seconds")]
    BodyTimeout { seconds: u64 },
    #[error("the bytes that were sent are not a request of HTTP/1.1")]
    NotHttp,
    #[error("this port speaks HTTPS: use https:// in the address")]
    NotEncrypted,
    #[error("the head of the request did not arrive in time")]
    HeadTimeout,
    #[error("the address in the request is longer than what is accepted")]
    UriTooLong,
    #[error("the headers of the request are more or longer than what is accepted")]
    HeadersTooLarge,
    #[error("too many connections; try again later")]
    TooManyConnections,
    #[error("content-encoding `{encoding}` is not supported; send the body as it is")]
    ContentEncoding { encoding: String },
    #[error("{message}; try again later")]
    Overloaded { message: String, retry_after: Duration },
    #[error("the request was not finished within {} s, the most that it may take", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("the server is starting ({what}); `/health/ready` says how far it is")]
    Starting { what: String },
    #[error("the server is shutting down and takes no new requests")]
    Draining,
    #[error("the engine has stopped")]
    EngineStopped,
    #[error("the device failed and the server is restarting; try again later")]
    EngineDied,
    #[error("internal error; the server's log has the details under this request's x-request-id")]
    Internal,
}

fn neutral_hint(neutral: &[&str]) -> String {
    match neutral {
        [] => String::new(),
        values => format!("; leave it out or send {}", values.join(" or ")),
    }
}

impl ApiError {
    /// A field with a wrong value.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::Invalid { param: Some(param.to_owned()), message: message.into() }
    }

    /// What a refused submission becomes; `prompt_param` is the field that carried the prompt.
    pub(crate) fn from_submit(error: SubmitError, prompt_param: &'static str) -> Self {
        match error {
            SubmitError::Invalid(InvalidParam { param, message }) => {
                Self::invalid(param, format!("invalid {param}: {message}"))
            }
            SubmitError::PromptTooLong { .. } => {
                Self::ContextLength { param: prompt_param, message: error.to_string() }
            }
            SubmitError::Overloaded { retry_after, .. } => {
                Self::Overloaded { message: error.to_string(), retry_after }
            }
            SubmitError::Draining => Self::Draining,
            SubmitError::Stopped => Self::EngineStopped,
        }
    }

    /// What a failed request becomes.
    pub(crate) fn from_request(error: &RequestError) -> Self {
        match error {
            RequestError::Stopped => Self::EngineStopped,
            RequestError::Died(_) => Self::EngineDied,
            RequestError::TimedOut(limit) => Self::TimedOut(*limit),
            // A text that its grammar and the request's other rules leave no way to finish.
            RequestError::Grammar(error) => {
                Self::Invalid { param: None, message: error.to_string() }
            }
            RequestError::Execution(detail) => {
                tracing::error!(detail, "a request failed in the engine");
                Self::Internal
            }
        }
    }

    /// The table: status, `type`, `code`.
    fn row(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Invalid { .. } | Self::NotHttp | Self::NotEncrypted => {
                (StatusCode::BAD_REQUEST, INVALID, None)
            }
            Self::Unsupported { .. } => {
                (StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter"))
            }
            Self::ContextLength { .. } => {
                (StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"))
            }
            Self::ModelNotFound { .. } => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Self::Unauthorized { .. } => {
                (StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key"))
            }
            Self::Forbidden { code, .. } => (StatusCode::FORBIDDEN, "permission_error", Some(code)),
            Self::KeyNotFound { .. } => (StatusCode::NOT_FOUND, INVALID, Some("key_not_found")),
            Self::Conflict { code, .. } => (StatusCode::CONFLICT, INVALID, Some(code)),
            Self::NotFound { .. } | Self::UnknownPath { .. } => {
                (StatusCode::NOT_FOUND, INVALID, None)
            }
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, INVALID, None),
            Self::BodyTooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("body_too_large"))
            }
            Self::BodyTimeout { .. } | Self::HeadTimeout => {
                (StatusCode::REQUEST_TIMEOUT, INVALID, None)
            }
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, INVALID, Some("uri_too_long")),
            Self::HeadersTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, Some("headers_too_large"))
            }
            Self::TooManyConnections => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("overloaded"))
            }
            Self::ContentEncoding { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, None),
            Self::Overloaded { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Self::TimedOut(_) => {
                (StatusCode::GATEWAY_TIMEOUT, "server_error", Some("request_timed_out"))
            }
            Self::Starting { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("starting"))
            }
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("draining")),
            Self::EngineStopped => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("engine_stopped"))
            }
            Self::EngineDied => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("engine_died"))
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid { param, .. } => param.as_deref(),
            Self::Unsupported { param, .. } => Some(param),
            Self::ContextLength { param, .. } => Some(param),
            Self::NotFound { param, .. } => *param,
            Self::ModelNotFound { .. } => Some("model"),
            _ => None,
        }
    }

    /// The error object, as it also appears in the middle of a stream.
    pub(crate) fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.row();
        ErrorBody {
            error: ErrorObject {
                message: shortened(self.to_string()),
                kind,
                param: self.param().map(|param| shortened(param.to_owned())),
                code,
            },
        }
    }

    /// The status alone.
    pub(super) fn status(&self) -> StatusCode {
        self.row().0
    }

    /// What is sent besides status and body.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Self::MethodNotAllowed { allow, .. } => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Self::Unauthorized { .. } => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Overloaded { retry_after, .. } => {
                headers.insert(RETRY_AFTER, whole_seconds(*retry_after).into());
            }
            Self::Starting { .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Self::Draining | Self::EngineStopped | Self::EngineDied | Self::TooManyConnections => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        headers
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let answer = (self.status(), self.headers(), self.body().to_json());
        // What speaks another dialect says it in its own words.
        (Extension(self), answer).into_response()
    }
}

/// Rounded up, and at least one: whoever comes back at once comes back too soon.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).max(1)
}

/// The text, cut at a character's end when it is too long to send.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_string_or_null_and_every_key_is_present() {
        let known = ApiError::ModelNotFound { model: "a".into(), served: "b".into() };
        let json: serde_json::Value = serde_json::from_slice(&known.body().to_json()).unwrap();
        assert_eq!(json["error"]["code"], "model_not_found");
        assert_eq!(json["error"]["param"], "model");
        let json: serde_json::Value =
            serde_json::from_slice(&ApiError::Internal.body().to_json()).unwrap();
        let error = json["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
        assert!(error["code"].is_null() && error["param"].is_null());
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let error = ApiError::invalid("prompt", "é".repeat(MAX_MESSAGE_BYTES));
        let message = error.body().error.message;
        assert!(message.len() <= MAX_MESSAGE_BYTES + 3 && message.ends_with("é..."), "{message}");
    }

    #[test]
    fn a_full_queue_tells_when_to_come_back() {
        let header = |retry_after| {
            let error = SubmitError::Overloaded {
                num_requests: 7,
                num_tokens: 70,
                limit: "7 requests".into(),
                retry_after,
            };
            let response = ApiError::from_submit(error, "prompt").into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            response.headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!(header(Duration::ZERO), "1");
        assert_eq!(header(Duration::from_millis(2001)), "3");
    }

    #[test]
    fn too_slow_is_a_gateways_timeout() {
        let error = ApiError::from_request(&RequestError::TimedOut(Duration::from_millis(1500)));
        assert_eq!(
            error.to_string(),
            "the request was not finished within 1.5 s, the most that it may take"
        );
        assert_eq!(error.into_response().status(), StatusCode::GATEWAY_TIMEOUT);
    }

    #[test]
    fn an_internal_detail_is_not_sent() {
        let error = ApiError::from_request(&RequestError::Execution("at 0xdeadbeef".into()));
        assert_eq!(error, ApiError::Internal);
    }
}

//! Errors as this dialect tells them, wherever they are made.
//!
//! ```text
//! {"type": "error", "error": {"type": "...", "message": "..."}, "request_id": "..."}
//!
//! request -> observe -> errors -> guard -> endpoint     a layer: what the guard refuses looks alike
//! ```
//!
//! | Status | `type` |
//! | --- | --- |
//! | 401 | `authentication_error` |
//! | 403 | `permission_error` |
//! | 404 | `not_found_error` |
//! | 413 | `request_too_large` |
//! | 429 | `rate_limit_error` |
//! | other 4xx | `invalid_request_error` |
//! | 503 | `overloaded_error` |
//! | 504 | `timeout_error` |
//! | other 5xx | `api_error` |
//!
//! Statuses and headers are those of the other endpoints.
//!
//! What this module deliberately does not do: it decides nothing; see
//! [`error`](crate::server::error).

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Value, json};

use crate::server::error::ApiError;
use crate::server::observe::RequestTag;

/// Where this dialect is spoken.
const PATH: &str = "/v1/messages";

/// The layer.
pub(crate) async fn in_dialect(request: Request, next: Next) -> Response {
    let rest = request.uri().path().strip_prefix(PATH);
    if rest.is_none_or(|rest| !(rest.is_empty() || rest.starts_with('/'))) {
        return next.run(request).await;
    }
    let tag = request.extensions().get::<RequestTag>().cloned();
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let object = object(&error, tag.as_ref().map(RequestTag::as_str));
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(object.to_string());
    }
    response
}

/// The error object, as it also appears in the middle of a stream.
pub(super) fn object(error: &ApiError, request_id: Option<&str>) -> Value {
    let kind = match error.status().as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = error.body().error.message;
    let message = match error {
        // Clients know by these words that a shorter prompt would do.
        ApiError::ContextLength { .. } => format!("prompt is too long: {message}"),
        _ => message,
    };
    let mut object = json!({"type": "error", "error": {"type": kind, "message": message}});
    if let Some(id) = request_id {
        object["request_id"] = id.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_error_has_its_type() {
        let refused = |message: &str| ApiError::invalid("x", message);
        for (error, kind) in [
            (refused("no"), "invalid_request_error"),
            (ApiError::NotHttp, "invalid_request_error"),
            (ApiError::Unauthorized { message: "no" }, "authentication_error"),
            (ApiError::Forbidden { code: "x", message: "no".into() }, "permission_error"),
            (ApiError::NotFound { param: None, message: "no".into() }, "not_found_error"),
            (ApiError::BodyTooLarge { limit: 1 }, "request_too_large"),
            (
                ApiError::Overloaded { message: "full".into(), retry_after: Duration::ZERO },
                "rate_limit_error",
            ),
            (ApiError::Draining, "overloaded_error"),
            (ApiError::TimedOut(Duration::ZERO), "timeout_error"),
            (ApiError::Internal, "api_error"),
        ] {
            assert_eq!(object(&error, None)["error"]["type"], kind, "{error:?}");
        }
        let long = ApiError::ContextLength { param: "messages", message: "9 of 8".into() };
        let object = object(&long, Some("r"));
        assert!(object["error"]["message"].as_str().unwrap().starts_with("prompt is too long: "));
        assert_eq!((&object["type"], &object["request_id"]), (&json!("error"), &json!("r")));
    }
}

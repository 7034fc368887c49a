//! The router: which path is answered by what.
//!
//! What this module deliberately does not do: it holds no handler, only their places.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::error::ApiError;
use super::observe::observe;
use super::openai::{chat, completions, embeddings, models};
use super::{ServerState, health, metrics, page, prefix_cache};

/// A path, and the methods that it answers to.
struct Route {
    path: &'static str,
    allow: &'static str,
}

const GET: &str = "GET,HEAD";
const POST: &str = "POST";
const MODEL_PREFIX: &str = "/v1/models/";
const PAGE_FILE: Route = Route { path: "/page/{file}", allow: GET };
const MODEL: Route = Route { path: "/v1/models/{id}", allow: GET };

const ROUTES: &[Route] = &[
    Route { path: "/", allow: GET },
    Route { path: "/favicon.ico", allow: GET },
    Route { path: "/v1/models", allow: GET },
    Route { path: "/v1/completions", allow: POST },
    Route { path: "/v1/chat/completions", allow: POST },
    Route { path: "/v1/embeddings", allow: POST },
    Route { path: "/health", allow: GET },
    Route { path: "/health/live", allow: GET },
    Route { path: "/health/ready", allow: GET },
    Route { path: "/metrics", allow: GET },
    Route { path: "/version", allow: GET },
    Route { path: "/reset_prefix_cache", allow: POST },
];

fn route(path: &str) -> Option<&'static Route> {
    if path.starts_with(MODEL_PREFIX) {
        return Some(&MODEL);
    }
    if path.starts_with(page::PREFIX) {
        return Some(&PAGE_FILE);
    }
    ROUTES.iter().find(|route| route.path == path)
}

/// The name of a path in metrics: one of a fixed set, whatever clients ask for.
pub(super) fn label(path: &str) -> &'static str {
    route(path).map_or("other", |route| route.path)
}

/// All endpoints.
pub(super) fn router(state: ServerState) -> Router {
    let page = if state.options().has_page { page::routes() } else { Router::new() };
    page.route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/health", get(health::live))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/version", get(health::version))
        .route("/metrics", get(metrics::page))
        .route("/reset_prefix_cache", post(prefix_cache::reset))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        // `body` has its own limit, which also bounds the sum over all requests.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(state.clone(), observe))
        .with_state(state)
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::UnknownPath {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
    }
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::MethodNotAllowed {
        method: request.method().to_string(),
        path: path.to_owned(),
        allow: route(path).map_or(GET, |route| route.allow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_a_fixed_set() {
        assert_eq!(label("/v1/models/a/b"), "/v1/models/{id}");
        assert_eq!(label("/v1/completions"), "/v1/completions");
        assert_eq!(label("/../../etc/passwd"), "other");
    }
}

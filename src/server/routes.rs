//! The router: which path is answered by what.
//!
//! What this module deliberately does not do: it holds no handler, only their places.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, patch, post};
use tower::util::option_layer;

use super::access::{admin, guard};
use super::cors::CorsOptions;
use super::error::ApiError;
use super::observe::observe;
use super::openai::{chat, completions, embeddings, messages, models, responses, tokenize};
use super::{ServerState, batches, deep, events, health, metrics, openapi, page, prefix_cache};

/// A path, and the methods that it answers to.
struct Route {
    path: &'static str,
    allow: &'static str,
}

const GET: &str = "GET,HEAD";
const POST: &str = "POST";
const GET_POST: &str = "GET,HEAD,POST";
const MODEL_PREFIX: &str = "/v1/models/";
const MODEL: Route = Route { path: "/v1/models/{id}", allow: GET };

const ROUTES: &[Route] = &[
    Route { path: "/", allow: GET },
    Route { path: "/favicon.ico", allow: GET },
    Route { path: "/v1/models", allow: GET },
    Route { path: "/v1/completions", allow: POST },
    Route { path: "/v1/chat/completions", allow: POST },
    Route { path: "/v1/embeddings", allow: POST },
    Route { path: "/v1/files", allow: GET_POST },
    Route { path: "/v1/batches", allow: GET_POST },
    Route { path: "/v1/responses", allow: POST },
    Route { path: "/v1/messages", allow: POST },
    Route { path: "/v1/messages/count_tokens", allow: POST },
    Route { path: "/tokenize", allow: POST },
    Route { path: "/detokenize", allow: POST },
    Route { path: "/load", allow: GET },
    Route { path: "/health", allow: GET },
    Route { path: "/health/live", allow: GET },
    Route { path: "/health/ready", allow: GET },
    Route { path: "/health/deep", allow: GET },
    Route { path: "/v2/health/live", allow: GET },
    Route { path: "/v2/health/ready", allow: GET },
    Route { path: "/ping", allow: GET_POST },
    Route { path: "/admin/events", allow: GET },
    Route { path: "/metrics", allow: GET },
    Route { path: "/version", allow: GET },
    Route { path: "/reset_prefix_cache", allow: POST },
    Route { path: "/openapi.json", allow: GET },
    Route { path: "/admin/keys", allow: "GET,HEAD,POST" },
    Route { path: "/admin/keys/reload", allow: POST },
    Route { path: "/admin/usage", allow: GET },
    Route { path: "/admin/limits", allow: "GET,HEAD,PATCH" },
    Route { path: "/admin/drain", allow: POST },
    Route { path: "/admin/undrain", allow: POST },
];

/// Paths with an id in them.
const WITH_ID: [Route; 7] = [
    Route { path: "/page/{id}", allow: GET },
    Route { path: "/admin/keys/{id}", allow: "PATCH,DELETE" },
    Route { path: "/v1/responses/{id}", allow: "GET,HEAD,DELETE" },
    Route { path: "/v1/files/{id}", allow: "GET,HEAD,DELETE" },
    Route { path: "/v1/files/{id}/content", allow: GET },
    Route { path: "/v1/batches/{id}", allow: GET },
    Route { path: "/v1/batches/{id}/cancel", allow: POST },
];

fn route(path: &str) -> Option<&'static Route> {
    if path.starts_with(MODEL_PREFIX) {
        return Some(&MODEL);
    }
    if let Some(route) = ROUTES.iter().find(|route| route.path == path) {
        return Some(route);
    }
    let has_form = |route: &&Route| {
        let (prefix, suffix) = route.path.split_once("{id}").unwrap_or((route.path, ""));
        let id = path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
        id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
    };
    WITH_ID.iter().find(has_form)
}

/// Every path with its methods, for tests that compare.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().chain(&WITH_ID).chain([&MODEL]).map(|route| (route.path, route.allow))
}

/// The name of a path in metrics: one of a fixed set, whatever clients ask for.
pub(super) fn label(path: &str) -> &'static str {
    route(path).map_or("other", |route| route.path)
}

/// Whether machines ask for this all day, by its label.
pub(super) fn is_of_machines(label: &str) -> bool {
    ["/health", "/v2/health", "/ping", "/metrics"].iter().any(|path| label.starts_with(path))
}

/// All endpoints.
pub(super) fn router(state: ServerState) -> Router {
    openapi::prepare();
    let cors = state.options().cors.as_ref().map(CorsOptions::layer);
    let page = if state.options().has_page { page::routes() } else { Router::new() };
    page.route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/files", get(batches::list_files).post(batches::upload))
        .route("/v1/files/{id}", get(batches::retrieve_file).delete(batches::delete_file))
        .route("/v1/files/{id}/content", get(batches::content))
        .route("/v1/batches", get(batches::list).post(batches::create))
        .route("/v1/batches/{id}", get(batches::retrieve))
        .route("/v1/batches/{id}/cancel", post(batches::cancel))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/ping", get(health::live).post(health::live))
        .route("/load", get(health::load))
        .route("/health", get(health::live))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/health/deep", get(deep::deep))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/admin/events", get(events::list))
        .route("/version", get(health::version))
        .route("/metrics", get(metrics::page))
        .route("/reset_prefix_cache", post(prefix_cache::reset))
        .route("/openapi.json", get(openapi::page))
        .route("/admin/keys", get(admin::list).post(admin::add))
        .route("/admin/keys/reload", post(admin::reload))
        .route("/admin/keys/{name}", patch(admin::change).delete(admin::remove))
        .route("/admin/usage", get(admin::usage))
        .route("/admin/limits", get(admin::limits).patch(admin::change_limits))
        .route("/admin/drain", post(admin::drain))
        .route("/admin/undrain", post(admin::undrain))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        // `body` has its own limit, which also bounds the sum over all requests.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(state.clone(), guard::guard))
        .layer(from_fn(messages::in_dialect))
        // Browsers ask before they call, without a key: outside of what looks at keys.
        .layer(option_layer(cors))
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
        assert_eq!(label("/admin/keys/someone"), "/admin/keys/{id}");
        assert_eq!(label("/admin/keys/reload"), "/admin/keys/reload");
        assert_eq!(label("/../../etc/passwd"), "other");
    }
}

//! `GET /openapi.json`: what this server takes and gives, for programs.
//!
//! ```text
//! tables of endpoints --document--> paths ----.
//!          |                                  +--> OpenAPI 3.1
//!          '-- types of bodies --schema--> components
//! ```
//!
//! | File | Holds |
//! | --- | --- |
//! | `endpoint` | what is told about one endpoint, and how it becomes an operation |
//! | `schema` | types to JSON schemas |
//! | `operations` | the endpoints around the API |
//!
//! A new endpoint is an entry in `operations`, `openai/endpoints` or `batches/described`; a test compares them with the
//! router. The document is kept as `tests/golden/openapi.json`; after a change that is meant,
//! `CAIRN_UPDATE_GOLDEN=1 cargo test --lib openapi` writes it anew: read the diff.
//!
//! What this module deliberately does not do: it shows the document to nobody who wants pictures.

pub(super) mod endpoint;
mod operations;
pub(super) mod schema;

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{batches, openai};
use endpoint::Endpoint;
use schema::Schemas;

const VERSION: &str = env!("CARGO_PKG_VERSION");

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document(VERSION))
        .expect("invariant: JSON values have string keys and no failing parts");
    text.push('\n');
    text
});

/// Makes the document, so that no request waits for it.
pub(super) fn prepare() {
    LazyLock::force(&TEXT);
}

/// The endpoint.
pub(super) async fn page() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    openai::ENDPOINTS.iter().chain(batches::ENDPOINTS).chain(operations::ENDPOINTS)
}

fn document(version: &str) -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let operation = endpoint.operation(&mut schemas);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.name()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cairn",
            "description": "LLM inference with the API of OpenAI. Fields that are not listed are \
                            ignored; those that are listed as not supported are refused.",
            "version": version,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas.into_object() },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use super::*;
    use crate::server::routes;

    #[test]
    fn the_document_is_as_it_was() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/openapi.json");
        let mut text = serde_json::to_string_pretty(&document("VERSION")).unwrap();
        text.push('\n');
        if std::env::var_os("CAIRN_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        let line = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
        let place = format!("{}:{}", path.display(), line.map_or(0, |line| line + 1));
        assert!(golden == text, "{place} differs; CAIRN_UPDATE_GOLDEN=1 writes it anew");
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let mut documented: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for endpoint in endpoints() {
            let methods = documented.entry(endpoint.path).or_default();
            assert!(methods.insert(endpoint.method.name()), "{} twice", endpoint.path);
        }
        let lower = |allow: &'static str| -> BTreeSet<&str> {
            let known = ["get", "post", "put", "patch", "delete"];
            known
                .into_iter()
                .filter(|method| allow.split(',').any(|name| name.eq_ignore_ascii_case(method)))
                .collect()
        };
        // What is for a browser is no part of the API.
        let is_page =
            |path: &str| path == "/" || path == "/favicon.ico" || path.starts_with("/page/");
        let routed: BTreeMap<&str, BTreeSet<&str>> = routes::all()
            .filter(|(path, _)| !is_page(path))
            .map(|(path, allow)| (path, lower(allow)))
            .collect();
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
        fn visit<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(object) => {
                    if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                        found.insert(reference.strip_prefix("#/components/schemas/").unwrap());
                    }
                    object.values().for_each(|value| visit(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| visit(value, found)),
                _ => {}
            }
        }
        let document = document("VERSION");
        let mut referred = BTreeSet::new();
        visit(&document, &mut referred);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let named: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
        assert_eq!(referred, named);
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let ids: BTreeSet<&str> = endpoints().map(|endpoint| endpoint.id).collect();
        assert_eq!(ids.len(), endpoints().count());
    }
}

//! The endpoints around the API: how the server is doing, and what operators ask it for.
//!
//! What this module deliberately does not do: it answers nothing.

use serde_json::{Value, json};

use super::endpoint::{Content, Endpoint};
use super::schema::Schemas;

const OPERATION: &str = "Operation";
const UNWELL: (u16, &str) = (503, "The engine has stopped: restart the process.");
const NOT_READY: (u16, &str) = (503, "Send requests elsewhere.");

/// All of them.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        tag: OPERATION,
        summary: "Whether the process is worth keeping",
        content: Content::Json(status),
        others: &[UNWELL],
        ..Endpoint::get("/health", "health")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether the process is worth keeping",
        content: Content::Json(status),
        others: &[UNWELL],
        ..Endpoint::get("/health/live", "healthLive")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether new requests should be sent here",
        content: Content::Json(status),
        others: &[NOT_READY],
        ..Endpoint::get("/health/ready", "healthReady")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Metrics in the text format of Prometheus",
        content: Content::Text("text/plain"),
        ..Endpoint::get("/metrics", "metrics")
    },
    Endpoint {
        tag: OPERATION,
        summary: "What runs here, and what its start cost",
        content: Content::Json(version),
        ..Endpoint::get("/version", "version")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Forget every cached prefix",
        ..Endpoint::post("/reset_prefix_cache", "resetPrefixCache")
    },
    Endpoint {
        tag: OPERATION,
        summary: "This document",
        content: Content::Json(any_object),
        ..Endpoint::get("/openapi.json", "openapi")
    },
];

fn status(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": { "status": { "type": "string" } },
        "required": ["status"],
    })
}

fn any_object(_: &mut Schemas) -> Value {
    json!({ "type": "object" })
}

fn version(_: &mut Schemas) -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let graphs = ["compiled", "from_cache", "compiled_after_ready"];
    let graphs: serde_json::Map<_, _> =
        graphs.into_iter().map(|name| (name.to_owned(), count.clone())).collect();
    json!({
        "type": "object",
        "properties": {
            "name": text, "version": text, "revision": text, "backend": text, "model": text,
            "served_model_name": text, "max_model_len": count,
            "graphs": { "type": "object", "properties": graphs },
            "boot_seconds": {
                "description": "Seconds that each phase of the start took.",
                "type": "object",
                "additionalProperties": { "type": "number", "minimum": 0 },
            },
        },
        "required": ["name", "version", "backend", "model", "served_model_name", "max_model_len"],
    })
}

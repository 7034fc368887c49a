//! The endpoints around the API: how the server is doing, and what operators ask it for.
//!
//! What this module deliberately does not do: it answers nothing.

use serde_json::{Value, json};

use super::endpoint::{Body, Content, Endpoint, Method, OF_BODIES, OF_NAMED, WITH_KEY};
use super::schema::Schemas;

const OPERATION: &str = "Operation";
const ADMIN: &str = "Administration";
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
        errors: WITH_KEY,
        summary: "Metrics in the text format of Prometheus",
        content: Content::Other("text/plain"),
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
        errors: WITH_KEY,
        ..Endpoint::post("/reset_prefix_cache", "resetPrefixCache")
    },
    Endpoint {
        tag: OPERATION,
        summary: "This document",
        content: Content::Json(any_object),
        ..Endpoint::get("/openapi.json", "openapi")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether the process is worth keeping",
        content: Content::Json(status),
        others: &[UNWELL],
        ..Endpoint::get("/v2/health/live", "healthLiveV2")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether the process is worth keeping",
        content: Content::Json(status),
        others: &[UNWELL],
        ..Endpoint::get("/ping", "ping")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether the process is worth keeping",
        content: Content::Json(status),
        others: &[UNWELL],
        ..Endpoint::post("/ping", "postPing")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether new requests should be sent here",
        content: Content::Json(status),
        others: &[NOT_READY],
        ..Endpoint::get("/v2/health/ready", "healthReadyV2")
    },
    Endpoint {
        tag: OPERATION,
        summary: "Whether a token comes in time",
        query: &[("timeout", "Seconds to wait, at most 60.", seconds)],
        content: Content::Json(status),
        errors: WITH_KEY,
        others: &[(503, "No token came.")],
        ..Endpoint::get("/health/deep", "healthDeep")
    },
    Endpoint {
        tag: OPERATION,
        summary: "How many requests are being answered",
        content: Content::Json(load),
        errors: WITH_KEY,
        ..Endpoint::get("/load", "load")
    },
    Endpoint {
        tag: ADMIN,
        summary: "The log of the service's life",
        query: &[
            ("level", "`normal` or `abnormal`.", text),
            ("kind", "One kind, or several with commas.", text),
            ("since", "A time, or seconds since 1970.", text),
            ("until", "A time, or seconds since 1970.", text),
            ("order", "`asc` or `desc`.", text),
            ("after", "The `next` of the page before.", text),
            ("limit", "At most so many.", text),
            ("follow", "`true`: a stream of what is there and then what happens.", text),
        ],
        content: Content::JsonOrEvents(list, any_object),
        errors: WITH_KEY,
        ..Endpoint::get("/admin/events", "listEvents")
    },
    Endpoint {
        tag: ADMIN,
        summary: "The keys, without their hashes",
        content: Content::Json(list),
        errors: WITH_KEY,
        ..Endpoint::get("/admin/keys", "listKeys")
    },
    Endpoint {
        tag: ADMIN,
        summary: "Add a key; a fresh one is told this once",
        body: Body::MaybeJson(key),
        success: 201,
        content: Content::Json(any_object),
        errors: OF_BODIES,
        ..Endpoint::post("/admin/keys", "addKey")
    },
    Endpoint {
        method: Method::Patch,
        tag: ADMIN,
        summary: "Set fields of a key; null takes one away",
        path_parameters: &[("id", "The key's name.")],
        body: Body::MaybeJson(key),
        content: Content::Json(any_object),
        errors: OF_BODIES,
        ..Endpoint::get("/admin/keys/{id}", "changeKey")
    },
    Endpoint {
        method: Method::Delete,
        tag: ADMIN,
        summary: "Remove a key",
        path_parameters: &[("id", "The key's name.")],
        content: Content::Json(any_object),
        errors: OF_NAMED,
        ..Endpoint::get("/admin/keys/{id}", "removeKey")
    },
    Endpoint {
        tag: ADMIN,
        summary: "Read the key file again",
        content: Content::Json(any_object),
        errors: OF_NAMED,
        ..Endpoint::post("/admin/keys/reload", "reloadKeys")
    },
    Endpoint {
        tag: ADMIN,
        summary: "What was used, by key and day",
        query: &[("key", "Of this key only.", text), ("days", "So many of the newest.", count)],
        content: Content::Json(list),
        errors: OF_NAMED,
        ..Endpoint::get("/admin/usage", "usage")
    },
    Endpoint {
        tag: ADMIN,
        summary: "The limits of the whole server",
        content: Content::Json(limits),
        errors: WITH_KEY,
        ..Endpoint::get("/admin/limits", "limits")
    },
    Endpoint {
        method: Method::Patch,
        tag: ADMIN,
        summary: "Change the limit of concurrent requests",
        body: Body::MaybeJson(changed_limits),
        content: Content::Json(limits),
        errors: OF_BODIES,
        ..Endpoint::get("/admin/limits", "changeLimits")
    },
    Endpoint {
        tag: ADMIN,
        summary: "Take no new requests",
        content: Content::Json(any_object),
        errors: WITH_KEY,
        ..Endpoint::post("/admin/drain", "drain")
    },
    Endpoint {
        tag: ADMIN,
        summary: "Take requests again",
        content: Content::Json(any_object),
        errors: WITH_KEY,
        ..Endpoint::post("/admin/undrain", "undrain")
    },
];

fn text(_: &mut Schemas) -> Value {
    json!({ "type": "string" })
}

fn seconds(_: &mut Schemas) -> Value {
    json!({ "type": "number", "minimum": 0, "maximum": 60 })
}

fn count(_: &mut Schemas) -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

fn load(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": { "server_load": { "type": "integer", "minimum": 0 } },
        "required": ["server_load"],
    })
}

fn list(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "object": { "const": "list" },
            "data": { "type": "array", "items": { "type": "object" } },
        },
        "required": ["object", "data"],
    })
}

/// A key's fields; what each may be is told by the error about it.
fn key(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string" },
            "models": { "type": ["array", "null"], "items": { "type": "string" } },
        },
    })
}

fn limits(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": { "object": { "const": "limits" }, "is_draining": { "type": "boolean" } },
        "required": ["object", "is_draining"],
    })
}

fn changed_limits(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "max_concurrent_requests": { "type": ["integer", "null"], "minimum": 1 },
        },
    })
}

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

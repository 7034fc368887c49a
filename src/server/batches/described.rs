//! Files and batches as the document of the API tells them.
//!
//! What this module deliberately does not do: it answers nothing.

use serde_json::{Value, json};

use super::endpoints::BatchRequest;
use super::object::{BatchObject, FileObject};
use crate::server::openai::deleted;
use crate::server::openapi::endpoint::{Body, Content, Endpoint, Method, OF_BODIES, OF_NAMED};
use crate::server::openapi::schema::{SchemaOf, Schemas};

const TAG: &str = "Batches";
const FILE_ID: &[(&str, &str)] = &[("id", "The file's id.")];
const BATCH_ID: &[(&str, &str)] = &[("id", "The batch's id.")];
const PAGES: &[(&str, &str, SchemaOf)] = &[
    ("after", "The last id of the page before.", text),
    ("limit", "At most so many.", limit),
    ("order", "`asc` or `desc`.", text),
];

/// All of them.
pub(in crate::server) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        tag: TAG,
        summary: "The files",
        query: PAGES,
        content: Content::Json(|schemas| page(schemas.of_sent::<FileObject>())),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/files", "listFiles")
    },
    Endpoint {
        tag: TAG,
        summary: "Keep a file",
        body: Body::Form(upload),
        content: Content::Json(Schemas::of_sent::<FileObject>),
        errors: OF_BODIES,
        ..Endpoint::post("/v1/files", "createFile")
    },
    Endpoint {
        tag: TAG,
        summary: "A file",
        path_parameters: FILE_ID,
        content: Content::Json(Schemas::of_sent::<FileObject>),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/files/{id}", "retrieveFile")
    },
    Endpoint {
        method: Method::Delete,
        tag: TAG,
        summary: "Delete a file",
        path_parameters: FILE_ID,
        content: Content::Json(|_| deleted("file")),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/files/{id}", "deleteFile")
    },
    Endpoint {
        tag: TAG,
        summary: "What is in a file",
        path_parameters: FILE_ID,
        content: Content::Other("application/octet-stream"),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/files/{id}/content", "downloadFile")
    },
    Endpoint {
        tag: TAG,
        summary: "The batches",
        query: PAGES,
        content: Content::Json(|schemas| page(schemas.of_sent::<BatchObject>())),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/batches", "listBatches")
    },
    Endpoint {
        tag: TAG,
        summary: "Answer the requests of a file when there is room",
        body: Body::Json(Schemas::of::<BatchRequest>),
        content: Content::Json(Schemas::of_sent::<BatchObject>),
        errors: OF_BODIES,
        ..Endpoint::post("/v1/batches", "createBatch")
    },
    Endpoint {
        tag: TAG,
        summary: "A batch",
        path_parameters: BATCH_ID,
        content: Content::Json(Schemas::of_sent::<BatchObject>),
        errors: OF_NAMED,
        ..Endpoint::get("/v1/batches/{id}", "retrieveBatch")
    },
    Endpoint {
        tag: TAG,
        summary: "Cancel a batch",
        path_parameters: BATCH_ID,
        content: Content::Json(Schemas::of_sent::<BatchObject>),
        errors: OF_NAMED,
        ..Endpoint::post("/v1/batches/{id}/cancel", "cancelBatch")
    },
];

fn text(_: &mut Schemas) -> Value {
    json!({ "type": "string" })
}

fn limit(_: &mut Schemas) -> Value {
    json!({ "type": "integer", "minimum": 1 })
}

fn page(item: Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "object": { "const": "list" },
            "data": { "type": "array", "items": item },
            "first_id": { "type": ["string", "null"] },
            "last_id": { "type": ["string", "null"] },
            "has_more": { "type": "boolean" },
        },
        "required": ["object", "data", "has_more"],
    })
}

fn upload(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "purpose": { "type": "string" },
            "file": { "type": "string", "format": "binary" },
        },
        "required": ["purpose", "file"],
    })
}

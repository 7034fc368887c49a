//! One endpoint, as the document tells it.
//!
//! What this module deliberately does not do: it knows no endpoint.

use serde_json::{Map, Value, json};

use super::schema::{SchemaOf, Schemas};
use crate::server::openai::types::ErrorBody;

/// How an endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Method {
    Get,
    Post,
}

impl Method {
    /// Its key in the document.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// What an endpoint sends when all is well.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Content {
    /// Nothing.
    Empty,
    /// A JSON object.
    Json(SchemaOf),
    /// A JSON object, or with `stream` events of such objects, and `[DONE]` in the end.
    JsonOrEvents(SchemaOf, SchemaOf),
    /// Text of this type.
    Text(&'static str),
}

/// Everything that is told about one endpoint.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Endpoint {
    pub(in crate::server) method: Method,
    pub(in crate::server) path: &'static str,
    /// Its name for programs.
    pub(in crate::server) id: &'static str,
    /// The group that it is shown in.
    pub(in crate::server) tag: &'static str,
    pub(in crate::server) summary: &'static str,
    /// Parameters in the path, with what they are.
    pub(in crate::server) path_parameters: &'static [(&'static str, &'static str)],
    pub(in crate::server) body: Option<SchemaOf>,
    pub(in crate::server) content: Content,
    /// Statuses with an error object.
    pub(in crate::server) errors: &'static [u16],
    /// Statuses with the content of a good answer, and what they mean.
    pub(in crate::server) others: &'static [(u16, &'static str)],
}

impl Endpoint {
    /// An endpoint that is only looked at.
    pub(in crate::server) const fn get(path: &'static str, id: &'static str) -> Self {
        Self {
            method: Method::Get,
            path,
            id,
            tag: "",
            summary: "",
            path_parameters: &[],
            body: None,
            content: Content::Empty,
            errors: ALWAYS,
            others: &[],
        }
    }

    /// An endpoint that does something.
    pub(in crate::server) const fn post(path: &'static str, id: &'static str) -> Self {
        Self { method: Method::Post, ..Self::get(path, id) }
    }
}

/// What any request may end with: a fault of this program.
const ALWAYS: &[u16] = &[500];
/// What a request for tokens may end with.
pub(in crate::server) const OF_COMPLETIONS: &[u16] = &[400, 404, 408, 413, 415, 429, 500, 503, 504];

/// What a status means here.
fn meaning(status: u16) -> &'static str {
    match status {
        200 => "As asked.",
        400 => "The request is wrong; `param` names the field.",
        401 => "There is no key, or it is unknown or expired.",
        403 => "The key does not allow this.",
        404 => "There is no such model or object.",
        405 => "The path does not take this method.",
        408 => "The body did not arrive in time.",
        413 => "The body is too large.",
        415 => "The body is compressed.",
        422 => "The request is well formed and cannot be done.",
        429 => "Too much is waiting; `Retry-After` tells when to come back.",
        500 => "A fault of the server; its log tells more under the `x-request-id`.",
        503 => "The server is stopping or its device failed.",
        504 => "The request was not finished in the time that it may take.",
        _ => "",
    }
}

impl Endpoint {
    /// Its entry in the document.
    pub(super) fn operation(&self, schemas: &mut Schemas) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
        });
        if !self.path_parameters.is_empty() {
            let parameter = |(name, description): &(&str, &str)| {
                json!({
                    "name": name, "in": "path", "required": true, "description": description,
                    "schema": { "type": "string", "minLength": 1 },
                })
            };
            operation["parameters"] = self.path_parameters.iter().map(parameter).collect();
        }
        if let Some(body) = self.body {
            let schema = body(schemas);
            operation["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": schema } },
            });
        }
        operation["responses"] = self.responses(schemas);
        operation
    }

    fn responses(&self, schemas: &mut Schemas) -> Value {
        let content = self.content.in_document(schemas);
        let answer = |description: &str| {
            let mut response = json!({ "description": description });
            if !content.is_empty() {
                response["content"] = content.clone().into();
            }
            response
        };
        let mut responses: Map<String, Value> = Map::new();
        responses.insert("200".to_owned(), answer(meaning(200)));
        for (status, description) in self.others {
            responses.insert(status.to_string(), answer(description));
        }
        for status in self.errors {
            let schema = schemas.of_sent::<ErrorBody>();
            let mut response = json!({
                "description": meaning(*status),
                "content": { "application/json": { "schema": schema } },
            });
            if matches!(status, 429 | 503) {
                let schema = json!({ "type": "integer", "minimum": 1 });
                let retry = json!({ "description": "In seconds.", "schema": schema });
                response["headers"] = json!({ "Retry-After": retry });
            }
            responses.insert(status.to_string(), response);
        }
        responses.into()
    }
}

impl Content {
    fn in_document(self, schemas: &mut Schemas) -> Map<String, Value> {
        let mut content = Map::new();
        match self {
            Self::Empty => {}
            Self::Json(whole) => {
                content.insert("application/json".into(), json!({ "schema": whole(schemas) }));
            }
            Self::JsonOrEvents(whole, event) => {
                content.insert("application/json".into(), json!({ "schema": whole(schemas) }));
                let data = json!({
                    "type": "string",
                    "description": "An object of this schema or, when something goes wrong on \
                                    the way, an error object; the last one is `[DONE]`.",
                    "contentMediaType": "application/json",
                    "contentSchema": event(schemas),
                });
                let schema = json!({
                    "type": "object",
                    "description": "With `stream`: one event.",
                    "properties": { "data": data },
                    "required": ["data"],
                });
                content.insert("text/event-stream".into(), json!({ "schema": schema }));
            }
            Self::Text(media_type) => {
                let schema = json!({ "type": "string" });
                content.insert(media_type.into(), json!({ "schema": schema }));
            }
        }
        content
    }
}

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
    Patch,
    Delete,
}

impl Method {
    /// Its key in the document.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Patch => "patch",
            Self::Delete => "delete",
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
    /// A JSON object, or where it is asked for a stream of events with such objects.
    JsonOrEvents(SchemaOf, SchemaOf),
    /// Text or bytes of this type.
    Other(&'static str),
}

/// What an endpoint takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) enum Body {
    /// Nothing that it reads.
    None,
    /// A JSON object.
    Json(SchemaOf),
    /// A JSON object, or nothing.
    MaybeJson(SchemaOf),
    /// A form in several parts.
    Form(SchemaOf),
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
    /// Parameters of the query, with what they are and their schemas.
    pub(in crate::server) query: &'static [(&'static str, &'static str, SchemaOf)],
    pub(in crate::server) body: Body,
    /// The status when all is well.
    pub(in crate::server) success: u16,
    pub(in crate::server) content: Content,
    /// Statuses with an error object.
    pub(in crate::server) errors: &'static [u16],
    /// The error object.
    pub(in crate::server) error: SchemaOf,
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
            query: &[],
            body: Body::None,
            success: 200,
            content: Content::Empty,
            errors: ALWAYS,
            error: Schemas::of_sent::<ErrorBody>,
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
/// What a request may end with that needs a key.
pub(in crate::server) const WITH_KEY: &[u16] = &[400, 401, 403, 429, 500];
/// What a request for something with a name may end with.
pub(in crate::server) const OF_NAMED: &[u16] = &[400, 401, 403, 404, 409, 429, 500, 503];
/// What a request with a body may end with that the server alone answers.
pub(in crate::server) const OF_BODIES: &[u16] =
    &[400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503];
/// What a request for tokens may end with.
pub(in crate::server) const OF_COMPLETIONS: &[u16] =
    &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];

/// What a status means here.
fn meaning(status: u16) -> &'static str {
    match status {
        200 | 201 => "As asked.",
        400 => "The request is wrong; `param` names the field.",
        401 => "There is no key, or it is unknown or expired.",
        403 => "The key does not allow this.",
        404 => "There is no such model or object.",
        408 => "The body did not arrive in time.",
        409 => "It does not go together with what is there.",
        413 => "The body is too large.",
        415 => "The body is compressed.",
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
        let parameters = self.parameters(schemas);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let body = match self.body {
            Body::None => None,
            Body::Json(schema) => Some((schema, "application/json", true)),
            Body::MaybeJson(schema) => Some((schema, "application/json", false)),
            Body::Form(schema) => Some((schema, "multipart/form-data", true)),
        };
        if let Some((schema, media_type, is_required)) = body {
            let schema = schema(schemas);
            operation["requestBody"] = json!({
                "required": is_required,
                "content": { media_type: { "schema": schema } },
            });
        }
        operation["responses"] = self.responses(schemas);
        operation
    }

    fn parameters(&self, schemas: &mut Schemas) -> Vec<Value> {
        let text = json!({ "type": "string", "minLength": 1 });
        let in_path = self.path_parameters.iter().map(|(name, description)| {
            json!({
                "name": name, "in": "path", "required": true, "description": description,
                "schema": text,
            })
        });
        let in_query = self.query.iter().map(|(name, description, schema)| {
            let schema = schema(schemas);
            json!({ "name": name, "in": "query", "description": description, "schema": schema })
        });
        in_path.chain(in_query).collect()
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
        responses.insert(self.success.to_string(), answer(meaning(self.success)));
        for (status, description) in self.others {
            responses.insert(status.to_string(), answer(description));
        }
        let others = |status: &u16| self.others.iter().any(|(other, _)| other == status);
        for status in self.errors.iter().filter(|status| !others(status)) {
            let schema = (self.error)(schemas);
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
                                    the way, an error object; streams of completions end with \
                                    `[DONE]`.",
                    "contentMediaType": "application/json",
                    "contentSchema": event(schemas),
                });
                let schema = json!({
                    "type": "object",
                    "description": "Where a stream is asked for: one event.",
                    "properties": { "data": data },
                    "required": ["data"],
                });
                content.insert("text/event-stream".into(), json!({ "schema": schema }));
            }
            Self::Other(media_type) => {
                let schema = json!({ "type": "string" });
                content.insert(media_type.into(), json!({ "schema": schema }));
            }
        }
        content
    }
}

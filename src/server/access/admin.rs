//! The admin API: keys, usage, limits, and draining, as JSON.
//!
//! | Request | Does |
//! | --- | --- |
//! | `GET /admin/keys` | lists keys, without hashes |
//! | `POST /admin/keys` | adds one; makes a fresh key, told this once, unless a `hash` is sent |
//! | `PATCH /admin/keys/{name}` | sets the fields that are sent; null: takes one away |
//! | `DELETE /admin/keys/{name}` | removes one |
//! | `POST /admin/keys/reload` | reads the key file again |
//! | `GET /admin/usage?key=&days=` | what was used, by day |
//! | `GET /admin/limits`, `PATCH /admin/limits` | limits of the whole server |
//! | `POST /admin/drain`, `POST /admin/undrain` | takes no new requests; takes them again |
//!
//! Changes of keys are written to the key file at once and hold from the next request on; requests
//! that run go on.
//!
//! What this module deliberately does not do: it asks nobody for a key; the [`guard`](super::guard)
//! did. It never tells a hash.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use toml::Table;

use super::change::{Change, ChangeError};
use super::clock::date;
use super::digest::{Digest, fresh_key};
use super::entry::KeyEntry;
use super::key_file::MAX_KEYS;
use super::registry::{Access, FLAG_NAME, Key};
use super::usage::{Days, MAX_DAYS, Usage};
use crate::server::error::ApiError;
use crate::server::{ServerState, body};

const DEFAULT_DAYS: usize = 30;
const LIMIT: &str = "max_concurrent_requests";

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::Field(field) => Self::invalid(field.field(), message),
            ChangeError::Exists(_) | ChangeError::SameHash(_) => {
                Self::Conflict { code: "key_exists", message }
            }
            ChangeError::NoFile => Self::Conflict { code: "no_key_file", message },
            ChangeError::File(_) => Self::Conflict { code: "key_file_unusable", message },
            ChangeError::Full(_) => Self::Conflict { code: "key_file_full", message },
            ChangeError::NotFound(_) => Self::KeyNotFound { message },
        }
    }
}

/// `GET /admin/keys`.
pub(crate) async fn list(State(state): State<ServerState>) -> Response {
    let keys = state.access().keys();
    let data: Vec<Value> = keys.iter().map(|key| key_json(key)).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

fn key_json(key: &Key) -> Value {
    let mut json = entry_json(&key.entry);
    let source = if key.entry.name == FLAG_NAME { "flag" } else { "file" };
    json.insert("source".to_owned(), source.into());
    json.insert("running_requests".to_owned(), key.ledger.num_running().into());
    Value::Object(json)
}

fn entry_json(entry: &KeyEntry) -> Map<String, Value> {
    let mut json = Map::from_iter([("object".to_owned(), "key".into())]);
    let fields = entry.fields().into_iter().filter(|(field, _)| *field != "hash");
    json.extend(fields.map(|(field, value)| (field.to_owned(), to_json(value))));
    json
}

fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Array(all) => all.into_iter().map(to_json).collect::<Vec<_>>().into(),
        // No entry has these.
        toml::Value::Datetime(_) | toml::Value::Table(_) => Value::Null,
    }
}

/// `None` for null.
fn to_toml(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(is) => (*is).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(all) => {
            let null = || toml::Value::Table(Table::new());
            toml::Value::Array(all.iter().map(|one| to_toml(one).unwrap_or_else(null)).collect())
        }
        Value::Object(_) => toml::Value::Table(Table::new()),
    })
}

/// A body that is a JSON object; nothing counts as an empty one.
async fn object(state: &ServerState, request: Request) -> Result<Map<String, Value>, ApiError> {
    let body = body::read(state, request).await?;
    let body = body.as_bytes().trim_ascii();
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        // Of what is wrong only the place: a body may hold a key.
        let (line, column) = (error.line(), error.column());
        let message = format!("expected a JSON object, got none (line {line}, column {column})");
        ApiError::Invalid { param: None, message }
    })
}

/// `POST /admin/keys`.
pub(crate) async fn add(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let fields = object(&state, request).await?;
    let access = state.access().clone();
    let (entry, secret) = state.blocking(move || add_key(&access, &fields)).await??;
    let mut json = entry_json(&entry);
    if let Some(secret) = secret {
        json.insert("key".to_owned(), secret.into());
    }
    Ok((StatusCode::CREATED, Json(Value::Object(json))).into_response())
}

fn add_key(
    access: &Access,
    fields: &Map<String, Value>,
) -> Result<(KeyEntry, Option<String>), ApiError> {
    let mut table = Table::new();
    set(&mut table, fields);
    let mut secret = None;
    if !table.contains_key("hash") {
        let key = fresh_key().map_err(|error| {
            tracing::error!(%error, "the system has no random bytes for a key");
            ApiError::Internal
        })?;
        table.insert("hash".to_owned(), Digest::of(key.as_bytes()).to_string().into());
        secret = Some(key);
    }
    let entry = access.change(|entries| {
        let entry = KeyEntry::from_table(&table)?;
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(ChangeError::Exists(entry.name));
        }
        if let Some(other) = entries.iter().find(|other| other.hash == entry.hash) {
            return Err(ChangeError::SameHash(other.name.clone()));
        }
        if entries.len() >= MAX_KEYS {
            return Err(ChangeError::Full(entries.len()));
        }
        entries.push(entry.clone());
        let name = entry.name.clone();
        Ok((entry, Change::Added { name }))
    })?;
    Ok((entry, secret))
}

/// Sets fields, and takes away those that are null.
fn set(table: &mut Table, fields: &Map<String, Value>) {
    for (field, value) in fields {
        match to_toml(value) {
            Some(value) => table.insert(field.clone(), value),
            None => table.remove(field),
        };
    }
}

/// The name in a path.
type Name = Result<Path<String>, PathRejection>;

fn named(name: Name) -> Result<String, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::invalid("name", error.body_text()))?;
    Ok(name)
}

/// `PATCH /admin/keys/{name}`.
pub(crate) async fn change(
    State(state): State<ServerState>,
    name: Name,
    request: Request,
) -> Result<Response, ApiError> {
    let name = named(name)?;
    let fields = object(&state, request).await?;
    let access = state.access().clone();
    let entry = state.blocking(move || change_key(&access, name, &fields)).await??;
    Ok(Json(Value::Object(entry_json(&entry))).into_response())
}

fn change_key(
    access: &Access,
    name: String,
    fields: &Map<String, Value>,
) -> Result<KeyEntry, ChangeError> {
    access.change(|entries| {
        let Some(idx) = entries.iter().position(|entry| entry.name == name) else {
            return Err(ChangeError::NotFound(name));
        };
        let own = entries[idx].fields().into_iter();
        let mut table: Table = own.map(|(field, value)| (field.to_owned(), value)).collect();
        set(&mut table, fields);
        let entry = KeyEntry::from_table(&table)?;
        let others = entries.iter().enumerate().filter(|(other, _)| *other != idx);
        for (_, other) in others {
            if other.name == entry.name {
                return Err(ChangeError::Exists(entry.name));
            }
            if other.hash == entry.hash {
                return Err(ChangeError::SameHash(other.name.clone()));
            }
        }
        entries[idx] = entry.clone();
        let fields = fields.keys().cloned().collect();
        Ok((entry, Change::Changed { name, fields }))
    })
}

/// `DELETE /admin/keys/{name}`.
pub(crate) async fn remove(
    State(state): State<ServerState>,
    name: Name,
) -> Result<Response, ApiError> {
    let name = named(name)?;
    let access = state.access().clone();
    let removed = state.blocking(move || {
        access.change(|entries| {
            let Some(idx) = entries.iter().position(|entry| entry.name == name) else {
                return Err(ChangeError::NotFound(name));
            };
            entries.remove(idx);
            Ok((name.clone(), Change::Removed { name }))
        })
    });
    let name = removed.await??;
    Ok(Json(json!({ "object": "key", "name": name, "deleted": true })).into_response())
}

/// `POST /admin/keys/reload`.
pub(crate) async fn reload(State(state): State<ServerState>) -> Result<Response, ApiError> {
    let access = state.access().clone();
    let num_keys = state.blocking(move || access.reload()).await??;
    Ok(Json(json!({ "object": "reload", "keys": num_keys })).into_response())
}

/// `GET /admin/usage`.
pub(crate) async fn usage(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (name, num_days) = usage_query(request.uri().query().unwrap_or_default())?;
    let access = state.access().clone();
    let json = state.blocking(move || {
        let usage = access.usage();
        if let Some(name) = name.as_ref().filter(|name| !usage.contains_key(*name))
            && !access.keys().iter().any(|key| key.entry.name == *name)
        {
            return Err(ApiError::from(ChangeError::NotFound(name.clone())));
        }
        let wanted = |of_key: &String| name.as_ref().is_none_or(|name| name == of_key);
        let keys = usage.iter().filter(|(of_key, _)| wanted(of_key));
        let data: Vec<Value> = keys.map(|(name, days)| usage_json(name, days, num_days)).collect();
        Ok(json!({ "object": "list", "data": data }))
    });
    Ok(Json(json.await??).into_response())
}

/// The newest days of a key, and their sum.
fn usage_json(name: &str, days: &Days, num_days: usize) -> Value {
    let mut total = Usage::default();
    let mut list: Vec<Value> = Vec::new();
    for (day, used) in days.iter().rev().take(num_days) {
        total.add(used);
        let mut json = used.to_json();
        json["date"] = date(*day).into();
        list.push(json);
    }
    list.reverse();
    json!({ "object": "usage", "key": name, "days": list, "total": total.to_json() })
}

fn usage_query(query: &str) -> Result<(Option<String>, usize), ApiError> {
    let (mut name, mut num_days) = (None, DEFAULT_DAYS);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            // Names need no escapes.
            ("key", value) => name = Some(value.to_owned()).filter(|name| !name.is_empty()),
            ("days", value) => {
                let days = value.parse().ok().filter(|days| (1..=MAX_DAYS).contains(days));
                num_days = days.ok_or_else(|| {
                    let message = format!("invalid days: expected 1 to {MAX_DAYS}");
                    ApiError::invalid("days", message)
                })?;
            }
            (other, _) => {
                let message = format!("unknown parameter `{other}`; known: `key`, `days`");
                return Err(ApiError::invalid(other, message));
            }
        }
    }
    Ok((name, num_days))
}

/// `GET /admin/limits`.
pub(crate) async fn limits(State(state): State<ServerState>) -> Response {
    Json(limits_json(&state)).into_response()
}

fn limits_json(state: &ServerState) -> Value {
    let (gate, stats, options) = (state.access().gate(), state.engine().stats(), state.options());
    json!({
        "object": "limits",
        LIMIT: gate.max(),
        "concurrent_requests": gate.num_inside(),
        "max_connections": options.max_connections,
        "max_body_bytes": options.max_body_bytes,
        "max_model_len": state.engine().max_model_len(),
        "running_requests": stats.num_requests_running,
        "waiting_requests": stats.num_requests_waiting,
        "is_draining": state.is_draining(),
    })
}

/// `PATCH /admin/limits`.
pub(crate) async fn change_limits(
    State(state): State<ServerState>,
    request: Request,
) -> Result<Response, ApiError> {
    let fields = object(&state, request).await?;
    if let Some(field) = fields.keys().find(|field| *field != LIMIT) {
        let message = format!("`{field}` does not change while the server runs; `{LIMIT}` does");
        return Err(ApiError::invalid(field, message));
    }
    if let Some(value) = fields.get(LIMIT) {
        let max = value.as_u64().filter(|max| (1..u64::MAX).contains(max));
        if max.is_none() && !value.is_null() {
            let expected = "expected a whole number from 1 on, or null for no limit";
            return Err(ApiError::invalid(LIMIT, format!("invalid {LIMIT}: {expected}")));
        }
        state.access().gate().set_max(max);
        state.access().tell(&Change::ServerLimit { limit: LIMIT, value: max });
    }
    Ok(Json(limits_json(&state)).into_response())
}

/// `POST /admin/drain`.
pub(crate) async fn drain(State(state): State<ServerState>) -> Response {
    state.pause(true);
    tracing::info!("the server takes no new requests, as an admin asked");
    drain_json(&state)
}

/// `POST /admin/undrain`.
pub(crate) async fn undrain(State(state): State<ServerState>) -> Response {
    state.pause(false);
    tracing::info!("the server takes requests again, as an admin asked");
    drain_json(&state)
}

fn drain_json(state: &ServerState) -> Response {
    let unfinished = state.engine().num_unfinished();
    let json = json!({
        "object": "drain",
        "is_draining": state.is_draining(),
        "unfinished_requests": unfinished,
    });
    Json(json).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_key_and_a_number_of_days() {
        assert_eq!(usage_query("").unwrap(), (None, DEFAULT_DAYS));
        assert_eq!(usage_query("key=a&days=7").unwrap(), (Some("a".to_owned()), 7));
        assert_eq!(usage_query("key=&").unwrap(), (None, DEFAULT_DAYS));
        for bad in ["days=0", "days=93", "days=-1", "days=x", "days", "day=1", "x"] {
            assert!(usage_query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_and_the_file_mean_the_same() {
        let hash = Digest::of(b"a").to_string();
        let fields = json!({
            "name": "a", "hash": hash, "models": ["m*"], "requests_per_second": 2,
            "tokens_per_day": 5, "expires": "2027-01-01T00:00:00Z", "disabled": true,
            "burst": null,
        });
        let mut table = Table::new();
        set(&mut table, fields.as_object().unwrap());
        let json = Value::Object(entry_json(&KeyEntry::from_table(&table).unwrap()));
        let expected = json!({
            "object": "key", "name": "a", "models": ["m*"], "requests_per_second": 2.0,
            "tokens_per_day": 5, "expires": "2027-01-01T00:00:00Z", "disabled": true,
        });
        assert_eq!(json, expected);
        for (field, value) in [
            ("models", json!([null])),
            ("models", json!({"a": 1})),
            ("burst", json!(1e300)),
            ("tokens_per_day", json!(u64::MAX)),
            ("hash", json!(7)),
        ] {
            let mut fields = fields.clone();
            fields[field] = value;
            let mut table = Table::new();
            set(&mut table, fields.as_object().unwrap());
            assert_eq!(KeyEntry::from_table(&table).unwrap_err().field(), field);
        }
    }
}

//! OTLP's messages, as far as spans of requests need them: `opentelemetry/proto/trace/v1/trace.proto`,
//! `common/v1/common.proto` and `collector/trace/v1/trace_service.proto`.
//!
//! What this module deliberately does not do: events, links, lists, and metrics or logs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::{RequestSpan, random};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_field_names, reason = "the names of the specification")]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3, 4, 5")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Real(f64),
    #[prost(message, tag = "5")]
    List(List),
}

#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;
/// `STATUS_CODE_OK` and `STATUS_CODE_ERROR`.
const STATUS: [i32; 2] = [1, 2];

/// The body of one post to a collector.
pub(super) fn body(spans: &[RequestSpan], version: &str) -> Vec<u8> {
    let name = "cairn".to_owned();
    let resource = Resource {
        attributes: vec![
            attribute("service.name", Value::Text(name.clone())),
            attribute("service.version", Value::Text(version.to_owned())),
        ],
    };
    let scope = Scope { name, version: version.to_owned() };
    let spans = spans.iter().map(span).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn span(span: &RequestSpan) -> Span {
    let end = span.started_at + span.total_time;
    let is_error = span.finish_reason == "error";
    Span {
        trace_id: span.context.trace_id.to_vec(),
        span_id: random().to_vec(),
        parent_span_id: span.context.parent_id.map(Vec::from).unwrap_or_default(),
        name: format!("{} {}", span.operation, span.model),
        kind: SERVER,
        start_time_unix_nano: nanos(span.started_at),
        end_time_unix_nano: nanos(end),
        attributes: attributes(span),
        status: Some(Status { code: STATUS[usize::from(is_error)] }),
    }
}

fn attributes(span: &RequestSpan) -> Vec<KeyValue> {
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let count = |count: usize| i64::try_from(count).ok().map(Value::Integer);
    let seconds = |time: Duration| Value::Real(time.as_secs_f64());
    let reason = AnyValue { value: text(span.finish_reason) };
    let (queue, first) = (span.queue_time, span.time_to_first_token);
    let prefill = queue.zip(first).map(|(queue, first)| first.saturating_sub(queue));
    let decode = first.map(|first| span.total_time.saturating_sub(first));
    let max_tokens = span.max_tokens.and_then(|most| i64::try_from(most).ok());
    [
        ("gen_ai.operation.name", text(span.operation)),
        ("gen_ai.provider.name", text("cairn")),
        ("gen_ai.request.model", text(&span.model)),
        ("gen_ai.response.model", text(&span.model)),
        ("gen_ai.request.choice.count", count(span.num_choices)),
        ("gen_ai.request.max_tokens", max_tokens.map(Value::Integer)),
        ("gen_ai.usage.input_tokens", span.prompt_tokens.and_then(count)),
        ("gen_ai.usage.cache_read.input_tokens", span.cached_tokens.and_then(count)),
        ("gen_ai.usage.output_tokens", span.completion_tokens.and_then(count)),
        ("gen_ai.response.finish_reasons", Some(Value::List(List { values: vec![reason] }))),
        ("gen_ai.latency.time_in_queue", queue.map(seconds)),
        ("gen_ai.latency.time_to_first_token", first.map(seconds)),
        ("gen_ai.latency.time_in_model_prefill", prefill.map(seconds)),
        ("gen_ai.latency.time_in_model_decode", decode.map(seconds)),
        ("gen_ai.latency.e2e", Some(seconds(span.total_time))),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some(attribute(key, value?)))
    .collect()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

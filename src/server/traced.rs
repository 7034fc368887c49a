//! Which trace the engine's requests of one HTTP request belong to.
//!
//! ```text
//! observe: traceparent --Context--> within(handler) --span()--> RequestRecord --ended()--> Tracer
//! ```
//!
//! The context is at hand wherever the handler runs, so that nothing in between has to know of it.

use std::future::Future;
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;

use crate::engine::Usage;
use crate::telemetry::traces::{RequestSpan, TraceContext};

tokio::task_local! {
    static CONTEXT: Option<Context>;
}

/// What is known of an HTTP request before it is read.
#[derive(Clone, Debug)]
pub(super) struct Context {
    trace: TraceContext,
    operation: &'static str,
    model: String,
}

impl Context {
    pub(super) fn new(headers: &HeaderMap, path: &'static str, model: &str) -> Self {
        let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let operation = match path {
            "/v1/completions" => "text_completion",
            "/v1/embeddings" => "embeddings",
            _ => "chat",
        };
        Self { trace: TraceContext::of_header(header), operation, model: model.to_owned() }
    }
}

/// Runs a handler in a context.
pub(super) async fn within<T>(context: Option<Context>, handler: impl Future<Output = T>) -> T {
    CONTEXT.scope(context, handler).await
}

/// The span of a request that is submitted now; `None` outside a handler.
pub(super) fn span(num_choices: usize, max_tokens: Option<u64>) -> Option<RequestSpan> {
    let Context { trace, operation, model } = CONTEXT.try_with(Clone::clone).ok()??;
    Some(RequestSpan {
        context: trace,
        operation,
        model,
        started_at: SystemTime::now(),
        total_time: Duration::ZERO,
        queue_time: None,
        time_to_first_token: None,
        prompt_tokens: None,
        cached_tokens: None,
        completion_tokens: None,
        num_choices,
        max_tokens,
        finish_reason: "",
    })
}

/// Adds what a request that ended well used.
pub(super) fn note_usage(span: &mut RequestSpan, usage: &Usage) {
    span.total_time = usage.total_time;
    span.queue_time = Some(usage.queue_time);
    span.time_to_first_token = Some(usage.time_to_first_token);
    span.prompt_tokens = Some(usage.prompt_tokens);
    span.cached_tokens = Some(usage.cached_tokens);
    span.completion_tokens = Some(usage.completion_tokens);
}

/// The span of a request that has ended.
pub(super) fn ended(span: RequestSpan, finish_reason: &'static str) -> RequestSpan {
    let total_time = match span.total_time {
        Duration::ZERO => span.started_at.elapsed().unwrap_or_default(),
        told => told,
    };
    RequestSpan { total_time, finish_reason, ..span }
}

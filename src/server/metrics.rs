//! Recording what happens and rendering it as a Prometheus page.
//!
//! ```text
//! engine counters --+
//! request records --+--> `page` (text format 0.0.4)   names, help, bounds: telemetry
//! HTTP answers -----+
//! samples of others +
//! ```
//!
//! One lock guards what the server records; it is held for a few additions, a few times per token.
//!
//! What this module deliberately does not do: it defines no metric; see [`crate::telemetry`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::traced;
use crate::engine::{ChoiceDelta, FinishReason, Usage};
use crate::telemetry::traces::{RequestSpan, Tracer};
use crate::telemetry::{self as names, Metric, MetricKind};

use super::access::Charge;
pub(super) use page::{PAGE_TYPE, page, starting_page};

mod page;

/// Everything that the server records.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    recorded: Mutex<Recorded>,
    tracer: OnceLock<Tracer>,
}

#[derive(Debug)]
struct Recorded {
    /// By route and status.
    http_requests: BTreeMap<(&'static str, u16), u64>,
    /// By reason; all reasons are there from the start, so that a rate over them works.
    ended: BTreeMap<&'static str, u64>,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    e2e_latency: Histogram,
    queue_time: Histogram,
    prompt_tokens: Histogram,
    generation_tokens: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    inference_time: Histogram,
    max_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            http_requests: BTreeMap::new(),
            ended: [STOP, LENGTH, ABORT, ERROR].map(|reason| (reason, 0)).into(),
            time_to_first_token: Histogram::new(names::TIME_TO_FIRST_TOKEN),
            inter_token_latency: Histogram::new(names::INTER_TOKEN_LATENCY),
            time_per_output_token: Histogram::new(names::REQUEST_TIME_PER_OUTPUT_TOKEN),
            e2e_latency: Histogram::new(names::E2E_REQUEST_LATENCY),
            queue_time: Histogram::new(names::REQUEST_QUEUE_TIME),
            prompt_tokens: Histogram::new(names::REQUEST_PROMPT_TOKENS),
            generation_tokens: Histogram::new(names::REQUEST_GENERATION_TOKENS),
            prefill_time: Histogram::new(names::REQUEST_PREFILL_TIME),
            decode_time: Histogram::new(names::REQUEST_DECODE_TIME),
            inference_time: Histogram::new(names::REQUEST_INFERENCE_TIME),
            max_generation_tokens: Histogram::new(names::REQUEST_MAX_NUM_GENERATION_TOKENS),
            params_n: Histogram::new(names::REQUEST_PARAMS_N),
            params_max_tokens: Histogram::new(names::REQUEST_PARAMS_MAX_TOKENS),
        }
    }
}

const STOP: &str = FinishReason::Stop.as_str();
const LENGTH: &str = FinishReason::Length.as_str();
const ABORT: &str = "abort";
const ERROR: &str = "error";

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, every request to the engine is a span. Only the first call counts.
    pub(super) fn trace(&self, tracer: Tracer) {
        let _ = self.tracer.set(tracer);
    }

    /// Whether requests are spans.
    pub(super) fn is_traced(&self) -> bool {
        self.tracer.get().is_some()
    }

    /// One answer to one HTTP request.
    pub(super) fn http_request(&self, path: &'static str, status: u16) {
        *self.lock().http_requests.entry((path, status)).or_default() += 1;
    }
}

/// What is recorded about one request to the engine. Dropped before its end, it counts as aborted.
#[derive(Debug)]
pub(super) struct RequestRecord {
    metrics: Arc<Metrics>,
    /// By choice.
    last_token_at: Vec<Option<Instant>>,
    charge: Charge,
    /// By choice.
    num_tokens: Vec<u64>,
    max_tokens: Option<u64>,
    span: Option<RequestSpan>,
    /// Why the last choice that ended did so.
    reason: FinishReason,
    has_ended: bool,
}

impl RequestRecord {
    /// To be called where the HTTP request is handled, to which its span belongs.
    pub(super) fn new(
        metrics: Arc<Metrics>,
        num_choices: usize,
        max_tokens: Option<u64>,
        charge: Charge,
    ) -> Self {
        let span = if metrics.is_traced() { traced::span(num_choices, max_tokens) } else { None };
        Self {
            span,
            metrics,
            last_token_at: vec![None; num_choices],
            num_tokens: vec![0; num_choices],
            max_tokens,
            charge,
            reason: FinishReason::Stop,
            has_ended: false,
        }
    }

    /// More of a choice arrived.
    pub(super) fn delta(&mut self, delta: &ChoiceDelta) {
        if let Some(end) = &delta.end {
            self.reason = end.reason;
        }
        let num_tokens = delta.token_ids.len();
        self.charge.generated(num_tokens);
        let last_token_at = self.last_token_at.get_mut(delta.index).filter(|_| num_tokens > 0);
        let Some(last_token_at) = last_token_at else { return };
        self.num_tokens[delta.index] += num_tokens as u64;
        let now = Instant::now();
        if let Some(last) = last_token_at.replace(now) {
            let gap = now.duration_since(last) / u32::try_from(num_tokens).unwrap_or(u32::MAX);
            let mut recorded = self.metrics.lock();
            recorded.inter_token_latency.observe_times(gap.as_secs_f64(), num_tokens as u64);
        }
    }

    /// The request ended well.
    pub(super) fn finished(&mut self, usage: &Usage) {
        let reason = self.reason.as_str();
        self.charge.finished(usage.cached_tokens, usage.completion_tokens);
        if let Some(span) = &mut self.span {
            traced::note_usage(span, usage);
        }
        self.end(reason);
        let mut recorded = self.metrics.lock();
        recorded.queue_time.observe_seconds(usage.queue_time);
        recorded.time_to_first_token.observe_seconds(usage.time_to_first_token);
        recorded.e2e_latency.observe_seconds(usage.total_time);
        recorded.prompt_tokens.observe(usage.prompt_tokens as f64);
        recorded.generation_tokens.observe(usage.completion_tokens as f64);
        let prefill = usage.time_to_first_token.saturating_sub(usage.queue_time);
        recorded.prefill_time.observe_seconds(prefill);
        let decode = usage.total_time.saturating_sub(usage.time_to_first_token);
        recorded.decode_time.observe_seconds(decode);
        let inference = usage.total_time.saturating_sub(usage.queue_time);
        recorded.inference_time.observe_seconds(inference);
        let longest = self.num_tokens.iter().max().copied().unwrap_or(0);
        recorded.max_generation_tokens.observe(longest as f64);
        recorded.params_n.observe(self.last_token_at.len() as f64);
        if let Some(max_tokens) = self.max_tokens {
            recorded.params_max_tokens.observe(max_tokens as f64);
        }
        // Choices are generated side by side.
        let per_choice = usage.completion_tokens as f64 / self.last_token_at.len() as f64;
        if per_choice > 1.0 {
            let mean = decode.as_secs_f64() / (per_choice - 1.0);
            recorded.time_per_output_token.observe(mean);
        }
        drop(recorded);
        tracing::debug!(
            reason,
            prompt_tokens = usage.prompt_tokens,
            cached_tokens = usage.cached_tokens,
            completion_tokens = usage.completion_tokens,
            queue_ms = usage.queue_time.as_secs_f64() * 1e3,
            time_to_first_token_ms = usage.time_to_first_token.as_secs_f64() * 1e3,
            total_ms = usage.total_time.as_secs_f64() * 1e3,
            "finished"
        );
    }

    /// The request failed in the engine.
    pub(super) fn failed(&mut self) {
        self.charge.failed();
        self.end(ERROR);
    }

    fn end(&mut self, reason: &'static str) {
        self.has_ended = true;
        *self.metrics.lock().ended.entry(reason).or_default() += 1;
        if let (Some(span), Some(tracer)) = (self.span.take(), self.metrics.tracer.get()) {
            tracer.record(traced::ended(span, reason));
        }
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(ABORT);
        }
    }
}

/// Counts of observations by upper bound.
#[derive(Clone, Debug)]
struct Histogram {
    metric: Metric,
    /// One per bound and one for everything above; not cumulative.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(metric: Metric) -> Self {
        let num_bounds = Self::bounds(&metric).len();
        Self { metric, counts: vec![0; num_bounds + 1], sum: 0.0 }
    }

    fn bounds(metric: &Metric) -> &'static [f64] {
        match metric.kind {
            MetricKind::Histogram(bounds) => bounds,
            MetricKind::Counter | MetricKind::Gauge => &[],
        }
    }

    fn observe(&mut self, value: f64) {
        self.observe_times(value, 1);
    }

    fn observe_times(&mut self, value: f64, times: u64) {
        let bounds = Self::bounds(&self.metric);
        self.counts[bounds.partition_point(|bound| *bound < value)] += times;
        self.sum += value * times as f64;
    }

    fn observe_seconds(&mut self, value: Duration) {
        self.observe(value.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Grant;
    use super::*;

    #[test]
    fn a_request_that_is_dropped_counts_as_aborted() {
        let metrics = Arc::new(Metrics::default());
        drop(RequestRecord::new(Arc::clone(&metrics), 1, Some(9), Grant::default().charge(7)));
        assert_eq!(metrics.lock().ended["abort"], 1);
    }
}

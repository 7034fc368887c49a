//! Recording what happens and rendering it as a Prometheus page.
//!
//! ```text
//! engine counters --+
//! request records --+--> page (text format 0.0.4)     names, help, bounds: telemetry
//! HTTP answers -----+
//! samples of others +
//! ```
//!
//! One lock guards what the server records; it is held for a few additions, a few times per token.
//!
//! What this module deliberately does not do: it defines no metric; see [`crate::telemetry`].

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::ServerState;
use super::access::Charge;
use crate::engine::{ChoiceDelta, EngineStats, FinishReason, Usage};
use crate::telemetry::{self as names, Metric, MetricKind, Sample};

/// Everything that the server records.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Recorded>);

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
        }
    }
}

const STOP: &str = FinishReason::Stop.as_str();
const LENGTH: &str = FinishReason::Length.as_str();
const ABORT: &str = "abort";
const ERROR: &str = "error";

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Why the last choice that ended did so.
    reason: FinishReason,
    has_ended: bool,
}

impl RequestRecord {
    pub(super) fn new(metrics: Arc<Metrics>, num_choices: usize, charge: Charge) -> Self {
        let last_token_at = vec![None; num_choices];
        Self { metrics, last_token_at, charge, reason: FinishReason::Stop, has_ended: false }
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
        let now = Instant::now();
        if let Some(last) = last_token_at.replace(now) {
            let gap = now.duration_since(last) / u32::try_from(num_tokens).unwrap_or(u32::MAX);
            let mut recorded = self.metrics.lock();
            for _ in 0..num_tokens {
                recorded.inter_token_latency.observe_seconds(gap);
            }
        }
    }

    /// The request ended well.
    pub(super) fn finished(&mut self, usage: &Usage) {
        let reason = self.reason.as_str();
        self.charge.finished(usage.cached_tokens, usage.completion_tokens);
        self.end(reason);
        let mut recorded = self.metrics.lock();
        recorded.queue_time.observe_seconds(usage.queue_time);
        recorded.time_to_first_token.observe_seconds(usage.time_to_first_token);
        recorded.e2e_latency.observe_seconds(usage.total_time);
        recorded.prompt_tokens.observe(usage.prompt_tokens as f64);
        recorded.generation_tokens.observe(usage.completion_tokens as f64);
        // Choices are generated side by side.
        let per_choice = usage.completion_tokens as f64 / self.last_token_at.len() as f64;
        if per_choice > 1.0 {
            let decode = usage.total_time.saturating_sub(usage.time_to_first_token);
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
        let bounds = Self::bounds(&self.metric);
        self.counts[bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    fn observe_seconds(&mut self, value: Duration) {
        self.observe(value.as_secs_f64());
    }
}

/// `GET /metrics`.
pub(super) async fn page(State(state): State<ServerState>) -> Response {
    let mut page = Page::new(&state.options().served_model_name);
    page.engine(&state.engine().stats());
    page.recorded(&state.metrics().lock());
    page.labelled(
        &names::BOOT_PHASE_SECONDS,
        state.about().boot_phases.iter().map(|(phase, took)| {
            (vec![("phase", phase.clone())], format!("{:?}", took.as_secs_f64()))
        }),
    );
    for (metric, series) in state.access().series() {
        page.labelled(&metric, series);
    }
    page.samples(&state.reported());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.text).into_response()
}

/// The page while it is written. Every series carries `model_name`.
struct Page {
    text: String,
    model_name: String,
}

impl Page {
    fn new(model_name: &str) -> Self {
        Self { text: String::with_capacity(16 << 10), model_name: model_name.to_owned() }
    }

    fn engine(&mut self, stats: &EngineStats) {
        let usage = stats.num_kv_blocks_used as f64 / stats.num_kv_blocks.max(1) as f64;
        self.one(&names::NUM_REQUESTS_RUNNING, stats.num_requests_running);
        self.one(&names::NUM_REQUESTS_WAITING, stats.num_requests_waiting);
        self.labelled(&names::KV_CACHE_USAGE, [(vec![], format!("{usage:?}"))]);
        self.one(&names::NUM_PREEMPTIONS, stats.num_preemptions);
        self.one(&names::PROMPT_TOKENS, stats.prompt_tokens);
        self.one(&names::GENERATION_TOKENS, stats.generation_tokens);
        self.one(&names::STEPS, stats.num_steps);
        self.one(&names::LAUNCHES, stats.num_launches);
        self.one(&names::PADDED_TOKENS, stats.padded_tokens);
        self.one(&names::GRAPHS_COMPILED, stats.graphs_compiled);
        self.one(&names::GRAPHS_FROM_CACHE, stats.graphs_from_cache);
        self.one(&names::COMPILES_AFTER_READY, stats.compiles_after_ready);
        self.one(&names::QUEUE_TOKENS, stats.num_queued_tokens);
        self.one(&names::REQUESTS_TIMED_OUT, stats.num_requests_timed_out);
        self.one(&names::SPEC_DECODE_NUM_DRAFT_TOKENS, stats.num_draft_tokens);
        self.one(&names::SPEC_DECODE_NUM_ACCEPTED_TOKENS, stats.num_accepted_tokens);
        self.prefix_cache(stats);
    }

    fn prefix_cache(&mut self, stats: &EngineStats) {
        self.one(&names::PREFIX_CACHE_QUERIES, stats.prefix_query_tokens);
        self.one(&names::PREFIX_CACHE_HITS, stats.prefix_hit_tokens);
        self.one(&names::PREFIX_CACHE_PARTIAL_HITS, stats.prefix_partial_hit_tokens);
        self.by_reason(
            &names::PREFIX_CACHE_MISSES,
            &[
                ("new", stats.prefix_miss_new_tokens),
                ("evicted", stats.prefix_miss_evicted_tokens),
                ("tail", stats.prefix_miss_tail_tokens),
                ("disabled", stats.prefix_miss_disabled_tokens),
            ],
        );
        self.by_reason(
            &names::PREFIX_CACHE_EVICTIONS,
            &[
                ("capacity", stats.prefix_evictions_capacity),
                ("reset", stats.prefix_evictions_reset),
            ],
        );
        self.one(&names::PREFIX_CACHE_BLOCKS, stats.num_kv_blocks_cached);
        self.one(&names::KV_BLOCK_COPIES, stats.num_block_copies);
        self.one(&names::PREFIX_STORE_BLOCKS_LOADED, stats.prefix_blocks_loaded);
        self.one(&names::PREFIX_STORE_BLOCKS_SAVED, stats.prefix_blocks_saved);
    }

    fn recorded(&mut self, recorded: &Recorded) {
        let ended = recorded.ended.iter();
        self.labelled(
            &names::REQUEST_SUCCESS,
            ended.map(|(reason, count)| {
                (vec![("finished_reason", (*reason).to_owned())], count.to_string())
            }),
        );
        for histogram in [
            &recorded.time_to_first_token,
            &recorded.inter_token_latency,
            &recorded.time_per_output_token,
            &recorded.e2e_latency,
            &recorded.queue_time,
            &recorded.prompt_tokens,
            &recorded.generation_tokens,
        ] {
            self.histogram(histogram);
        }
        let answers = recorded.http_requests.iter();
        self.labelled(
            &names::HTTP_REQUESTS,
            answers.map(|((path, status), count)| {
                let labels = vec![("path", (*path).to_owned()), ("status", status.to_string())];
                (labels, count.to_string())
            }),
        );
    }

    /// Those of one metric are neighbours.
    fn samples(&mut self, samples: &[Sample]) {
        for of_metric in samples.chunk_by(|a, b| a.metric.name == b.metric.name) {
            let series = of_metric.iter().map(|sample| {
                let label = sample.label.map(|(name, label)| (name, label.to_owned()));
                (label.into_iter().collect(), sample.value.to_string())
            });
            self.labelled(&of_metric[0].metric, series);
        }
    }

    fn one(&mut self, metric: &Metric, value: u64) {
        self.labelled(metric, [(vec![], value.to_string())]);
    }

    fn by_reason(&mut self, metric: &Metric, counts: &[(&str, u64)]) {
        let series = counts
            .iter()
            .map(|(reason, count)| (vec![("reason", (*reason).to_owned())], count.to_string()));
        self.labelled(metric, series);
    }

    fn labelled(
        &mut self,
        metric: &Metric,
        series: impl IntoIterator<Item = (Vec<(&'static str, String)>, String)>,
    ) {
        self.header(metric);
        for (labels, value) in series {
            self.sample(metric.name, "", &labels, &value);
        }
    }

    fn histogram(&mut self, histogram: &Histogram) {
        let name = histogram.metric.name;
        self.header(&histogram.metric);
        let bounds = Histogram::bounds(&histogram.metric).iter().map(|bound| format!("{bound:?}"));
        let mut count = 0;
        for (bound, in_bucket) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            count += in_bucket;
            self.sample(name, "_bucket", &[("le", bound)], &count.to_string());
        }
        self.sample(name, "_sum", &[], &format!("{:?}", histogram.sum));
        self.sample(name, "_count", &[], &count.to_string());
    }

    fn header(&mut self, metric: &Metric) {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        let (name, help) = (metric.name, metric.help);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, String)], value: &str) {
        let model_name = escaped(&self.model_name);
        let _ = write!(self.text, "{name}{suffix}{{model_name=\"{model_name}\"");
        for (key, label) in labels {
            let _ = write!(self.text, ",{key}=\"{}\"", escaped(label));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ChoiceEnd;
    use crate::server::access::Grant;

    fn rendered(metrics: &Metrics) -> String {
        let mut page = Page::new("tiny \"one\"");
        page.engine(&EngineStats { num_kv_blocks: 8, num_kv_blocks_used: 2, ..Default::default() });
        page.recorded(&metrics.lock());
        page.samples(&[
            Sample::labelled(names::CACHE_MISSES, "reason", "absent", 2.0),
            Sample::labelled(names::CACHE_MISSES, "reason", "bad", 0.0),
            Sample::new(names::CACHE_SAVED_SECONDS, 1.5),
        ]);
        page.text
    }

    #[test]
    fn a_finished_request_is_in_every_histogram() {
        let metrics = Arc::new(Metrics::default());
        let mut record = RequestRecord::new(Arc::clone(&metrics), 1, Grant::default().charge(7));
        let end = ChoiceEnd { reason: FinishReason::Length, stop: None, cumulative_logprob: None };
        record.delta(&ChoiceDelta { token_ids: vec![1], ..ChoiceDelta::default() });
        let (token_ids, end) = (vec![2, 3], Some(end));
        record.delta(&ChoiceDelta { token_ids, end, ..ChoiceDelta::default() });
        let usage = Usage {
            prompt_tokens: 7,
            cached_tokens: 4,
            completion_tokens: 3,
            queue_time: Duration::from_millis(1),
            time_to_first_token: Duration::from_millis(30),
            total_time: Duration::from_millis(50),
        };
        record.finished(&usage);
        drop(record);
        let page = rendered(&metrics);
        let label = "{model_name=\"tiny \\\"one\\\"\"";
        for line in [
            format!("vllm:request_success_total{label},finished_reason=\"length\"}} 1"),
            format!("vllm:request_success_total{label},finished_reason=\"abort\"}} 0"),
            format!("vllm:inter_token_latency_seconds_count{label}}} 2"),
            format!("vllm:time_to_first_token_seconds_bucket{label},le=\"0.02\"}} 0"),
            format!("vllm:time_to_first_token_seconds_bucket{label},le=\"0.04\"}} 1"),
            format!("vllm:request_prompt_tokens_sum{label}}} 7.0"),
            format!("vllm:request_generation_tokens_bucket{label},le=\"+Inf\"}} 1"),
            format!("vllm:kv_cache_usage_perc{label}}} 0.25"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn what_others_count_is_on_the_page() {
        let page = rendered(&Metrics::default());
        let label = "{model_name=\"tiny \\\"one\\\"\"";
        for line in [
            format!("cairn_cache_misses_total{label},reason=\"absent\"}} 2"),
            format!("cairn_cache_misses_total{label},reason=\"bad\"}} 0"),
            format!("cairn_cache_saved_seconds_total{label}}} 1.5"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn a_request_that_is_dropped_counts_as_aborted() {
        let metrics = Arc::new(Metrics::default());
        drop(RequestRecord::new(Arc::clone(&metrics), 1, Grant::default().charge(7)));
        assert_eq!(metrics.lock().ended["abort"], 1);
    }

    #[test]
    fn the_page_follows_the_text_format() {
        let metrics = Metrics::default();
        metrics.http_request("/v1/models", 200);
        let mut seen = Vec::new();
        for line in rendered(&metrics).lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(!seen.contains(&name.to_owned()), "{name} appears twice");
                seen.push(name.to_owned());
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let name = series.split('{').next().unwrap();
                assert!(name.starts_with(seen.last().unwrap().as_str()), "{line}");
                assert!(series.ends_with("\"}"), "{line}");
            }
        }
    }
}

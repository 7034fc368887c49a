//! The page: what was recorded, in Prometheus' text format.

use std::fmt::Write;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::{Histogram, Recorded};
use crate::engine::{EngineOptions, EngineStats, StepTokensStats};
use crate::server::ServerState;
use crate::server::deep::DeepHealth;
use crate::server::health::is_ready;
use crate::telemetry::events::EventLog;
use crate::telemetry::{self as names, Metric, MetricKind, Sample};

/// What kind of text the page is.
pub(in crate::server) const PAGE_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page of a server that starts: that it is not ready, and its events.
pub(in crate::server) fn starting_page(model_name: &str, events: &EventLog) -> String {
    let mut page = Page::new(model_name);
    page.one(&names::READY, 0);
    page.events(events);
    page.text
}

/// `GET /metrics`.
pub(in crate::server) async fn page(State(state): State<ServerState>) -> Response {
    let mut page = Page::new(&state.options().served_model_name);
    page.server(&state);
    page.samples(&state.reported());
    ([(CONTENT_TYPE, PAGE_TYPE)], page.text).into_response()
}

/// The page while it is written. Every series carries `model_name` and `engine`.
struct Page {
    text: String,
    model_name: String,
}

impl Page {
    /// All but what others count.
    fn server(&mut self, state: &ServerState) {
        let (engine, deep) = (state.engine(), state.deep_health());
        self.engine(&without_probes(engine.stats(), deep));
        self.cache_config(engine.options());
        self.step_tokens(&engine.step_tokens());
        self.recorded(&state.metrics().lock());
        let phases = state.about().boot_phases.iter();
        let of_phase = |(phase, took): &(String, Duration)| {
            (vec![("phase", phase.clone())], format!("{:?}", took.as_secs_f64()))
        };
        self.labelled(&names::BOOT_PHASE_SECONDS, phases.map(of_phase));
        self.one(&names::READY, u64::from(is_ready(state)));
        self.real(&names::START_TO_READY_SECONDS, state.about().start_to_ready.as_secs_f64());
        for (metric, series) in state.access().series() {
            self.labelled(&metric, series);
        }
        self.events(state.events());
        self.deep_health(deep);
    }

    fn new(model_name: &str) -> Self {
        Self { text: String::with_capacity(16 << 10), model_name: model_name.to_owned() }
    }

    fn engine(&mut self, stats: &EngineStats) {
        let usage = stats.num_kv_blocks_used as f64 / stats.num_kv_blocks.max(1) as f64;
        self.one(&names::NUM_REQUESTS_RUNNING, stats.num_requests_running);
        self.one(&names::NUM_REQUESTS_WAITING, stats.num_requests_waiting);
        self.real(&names::KV_CACHE_USAGE, usage);
        self.real(&names::GPU_CACHE_USAGE, usage);
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

    fn cache_config(&mut self, options: &EngineOptions) {
        let labels = vec![
            ("block_size", options.block_size.to_string()),
            ("num_gpu_blocks", options.num_blocks.to_string()),
            ("enable_prefix_caching", options.is_prefix_cache_on.to_string()),
        ];
        self.labelled(&names::CACHE_CONFIG_INFO, [(labels, "1".to_owned())]);
    }

    fn step_tokens(&mut self, stats: &StepTokensStats) {
        let (counts, sum) = (stats.counts.to_vec(), stats.sum as f64);
        self.histogram(&Histogram { metric: names::ITERATION_TOKENS, counts, sum });
    }

    fn prefix_cache(&mut self, stats: &EngineStats) {
        self.one(&names::PREFIX_CACHE_QUERIES, stats.prefix_query_tokens);
        self.one(&names::PREFIX_CACHE_HITS, stats.prefix_hit_tokens);
        self.one(&names::GPU_PREFIX_CACHE_QUERIES, stats.prefix_query_tokens);
        self.one(&names::GPU_PREFIX_CACHE_HITS, stats.prefix_hit_tokens);
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
            &recorded.prefill_time,
            &recorded.decode_time,
            &recorded.inference_time,
            &recorded.max_generation_tokens,
            &recorded.params_n,
            &recorded.params_max_tokens,
        ] {
            self.histogram(histogram);
        }
        let metric = names::TIME_PER_OUTPUT_TOKEN;
        self.histogram(&Histogram { metric, ..recorded.inter_token_latency.clone() });
        let answers = recorded.http_requests.iter();
        self.labelled(
            &names::HTTP_REQUESTS,
            answers.map(|((path, status), count)| {
                let labels = vec![("path", (*path).to_owned()), ("status", status.to_string())];
                (labels, count.to_string())
            }),
        );
    }

    fn events(&mut self, events: &EventLog) {
        let counts = events.counts().into_iter();
        self.labelled(
            &names::EVENTS,
            counts
                .map(|(kind, count)| (vec![("kind", kind.as_str().to_owned())], count.to_string())),
        );
        self.one(&names::EVENTS_UNWRITTEN, events.num_unwritten());
        self.one(&names::EVENTS_DAMAGED, events.num_damaged());
    }

    fn deep_health(&mut self, deep: &DeepHealth) {
        let results = [("ok", deep.num_answered()), ("failed", deep.num_failed())];
        self.labelled(
            &names::DEEP_HEALTH,
            results.map(|(result, count)| (vec![("result", result.to_owned())], count.to_string())),
        );
        self.real(&names::DEEP_HEALTH_SECONDS, deep.last_seconds());
    }

    fn real(&mut self, metric: &Metric, value: f64) {
        self.labelled(metric, [(vec![], format!("{value:?}"))]);
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
        let _ = write!(self.text, "{name}{suffix}{{model_name=\"{model_name}\",engine=\"0\"");
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

/// The engine's counters without what probes took. They never go down: what a probe took may be counted
/// by the engine before the probe has ended.
fn without_probes(mut stats: EngineStats, deep: &DeepHealth) -> EngineStats {
    (stats.prompt_tokens, stats.generation_tokens) =
        deep.without(stats.prompt_tokens, stats.generation_tokens);
    stats
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::super::{Metrics, RequestRecord};
    use super::*;
    use crate::boot::{graph_cache, prefix};
    use crate::engine::{self, ChoiceDelta, ChoiceEnd, FinishReason, Usage, fake};
    use crate::server::access::Grant;
    use crate::server::{About, ServerOptions};

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
        let mut record =
            RequestRecord::new(Arc::clone(&metrics), 1, Some(9), Grant::default().charge(7));
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
        let label = "{model_name=\"tiny \\\"one\\\"\",engine=\"0\"";
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
        let label = "{model_name=\"tiny \\\"one\\\"\",engine=\"0\"";
        for line in [
            format!("cairn_cache_misses_total{label},reason=\"absent\"}} 2"),
            format!("cairn_cache_misses_total{label},reason=\"bad\"}} 0"),
            format!("cairn_cache_saved_seconds_total{label}}} 1.5"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
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

    #[test]
    fn every_metric_of_the_list_is_on_the_page_with_its_labels_and_no_other() {
        let options = engine::EngineOptions {
            max_model_len: 64,
            block_size: 4,
            num_blocks: 64,
            ..engine::EngineOptions::default()
        };
        let (engine, _control) = fake::engine(&fake::DYNAMIC, &fake::Script::Hash, &options);
        let about = About {
            boot_phases: vec![("model".to_owned(), Duration::from_secs(1))],
            ..About::default()
        };
        let server = ServerOptions::new("tiny");
        let state = ServerState::new(engine, fake::tokenizer(), None, server, about);
        state.metrics().http_request("/v1/models", 200);
        let mut page = Page::new("tiny");
        page.server(&state);
        page.samples(&graph_cache::samples(&cairn_graph_cache::StatsSnapshot::default()));
        page.samples(&prefix::samples(&crate::engine::PrefixStoreStats::default()));

        let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut name = "";
        for line in page.text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                name = rest.split(' ').next().unwrap();
                assert!(labels.insert(name, BTreeSet::new()).is_none(), "{name} is there twice");
            } else if !line.starts_with('#') {
                let inner = line.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
                let found = inner.split("\",").map(|label| label.split('=').next().unwrap());
                labels.get_mut(name).unwrap().extend(found);
            }
        }
        let declared: BTreeMap<&str, BTreeSet<&str>> = names::ALL
            .iter()
            .map(|metric| {
                let le = matches!(metric.kind, MetricKind::Histogram(_)).then_some("le");
                let all = metric.labels.iter().copied().chain(names::COMMON_LABELS).chain(le);
                (metric.name, all.collect())
            })
            .collect();
        for (name, labels) in &mut labels {
            // Those that have no series yet.
            if labels.is_empty() {
                labels.extend(declared.get(name).into_iter().flatten());
            }
        }
        assert_eq!(labels, declared);
    }

    #[test]
    fn the_engine_counts_steps_by_the_bounds_of_their_metric() {
        let MetricKind::Histogram(bounds) = names::ITERATION_TOKENS.kind else { panic!() };
        assert!(engine::STEP_TOKENS_BOUNDS.iter().map(|bound| *bound as f64).eq(bounds.to_vec()));
    }
}

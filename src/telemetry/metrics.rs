//! The one list of metrics: names, help, kinds, labels, bounds.
//!
//! Metrics whose meaning matches vLLM's have vLLM's names, so that dashboards and gateways made for
//! it work; what only this program counts begins with `cairn_`. Every series also carries the labels
//! in [`COMMON_LABELS`].
//!
//! What this module deliberately does not do: it holds no values and renders no page. The server
//! records and renders.

/// What kind of time series a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations up to each of these bounds, in increasing order.
    Histogram(&'static [f64]),
}

/// One metric: what a scrape calls it and what it says about it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name, unit included.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// What kind of series it is.
    pub kind: MetricKind,
    /// Its labels, besides [`COMMON_LABELS`] and a histogram's `le`.
    pub labels: &'static [&'static str],
}

impl Metric {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Counter, labels: &[] }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricKind::Gauge, labels: &[] }
    }

    const fn histogram(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, kind: MetricKind::Histogram(bounds), labels: &[] }
    }
}

impl Metric {
    const fn labelled(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }
}

/// Labels of every series: which model, and which of a server's engines.
pub const COMMON_LABELS: [&str; 2] = ["model_name", "engine"];

/// One value of a metric.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which metric.
    pub metric: Metric,
    /// A label and its value, if it has one.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a metric without labels.
    pub const fn new(metric: Metric, value: f64) -> Self {
        Self { metric, label: None, value }
    }

    /// One of the values of a metric with a label.
    pub const fn labelled(
        metric: Metric,
        name: &'static str,
        label: &'static str,
        value: f64,
    ) -> Self {
        Self { metric, label: Some((name, label)), value }
    }
}

/// Seconds until the first token: from an idle small model to a long queue.
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Seconds between tokens. The steps below 10 ms are for small models, the others are vLLM's.
const BETWEEN_TOKENS_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Seconds of a whole request or of its wait.
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Tokens of a step.
const STEP_TOKENS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0, 16_384.0,
];

/// Tokens of a request.
const REQUEST_TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0, 200_000.0,
];

/// Declares the metrics, and the list of all of them.
macro_rules! metrics {
    ($($(#[$doc:meta])* pub const $name:ident: Metric = $metric:expr;)*) => {
        $($(#[$doc])* pub const $name: Metric = $metric;)*

        /// Every metric, in the order of this file.
        pub const ALL: &[Metric] = &[$($name),*];
    };
}

metrics! {
/// Requests in the running batch.
pub const NUM_REQUESTS_RUNNING: Metric =
    Metric::gauge("vllm:num_requests_running", "Requests in the running batch.");
/// Requests that wait.
pub const NUM_REQUESTS_WAITING: Metric =
    Metric::gauge("vllm:num_requests_waiting", "Requests that wait for room in the batch.");
/// Share of KV blocks in use.
pub const KV_CACHE_USAGE: Metric =
    Metric::gauge("vllm:kv_cache_usage_perc", "Share of the KV blocks in use; 1 is all of them.");
/// Requests put back to the queue.
pub const NUM_PREEMPTIONS: Metric = Metric::counter(
    "vllm:num_preemptions_total",
    "Requests put back to the queue because KV blocks ran out.",
);
/// Prompt tokens.
pub const PROMPT_TOKENS: Metric =
    Metric::counter("vllm:prompt_tokens_total", "Prompt tokens computed.");
/// Generated tokens.
pub const GENERATION_TOKENS: Metric =
    Metric::counter("vllm:generation_tokens_total", "Tokens generated.");
/// Ended requests, by label `finished_reason`.
pub const REQUEST_SUCCESS: Metric = Metric::counter(
    "vllm:request_success_total",
    "Ended requests by reason: stop, length, abort (the client left), error.",
)
.labelled(&["finished_reason"]);
/// Time to first token.
pub const TIME_TO_FIRST_TOKEN: Metric = Metric::histogram(
    "vllm:time_to_first_token_seconds",
    "Seconds from submission to the first generated token.",
    FIRST_TOKEN_SECONDS,
);
/// Time between tokens.
pub const INTER_TOKEN_LATENCY: Metric = Metric::histogram(
    "vllm:inter_token_latency_seconds",
    "Seconds between two tokens of one request, as they reach the server.",
    BETWEEN_TOKENS_SECONDS,
);
/// Mean time per token.
pub const REQUEST_TIME_PER_OUTPUT_TOKEN: Metric = Metric::histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean seconds per generated token after the first, one observation per request.",
    BETWEEN_TOKENS_SECONDS,
);
/// Time of a whole request.
pub const E2E_REQUEST_LATENCY: Metric = Metric::histogram(
    "vllm:e2e_request_latency_seconds",
    "Seconds from submission to the last generated token.",
    REQUEST_SECONDS,
);
/// Time in the queue.
pub const REQUEST_QUEUE_TIME: Metric = Metric::histogram(
    "vllm:request_queue_time_seconds",
    "Seconds from submission to the first step that computed the request.",
    REQUEST_SECONDS,
);
/// Prompt lengths.
pub const REQUEST_PROMPT_TOKENS: Metric = Metric::histogram(
    "vllm:request_prompt_tokens",
    "Tokens of the prompt, one observation per finished request.",
    REQUEST_TOKENS,
);
/// Output lengths.
pub const REQUEST_GENERATION_TOKENS: Metric = Metric::histogram(
    "vllm:request_generation_tokens",
    "Tokens generated, one observation per finished request.",
    REQUEST_TOKENS,
);
/// The same by its old name.
pub const GPU_CACHE_USAGE: Metric = Metric::gauge(
    "vllm:gpu_cache_usage_perc",
    "Share of the KV blocks in use; the old name of vllm:kv_cache_usage_perc.",
);
/// What the KV cache is.
pub const CACHE_CONFIG_INFO: Metric =
    Metric::gauge("vllm:cache_config_info", "What the KV cache is, in labels; always 1.")
        .labelled(&["block_size", "num_gpu_blocks", "enable_prefix_caching"]);
/// Old name of queries.
pub const GPU_PREFIX_CACHE_QUERIES: Metric = Metric::counter(
    "vllm:gpu_prefix_cache_queries_total",
    "The old name of vllm:prefix_cache_queries_total.",
);
/// Old name of hits.
pub const GPU_PREFIX_CACHE_HITS: Metric = Metric::counter(
    "vllm:gpu_prefix_cache_hits_total",
    "The old name of vllm:prefix_cache_hits_total.",
);
/// Old name of the time between tokens.
pub const TIME_PER_OUTPUT_TOKEN: Metric = Metric::histogram(
    "vllm:time_per_output_token_seconds",
    "The old name of vllm:inter_token_latency_seconds.",
    BETWEEN_TOKENS_SECONDS,
);
/// Time of the prompt.
pub const REQUEST_PREFILL_TIME: Metric = Metric::histogram(
    "vllm:request_prefill_time_seconds",
    "Seconds from the first step that computed the request to its first generated token.",
    REQUEST_SECONDS,
);
/// Time of the tokens.
pub const REQUEST_DECODE_TIME: Metric = Metric::histogram(
    "vllm:request_decode_time_seconds",
    "Seconds from the first generated token of a request to its last.",
    REQUEST_SECONDS,
);
/// Time without the queue.
pub const REQUEST_INFERENCE_TIME: Metric = Metric::histogram(
    "vllm:request_inference_time_seconds",
    "Seconds from the first step that computed the request to its last generated token.",
    REQUEST_SECONDS,
);
/// Tokens of a step.
pub const ITERATION_TOKENS: Metric = Metric::histogram(
    "vllm:iteration_tokens_total",
    "Tokens computed in one step, of prompts and answers.",
    STEP_TOKENS,
);
/// The longest choice.
pub const REQUEST_MAX_NUM_GENERATION_TOKENS: Metric = Metric::histogram(
    "vllm:request_max_num_generation_tokens",
    "Tokens of the longest choice of a request.",
    REQUEST_TOKENS,
);
/// What `n` was.
pub const REQUEST_PARAMS_N: Metric = Metric::histogram(
    "vllm:request_params_n",
    "Choices that a request asked for.",
    &[1.0, 2.0, 5.0, 10.0, 20.0],
);
/// What `max_tokens` was.
pub const REQUEST_PARAMS_MAX_TOKENS: Metric = Metric::histogram(
    "vllm:request_params_max_tokens",
    "Most tokens that a request might generate, of those that said so.",
    REQUEST_TOKENS,
);
/// Steps.
pub const STEPS: Metric = Metric::counter("cairn_steps_total", "Steps run.");
/// Launches.
pub const LAUNCHES: Metric = Metric::counter(
    "cairn_launches_total",
    "Launches of graphs; a step is one, or several where a device runs decodes and prefills apart.",
);
/// Rows that only fill a bucket.
pub const PADDED_TOKENS: Metric = Metric::counter(
    "cairn_padded_tokens_total",
    "Rows computed only to fill a graph's fixed size.",
);
/// Prompt tokens that were looked up.
pub const PREFIX_CACHE_QUERIES: Metric = Metric::counter(
    "vllm:prefix_cache_queries_total",
    "Prompt tokens that were looked for in the prefix cache.",
);
/// Prompt tokens that were there.
pub const PREFIX_CACHE_HITS: Metric = Metric::counter(
    "vllm:prefix_cache_hits_total",
    "Prompt tokens whose keys and values were in the prefix cache.",
);
/// Those of them that lay in a block of which only a part was used.
pub const PREFIX_CACHE_PARTIAL_HITS: Metric = Metric::counter(
    "cairn_prefix_cache_partial_hit_tokens_total",
    "Prompt tokens that were in the prefix cache in a block that had to be copied.",
);
/// Prompt tokens that were not there, by label `reason`.
pub const PREFIX_CACHE_MISSES: Metric = Metric::counter(
    "cairn_prefix_cache_miss_tokens_total",
    "Prompt tokens that were not in the prefix cache by reason: new (never computed), evicted, \
     tail (they fill no block), disabled (not looked for, since their logprobs were asked for).",
)
.labelled(&["reason"]);
/// Blocks that left the prefix cache, by label `reason`.
pub const PREFIX_CACHE_EVICTIONS: Metric = Metric::counter(
    "cairn_prefix_cache_evictions_total",
    "Blocks that left the prefix cache by reason: capacity, reset.",
)
.labelled(&["reason"]);
/// Blocks that can be found.
pub const PREFIX_CACHE_BLOCKS: Metric = Metric::gauge(
    "cairn_prefix_cache_blocks",
    "KV blocks that can be found by their tokens, in use or not.",
);
/// Copied blocks.
pub const KV_BLOCK_COPIES: Metric = Metric::counter(
    "cairn_kv_block_copies_total",
    "KV blocks copied because another sequence goes on from within them.",
);
/// Blocks from disk.
pub const PREFIX_STORE_BLOCKS_LOADED: Metric = Metric::counter(
    "cairn_prefix_store_blocks_loaded_total",
    "KV blocks loaded from the persistent prefix cache.",
);
/// Blocks to disk.
pub const PREFIX_STORE_BLOCKS_SAVED: Metric = Metric::counter(
    "cairn_prefix_store_blocks_saved_total",
    "KV blocks handed to the persistent prefix cache.",
);
/// Blocks that could not be loaded.
pub const PREFIX_STORE_MISSES: Metric = Metric::counter(
    "cairn_prefix_store_misses_total",
    "Blocks that the persistent prefix cache was asked for and could not give.",
);
/// Trouble with the disk.
pub const PREFIX_STORE_ERRORS: Metric = Metric::counter(
    "cairn_prefix_store_errors_total",
    "Blocks of the persistent prefix cache that could not be read or written; no request failed \
     of it.",
);
/// Blocks that were damaged.
pub const PREFIX_STORE_CORRUPT: Metric = Metric::counter(
    "cairn_prefix_store_corrupt_total",
    "Blocks of the persistent prefix cache that were not what was written; they count as misses.",
);
/// Blocks removed for want of room.
pub const PREFIX_STORE_EVICTED: Metric = Metric::counter(
    "cairn_prefix_store_evicted_total",
    "Blocks of the persistent prefix cache that were removed to make room.",
);
/// Bytes on disk.
pub const PREFIX_STORE_BYTES: Metric =
    Metric::gauge("cairn_prefix_store_bytes", "Bytes that the persistent prefix cache takes.");
/// Guessed tokens.
pub const SPEC_DECODE_NUM_DRAFT_TOKENS: Metric = Metric::counter(
    "vllm:spec_decode_num_draft_tokens_total",
    "Tokens that speculative decoding guessed.",
);
/// Guesses that were right.
pub const SPEC_DECODE_NUM_ACCEPTED_TOKENS: Metric = Metric::counter(
    "vllm:spec_decode_num_accepted_tokens_total",
    "Guessed tokens that were the ones to be generated.",
);
/// Requests that took too long.
pub const REQUESTS_TIMED_OUT: Metric = Metric::counter(
    "cairn_requests_timed_out_total",
    "Requests that failed because they were not finished in time.",
);
/// Tokens that wait.
pub const QUEUE_TOKENS: Metric =
    Metric::gauge("cairn_queue_tokens", "Prompt tokens of requests that are not finished.");
/// Compiled graphs.
pub const GRAPHS_COMPILED: Metric =
    Metric::counter("cairn_graphs_compiled_total", "Graphs compiled since the process started.");
/// Graphs from the cache.
pub const GRAPHS_FROM_CACHE: Metric = Metric::counter(
    "cairn_graphs_from_cache_total",
    "Graphs loaded from the graph cache since the process started.",
);
/// Compiles that a request had to wait for.
pub const COMPILES_AFTER_READY: Metric = Metric::counter(
    "cairn_compiles_after_ready_total",
    "Graphs compiled after the server said it was ready; anything but 0 is a defect.",
);
/// Seconds of each boot phase, by label `phase`.
pub const BOOT_PHASE_SECONDS: Metric =
    Metric::gauge("cairn_boot_phase_seconds", "Seconds that each phase of the start took.")
        .labelled(&["phase"]);
/// Graphs from the cache, those included that another thread compiled meanwhile.
pub const CACHE_HITS: Metric =
    Metric::counter("cairn_cache_hits_total", "Graphs that came from the graph cache.");
/// Graphs that had to be compiled, by label `reason`.
pub const CACHE_MISSES: Metric = Metric::counter(
    "cairn_cache_misses_total",
    "Graphs that were not usable in the graph cache by reason: absent, bad, unreadable, untrusted, \
     other_format.",
)
.labelled(&["reason"]);
/// Time spent in the compiler.
pub const CACHE_COMPILE_SECONDS: Metric =
    Metric::counter("cairn_cache_compile_seconds_total", "Seconds spent compiling graphs.");
/// Time that hits saved.
pub const CACHE_SAVED_SECONDS: Metric = Metric::counter(
    "cairn_cache_saved_seconds_total",
    "Seconds that compiling once took for the graphs that came from the cache.",
);
/// Bytes of hits.
pub const CACHE_READ_BYTES: Metric =
    Metric::counter("cairn_cache_read_bytes_total", "Bytes of compiled graphs read and verified.");
/// Bytes stored.
pub const CACHE_WRITTEN_BYTES: Metric =
    Metric::counter("cairn_cache_written_bytes_total", "Bytes of compiled graphs stored.");
/// Graphs that could not be stored.
pub const CACHE_WRITE_FAILURES: Metric = Metric::counter(
    "cairn_cache_write_failures_total",
    "Compiled graphs that could not be stored and are compiled again at the next start.",
);
/// Bad entries.
pub const CACHE_QUARANTINED: Metric = Metric::counter(
    "cairn_cache_quarantined_total",
    "Entries that were moved into the quarantine: damaged, or refused by the device.",
);
/// Entries removed for want of room.
pub const CACHE_EVICTED: Metric =
    Metric::counter("cairn_cache_evicted_total", "Entries that were removed to make room.");
/// Entries copied from layers.
pub const CACHE_PROMOTED: Metric = Metric::counter(
    "cairn_cache_promoted_total",
    "Entries that were copied from a read-only layer into the folder.",
);
/// Time waited for other compilers.
pub const CACHE_LOCK_WAIT_SECONDS: Metric = Metric::counter(
    "cairn_cache_lock_wait_seconds_total",
    "Seconds spent waiting for other processes that compile the same graph.",
);
/// Waits that were given up.
pub const CACHE_LOCK_TIMEOUTS: Metric = Metric::counter(
    "cairn_cache_lock_timeouts_total",
    "Times that waiting for another process was given up and the graph compiled here as well.",
);
/// Locks of the dead.
pub const CACHE_TAKEOVERS: Metric = Metric::counter(
    "cairn_cache_takeovers_total",
    "Times that a graph was compiled here because the process that did so showed no life.",
);
/// Layers in trouble.
pub const CACHE_LAYER_FAILURES: Metric = Metric::counter(
    "cairn_cache_layer_failures_total",
    "Times that a layer of the graph cache did not answer as it should.",
);
/// Starts that failed again and again.
pub const CACHE_CRASH_LOOPS: Metric = Metric::counter(
    "cairn_cache_crash_loops_total",
    "Times that the entries of starts that failed in a row were moved into the quarantine.",
);
/// Requests by key, by labels `key` and `outcome`.
pub const KEY_REQUESTS: Metric = Metric::counter(
    "cairn_key_requests_total",
    "Requests by the name of their key: accepted, forbidden, limited; under `-` those without a key.",
)
.labelled(&["key", "outcome"]);
/// Tokens by key, by labels `key` and `kind`.
pub const KEY_TOKENS: Metric = Metric::counter(
    "cairn_key_tokens_total",
    "Tokens by the name of the key that used them: prompt, cached (of the prompt's), completion.",
)
.labelled(&["key", "kind"]);
/// Requests that a limit refused, by labels `key` and `limit`.
pub const KEY_LIMITED: Metric = Metric::counter(
    "cairn_key_limited_total",
    "Requests refused by a limit of their key, by the limit.",
)
.labelled(&["key", "limit"]);
/// Readings of the key file, by label `outcome`.
pub const KEY_FILE_RELOADS: Metric = Metric::counter(
    "cairn_key_file_reloads_total",
    "Times that the key file was read again; failed: it was wrong, and the keys stay as they were.",
)
.labelled(&["outcome"]);
/// Whether new requests are taken.
pub const READY: Metric = Metric::gauge(
    "cairn_ready",
    "1 while new requests are taken; 0 while the server starts, drains or has lost its engine.",
);
/// Process start to ready.
pub const START_TO_READY_SECONDS: Metric = Metric::gauge(
    "cairn_start_to_ready_seconds",
    "Seconds from the start of the process until requests were answered.",
);
/// Events, by label `kind`.
pub const EVENTS: Metric = Metric::counter(
    "cairn_events_total",
    "Events of the service's life since the process started, by kind.",
)
.labelled(&["kind"]);
/// Events that could not be written to the files.
pub const EVENTS_UNWRITTEN: Metric = Metric::counter(
    "cairn_events_unwritten_total",
    "Events that could not be written to the state folder and are in memory only.",
);
/// Damaged lines of the files.
pub const EVENTS_DAMAGED: Metric = Metric::counter(
    "cairn_events_damaged_total",
    "Damaged lines that were skipped when the event log was read at the start.",
);
/// Deep health checks, by label `result`.
pub const DEEP_HEALTH: Metric = Metric::counter(
    "cairn_deep_health_total",
    "Tokens generated to see whether that works, by result: ok, failed. They are in no other metric \
     of requests.",
)
.labelled(&["result"]);
/// Seconds of the last one.
pub const DEEP_HEALTH_SECONDS: Metric = Metric::gauge(
    "cairn_deep_health_seconds",
    "Seconds that the last token took that was generated to see whether that works.",
);
/// HTTP responses, by labels `path` and `status`.
pub const HTTP_REQUESTS: Metric =
    Metric::counter("cairn_http_requests_total", "HTTP responses by route and status.")
        .labelled(&["path", "status"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_every_histogram_increase() {
        for metric in ALL {
            if let MetricKind::Histogram(bounds) = metric.kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
            }
        }
    }

    #[test]
    fn no_two_metrics_have_one_name() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}

//! A simulation as a table, as JSON, and as a plot.
//!
//! Numbers in JSON are rounded to nanoseconds, or to so many digits: what lies beyond is noise of
//! the arithmetic.
//!
//! What this module deliberately does not do: it draws nothing; see `plot`.

use serde_json::{Value, json};

use super::device::value_name;
use super::plot::{Line, Panel, Plot, Scale};
use super::{Setup, SimulateArgs};
use crate::cli::bench::build;
use crate::cli::output::Table;
use crate::cli::values::display_bytes;
use crate::engine::simulation::{BucketUse, Lengths, LogNormal, Report, Spread};

/// What a value is called, and where it is found.
type Figure<F, V> = (&'static str, fn(&F) -> V);

/// One column for each rate.
pub(super) fn table(rates: &[f64], reports: &[Report]) -> Table {
    let mut table = Table::default();
    table.push(cells("arriving, requests/s", rates.iter().map(f64::to_string)));
    let mut row = |name: &str, value: &dyn Fn(&Report) -> String| {
        table.push(cells(name, reports.iter().map(value)));
    };
    row("finished, requests/s", &|report| format!("{:.2}", report.requests_per_second()));
    row("output, tokens/s", &|report| format!("{:.0}", report.output_tokens_per_second()));
    row("all, tokens/s", &|report| format!("{:.0}", report.total_tokens_per_second()));
    let spreads: [Figure<Report, Spread>; 4] = [
        ("time to first token", |report| report.ttft),
        ("time per output token", |report| report.tpot),
        ("whole request", |report| report.e2e),
        ("queue", |report| report.queue),
    ];
    let percentiles: [Figure<Spread, f64>; 3] =
        [("p50", |spread| spread.p50), ("p90", |spread| spread.p90), ("p99", |spread| spread.p99)];
    for (name, spread) in spreads {
        for (percentile, value) in percentiles {
            let name = format!("{name}, ms, {percentile}");
            row(&name, &|report| format!("{:.1}", value(&spread(report)) * 1e3));
        }
    }
    let percent = |share: f64| format!("{:.1}", share * 100.0);
    row("sequences of a step", &|report| format!("{:.1}", report.mean_step_seqs));
    row("tokens of a step", &|report| format!("{:.1}", report.mean_step_tokens));
    row("padding, %", &|report| percent(report.padding_share));
    row("device busy, %", &|report| percent(report.busy_share));
    row("KV blocks held, mean, %", &|report| percent(report.mean_kv_use));
    row("KV blocks held, peak, %", &|report| percent(report.peak_kv_use));
    row("prefix hits, %", &|report| percent(report.hit_share));
    row("preemptions", &|report| report.num_preemptions.to_string());
    table
}

fn cells(name: &str, values: impl Iterator<Item = String>) -> Vec<String> {
    [name.to_owned()].into_iter().chain(values).collect()
}

/// On what it was simulated, in a line.
pub(super) fn conditions(args: &SimulateArgs, setup: &Setup) -> String {
    let server = &setup.server;
    let options = &server.options;
    let kv_bytes =
        options.num_blocks as u64 * options.block_size as u64 * server.model.kv_bytes_per_token();
    format!(
        "a model, not a measurement: {} on {} {}; {} batching, {} graphs; {} KV blocks of {} tokens \
         ({} a device); {} requests at each rate, seed {}",
        setup.model_name,
        server.model.tensor_parallel,
        args.device.device_name(),
        value_name(&args.engine.batching),
        server.buckets.len(),
        options.num_blocks,
        options.block_size,
        display_bytes(kv_bytes),
        args.requests,
        args.seed,
    )
}

/// Throughput, and latencies, against the rate.
pub(super) fn plot(args: &SimulateArgs, setup: &Setup, reports: &[Report]) -> Plot {
    let line = |name: &str, colour, is_dashed, value: &dyn Fn(&Report) -> f64| {
        let points = args.rates.iter().copied().zip(reports.iter().map(value)).collect();
        Line { name: name.to_owned(), colour, is_dashed, points }
    };
    let (blue, orange, grey) = ("#0b62a8", "#c4560a", "#767676");
    let mean_output =
        |report: &Report| report.num_output_tokens as f64 / report.num_requests.max(1) as f64;
    let rates = args.rates.iter().zip(reports);
    let arriving = rates.map(|(&rate, report)| (rate, rate * mean_output(report))).collect();
    let arriving =
        Line { name: "arriving".to_owned(), colour: grey, is_dashed: true, points: arriving };
    // Beyond what is served the wish goes on as it began: no use to make room for it.
    let served = line("served", blue, false, &Report::output_tokens_per_second);
    let most = served.points.iter().map(|&(_, value)| value).fold(0.0, f64::max);
    let milliseconds = |seconds: f64| seconds * 1e3;
    Plot {
        title: format!(
            "{} on {} {}, {} batching: simulated, not measured",
            setup.model_name,
            setup.server.model.tensor_parallel,
            args.device.device_name(),
            value_name(&args.engine.batching)
        ),
        panels: vec![
            Panel {
                title: "Throughput, output tokens/s".to_owned(),
                scale: Scale::Linear { most: most * 1.25 },
                lines: vec![arriving, served],
            },
            Panel {
                title: "Latency, ms".to_owned(),
                scale: Scale::Logarithmic,
                lines: vec![
                    line("first token p50", orange, false, &|r| milliseconds(r.ttft.p50)),
                    line("first token p99", orange, true, &|r| milliseconds(r.ttft.p99)),
                    line("per token p50", blue, false, &|r| milliseconds(r.tpot.p50)),
                    line("per token p99", blue, true, &|r| milliseconds(r.tpot.p99)),
                ],
            },
        ],
        x_title: "requests/s arriving".to_owned(),
    }
}

/// All settings and all figures.
pub(super) fn to_json(args: &SimulateArgs, setup: &Setup, reports: &[Report]) -> Value {
    let results: Vec<Value> =
        args.rates.iter().zip(reports).map(|(&rate, report)| result(rate, report)).collect();
    json!({
        "simulated": true,
        "model": setup.model_name,
        "device": args.device.device_name(),
        "settings": {
            "requests": workload(args, setup),
            "engine": engine(args, setup),
            "model": model(setup),
            "device": device(setup),
        },
        "build": build(),
        "results": results,
    })
}

fn workload(args: &SimulateArgs, setup: &Setup) -> Value {
    let workload = &setup.workload;
    let log_normal = |length: &LogNormal| json!({ "mean": length.mean, "sigma": length.sigma });
    let (prompt, output, num_traced) = match &workload.lengths {
        Lengths::LogNormal { prompt, output } => (log_normal(prompt), log_normal(output), 0),
        Lengths::Trace(pairs) => (Value::Null, Value::Null, pairs.len()),
    };
    json!({
        "rates": args.rates,
        "num_requests": workload.num_requests,
        "seed": workload.seed,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "num_traced": num_traced,
        "prefix_share": workload.prefixes.share,
        "num_prefixes": workload.prefixes.num_prefixes,
        "prefix_tokens": workload.prefixes.num_tokens,
    })
}

fn engine(args: &SimulateArgs, setup: &Setup) -> Value {
    let options = &setup.server.options;
    let buckets: Vec<String> = setup.server.buckets.iter().map(ToString::to_string).collect();
    json!({
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "long_prefill_token_threshold": options.long_prefill_token_threshold,
        "block_size": options.block_size,
        "num_blocks": options.num_blocks,
        "prefix_cache": options.is_prefix_cache_on,
        "scheduling_policy": value_name(&args.engine.scheduling_policy),
        "batching": value_name(&args.engine.batching),
        "buckets": buckets,
        "host_us": digits(setup.server.host_seconds * 1e6),
    })
}

fn model(setup: &Setup) -> Value {
    let shape = &setup.server.model.shape;
    let layers: Vec<Value> = shape
        .layers
        .iter()
        .map(|(window, num_layers)| json!({ "num_layers": num_layers, "window": window }))
        .collect();
    json!({
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_attention_heads,
        "num_kv_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "tied_embeddings": shape.has_tied_embeddings,
        "layers": layers,
        "weight_bits": shape.weight_bits,
        "kv_bits": shape.kv_bits,
    })
}

fn device(setup: &Setup) -> Value {
    let model = &setup.server.model;
    let device = &model.device;
    json!({
        "num_devices": model.tensor_parallel,
        "hbm_bytes": device.hbm_bytes,
        "weight_bytes": model.weight_bytes(),
        "kv_bytes_per_token": model.kv_bytes_per_token(),
        "hbm_bytes_per_second": device.hbm_bytes_per_second,
        "hbm_efficiency": device.hbm_efficiency,
        "flops_per_second": device.flops_per_second,
        "flops_efficiency": device.flops_efficiency,
        "launch_us": digits(device.launch_seconds * 1e6),
        "op_us": digits(device.op_seconds * 1e6),
        "all_reduce_us": digits(device.all_reduce_seconds * 1e6),
        "link_bytes_per_second": device.link_bytes_per_second,
    })
}

fn result(rate: f64, report: &Report) -> Value {
    let buckets: Vec<Value> = report.buckets.iter().map(bucket_use).collect();
    json!({
        "rate": rate,
        "num_requests": report.num_requests,
        "num_clipped": report.num_clipped,
        "duration_seconds": nanoseconds(report.duration),
        "requests_per_second": digits(report.requests_per_second()),
        "output_tokens_per_second": digits(report.output_tokens_per_second()),
        "total_tokens_per_second": digits(report.total_tokens_per_second()),
        "time_to_first_token_seconds": spread(report.ttft),
        "time_per_output_token_seconds": spread(report.tpot),
        "inter_token_seconds": spread(report.itl),
        "request_seconds": spread(report.e2e),
        "queue_seconds": spread(report.queue),
        "step_seconds": spread(report.step),
        "mean_unfinished": digits(report.mean_unfinished),
        "mean_running": digits(report.mean_running),
        "num_steps": report.num_steps,
        "num_launches": report.num_launches,
        "mean_step_seqs": digits(report.mean_step_seqs),
        "mean_step_tokens": digits(report.mean_step_tokens),
        "padding_share": digits(report.padding_share),
        "busy_share": digits(report.busy_share),
        "num_preemptions": report.num_preemptions,
        "mean_kv_use": digits(report.mean_kv_use),
        "peak_kv_use": digits(report.peak_kv_use),
        "prefix_hit_share": digits(report.hit_share),
        "buckets": buckets,
    })
}

fn bucket_use(bucket: &BucketUse) -> Value {
    json!({
        "bucket": bucket.bucket.to_string(),
        "num_launches": bucket.num_launches,
        "num_tokens": bucket.num_tokens,
        "num_padded_tokens": bucket.num_padded_tokens,
        "seconds": nanoseconds(bucket.seconds),
    })
}

fn spread(spread: Spread) -> Value {
    json!({
        "mean": nanoseconds(spread.mean),
        "p50": nanoseconds(spread.p50),
        "p90": nanoseconds(spread.p90),
        "p99": nanoseconds(spread.p99),
    })
}

fn nanoseconds(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e9
}

/// Rounded to six decimals.
fn digits(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

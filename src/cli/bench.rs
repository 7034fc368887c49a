//! `cairn bench`: measures, and says on what.
//!
//! | Figure | Method |
//! | --- | --- |
//! | time to first token | a prompt of `--input-len` tokens, one token generated; from submission |
//! | prefill tokens/s | `--input-len` divided by that time |
//! | decode tokens/s | a prompt of 16 tokens, `--output-len` generated; from the first to the last |
//!
//! That is `latency`: one request at a time; `throughput` runs many at once, `prefix` whole
//! conversations, `startup` starts processes, and `cache` runs nothing: it measures the graph cache.
//! `simulate` measures nothing: it asks a model of a device. Greedy, end-of-text tokens ignored. Prompts are random token ids from a
//! seeded generator, another prompt for each run, so that nothing computed before can be used again,
//! save where `prefix` measures just that.
//!
//! Where the host computes, `latency` and `throughput` measure what it could do at most as well, and
//! say how much of that was reached.
//!
//! What this module deliberately does not do: load from many clients; that is for the server.

mod cache;
mod limits;
mod prefix;
mod simulate;
mod startup;
mod throughput;

use std::fmt;
use std::thread;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use limits::Limits;

use super::boot::{self, Booted};
use super::failure::{Hint, Outcome};
use super::generate::tokens_per_second;
use super::model_args::ModelArgs;
use super::output::Table;
use super::progress::{Amount, Progress};
use super::{Context, output, values};
use crate::build_info;
use crate::config::EngineConfig;
use crate::engine::{Output, Request, RequestError, ResponseStream, SamplingParams, Usage};

/// Tokens of the prompt before decoding is measured.
const DECODE_INPUT_LEN: usize = 16;
const MAX_LEN: u64 = 1 << 24;
const MAX_RUNS: u64 = 10_000;

const EXAMPLES: &str = "\
Examples:
  cairn bench latency
  cairn bench latency model.gguf --threads 2 --input-len 1024 --runs 10
  cairn bench latency --json > before.json";

/// Measure how fast a model runs, and what the graph cache costs.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Latency(LatencyArgs),
    Throughput(throughput::ThroughputArgs),
    Startup(startup::StartupArgs),
    Prefix(prefix::PrefixBenchArgs),
    Cache(cache::CacheBenchArgs),
    Simulate(Box<simulate::SimulateArgs>),
}

/// Measure prefill and decode speed and time to first token, one request at a time.
///
/// Prefill: --input-len random tokens, divided by the time to the first token. Decode: from the
/// first to the last of --output-len tokens after a prompt of 16. Greedy; the model's end-of-text
/// tokens are ignored.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct LatencyArgs {
    /// Tokens of the prompt.
    #[arg(long, value_name = "TOKENS", default_value = "512", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    input_len: usize,

    /// Tokens to generate.
    #[arg(long, value_name = "TOKENS", default_value = "128", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(2..=MAX_LEN))]
    output_len: usize,

    /// How often to measure.
    #[arg(long, value_name = "N", default_value = "5", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_RUNS))]
    runs: usize,

    /// Runs before those that count.
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(0..=MAX_RUNS))]
    warmup: usize,

    /// Seed of the random prompts.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(0..=u64::MAX))]
    seed: u64,

    /// Print one JSON object with every sample, the machine and the build, instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, context: &Context) -> anyhow::Result<Outcome> {
    match &args.command {
        BenchCommand::Latency(args) => latency(args, context),
        BenchCommand::Throughput(args) => throughput::run(args, context),
        BenchCommand::Startup(args) => startup::run(args, context),
        BenchCommand::Prefix(args) => prefix::run(args, context),
        BenchCommand::Cache(args) => cache::run(args, context),
        BenchCommand::Simulate(args) => simulate::run(args, context),
    }
}

fn latency(args: &LatencyArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    let booted = boot::boot(&config, &*context.progress)?;
    let results = booted.finish(|booted| {
        check_lengths(args, booted.report.max_model_len)?;
        measure(args, booted, &*context.progress)
    })?;
    let limits = Limits::measure(&config, &booted, args.input_len, 1)?;
    if args.json {
        output::write_json(&to_json(args, &config, &booted, &results, limits))?;
    } else {
        output::write(&results.to_string())?;
        if let Some(limits) = limits {
            output::write(&results.shares(limits))?;
            output::say(limits);
        }
        output::say(Conditions { args, config: &config, booted: &booted });
    }
    Ok(Outcome::Done)
}

fn check_lengths(args: &LatencyArgs, max_model_len: usize) -> anyhow::Result<()> {
    check_fits("--input-len", args.input_len, 1, max_model_len)?;
    check_fits("--output-len", DECODE_INPUT_LEN, args.output_len, max_model_len)
}

fn check_fits(
    flag: &str,
    input_len: usize,
    output_len: usize,
    max_model_len: usize,
) -> anyhow::Result<()> {
    let check = || {
        ensure!(
            input_len + output_len <= max_model_len,
            "`{flag}` is too long: {input_len} tokens of prompt and {output_len} of output do not \
             fit into a context of {max_model_len}"
        );
        Ok(())
    };
    check().hint("choose a shorter one, or raise `--max-model-len` if the model allows it")
}

/// Samples of every figure, one per run.
#[derive(Debug, Default)]
struct Results {
    prefill_tokens_per_second: Samples,
    decode_tokens_per_second: Samples,
    time_to_first_token_seconds: Samples,
}

fn measure(
    args: &LatencyArgs,
    booted: &Booted,
    progress: &dyn Progress,
) -> anyhow::Result<Results> {
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let mut results = Results::default();
    let num_runs = args.warmup + args.runs;
    let task = progress.begin("measuring", Amount::Items(num_runs as u64));
    for run in 0..num_runs {
        let prefill = generate(booted, &mut rng, args.input_len, 1)?;
        let decode = generate(booted, &mut rng, DECODE_INPUT_LEN, args.output_len)?;
        task.advance_to(run as u64 + 1);
        if run < args.warmup {
            continue;
        }
        let first = prefill.time_to_first_token.as_secs_f64();
        results.time_to_first_token_seconds.0.push(first);
        results.prefill_tokens_per_second.0.push(args.input_len as f64 / first.max(1e-9));
        results.decode_tokens_per_second.0.push(tokens_per_second(&decode));
    }
    Ok(results)
}

/// Runs one request to its end and gives what it used.
fn generate(
    booted: &Booted,
    rng: &mut ChaCha8Rng,
    input_len: usize,
    output_len: usize,
) -> anyhow::Result<Usage> {
    let usage = drain(submit(booted, rng, input_len, output_len)?)?;
    let got = usage.completion_tokens;
    ensure!(got == output_len, "expected {output_len} tokens of output, got {got}");
    Ok(usage)
}

/// Submits a random prompt.
fn submit(
    booted: &Booted,
    rng: &mut ChaCha8Rng,
    input_len: usize,
    output_len: usize,
) -> anyhow::Result<ResponseStream> {
    let vocab_size = u32::try_from(booted.engine.vocab_size()).unwrap_or(u32::MAX).max(1);
    let params = SamplingParams {
        max_tokens: Some(output_len as u64),
        temperature: 0.0,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let prompt_token_ids = (0..input_len).map(|_| rng.random_range(0..vocab_size)).collect();
    Ok(booted.engine.submit(Request::new(prompt_token_ids, params))?)
}

/// Reads a request's output to its end.
fn drain(mut stream: ResponseStream) -> anyhow::Result<Usage> {
    loop {
        match stream.blocking_recv() {
            Some(Output::Delta(_) | Output::PromptLogprobs(_) | Output::Embedding(_)) => {}
            Some(Output::Finished(usage)) => return Ok(usage),
            Some(Output::Failed(error)) => return Err(error).context("measuring"),
            None => return Err(RequestError::Stopped).context("measuring"),
        }
    }
}

/// Values of one figure, at least one.
#[derive(Debug, Default)]
struct Samples(Vec<f64>);

impl Samples {
    /// Median (of an even count: the mean of the middle two), smallest and largest.
    fn spread(&self) -> [f64; 3] {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |idx: usize| sorted.get(idx).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        [f64::midpoint(at(last / 2), at(last.div_ceil(2))), at(0), at(last)]
    }

    fn to_json(&self) -> Value {
        let [median, min, max] = self.spread();
        json!({ "median": median, "min": min, "max": max, "samples": self.0 })
    }
}

/// A table of figures: what each is called, its samples, and how many of the unit shown are in one
/// of theirs.
fn table(figures: &[(&str, &Samples, f64)]) -> Table {
    let mut table = Table::default();
    table.row(["", "median", "min", "max"]);
    for (name, samples, unit) in figures {
        let [median, min, max] = samples.spread().map(|value| format!("{:.1}", value * unit));
        table.row([name, &median, &min, &max]);
    }
    table
}

impl Results {
    /// How much of what the machine can do was reached.
    fn shares(&self, limits: Limits) -> String {
        let prefill = (&self.prefill_tokens_per_second, limits.prefill_tokens_per_second);
        let decode = (&self.decode_tokens_per_second, limits.decode_tokens_per_second);
        Limits::share("prefill", prefill.0, prefill.1)
            + &Limits::share("decode", decode.0, decode.1)
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("prefill, tokens/s", &self.prefill_tokens_per_second, 1.0),
            ("decode, tokens/s", &self.decode_tokens_per_second, 1.0),
            ("time to first token, ms", &self.time_to_first_token_seconds, 1e3),
        ];
        table(&figures).fmt(f)
    }
}

/// On what the figures were measured, in one line.
struct Conditions<'a> {
    args: &'a LatencyArgs,
    config: &'a EngineConfig,
    booted: &'a Booted,
}

impl fmt::Display for Conditions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LatencyArgs { input_len, output_len, runs, .. } = self.args;
        write!(
            f,
            "{}; {} backend, {} threads, dtype {}, quantization {}; {input_len} in, {output_len} out, {runs} runs; \
             {} ({}); cairn {} ({}, {})",
            self.booted.report.model_name,
            self.config.backend.name(),
            threads(self.config),
            self.config.dtype.name(),
            self.config.quantization.name(),
            cpu_model(),
            num_cores(),
            build_info::VERSION,
            build_info::GIT_REVISION,
            build_info::PROFILE,
        )
    }
}

fn to_json(
    args: &LatencyArgs,
    config: &EngineConfig,
    booted: &Booted,
    results: &Results,
    limits: Option<Limits>,
) -> Value {
    let report = &booted.report;
    json!({
        "model": report.model_name,
        "architecture": report.architecture,
        "settings": {
            "backend": config.backend.name(),
            "dtype": config.dtype.name(),
            "quantization": config.quantization.name(),
            "threads": threads(config),
            "input_len": args.input_len,
            "decode_input_len": DECODE_INPUT_LEN,
            "output_len": args.output_len,
            "runs": args.runs,
            "warmup": args.warmup,
            "seed": args.seed,
            "batch": 1,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "static_shapes": config.static_shapes,
        },
        "machine": machine(),
        "build": build(),
        "graphs": { "compiled": report.graphs_compiled, "from_cache": report.graphs_from_cache },
        "results": {
            "prefill_tokens_per_second": results.prefill_tokens_per_second.to_json(),
            "decode_tokens_per_second": results.decode_tokens_per_second.to_json(),
            "time_to_first_token_seconds": results.time_to_first_token_seconds.to_json(),
        },
        "limits": limits.map(Limits::to_json),
    })
}

fn machine() -> Value {
    json!({ "cpu": cpu_model(), "cores": num_cores() })
}

fn build() -> Value {
    json!({
        "version": build_info::VERSION,
        "git_revision": build_info::GIT_REVISION,
        "target": build_info::TARGET,
        "profile": build_info::PROFILE,
        "features": build_info::FEATURES,
    })
}

fn threads(config: &EngineConfig) -> usize {
    config.threads.unwrap_or_else(num_cores)
}

fn num_cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The processor's name where the system tells it in `/proc/cpuinfo`.
fn cpu_model() -> String {
    let text = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = ["model name", "Model", "Hardware"];
    let line = text.lines().find(|line| names.iter().any(|name| line.starts_with(name)));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown processor").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(format!("{:?}", Samples(vec![3.0, 1.0, 2.0]).spread()), "[2.0, 1.0, 3.0]");
        assert_eq!(format!("{:?}", Samples(vec![4.0, 1.0, 2.0, 3.0]).spread()), "[2.5, 1.0, 4.0]");
        assert_eq!(format!("{:?}", Samples(vec![7.0]).spread()), "[7.0, 7.0, 7.0]");
    }

    #[test]
    fn results_are_a_table() {
        let results = Results {
            prefill_tokens_per_second: Samples(vec![1000.0, 1100.0]),
            decode_tokens_per_second: Samples(vec![60.0, 62.0]),
            time_to_first_token_seconds: Samples(vec![0.5, 0.25]),
        };
        let expected = "                         median     min     max\n\
                        prefill, tokens/s        1050.0  1000.0  1100.0\n\
                        decode, tokens/s           61.0    60.0    62.0\n\
                        time to first token, ms   375.0   250.0   500.0\n";
        assert_eq!(results.to_string(), expected);
    }
}

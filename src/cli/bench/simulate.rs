//! `cairn bench simulate`: how the engine would serve on a device that is not at hand.
//!
//! ```text
//! flags --> Server, Workload --> engine::simulation::run, once for each rate --> Report
//!                                     table | JSON | plot <--------------------------'
//! ```
//!
//! The scheduler, the KV cache and the choice of buckets are the engine's own; the device is a
//! model. See `engine::simulation` for what that leaves out.
//!
//! What this module deliberately does not do: it measures nothing, and needs neither a device nor
//! a model's weights.

mod device;
mod form;
mod plot;
mod trace;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};

use super::MAX_LEN;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::progress::Amount;
use crate::cli::{Context, output, values};
use crate::engine::simulation::{
    self, BucketSizes, CommonPrefixes, DeviceModel, Graphs, Lengths, LogNormal, Report, Server,
    SimulationError, Workload,
};
use crate::engine::{EngineOptions, SchedulingPolicy};
use device::DeviceArgs;

const MAX_REQUESTS: u64 = 1_000_000;
const MAX_SEQS: u64 = 65_536;
/// Longest sequence when nothing says how long, unless the model's context is shorter.
const DEFAULT_MAX_MODEL_LEN: usize = 8192;

const EXAMPLES: &str = "\
Examples:
  cairn bench simulate --svg qwen3-8b.svg
  cairn bench simulate --model qwen3-32b --tp 4 --rates 1,2,4,8 --batching separate
  cairn bench simulate --buckets 1,8,64,256,2048 --json > buckets.json
  cairn bench simulate --trace lengths.jsonl --prefix-share 0.8 --num-prefixes 4";

/// Simulate the engine in front of a model of a device: throughput and latency against the rate.
///
/// The scheduler, the KV cache and the buckets are the real ones; how long a launch takes is
/// computed from the bytes that it moves and the operations that it needs. A model, not a
/// measurement: use it to compare limits and sets of buckets, and measure once there is a device.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SimulateArgs {
    /// Requests a second, one simulation each.
    #[arg(long, value_name = "LIST", default_value = "0.5,1,2,4,8,16", value_delimiter = ',')]
    #[arg(allow_hyphen_values = true, value_parser = device::positive)]
    rates: Vec<f64>,

    /// Requests that arrive at each rate.
    #[arg(long, value_name = "N", default_value = "1000", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_REQUESTS))]
    requests: usize,

    /// Seed of arrivals and lengths.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(0..=u64::MAX))]
    seed: u64,

    /// Print one JSON object with all settings and figures, instead of a table.
    #[arg(long)]
    json: bool,

    /// Write a plot of throughput and latency to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    requests_args: RequestArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// What requests are like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
struct RequestArgs {
    /// Mean tokens of a prompt; lengths are log-normal.
    #[arg(long, value_name = "TOKENS", default_value = "1024", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u32>(1..=MAX_LEN))]
    prompt_tokens: u32,

    /// Spread of the prompts: standard deviation of the logarithm of their length; 0: all alike.
    #[arg(long, value_name = "SIGMA", default_value = "0.6", allow_hyphen_values = true)]
    #[arg(value_parser = device::up_to(4.0))]
    prompt_sigma: f64,

    /// Mean tokens of an answer; lengths are log-normal.
    #[arg(long, value_name = "TOKENS", default_value = "256", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u32>(1..=MAX_LEN))]
    output_tokens: u32,

    /// Spread of the answers, like `--prompt-sigma`.
    #[arg(long, value_name = "SIGMA", default_value = "0.6", allow_hyphen_values = true)]
    #[arg(value_parser = device::up_to(4.0))]
    output_sigma: f64,

    /// Lengths from a file instead: on each line `{"prompt_tokens": N, "output_tokens": M}`; taken
    /// in order, and over again.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Share of the prompts that begin with a common prefix.
    #[arg(long, value_name = "SHARE", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = device::up_to(1.0))]
    prefix_share: f64,

    /// How many common prefixes there are.
    #[arg(long, value_name = "N", default_value = "4", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_REQUESTS))]
    num_prefixes: usize,

    /// Tokens of a common prefix; they are part of the prompt's length.
    #[arg(long, value_name = "TOKENS", default_value = "512", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    prefix_tokens: usize,
}

/// The engine's limits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
struct EngineArgs {
    /// Most sequences in one step.
    #[arg(long, value_name = "N", default_value = "256", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_SEQS))]
    max_num_seqs: usize,

    /// Most tokens in one step.
    #[arg(long, value_name = "N", default_value = "2048", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    max_num_batched_tokens: usize,

    /// Longest sequence in tokens; longer requests are cut [default: 8192, or the model's context].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(2..=MAX_LEN))]
    max_model_len: Option<usize>,

    /// Most prompt tokens of one request in one step; 0: as many as fit.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(0..=MAX_LEN))]
    long_prefill_token_threshold: usize,

    /// Tokens in one KV block.
    #[arg(long, value_name = "N", default_value = "128", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=65_536))]
    block_size: usize,

    /// Compute every prompt as a whole, whatever it has in common with others.
    #[arg(long)]
    no_prefix_cache: bool,

    /// Which requests run first.
    #[arg(long, value_name = "NAME", default_value = "fcfs")]
    scheduling_policy: Policy,

    /// What may share a launch, and whether sizes are fixed when a graph is compiled.
    #[arg(long, value_name = "KIND", default_value = "ragged")]
    batching: Batching,

    /// Tokens of the launches that there are graphs for, instead of those that would be planned;
    /// with `--batching separate` those of prompts.
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(1..=MAX_LEN))]
    buckets: Vec<u64>,

    /// Sequences of the launches of decodes, likewise; with `--batching separate` only.
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(1..=MAX_SEQS))]
    decode_buckets: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// In order of arrival
    Fcfs,
    /// Short ones first, within bounds
    ShortestFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Batching {
    /// Prompts and decodes together, fixed sizes
    Ragged,
    /// Prompts one by one, decodes together, fixed sizes
    Separate,
    /// Prompts and decodes together, any size
    Dynamic,
}

/// What is simulated at every rate.
struct Setup {
    model_name: String,
    server: Server,
    workload: Workload,
}

/// Runs the command.
pub(super) fn run(args: &SimulateArgs, context: &Context) -> anyhow::Result<Outcome> {
    let setup = Setup::new(args)?;
    let reports = simulate(args, &setup, context)?;
    if let Some(path) = &args.svg {
        let plot = form::plot(args, &setup, &reports).to_string();
        fs_err::write(path, plot).context("writing the plot")?;
    }
    if args.json {
        output::write_json(&form::to_json(args, &setup, &reports))?;
    } else {
        output::write(&form::table(&args.rates, &reports).to_string())?;
        output::say(form::conditions(args, &setup));
    }
    Ok(Outcome::Done)
}

fn simulate(args: &SimulateArgs, setup: &Setup, context: &Context) -> anyhow::Result<Vec<Report>> {
    let task = context.progress.begin("simulating", Amount::Items(args.rates.len() as u64));
    let run = |(idx, &rate): (usize, &f64)| {
        let workload = Workload { rate, ..setup.workload.clone() };
        let report = simulation::run(&setup.server, &workload);
        task.advance_to(idx as u64 + 1);
        report.with_context(|| format!("simulating {rate} requests a second"))
    };
    args.rates.iter().enumerate().map(run).collect()
}

impl Setup {
    fn new(args: &SimulateArgs) -> anyhow::Result<Self> {
        let (model_name, shape) = args.device.shape()?;
        let limit = shape.max_position_embeddings;
        let model = DeviceModel {
            device: args.device.device(),
            shape,
            tensor_parallel: args.device.tensor_parallel(),
        };
        model.check()?;
        let options = args.engine.options(&model, limit, args.device.reserve_bytes())?;
        let sizes = BucketSizes {
            tokens: args.engine.buckets.clone(),
            decodes: args.engine.decode_buckets.clone(),
        };
        let buckets = args.engine.graphs().buckets(&options, &sizes)?;
        let host_seconds = args.device.host_seconds();
        let server = Server { model, options, buckets, host_seconds };
        Ok(Self { model_name, server, workload: args.workload()? })
    }
}

impl SimulateArgs {
    /// At whatever rate.
    fn workload(&self) -> anyhow::Result<Workload> {
        let args = &self.requests_args;
        let lengths = match &args.trace {
            Some(path) => Lengths::Trace(trace::read(path)?),
            None => Lengths::LogNormal {
                prompt: LogNormal { mean: f64::from(args.prompt_tokens), sigma: args.prompt_sigma },
                output: LogNormal { mean: f64::from(args.output_tokens), sigma: args.output_sigma },
            },
        };
        let prefixes = CommonPrefixes {
            num_prefixes: args.num_prefixes,
            num_tokens: args.prefix_tokens,
            share: args.prefix_share,
        };
        Ok(Workload { rate: 1.0, num_requests: self.requests, lengths, prefixes, seed: self.seed })
    }
}

impl EngineArgs {
    fn graphs(&self) -> Graphs {
        match self.batching {
            Batching::Ragged => Graphs::Ragged,
            Batching::Separate => Graphs::Separate,
            Batching::Dynamic => Graphs::Dynamic,
        }
    }

    fn options(
        &self,
        model: &DeviceModel,
        limit: usize,
        reserve_bytes: u64,
    ) -> anyhow::Result<EngineOptions> {
        let max_model_len = self.max_model_len.unwrap_or(DEFAULT_MAX_MODEL_LEN.min(limit));
        ensure!(
            max_model_len <= limit,
            "`--max-model-len` is {max_model_len}, but the model's context is {limit}"
        );
        let num_blocks = match model.num_blocks(self.block_size, reserve_bytes) {
            error @ Err(SimulationError::DoesNotFit { .. }) => {
                error.hint("split it over more devices with `--tp`, or lower `--reserve-bytes`")?
            }
            num_blocks => num_blocks?,
        };
        Ok(EngineOptions {
            max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            block_size: self.block_size,
            num_blocks,
            policy: match self.scheduling_policy {
                Policy::Fcfs => SchedulingPolicy::Fcfs,
                Policy::ShortestFirst => SchedulingPolicy::ShortestFirst,
            },
            is_prefix_cache_on: !self.no_prefix_cache,
            long_prefill_token_threshold: self.long_prefill_token_threshold,
            ..EngineOptions::default()
        })
    }
}

//! `cairn bench startup`: from the start of a process to its first token.
//!
//! ```text
//! spawn `cairn generate --raw --prompt Hello --max-tokens 1 ...` --> its first byte of output
//! ```
//!
//! | Figure | The process |
//! | --- | --- |
//! | compiled graphs from the cache | as it is; one run before those that count fills the cache |
//! | graphs compiled | with `--no-cache`: what a first start takes |
//!
//! The two take turns. Files of the model are in the system's memory after the first run: what reading
//! them from a disk takes is not part of it.

use std::fmt;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::json;

use super::{MAX_RUNS, Samples, build, machine, table};
use crate::cli::failure::Outcome;
use crate::cli::progress::Amount;
use crate::cli::{Context, output, values};

const EXAMPLES: &str = "\
Examples:
  cairn bench startup
  cairn bench startup --runs 10 -- model.gguf --threads 2";

/// Measure the time from the start of a process to its first token, with compiled graphs from the
/// cache and without.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StartupArgs {
    /// How often to measure.
    #[arg(long, value_name = "N", default_value = "5", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_RUNS))]
    runs: usize,

    /// Print one JSON object with every sample, the machine and the build, instead of a table.
    #[arg(long)]
    json: bool,

    /// What else `cairn generate` is given: the model and its options.
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Samples of every figure, one per run.
#[derive(Debug, Default)]
struct Results {
    cached_seconds: Samples,
    compiled_seconds: Samples,
}

pub(super) fn run(args: &StartupArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut results = Results::default();
    let task = context.progress.begin("measuring", Amount::Items(args.runs as u64 + 1));
    // The first run warms up and does not count.
    for run in 0..=args.runs {
        let cached = first_byte_seconds(&args.arguments, &[])?;
        let compiled = first_byte_seconds(&args.arguments, &["--no-cache"])?;
        task.advance_to(run as u64 + 1);
        if run > 0 {
            results.cached_seconds.0.push(cached);
            results.compiled_seconds.0.push(compiled);
        }
    }
    drop(task);
    if args.json {
        output::write_json(&json!({
            "settings": { "arguments": args.arguments, "runs": args.runs },
            "machine": machine(),
            "build": build(),
            "results": {
                "cached_seconds": results.cached_seconds.to_json(),
                "compiled_seconds": results.compiled_seconds.to_json(),
            },
        }))?;
    } else {
        output::write(&results.to_string())?;
    }
    Ok(Outcome::Done)
}

/// Seconds until a process writes its first byte.
fn first_byte_seconds(arguments: &[String], more: &[&str]) -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("finding this program")?;
    let start = Instant::now();
    let mut child = Command::new(program)
        .args(["generate", "--raw", "--prompt", "Hello", "--max-tokens", "1", "--ignore-eos"])
        .args(more)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting another process")?;
    let mut byte = [0];
    let first = child.stdout.take().context("no output")?.read(&mut byte);
    let seconds = start.elapsed().as_secs_f64();
    let status = child.wait().context("waiting for the other process")?;
    ensure!(status.success(), "`cairn generate` failed: {status}");
    ensure!(first.context("reading its output")? == 1, "`cairn generate` wrote nothing");
    Ok(seconds)
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("graphs from the cache, ms", &self.cached_seconds, 1e3),
            ("graphs compiled, ms", &self.compiled_seconds, 1e3),
        ];
        table(&figures).fmt(f)
    }
}

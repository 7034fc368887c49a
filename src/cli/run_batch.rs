//! `cairn run-batch`: answers the requests of a file, as `OpenAI`'s batches have them, without a
//! server.
//!
//! What a line, a result and a journal are, [`batch`](crate::batch) says; `summary` is what came of
//! them.
//!
//! What this module deliberately does not do: it knows no field of a request; the endpoints of the
//! server answer, so that a line of a batch is what the same request over HTTP is.

mod summary;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use fs_err as fs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::boot::{self, Booted};
use super::failure::{Hint, Outcome, Usage};
use super::model_args::ModelArgs;
use super::progress::Amount;
use super::{Context, output, values};
use crate::batch::journal::Journals;
use crate::batch::line::ResultLine;
use crate::batch::queue;
use crate::batch::source::Source;
use crate::batch::work::{Stop, Work};
use crate::build_info;
use crate::config::{BackendKind, EngineConfig};
use crate::server::{About, MAX_PROMPTS, ServerOptions, ServerState};

use summary::Counts;

/// More would only be memory: no engine runs as many at once.
const MAX_IN_FLIGHT: u64 = 65_536;

const EXAMPLES: &str = "\
Examples:
  cairn run-batch model.gguf -i requests.jsonl -o results.jsonl
  cairn run-batch -i requests/ -o results.jsonl --errors errors.jsonl
  zcat requests.gz | cairn run-batch model.gguf -i - -o results.jsonl --json

A request is a line
  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {..}}
and its result a line
  {\"id\": \"..\", \"custom_id\": \"a\", \"response\": {\"status_code\": 200, \"request_id\": \"..\", \"body\": {..}}, \"error\": null}
Results are written as they are ready, in any order. Those with an `error` failed.";

/// Answer the requests of a file in OpenAI's batch format, without a server.
///
/// Each line is answered as `cairn serve` would answer it over HTTP, and bad lines do not stop the
/// others. When the command is ended, in whatever way, the same command goes on where it was: OUT
/// tells what is done. Ctrl-C finishes the lines in work first; a second one drops them.
/// Exit code 0: every line was answered; 1: some failed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct RunBatchArgs {
    #[command(flatten)]
    batch: BatchArgs,

    /// Print one JSON object instead of a line when all is done.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// What is read, written and kept in memory.
#[derive(Debug, Args)]
#[command(next_help_heading = "Batch options")]
struct BatchArgs {
    /// The requests: a file, a folder (every *.jsonl in it, by name), a list of files (*.txt or
    /// *.list, a path a line), or `-` for stdin.
    #[arg(short, long, value_name = "IN")]
    input_file: PathBuf,

    /// Where the results go, one line for each request. A file that is there already must hold
    /// results of the same requests: only the others are answered.
    #[arg(short, long, value_name = "OUT")]
    output_file: PathBuf,

    /// Write the results of failed lines to this file instead. When it is removed, the next run
    /// tries them again.
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,

    /// Begin anew: remove the results that are in the output.
    #[arg(long)]
    overwrite: bool,

    /// Lines in work at one time [default: twice `--max-num-seqs`].
    #[arg(long, value_name = "N", env = "CAIRN_MAX_IN_FLIGHT", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_IN_FLIGHT))]
    max_in_flight: Option<usize>,

    /// Longest line, as in 4MiB; a longer one fails.
    #[arg(long, value_name = "BYTES", env = "CAIRN_MAX_LINE_BYTES", default_value = "8MiB")]
    #[arg(value_parser = values::bytes, allow_hyphen_values = true)]
    max_line_bytes: u64,

    /// The name that requests must carry as `model`, if they carry one [default: the model's folder
    /// or file].
    #[arg(long, value_name = "NAME", env = "CAIRN_SERVED_MODEL_NAME")]
    served_model_name: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &RunBatchArgs, context: &Context) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let batch = &args.batch;
    // All that can be wrong with the files comes before the long work.
    let source = Source::open(&batch.input_file)?;
    check_places(batch, &source)?;
    let max_line_bytes = usize::try_from(batch.max_line_bytes).unwrap_or(usize::MAX);
    let (mut journals, done) =
        Journals::open(&batch.output_file, batch.errors.as_deref(), batch.overwrite)?;
    if done.was_torn {
        output::say("the last result was torn: its line is answered again");
    }
    let num_lines = if source.can_be_read_again() {
        let task = context.progress.begin("looking at the lines", Amount::Unknown);
        let num_lines = queue::check(&source, max_line_bytes, &done)?;
        drop(task);
        Some(num_lines)
    } else {
        None
    };
    let mut counts = Counts::new(&done);
    if num_lines == Some(counts.num_done()) {
        return args.finish(Outcome::Done, &counts, started);
    }

    let config = args.model.engine_config(context)?;
    let max_in_flight =
        batch.max_in_flight.unwrap_or_else(|| config.max_num_seqs.saturating_mul(2));
    // Every request of every line in work has a place in the queue.
    let max_num_queued_reqs = max_in_flight.saturating_mul(MAX_PROMPTS);
    let config = EngineConfig { max_num_queued_reqs, ..config };
    let booted = boot::boot(&config, &*context.progress)?;
    let working = Instant::now();
    let outcome = booted.finish(|booted| {
        let amount = num_lines.map_or(Amount::Unknown, Amount::Items);
        let task = context.progress.begin("answering", amount);
        task.advance_to(counts.num_done());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let entries = queue::start(&source, max_line_bytes, done)?;
        let outcome = runtime.block_on(async {
            let (sender, stop) = watch::channel(Stop::No);
            let signals = Signals::new().context("listening for signals")?;
            let signals = tokio::spawn(signals.forward(sender));
            let mut on_result = |result: &ResultLine| {
                counts.add(result);
                task.advance_to(counts.num_done());
            };
            let work = Work {
                answers: batch.state(booted, config.backend),
                max_in_flight,
                entries,
                journals: &mut journals,
                stop,
                on_result: &mut on_result,
            };
            let is_whole = work.run().await;
            signals.abort();
            is_whole.map(|is_whole| if is_whole { Outcome::Done } else { Outcome::Interrupted })
        });
        counts.prefix_cache(&booted.engine.stats());
        // What still runs waits for an engine that may never answer.
        runtime.shutdown_background();
        outcome
    })?;
    args.finish(outcome, &counts, working)
}

impl RunBatchArgs {
    /// Says what came of it.
    fn finish(&self, outcome: Outcome, counts: &Counts, since: Instant) -> anyhow::Result<Outcome> {
        let time = since.elapsed();
        if self.json {
            output::write_json(&counts.to_json(time, outcome == Outcome::Done))?;
        } else {
            output::say(counts.to_line(time));
        }
        if outcome == Outcome::Interrupted {
            output::say("interrupted: the same command goes on from here");
            return Ok(outcome);
        }
        if counts.num_failed > 0 {
            let place = self.batch.errors.as_ref().unwrap_or(&self.batch.output_file);
            let (failed, done) = (counts.num_failed, counts.num_done());
            return Err(anyhow::anyhow!("{failed} of {done} lines failed"))
                .hint(format!("`error` in the results in `{}` says why", place.display()));
        }
        Ok(outcome)
    }
}

impl BatchArgs {
    /// The server's part, without HTTP.
    fn state(&self, booted: &Booted, backend: BackendKind) -> ServerState {
        let name = self.served_model_name.as_ref().unwrap_or(&booted.report.model_name);
        ServerState::new(
            booted.engine.clone(),
            booted.tokenizer.clone(),
            booted.chat_template.clone(),
            ServerOptions::new(name),
            // An answer tells what it was made by.
            About {
                version: build_info::VERSION.to_owned(),
                revision: build_info::GIT_REVISION.to_owned(),
                backend: backend.name().to_owned(),
                model: booted.report.model_name.clone(),
                ..About::default()
            },
        )
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on they do not end the process.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The first one lets lines in work finish, the second one drops them.
    async fn forward(mut self, stop: watch::Sender<Stop>) {
        for how in [Stop::Finish, Stop::Drop] {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            if how == Stop::Finish {
                output::say("stopping: lines in work are finished; Ctrl-C drops them");
            }
            // Nobody listens any more: the work has ended.
            let _ = stop.send(how);
        }
        std::future::pending::<()>().await;
    }
}

/// Nothing that is read may be written to.
fn check_places(args: &BatchArgs, source: &Source) -> anyhow::Result<()> {
    let outputs = [Some(&args.output_file), args.errors.as_ref()];
    let outputs: Vec<PathBuf> = outputs.into_iter().flatten().map(|path| place_of(path)).collect();
    if let [output, errors] = &outputs[..]
        && output == errors
    {
        bail!(Usage("`--output-file` and `--errors` name the same file".to_owned()));
    }
    let Source::Files(files) = source else { return Ok(()) };
    let is_input = |output: &&PathBuf| {
        let is_in_folder = args.input_file.is_dir()
            && output.extension().is_some_and(|extension| extension == "jsonl")
            && output.parent() == Some(&place_of(&args.input_file));
        is_in_folder || files.iter().any(|file| place_of(file) == **output)
    };
    if let Some(output) = outputs.iter().find(is_input) {
        let what = format!(
            "`{}` would be read as requests: write the results to a file elsewhere",
            output.display()
        );
        bail!(Usage(what));
    }
    Ok(())
}

/// The path by which a file is known, whether it is there or not.
fn place_of(path: &Path) -> PathBuf {
    let is_there = fs::canonicalize(path);
    is_there.unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent == Path::new("") { Path::new(".") } else { parent };
            fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        _ => path.to_owned(),
    })
}

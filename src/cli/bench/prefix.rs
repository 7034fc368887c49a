//! `cairn bench prefix`: what the prefix cache gives to conversations.
//!
//! ```text
//! seed --> trace --> replay with sharing     --> hits, time to first token, seconds
//!             |         `- history --> oracle --> the most hits there could have been
//!             `----> replay without sharing  --> time to first token, seconds
//! ```
//!
//! | Figure | Method |
//! | --- | --- |
//! | hit tokens, hit rate | tokens of prompts that were in the cache, of all tokens of prompts |
//! | of the most possible | hit tokens, divided by what `oracle` works out from the same history |
//! | time to first token | from submission; median and 90th percentile of a run's requests |
//! | seconds | from the first submission to the last token |
//!
//! Both replays of a run use one engine, one after the other, each beginning with an empty cache;
//! every other run goes the other way round, so that neither is always the first on a warm machine.
//!
//! With `--prefix-cache-dir`, `fresh` measures what the folder gives to engines that have just
//! started; the conversations above never see it.
//!
//! What this module deliberately does not do: it measures no quality; sharing changes no token.

mod fresh;
mod oracle;
mod replay;
mod results;
mod trace;

use std::fmt;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::{MAX_LEN, MAX_RUNS, build, machine, threads};
use crate::cli::boot::{self, Booted};
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::model_args::ModelArgs;
use crate::cli::progress::{Amount, Progress, Task};
use crate::cli::{Context, output, values};
use crate::config::{EngineConfig, PrefixCacheConfig};
use crate::engine::EngineHandle;

use fresh::Fresh;
use replay::{Play, replay};
use results::{Counted, Results};
use trace::{Shape, Trace};

const MAX_SESSIONS: u64 = 4096;
const MAX_CONCURRENCY: u64 = 1024;

const EXAMPLES: &str = "\
Examples:
  cairn bench prefix
  cairn bench prefix --sessions 32 --concurrency 8 --kv-cache-bytes 256MiB
  cairn bench prefix --concurrency 1 --json > before.json";

/// Measure what the prefix cache gives to conversations, beside the most that it could.
///
/// Sessions share system prompts, go on turn by turn with the model's own answers, and now and then
/// ask again, change what they said last, or begin anew. Prompts are random token ids that are not
/// special. Everything is answered with and without sharing. Greedy; the model's end-of-text tokens
/// are ignored.
///
/// With --prefix-cache-dir, also the time to first token of the longest system prompt in an engine
/// that has just started, with and without the folder; its blocks are written there first.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrefixBenchArgs {
    /// Conversations.
    #[arg(long, value_name = "N", default_value = "8", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_SESSIONS))]
    sessions: usize,

    /// Requests in each conversation.
    #[arg(long, value_name = "N", default_value = "4", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_RUNS))]
    turns: usize,

    /// System prompts that conversations begin with.
    #[arg(long, value_name = "N", default_value = "2", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_SESSIONS))]
    system_prompts: usize,

    /// Tokens of the longest system prompt; the others have a quarter of that or more.
    #[arg(long, value_name = "TOKENS", default_value = "1500", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    system_tokens: usize,

    /// Tokens that a user says at a time, in the mean.
    #[arg(long, value_name = "TOKENS", default_value = "48", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    user_tokens: usize,

    /// Tokens of each answer.
    #[arg(long, value_name = "TOKENS", default_value = "32", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_LEN))]
    answer_tokens: usize,

    /// Requests at once.
    #[arg(long, value_name = "N", default_value = "4", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_CONCURRENCY))]
    concurrency: usize,

    /// How often to measure.
    #[arg(long, value_name = "N", default_value = "2", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<usize>(1..=MAX_RUNS))]
    runs: usize,

    /// Seed of the conversations.
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true)]
    #[arg(value_parser = values::whole::<u64>(0..=u64::MAX))]
    seed: u64,

    /// Print one JSON object with every sample, the machine and the build, instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl PrefixBenchArgs {
    fn shape(&self) -> Shape {
        Shape {
            sessions: self.sessions,
            turns: self.turns,
            system_prompts: self.system_prompts,
            system_tokens: self.system_tokens,
            user_tokens: self.user_tokens,
        }
    }
}

pub(super) fn run(args: &PrefixBenchArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    let max_num_queued_reqs = config.max_num_queued_reqs.max(args.concurrency);
    let config = EngineConfig { max_num_queued_reqs, ..config };
    // What a folder remembers of an earlier run would be hits that no conversation gave.
    let in_memory = EngineConfig { prefix_cache: PrefixCacheConfig::default(), ..config.clone() };
    let booted = boot::boot(&in_memory, &*context.progress)?;
    let (trace, results) = booted.finish(|booted| {
        check_fits(args, booted.report.max_model_len)?;
        let trace = Trace::new(&args.shape(), &ordinary_ids(booted)?, args.seed);
        let results = measure(args, config.block_size(), booted, &trace, &*context.progress)?;
        Ok((trace, results))
    })?;
    let fresh = match config.prefix_cache.folder {
        Some(_) => Some(fresh::measure(&config, &trace, args.runs, &*context.progress)?),
        None => None,
    };
    if args.json {
        output::write_json(&to_json(args, &config, &booted, &results, fresh.as_ref()))?;
    } else {
        let fresh_table = fresh.map(|fresh| format!("\n{fresh}")).unwrap_or_default();
        output::write(&format!("{results}{fresh_table}"))?;
        output::say(Conditions { args, config: &config, booted: &booted });
    }
    Ok(Outcome::Done)
}

fn check_fits(args: &PrefixBenchArgs, max_model_len: usize) -> anyhow::Result<()> {
    let len = args.shape().max_len(args.answer_tokens);
    let check = || {
        ensure!(
            len <= max_model_len,
            "conversations are too long: {} tokens of system prompt and {} turns may come to {len} \
             tokens, but the context holds {max_model_len}",
            args.system_tokens,
            args.turns,
        );
        Ok(())
    };
    check()
        .hint("choose a smaller `--system-tokens`, `--turns`, `--user-tokens` or `--answer-tokens`")
}

fn measure(
    args: &PrefixBenchArgs,
    block_size: usize,
    booted: &Booted,
    trace: &Trace,
    progress: &dyn Progress,
) -> anyhow::Result<Results> {
    let engine = &booted.engine;
    let num_blocks = engine.stats().num_kv_blocks as usize;
    let num_requests = trace.num_requests();
    let task = progress.begin("measuring", Amount::Items((2 * args.runs * num_requests) as u64));
    warm_up(engine, trace)?;
    let mut results = Results::default();
    for run in 0..args.runs {
        let play = |is_shared: bool, num_before: usize| {
            let played = Play {
                concurrency: args.concurrency,
                answer_tokens: args.answer_tokens,
                is_shared,
            };
            let num_done = (2 * run + num_before) * num_requests;
            counted(engine, trace, played, task.as_ref(), num_done)
        };
        let (with, without) = if run % 2 == 0 {
            let with = play(true, 0)?;
            (with, play(false, 1)?)
        } else {
            let without = play(false, 0)?;
            (play(true, 1)?, without)
        };
        results.add(&with, &without, block_size, num_blocks);
    }
    Ok(results)
}

fn counted(
    engine: &EngineHandle,
    trace: &Trace,
    play: Play,
    task: &dyn Task,
    num_done: usize,
) -> anyhow::Result<Counted> {
    let before = engine.stats();
    let replay = replay(engine, trace, play, &|count| task.advance_to((num_done + count) as u64))?;
    let after = engine.stats();
    Ok(Counted {
        replay,
        num_evictions: after.prefix_evictions_capacity - before.prefix_evictions_capacity,
        num_preemptions: after.num_preemptions - before.num_preemptions,
    })
}

/// Tokens that stand for text.
fn ordinary_ids(booted: &Booted) -> anyhow::Result<Vec<u32>> {
    let num_ids = u32::try_from(booted.engine.vocab_size()).unwrap_or(u32::MAX);
    let ids: Vec<u32> = (0..num_ids).filter(|&id| !booted.tokenizer.is_special(id)).collect();
    ensure!(!ids.is_empty(), "every one of the {num_ids} tokens is special");
    Ok(ids)
}

/// One long prompt, so that the first measured one does not pay for the machine's first steps.
fn warm_up(engine: &EngineHandle, trace: &Trace) -> anyhow::Result<()> {
    let prompt = trace.system_prompts.first().context("a trace has a system prompt")?;
    replay::read(replay::submit(engine, prompt.clone(), 1, None)?)?;
    Ok(())
}

/// On what the figures were measured, in one line.
struct Conditions<'a> {
    args: &'a PrefixBenchArgs,
    config: &'a EngineConfig,
    booted: &'a Booted,
}

impl fmt::Display for Conditions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, config, booted } = self;
        write!(
            f,
            "{}; {} backend, {} threads; {} sessions of {} turns, {} at once, {} system prompts of up \
             to {} tokens, {} said and {} answered a turn; {} blocks of {}; {} runs",
            booted.report.model_name,
            config.backend.name(),
            threads(config),
            args.sessions,
            args.turns,
            args.concurrency,
            args.system_prompts,
            args.system_tokens,
            args.user_tokens,
            args.answer_tokens,
            booted.engine.stats().num_kv_blocks,
            config.block_size(),
            args.runs,
        )
    }
}

fn to_json(
    args: &PrefixBenchArgs,
    config: &EngineConfig,
    booted: &Booted,
    results: &Results,
    fresh: Option<&Fresh>,
) -> Value {
    json!({
        "model": booted.report.model_name,
        "architecture": booted.report.architecture,
        "settings": {
            "backend": config.backend.name(),
            "dtype": config.dtype.name(),
            "threads": threads(config),
            "sessions": args.sessions,
            "turns": args.turns,
            "system_prompts": args.system_prompts,
            "system_tokens": args.system_tokens,
            "user_tokens": args.user_tokens,
            "answer_tokens": args.answer_tokens,
            "concurrency": args.concurrency,
            "runs": args.runs,
            "seed": args.seed,
            "block_size": config.block_size(),
            "num_blocks": booted.engine.stats().num_kv_blocks,
            "max_num_seqs": config.max_num_seqs,
            "max_num_batched_tokens": config.max_num_batched_tokens,
            "static_shapes": config.static_shapes,
        },
        "machine": machine(),
        "build": build(),
        "results": results.to_json(),
        "fresh_engine": fresh.map(Fresh::to_json),
    })
}

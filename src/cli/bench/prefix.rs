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
//! What this module deliberately does not do: it measures no quality; sharing changes no token.

mod oracle;
mod replay;
mod trace;

use std::fmt;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::{MAX_LEN, MAX_RUNS, Samples, build, machine, table, threads};
use crate::cli::boot::{self, Booted};
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::model_args::ModelArgs;
use crate::cli::progress::{Amount, Progress, Task};
use crate::cli::{Context, output, values};
use crate::config::EngineConfig;
use crate::engine::EngineHandle;

use replay::{Play, Replay, replay};
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
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrefixArgs {
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

impl PrefixArgs {
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

/// How long requests took, one sample per run.
#[derive(Debug, Default)]
struct Times {
    median: Samples,
    p90: Samples,
    seconds: Samples,
}

impl Times {
    fn add(&mut self, replay: &Replay) {
        let mut sorted: Vec<f64> =
            replay.requests.iter().map(|one| one.time_to_first_token.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let p90 = sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1));
        self.p90.0.push(p90.copied().unwrap_or(f64::NAN));
        self.median.0.push(Samples(sorted).spread()[0]);
        self.seconds.0.push(replay.seconds);
    }

    fn to_json(&self) -> Value {
        json!({
            "time_to_first_token_median_seconds": self.median.to_json(),
            "time_to_first_token_p90_seconds": self.p90.to_json(),
            "seconds": self.seconds.to_json(),
        })
    }
}

/// Samples of every figure, one per run.
#[derive(Debug, Default)]
struct Results {
    prompt_tokens: Samples,
    hit_tokens: Samples,
    hit_rate: Samples,
    most_unlimited: Samples,
    most_bounded: Samples,
    share_of_unlimited: Samples,
    share_of_bounded: Samples,
    evicted_blocks: Samples,
    preemptions: Samples,
    with: Times,
    without: Times,
    speedup_median: Samples,
    speedup_p90: Samples,
    speedup_overall: Samples,
}

pub(super) fn run(args: &PrefixArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.model.engine_config(context)?;
    let max_num_queued_reqs = config.max_num_queued_reqs.max(args.concurrency);
    let config = EngineConfig { max_num_queued_reqs, ..config };
    let booted = boot::boot(&config, &*context.progress)?;
    let results = booted.finish(|booted| {
        check_fits(args, booted.report.max_model_len)?;
        measure(args, config.block_size(), booted, &*context.progress)
    })?;
    if args.json {
        output::write_json(&to_json(args, &config, &booted, &results))?;
    } else {
        output::write(&results.to_string())?;
        output::say(Conditions { args, config: &config, booted: &booted });
    }
    Ok(Outcome::Done)
}

fn check_fits(args: &PrefixArgs, max_model_len: usize) -> anyhow::Result<()> {
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
    args: &PrefixArgs,
    block_size: usize,
    booted: &Booted,
    progress: &dyn Progress,
) -> anyhow::Result<Results> {
    let engine = &booted.engine;
    let trace = Trace::new(&args.shape(), &ordinary_ids(booted)?, args.seed);
    let num_blocks = engine.stats().num_kv_blocks as usize;
    let num_requests = trace.num_requests();
    let task = progress.begin("measuring", Amount::Items((2 * args.runs * num_requests) as u64));
    warm_up(engine, &trace)?;
    let mut results = Results::default();
    for run in 0..args.runs {
        let play = |is_shared: bool, num_before: usize| {
            let played = Play {
                concurrency: args.concurrency,
                answer_tokens: args.answer_tokens,
                is_shared,
            };
            let num_done = (2 * run + num_before) * num_requests;
            counted(engine, &trace, played, task.as_ref(), num_done)
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

/// A replay, and what the engine counted meanwhile.
struct Counted {
    replay: Replay,
    num_evictions: u64,
    num_preemptions: u64,
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

impl Results {
    fn add(&mut self, with: &Counted, without: &Counted, block_size: usize, num_blocks: usize) {
        let (shared, alone) = (&with.replay, &without.replay);
        let (num_prompt, num_hit) = (shared.num_prompt_tokens(), shared.num_hit_tokens());
        let unlimited = oracle::most_hits(shared, block_size, None);
        let bounded = oracle::most_hits(shared, block_size, Some(num_blocks));
        self.prompt_tokens.0.push(num_prompt as f64);
        self.hit_tokens.0.push(num_hit as f64);
        self.hit_rate.0.push(share(num_hit, num_prompt));
        self.most_unlimited.0.push(unlimited as f64);
        self.most_bounded.0.push(bounded as f64);
        self.share_of_unlimited.0.push(share(num_hit, unlimited));
        self.share_of_bounded.0.push(share(num_hit, bounded));
        self.evicted_blocks.0.push(with.num_evictions as f64);
        self.preemptions.0.push(with.num_preemptions as f64);
        self.with.add(shared);
        self.without.add(alone);
        let speedup = |of: fn(&Times) -> &Samples| {
            let newest = |times| of(times).0.last().copied().unwrap_or(f64::NAN);
            newest(&self.without) / newest(&self.with).max(1e-9)
        };
        let [median, p90, overall] = [
            speedup(|times| &times.median),
            speedup(|times| &times.p90),
            speedup(|times| &times.seconds),
        ];
        self.speedup_median.0.push(median);
        self.speedup_p90.0.push(p90);
        self.speedup_overall.0.push(overall);
    }

    fn to_json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens.to_json(),
            "hit_tokens": self.hit_tokens.to_json(),
            "hit_rate": self.hit_rate.to_json(),
            "most_hit_tokens_unlimited": self.most_unlimited.to_json(),
            "most_hit_tokens_bounded": self.most_bounded.to_json(),
            "share_of_most_unlimited": self.share_of_unlimited.to_json(),
            "share_of_most_bounded": self.share_of_bounded.to_json(),
            "evicted_blocks": self.evicted_blocks.to_json(),
            "preemptions": self.preemptions.to_json(),
            "with": self.with.to_json(),
            "without": self.without.to_json(),
            "speedup": {
                "time_to_first_token_median": self.speedup_median.to_json(),
                "time_to_first_token_p90": self.speedup_p90.to_json(),
                "overall": self.speedup_overall.to_json(),
            },
        })
    }
}

/// Of nothing, nothing is all there is.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = [
            ("tokens of prompts", &self.prompt_tokens, 1.0),
            ("hit tokens", &self.hit_tokens, 1.0),
            ("hit rate, %", &self.hit_rate, 1e2),
            ("of the most with unlimited memory, %", &self.share_of_unlimited, 1e2),
            ("of the most with these blocks, %", &self.share_of_bounded, 1e2),
            ("first token, median, ms: with", &self.with.median, 1e3),
            ("  without", &self.without.median, 1e3),
            ("  times as fast", &self.speedup_median, 1.0),
            ("first token, p90, ms: with", &self.with.p90, 1e3),
            ("  without", &self.without.p90, 1e3),
            ("  times as fast", &self.speedup_p90, 1.0),
            ("all requests, s: with", &self.with.seconds, 1.0),
            ("  without", &self.without.seconds, 1.0),
            ("  times as fast", &self.speedup_overall, 1.0),
        ];
        table(&figures).fmt(f)
    }
}

/// On what the figures were measured, in one line.
struct Conditions<'a> {
    args: &'a PrefixArgs,
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

fn to_json(args: &PrefixArgs, config: &EngineConfig, booted: &Booted, results: &Results) -> Value {
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
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::replay::{Event, Served};
    use super::*;

    /// Two requests, the second of which had `cached_tokens` of the first.
    fn counted(cached_tokens: usize, milliseconds: [u64; 2]) -> Counted {
        let served = |prompt: &[u32], cached_tokens, milliseconds| Served {
            prompt: prompt.to_vec(),
            answer: vec![9],
            cached_tokens,
            time_to_first_token: Duration::from_millis(milliseconds),
        };
        let requests = vec![
            served(&[1, 2, 3, 4], 0, milliseconds[0]),
            served(&[1, 2, 3, 4, 9, 5], cached_tokens, milliseconds[1]),
        ];
        let events = vec![Event::Began(0), Event::Ended(0), Event::Began(1), Event::Ended(1)];
        let replay = Replay { requests, events, seconds: 2.0 };
        Counted { replay, num_evictions: 0, num_preemptions: 0 }
    }

    #[test]
    fn hits_are_told_as_shares_and_times_side_by_side() {
        let mut results = Results::default();
        results.add(&counted(3, [40, 20]), &counted(0, [40, 80]), 3, 100);
        assert_eq!(results.hit_rate.0, [0.3]);
        // One block of three tokens, and one of the next: the answer's token was not computed.
        assert_eq!(
            (&results.most_unlimited.0[..], &results.share_of_bounded.0[..]),
            (&[4.0][..], &[0.75][..])
        );
        assert_eq!(
            (&results.with.p90.0[..], &results.speedup_p90.0[..]),
            (&[0.04][..], &[2.0][..])
        );
        assert_eq!(results.speedup_median.0, [2.0]);
        let text = results.to_string();
        assert!(text.contains("of the most with these blocks, %"), "{text}");
    }

    #[test]
    fn nothing_of_nothing_is_all() {
        assert_eq!((share(0, 0), share(1, 4)), (1.0, 0.25));
    }
}

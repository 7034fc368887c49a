//! `cairn cache verify`: looks at every byte, and with `--repair` puts right what is wrong.

use std::cell::OnceCell;

use anyhow::bail;
use cairn_graph_cache::{DiskAccess, Problem, VerifyOptions, VerifyProgress, VerifyReport};
use clap::Args;
use serde_json::json;

use super::stores;
use super::view;
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::progress::{Amount, Task};
use crate::cli::values::display_bytes;
use crate::cli::{Context, graph_cache, output};

const EXAMPLES: &str = "\
Examples:
  cairn cache verify                 ends with 1 when something is wrong
  cairn cache verify --repair        ends with 1 when something is still wrong
  cairn cache verify --json | jq '.problems[] | select(.kind == \"damaged\")'";

/// Check every file in the folder of the cache, and say what is not as it should be.
///
/// Ends with 1 unless everything is as it should be, or was put right. Layers are not looked at: name
/// one with `--cache-dir`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// Put right what is wrong: bad entries are moved into the quarantine, and what nobody needs is
    /// removed. Without it, nothing is changed.
    #[arg(long)]
    repair: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &VerifyArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.cache.config(&context.environment);
    let store = if args.repair {
        stores::open_folder_to_write(&config)?
    } else {
        // With the trust that was asked for: what is not trusted is a problem.
        let trust = graph_cache::trust(&config)?;
        graph_cache::disk(graph_cache::folder(&config)?, &trust, DiskAccess::ReadOnly)?
    };
    // How much there is to do is known only once the first entry was looked at.
    let task: OnceCell<Box<dyn Task>> = OnceCell::new();
    let progress = |done: &VerifyProgress| {
        let begin =
            || context.progress.begin("verifying entries", Amount::Items(done.num_entries as u64));
        task.get_or_init(begin).advance_to(done.num_done as u64);
    };
    let options = VerifyOptions { repair: args.repair, progress: Some(&progress) };
    let report = store.verify(&options)?;
    drop(task);
    if args.json {
        output::write_json(&to_json(&report))?;
    } else {
        output::write(&to_text(&report))?;
    }
    output::say(summary(&report));
    if report.is_repaired() {
        return Ok(Outcome::Done);
    }
    let count = view::count(num_left(&report), "problem");
    let fail = || -> anyhow::Result<Outcome> { bail!("not everything is in order: {count} left") };
    if args.repair {
        fail().hint("each problem above says what to do about it")
    } else {
        fail().hint("`cairn cache verify --repair` puts right what it can")
    }
}

fn is_left(problem: &Problem) -> bool {
    !problem.is_note && problem.repaired.is_none()
}

fn num_left(report: &VerifyReport) -> usize {
    let problems = report.problems.iter().filter(|problem| is_left(problem)).count();
    problems.max(report.failed.len())
}

fn to_text(report: &VerifyReport) -> String {
    let problems = report.problems.iter().map(ToString::to_string);
    let all = problems.chain(report.failed.iter().cloned());
    all.map(|line| view::plain(&line) + "\n").collect()
}

fn summary(report: &VerifyReport) -> String {
    let VerifyReport { num_entries, num_good, bytes, quarantined, .. } = report;
    let mut text =
        format!("{}, {}: {num_good} good", view::entries(*num_entries), display_bytes(*bytes));
    let num_repaired = report.problems.iter().filter(|problem| problem.repaired.is_some()).count();
    let num_problems = report.problems.iter().filter(|problem| !problem.is_note).count();
    for (count, what) in [
        (num_problems, view::count(num_problems, "problem")),
        (num_repaired, format!("{num_repaired} put right")),
        (quarantined.count, view::count(quarantined.count, "thing") + " in the quarantine"),
    ] {
        if count > 0 {
            text.push_str(", ");
            text.push_str(&what);
        }
    }
    text
}

fn to_json(report: &VerifyReport) -> serde_json::Value {
    let problem = |problem: &Problem| {
        json!({
            "path": problem.path.to_string_lossy(),
            "key": problem.key,
            "kind": problem.kind.label(),
            "reason": problem.reason,
            "is_note": problem.is_note,
            "repaired": problem.repaired,
        })
    };
    json!({
        "ok": report.is_repaired(),
        "entries": report.num_entries,
        "good": report.num_good,
        "bytes": report.bytes,
        "quarantined": report.quarantined.count,
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "failed": report.failed,
    })
}

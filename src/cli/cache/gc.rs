//! `cairn cache gc`: makes room.

use std::fmt::Write as _;
use std::time::SystemTime;

use anyhow::bail;
use cairn_graph_cache::{GcOptions, GcReport, Tally};
use clap::Args;
use serde_json::{Value, json};

use super::{stores, view};
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::values::{self, display_bytes};
use crate::cli::{Context, output};

const EXAMPLES: &str = "\
Examples:
  cairn cache gc                              remove what nobody needs, but no entry
  cairn cache gc --max-bytes 20GB --dry-run   what would go
  cairn cache gc --max-bytes 20GB";

/// Make room: remove what nobody needs any more, then the entries used least recently.
///
/// Entries that are pinned or in use stay, whatever their size. Ends with 1 when more is left than
/// `--max-bytes`, or something could not be removed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GcArgs {
    /// The most that the folder may hold, as in 20GB [default: that of `--cache-max-bytes`; without
    /// either, no entry is removed].
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, allow_hyphen_values = true)]
    max_bytes: Option<u64>,

    /// Change nothing: only say what would be removed.
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &GcArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.cache.config(&context.environment);
    let max_bytes = args.max_bytes.or(config.max_bytes);
    let store = if args.dry_run {
        stores::open_folder(&config)?
    } else {
        stores::open_folder_to_write(&config)?
    };
    let report = store.gc(&GcOptions { max_bytes, dry_run: args.dry_run })?;
    if args.json {
        output::write_json(&to_json(&report))?;
    } else if !report.evicted.is_empty() {
        output::write(&to_table(&report, SystemTime::now()))?;
    }
    if report.skipped {
        output::say("another process is at it: nothing was done");
        return Ok(Outcome::Done);
    }
    for line in report.notes.iter().chain(&report.failed) {
        output::say(view::plain(line));
    }
    output::say(summary(&report));
    check(&report)
}

fn check(report: &GcReport) -> anyhow::Result<Outcome> {
    if !report.failed.is_empty() {
        bail!("{} could not be removed", view::count(report.failed.len(), "thing"));
    }
    if report.still_over_by > 0 {
        let over = display_bytes(report.still_over_by);
        let fail =
            || -> anyhow::Result<Outcome> { bail!("the cache is still too large by {over}") };
        return fail().hint(
            "what is left is pinned or in use: `cairn cache ls` shows it, `cairn cache unpin` lets \
             it go",
        );
    }
    Ok(Outcome::Done)
}

fn summary(report: &GcReport) -> String {
    let would = if report.dry_run { "would remove" } else { "removed" };
    let evicted = report.evicted.iter().map(|entry| entry.bytes).fold(0, u64::saturating_add);
    let other = report.reclaimed.total();
    let mut text =
        format!("{would} {}, {}", view::entries(report.evicted.len()), display_bytes(evicted));
    // Writing to a string cannot fail.
    if other.count > 0 {
        let things = view::count(other.count, "other thing");
        let _ = write!(text, ", and {things}, {}", display_bytes(other.bytes));
    }
    let _ = write!(text, "; left are {}", display_bytes(report.bytes_after));
    for (count, what) in [(report.num_pinned, "pinned"), (report.num_in_use, "in use")] {
        if count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

fn to_table(report: &GcReport, now: SystemTime) -> String {
    let header = ["key", "size", "used", "note"].map(str::to_owned);
    let rows = report.evicted.iter().map(|entry| {
        let (key, note) = (view::short(&entry.key), view::cell(&entry.note));
        [key, display_bytes(entry.bytes), view::age(entry.last_used, now), note]
    });
    view::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

fn to_json(report: &GcReport) -> Value {
    let evicted = report.evicted.iter().map(|entry| {
        json!({
            "key": entry.key,
            "note": entry.note,
            "bytes": entry.bytes,
            "last_used_unix_s": view::unix_seconds(entry.last_used),
        })
    });
    let tally = |tally: Tally| json!({ "count": tally.count, "bytes": tally.bytes });
    let reclaimed = &report.reclaimed;
    json!({
        "dry_run": report.dry_run,
        "skipped": report.skipped,
        "entries": report.num_entries,
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "still_over_by": report.still_over_by,
        "pinned": report.num_pinned,
        "in_use": report.num_in_use,
        "evicted": evicted.collect::<Vec<_>>(),
        "reclaimed": {
            "temporary": tally(reclaimed.temporary),
            "quarantine": tally(reclaimed.quarantine),
            "locks": tally(reclaimed.locks),
            "leases": tally(reclaimed.leases),
            "starts": tally(reclaimed.starts),
            "old_formats": tally(reclaimed.old_formats),
        },
        "notes": report.notes,
        "failed": report.failed,
    })
}

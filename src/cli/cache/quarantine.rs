//! `cairn cache quarantine`: what was moved away, and why.

use std::time::SystemTime;

use cairn_graph_cache::QuarantinedThing;
use clap::Args;
use serde_json::{Value, json};

use super::{stores, view};
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::Outcome;
use crate::cli::values::display_bytes;
use crate::cli::{Context, output};

/// List what was found bad and moved away, and why; or remove it.
///
/// What lies in the quarantine is never used. `cairn cache gc` removes it after 30 days.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cairn cache quarantine\n  cairn cache quarantine --clear")]
pub(super) struct QuarantineArgs {
    /// Remove all of it.
    #[arg(long)]
    clear: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &QuarantineArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.cache.config(&context.environment);
    let things = stores::open_folder(&config)?.quarantined()?;
    if args.json {
        output::write_json(&json!({ "things": things.iter().map(to_json).collect::<Vec<_>>() }))?;
    } else {
        let now = SystemTime::now();
        output::write(&things.iter().map(|thing| to_text(thing, now)).collect::<String>())?;
    }
    let (mut count, mut bytes) = (things.len(), sum(&things));
    let mut what = "in the quarantine";
    if args.clear && count > 0 {
        let cleared = stores::open_folder_to_write(&config)?.clear_quarantine()?;
        (count, bytes, what) = (cleared.count, cleared.bytes, "removed");
    }
    let things = view::count(count, "thing");
    output::say(format_args!("{things} {what}, {}", display_bytes(bytes)));
    Ok(Outcome::Done)
}

fn sum(things: &[QuarantinedThing]) -> u64 {
    things.iter().map(|thing| thing.bytes).fold(0, u64::saturating_add)
}

fn to_text(thing: &QuarantinedThing, now: SystemTime) -> String {
    let path = view::plain(&thing.path.display().to_string());
    let (size, age) = (display_bytes(thing.bytes), view::age(thing.since, now));
    let reason = thing.reason.lines().map(|line| format!("  {}\n", view::plain(line)));
    format!("{path}: {size}, since {age}\n{}", reason.collect::<String>())
}

fn to_json(thing: &QuarantinedThing) -> Value {
    json!({
        "path": thing.path.to_string_lossy(),
        "bytes": thing.bytes,
        "since_unix_s": view::unix_seconds(thing.since),
        "reason": thing.reason,
    })
}

//! `cairn cache ls`: all entries, the last used first.
//!
//! ```text
//! key             size  compile s  used    state   kind    note
//! 3f9a62c01b7d  1.2 MB      41.07  3 min   in use  graph   decode, 8 sequences
//! ```

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::stores::{self, Looked, Seen};
use super::view;
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::Outcome;
use crate::cli::values::display_bytes;
use crate::cli::{Context, output};

const EXAMPLES: &str = "\
Examples:
  cairn cache ls
  cairn cache ls --cache-layer /image/graphs
  cairn cache ls --json | jq -r '.stores[].entries[] | select(.kind == \"graph\") | .key'";

/// List all entries of the cache, the last used first.
///
/// Layers are listed after the folder. Of an entry in an object store, only the key is shown.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LsArgs {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// One store and what is in it.
struct Listed {
    place: String,
    entries: Vec<Seen>,
}

/// Runs the command.
pub(super) fn run(args: &LsArgs, context: &Context) -> anyhow::Result<Outcome> {
    let stores = stores::open_all(&args.cache.config(&context.environment))?;
    let mut listed = Vec::new();
    for (idx, store) in stores.iter().enumerate() {
        match list(store) {
            Ok(one) => listed.push(one),
            // The folder is what was asked for; a layer is what else there is.
            Err(error) if idx == 0 => return Err(error.into()),
            Err(error) => output::say(format_args!("warning: {error}")),
        }
    }
    if args.json {
        output::write_json(&json!({ "stores": listed.iter().map(to_json).collect::<Vec<_>>() }))?;
    } else {
        let now = SystemTime::now();
        let text = |one: &Listed| match listed.len() {
            1 => to_table(&one.entries, now),
            _ => format!("{}:\n{}", one.place, to_table(&one.entries, now)),
        };
        output::write(&listed.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    }
    for one in &listed {
        output::say(summary(one));
    }
    Ok(Outcome::Done)
}

fn list(store: &Looked) -> Result<Listed, cairn_graph_cache::StoreError> {
    let mut entries = store.entries()?;
    entries.sort_by_key(|entry| (Reverse(entry.last_used), entry.key));
    Ok(Listed { place: store.place(), entries })
}

fn summary(listed: &Listed) -> String {
    let Listed { place, entries } = listed;
    let mut text = format!("{}, {} in {place}", view::entries(entries.len()), bytes_of(entries));
    let count = |is: fn(&Seen) -> bool| entries.iter().filter(|entry| is(entry)).count();
    for (count, what) in [
        (count(|entry| entry.is_pinned), "pinned"),
        (count(|entry| entry.is_in_use), "in use"),
        (count(|entry| entry.bytes.is_some() && entry.manifest.is_none()), "not readable"),
    ] {
        if count > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

fn bytes_of(entries: &[Seen]) -> String {
    let known: Option<Vec<u64>> = entries.iter().map(|entry| entry.bytes).collect();
    match known {
        Some(sizes) => display_bytes(sizes.into_iter().fold(0, u64::saturating_add)),
        None => "of unknown size".to_owned(),
    }
}

fn to_table(entries: &[Seen], now: SystemTime) -> String {
    let header = ["key", "size", "compile s", "used", "state", "kind", "note"].map(str::to_owned);
    let rows = entries.iter().map(|entry| {
        let meta = entry.manifest.as_ref().map(|manifest| &manifest.meta);
        [
            view::short(&entry.key),
            entry.bytes.map_or_else(|| "?".to_owned(), display_bytes),
            meta.map_or_else(|| "?".to_owned(), |meta| seconds(meta.compile_ms)),
            view::age(entry.last_used, now),
            state(entry).to_owned(),
            meta.map_or_else(|| "?".to_owned(), |meta| view::cell(&meta.kind)),
            meta.map(|meta| view::cell(&meta.note)).unwrap_or_default(),
        ]
    });
    view::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

fn seconds(ms: u64) -> String {
    format!("{:.2}", ms as f64 / 1000.0)
}

fn state(entry: &Seen) -> &'static str {
    let is_bad = entry.bytes.is_some() && entry.manifest.is_none();
    match (entry.is_pinned, entry.is_in_use) {
        _ if is_bad => "bad",
        (true, true) => "pinned, in use",
        (true, false) => "pinned",
        (false, true) => "in use",
        (false, false) => "",
    }
}

fn to_json(listed: &Listed) -> Value {
    let entry = |entry: &Seen| {
        let meta = entry.manifest.as_ref().map(|manifest| &manifest.meta);
        json!({
            "key": entry.key,
            "kind": meta.map(|meta| &meta.kind),
            "note": meta.map(|meta| &meta.note),
            "producer": meta.map(|meta| &meta.producer),
            "created": entry.manifest.as_ref().map(|manifest| &manifest.created),
            "bytes": entry.bytes,
            "compile_seconds": meta.map(|meta| meta.compile_ms as f64 / 1000.0),
            "last_used_unix_s": view::unix_seconds(entry.last_used),
            "is_pinned": entry.is_pinned,
            "is_in_use": entry.is_in_use,
        })
    };
    json!({
        "place": listed.place,
        "entries": listed.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_graph_cache::CacheKey;

    use super::*;

    fn seen(last_used: Option<SystemTime>, is_pinned: bool) -> Seen {
        let key = CacheKey::from_bytes([0x3f; 32]);
        let (bytes, is_in_use) = (Some(1_200_000), false);
        Seen { key, bytes, last_used, is_pinned, is_in_use, manifest: None }
    }

    #[test]
    fn a_row_per_entry_and_a_summary() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let entries = vec![seen(now.checked_sub(Duration::from_mins(3)), true)];
        assert_eq!(
            to_table(&entries, now),
            "key             size  compile s   used  state  kind  note\n\
             3f3f3f3f3f3f  1.2 MB          ?  3 min    bad     ?\n"
        );
        let listed = Listed { place: "/graphs".to_owned(), entries };
        assert_eq!(summary(&listed), "1 entry, 1.2 MB in /graphs, 1 pinned, 1 not readable");
    }
}

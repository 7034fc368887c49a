//! `cairn cache rm`: removes entries.

use anyhow::bail;
use cairn_graph_cache::Store as _;
use clap::Args;

use super::select::Selection;
use super::{stores, view};
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::{Context, output};

const EXAMPLES: &str = "\
Examples:
  cairn cache rm 3f9a62 51d3a9
  cairn cache rm --model model.gguf --dtype bf16";

/// Remove entries, pinned ones as well. Whoever needs one compiles it again.
///
/// Prints the keys of those that were there. Ends with 1 when one that was named is not there.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RmArgs {
    #[command(flatten)]
    selection: Selection,
}

/// Runs the command.
pub(super) fn run(args: &RmArgs, context: &Context) -> anyhow::Result<Outcome> {
    let store = stores::open_folder_to_write(&args.selection.cache(context))?;
    let keys = args.selection.some_keys(context, &store.list()?)?;
    let mut removed = Vec::new();
    for key in &keys {
        if store.remove(key)? {
            removed.push(key);
        }
    }
    output::write(&view::key_lines(removed.iter().copied()))?;
    output::say(format_args!("removed {}", view::entries(removed.len())));
    // Of a model, those that are there are meant.
    if removed.len() < keys.len() && !args.selection.has_model() {
        let missing: Vec<String> =
            keys.iter().filter(|key| !removed.contains(key)).map(view::short).collect();
        let fail = || -> anyhow::Result<Outcome> { bail!("no entry {}", missing.join(", ")) };
        return fail().hint("`cairn cache ls` shows the keys of all entries");
    }
    Ok(Outcome::Done)
}

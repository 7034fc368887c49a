//! `cairn cache pin` and `unpin`: which entries are never removed to make room.

use cairn_graph_cache::{CacheKey, DiskStore, Store as _, StoreError};
use clap::Args;

use super::select::Selection;
use super::{stores, view};
use crate::cli::failure::Outcome;
use crate::cli::{Context, output};

/// Keep entries from being removed to make room.
///
/// A key can be pinned before its entry is there: give all 64 digits. Prints the keys.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cairn cache pin --model model.gguf")]
pub(super) struct PinArgs {
    #[command(flatten)]
    selection: Selection,
}

/// Let entries be removed again to make room.
///
/// Prints the keys.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  cairn cache unpin 3f9a62")]
pub(super) struct UnpinArgs {
    #[command(flatten)]
    selection: Selection,
}

/// Runs `pin`.
pub(super) fn pin(args: &PinArgs, context: &Context) -> anyhow::Result<Outcome> {
    each(&args.selection, context, "pinned", DiskStore::pin)
}

/// Runs `unpin`.
pub(super) fn unpin(args: &UnpinArgs, context: &Context) -> anyhow::Result<Outcome> {
    each(&args.selection, context, "unpinned", DiskStore::unpin)
}

fn each(
    selection: &Selection,
    context: &Context,
    what: &str,
    act: impl Fn(&DiskStore, &CacheKey) -> Result<(), StoreError>,
) -> anyhow::Result<Outcome> {
    let store = stores::open_folder_to_write(&selection.cache(context))?;
    // A pin may be of an entry that is not there.
    let mut known = store.list()?;
    known.extend(store.pins()?);
    let keys = selection.some_keys(context, &known)?;
    keys.iter().try_for_each(|key| act(&store, key))?;
    output::write(&view::key_lines(&keys))?;
    output::say(format_args!("{what} {}", view::entries(keys.len())));
    Ok(Outcome::Done)
}

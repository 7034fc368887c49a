//! `cairn cache push`: entries to an object store or another folder.

use anyhow::bail;
use cairn_graph_cache::{CacheMode, DiskAccess, Store as _};
use clap::Args;

use super::select::Selection;
use super::transfer;
use crate::cli::Context;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::graph_cache::{self, Place};

const EXAMPLES: &str = "\
Examples:
  cairn cache push s3://bucket/prefix                      all entries of the folder
  cairn cache push s3://bucket/prefix --model model.gguf   what a model needs
  cairn cache push /mnt/shared/graphs

Object stores are reached as the variables `AWS_...` say (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, ...).";

/// Copy entries to an object store or into another folder. What is there already stays as it is.
///
/// Every byte is verified on its way; up to four entries go at the same time.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PushArgs {
    /// Where to: `s3://BUCKET/PREFIX`, or a folder.
    #[arg(value_name = "PLACE")]
    place: String,

    #[command(flatten)]
    selection: Selection,

    /// Also those that are there already, as after `cairn cache sign`.
    #[arg(long)]
    again: bool,

    /// Print one JSON object instead of a summary.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &PushArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut config = args.selection.cache(context);
    graph_cache::folder(&config)?;
    let trust = graph_cache::trust(&config)?;
    let place = Place::parse(&args.place)?;
    let to = place.open(&config, &trust, DiskAccess::ReadWrite)?;
    config.mode = CacheMode::ReadOnly;
    let cache = graph_cache::open(&config, Vec::new())?;
    let from = cache.store();
    let keys = if args.selection.is_empty() {
        from.upper().list()?
    } else {
        args.selection.keys(context, &from.list()?)?
    };
    if keys.is_empty() {
        bail!("there is nothing to push: {} has no entries", from.place());
    }
    let carried = transfer::carry(from, &to, &keys, args.again, &*context.progress);
    let carried = carried.hint(format_args!(
        "`cairn doctor --cache-layer {}` says what is allowed there",
        args.place
    ))?;
    transfer::tell(&carried, &to.place(), args.json)?;
    Ok(Outcome::Done)
}

//! `cairn cache pull`: entries from an object store or another folder.

use cairn_graph_cache::{DiskAccess, Store as _};
use clap::Args;

use super::select::KeyPrefix;
use super::{stores, transfer};
use crate::cli::Context;
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::graph_cache::{self, Place};

const EXAMPLES: &str = "\
Examples:
  cairn cache pull s3://bucket/prefix
  cairn cache pull s3://bucket/prefix 3f9a62
  cairn cache pull /mnt/shared/graphs --cache-trust signed --cache-keys keys.pub

`--cache-layer PLACE` reads entries when they are needed instead of copying all of them now.";

/// Copy entries from an object store or another folder. What is there already stays as it is.
///
/// Every byte is verified; up to four entries come at the same time.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PullArgs {
    /// Where from: `s3://BUCKET/PREFIX`, or a folder.
    #[arg(value_name = "PLACE")]
    place: String,

    /// Keys of entries, or their beginnings [default: all].
    #[arg(value_name = "KEY")]
    keys: Vec<KeyPrefix>,

    /// Also those that are there already.
    #[arg(long)]
    again: bool,

    /// Print one JSON object instead of a summary.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &PullArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.cache.config(&context.environment);
    graph_cache::folder(&config)?;
    let trust = graph_cache::trust(&config)?;
    let from = Place::parse(&args.place)?.open(&config, &trust, DiskAccess::Layer)?;
    let hint = format!("`cairn doctor --cache-layer {}` says what is allowed there", args.place);
    let known = from.list().hint(&hint)?;
    let keys = if args.keys.is_empty() {
        known
    } else {
        let keys = args.keys.iter().map(|prefix| prefix.find(&known));
        keys.collect::<Result<_, _>>()?
    };
    let to = stores::open_folder_to_write(&config)?;
    let carried = transfer::carry(&from, &to, &keys, args.again, &*context.progress).hint(hint)?;
    transfer::tell(&carried, &to.place(), args.json)?;
    Ok(Outcome::Done)
}

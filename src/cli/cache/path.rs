//! `cairn cache path`: the folder of an entry, for other tools.

use anyhow::bail;
use cairn_graph_cache::Store as _;
use clap::Args;

use super::select::KeyPrefix;
use super::show;
use super::stores::{self, Looked};
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::{Context, output};

/// Print the folder of an entry.
///
/// Looks into the folder of the cache, then into those of its layers. What is in there is only to be
/// read: an entry that was changed is not used any more.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ls -l \"$(cairn cache path 3f9a62)\"")]
pub(super) struct PathArgs {
    /// The entry's key, or its beginning.
    #[arg(value_name = "KEY")]
    key: KeyPrefix,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &PathArgs, context: &Context) -> anyhow::Result<Outcome> {
    let stores = stores::open_all(&args.cache.config(&context.environment))?;
    let key = show::find(&args.key, &stores)?;
    let path = stores.iter().find_map(|store| match store {
        Looked::Disk(store) => {
            let is_there = store.list().is_ok_and(|keys| keys.binary_search(&key).is_ok());
            is_there.then(|| store.entry_folder(&key))
        }
        Looked::Other(_) => None,
    });
    let Some(path) = path else {
        let nothing = || -> anyhow::Result<Outcome> { bail!("no folder has the entry {key}") };
        return nothing().hint("`cairn cache pull` copies entries out of an object store");
    };
    output::write(&format!("{}\n", path.display()))?;
    Ok(Outcome::Done)
}

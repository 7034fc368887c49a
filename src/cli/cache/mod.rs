//! `cairn cache`: looks into the graph cache, ships it, and keeps it in order.
//!
//! | File | Holds |
//! | --- | --- |
//! | `ls` `show` `path` `explain` | what is there, and why something is not |
//! | `verify` `gc` `rm` `pin` `quarantine` | keeping it in order |
//! | `export` `import`, `push` `pull` | carrying it: in a file, through an object store or a folder |
//! | `keygen` `sign` | vouching for it |
//! | `select` | KEY and `--model`: which entries a command is about |
//! | `stores` | the folder and its layers, to look into them one by one |
//! | `transfer` | entries from one store to another |
//! | `view` | keys, ages and texts of strangers, for people |
//!
//! A command that only looks changes nothing: no folder is created, no last use moves.
//!
//! What this module deliberately does not do: it knows no layout of files; the cache's own crate does.

mod explain;
mod export;
mod gc;
mod import;
mod keygen;
mod ls;
mod path;
mod pin;
mod pull;
mod push;
mod quarantine;
mod rm;
mod select;
mod show;
mod sign;
mod stores;
mod transfer;
mod verify;
mod view;

use clap::{Args, Subcommand};

use super::Context;
use super::failure::Outcome;

const EXAMPLES: &str = "\
Examples:
  cairn cache ls                                     what is there
  cairn cache explain model.gguf                     is it there for this model, and if not, why
  cairn cache verify --repair                        check every byte
  cairn cache export graphs.tar.zst                  into one file, to carry it elsewhere
  cairn cache push s3://bucket/prefix                share it";

/// Look into the cache of compiled graphs, ship it, and keep it in order.
///
/// KEY is an entry's key or its beginning, of at least 6 digits.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CacheCommandArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    Ls(ls::LsArgs),
    Show(show::ShowArgs),
    Path(path::PathArgs),
    Explain(explain::ExplainArgs),
    Verify(verify::VerifyArgs),
    Gc(gc::GcArgs),
    Rm(rm::RmArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Quarantine(quarantine::QuarantineArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Push(push::PushArgs),
    Pull(pull::PullArgs),
    Keygen(keygen::KeygenArgs),
    Sign(sign::SignArgs),
}

/// Runs the command.
pub(crate) fn run(args: &CacheCommandArgs, context: &Context) -> anyhow::Result<Outcome> {
    match &args.command {
        CacheCommand::Ls(args) => ls::run(args, context),
        CacheCommand::Show(args) => show::run(args, context),
        CacheCommand::Path(args) => path::run(args, context),
        CacheCommand::Explain(args) => explain::run(args, context),
        CacheCommand::Verify(args) => verify::run(args, context),
        CacheCommand::Gc(args) => gc::run(args, context),
        CacheCommand::Rm(args) => rm::run(args, context),
        CacheCommand::Pin(args) => pin::pin(args, context),
        CacheCommand::Unpin(args) => pin::unpin(args, context),
        CacheCommand::Quarantine(args) => quarantine::run(args, context),
        CacheCommand::Export(args) => export::run(args, context),
        CacheCommand::Import(args) => import::run(args, context),
        CacheCommand::Push(args) => push::run(args, context),
        CacheCommand::Pull(args) => pull::run(args, context),
        CacheCommand::Keygen(args) => keygen::run(args),
        CacheCommand::Sign(args) => sign::run(args, context),
    }
}

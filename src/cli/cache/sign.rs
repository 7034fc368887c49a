//! `cairn cache sign`: vouches for entries.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cairn_graph_cache::{SigningKey, Store as _};
use clap::Args;
use fs_err as fs;

use super::select::Selection;
use super::{stores, view};
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::progress::Amount;
use crate::cli::{Context, output};

/// Bits of a mode that let others read or write.
const OTHERS: u32 = 0o077;

const EXAMPLES: &str = "\
Examples:
  cairn cache sign --key builder.key                        all entries of the folder
  cairn cache sign --key builder.key --model model.gguf
  cairn cache sign --key builder.key && cairn cache push --again s3://bucket/prefix";

/// Sign entries: whoever trusts the key can use them, whoever else can write to their folder.
///
/// Every byte of an entry is verified before it is signed. A signature covers all of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SignArgs {
    /// The file with the secret key, as `cairn cache keygen` wrote it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    #[command(flatten)]
    selection: Selection,
}

/// Runs the command.
pub(super) fn run(args: &SignArgs, context: &Context) -> anyhow::Result<Outcome> {
    let signing_key = read_key(&args.key)?;
    let store = stores::open_folder_to_write(&args.selection.cache(context))?;
    let known = store.list()?;
    let keys =
        if args.selection.is_empty() { known } else { args.selection.keys(context, &known)? };
    if keys.is_empty() {
        bail!("there is nothing to sign: {} has no entries", store.place());
    }
    let task = context.progress.begin("signing entries", Amount::Items(keys.len() as u64));
    for (done, key) in (1..).zip(&keys) {
        store.sign(key, &signing_key).with_context(|| format!("entry {key}")).hint(
            "`cairn cache verify --repair` moves bad entries away, `cairn warmup` compiles what is \
             missing",
        )?;
        task.advance_to(done);
    }
    drop(task);
    let count = view::entries(keys.len());
    output::say(format_args!("{count} signed by {}", signing_key.public()));
    Ok(Outcome::Done)
}

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let doing = || format!("reading the secret key in `{}`", path.display());
    let mode = fs::metadata(path).with_context(doing)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        let path = path.display();
        output::say(format_args!(
            "warning: others can read `{path}` (mode {mode:03o}) and could sign with it; `chmod \
             600 {path}`"
        ));
    }
    let text = fs::read_to_string(path).with_context(doing)?;
    SigningKey::from_text(&text).with_context(doing).hint("`cairn cache keygen` makes one")
}

//! `cairn cache import`: entries out of files.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cairn_graph_cache::{DiskStore, Entry, Put, Store as _, StoreError, Trust, import};
use clap::Args;
use fs_err as fs;
use serde_json::{Value, json};

use super::{stores, view};
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::values::display_bytes;
use crate::cli::{Context, graph_cache, output};

/// The name that stands for stdin.
const STDIN: &str = "-";

const EXAMPLES: &str = "\
Examples:
  cairn cache import graphs.tar.zst
  cairn cache import --cache-trust signed --cache-keys keys.pub graphs.tar.zst
  ssh node cairn cache export - | cairn cache import -";

/// Take entries out of files that `export` wrote. What is there already stays as it is.
///
/// Every byte is verified. At the first one that is wrong the command ends with 1; the entries before
/// it are good, and stay. With `--cache-trust signed`, entries without a good signature are refused.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// Files to read; `-`: stdin.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Print one JSON object instead of a summary.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// What became of the entries of a file.
#[derive(Debug, Default)]
struct Taken {
    num_new: usize,
    new_bytes: u64,
    num_there: usize,
    /// Keys, and why.
    refused: Vec<(String, String)>,
}

/// Runs the command.
pub(super) fn run(args: &ImportArgs, context: &Context) -> anyhow::Result<Outcome> {
    let config = args.cache.config(&context.environment);
    let trust = graph_cache::trust(&config)?;
    let store = stores::open_folder_to_write(&config)?;
    let mut files = Vec::new();
    let mut result = Ok(());
    for file in &args.files {
        let mut taken = Taken::default();
        result = take_all(file, &store, &trust, &mut taken);
        tell(file, &taken);
        files.push(to_json(file, &taken, result.as_ref().err()));
        if result.is_err() {
            break;
        }
    }
    if args.json {
        output::write_json(&json!({ "files": files }))?;
    }
    result.hint(
        "what was new before that is good, and was kept; look at the file, or copy it again",
    )?;
    let refused = files.iter().filter_map(|file| Some(file["refused"].as_array()?.len()));
    let num_refused: usize = refused.sum();
    if num_refused > 0 {
        let count = view::entries(num_refused);
        let fail = || -> anyhow::Result<Outcome> { bail!("{count} refused") };
        return fail().hint(
            "`cairn cache sign` before the export signs entries; `--cache-keys` names whose \
             signatures count",
        );
    }
    Ok(Outcome::Done)
}

fn take_all(
    file: &Path,
    store: &DiskStore,
    trust: &Trust,
    taken: &mut Taken,
) -> anyhow::Result<()> {
    let doing = || format!("importing `{}`", file.display());
    let input: Box<dyn Read> = if file.as_os_str() == STDIN {
        Box::new(io::stdin().lock())
    } else {
        Box::new(fs::File::open(file).with_context(doing)?)
    };
    import(input, &mut |entry| take(entry, store, trust, taken)).with_context(doing)?;
    Ok(())
}

fn take(
    entry: Entry,
    store: &DiskStore,
    trust: &Trust,
    taken: &mut Taken,
) -> Result<(), StoreError> {
    if let Trust::Signed(keys) = trust
        && let Err(reason) = keys.verify(entry.manifest_json(), entry.signatures())
    {
        taken.refused.push((entry.key().to_string(), reason));
        return Ok(());
    }
    match store.put(&entry)? {
        Put::Stored { bytes } => {
            taken.num_new += 1;
            taken.new_bytes = taken.new_bytes.saturating_add(bytes);
        }
        Put::AlreadyThere => taken.num_there += 1,
    }
    Ok(())
}

fn tell(file: &Path, taken: &Taken) {
    for (key, reason) in &taken.refused {
        output::say(format_args!("refused {key}: {}", view::plain(reason)));
    }
    let (there, refused) = (taken.num_there, taken.refused.len());
    let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
    output::say(format_args!(
        "`{}`: {} new, {}; {there} there already{refused}",
        file.display(),
        taken.num_new,
        display_bytes(taken.new_bytes),
    ));
}

fn to_json(file: &Path, taken: &Taken, error: Option<&anyhow::Error>) -> Value {
    let refused = taken.refused.iter().map(|(key, why)| json!({ "key": key, "reason": why }));
    json!({
        "file": file.to_string_lossy(),
        "new": taken.num_new,
        "new_bytes": taken.new_bytes,
        "already_there": taken.num_there,
        "refused": refused.collect::<Vec<_>>(),
        "error": error.map(|error| format!("{error:#}")),
    })
}

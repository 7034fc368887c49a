//! `cairn cache export`: entries into one file.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cairn_graph_cache::{ArchiveReport, CacheKey, CacheMode, Manifest, Store, export};
use clap::Args;
use fs_err as fs;

use super::select::Selection;
use super::view;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::progress::Amount;
use crate::cli::values::display_bytes;
use crate::cli::{Context, graph_cache, output};

/// The name that stands for stdout.
const STDOUT: &str = "-";
/// What a new file may be; the user's mask takes away from it.
const FILE_MODE: u32 = 0o666;

const EXAMPLES: &str = "\
Examples:
  cairn cache export graphs.tar.zst                         all entries of the folder
  cairn cache export graphs.tar.zst --model model.gguf      what a model needs
  cairn cache export - 3f9a62 | ssh node cairn cache import -";

/// Write entries into one file, to carry them to where no network reaches.
///
/// Every byte is verified on its way. The same entries always make the same file, which appears whole
/// or not at all; `tar --zstd -tvf FILE` lists it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// The file to write; `-`: stdout.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    selection: Selection,
}

/// Runs the command.
pub(super) fn run(args: &ExportArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut config = args.selection.cache(context);
    graph_cache::folder(&config)?;
    config.mode = CacheMode::ReadOnly;
    let cache = graph_cache::open(&config, Vec::new())?;
    let store = cache.store();
    let keys = if args.selection.is_empty() {
        store.upper().list()?
    } else {
        args.selection.keys(context, &store.list()?)?
    };
    if keys.is_empty() {
        bail!("there is nothing to export: {} has no entries", store.place());
    }
    let task = context.progress.begin("exporting entries", Amount::Items(keys.len() as u64));
    let mut num_done = 0;
    let mut progress = |_: &Manifest| {
        num_done += 1;
        task.advance_to(num_done);
    };
    let is_stdout = args.file.as_os_str() == STDOUT;
    let report = if is_stdout {
        to_stdout(store, &keys, &mut progress)?
    } else {
        to_file(&args.file, store, &keys, &mut progress)?
    };
    drop(task);
    let place = if is_stdout { "stdout".to_owned() } else { format!("`{}`", args.file.display()) };
    let count = view::entries(report.num_entries as usize);
    output::say(format_args!("{count}, {} into {place}", display_bytes(report.artifact_bytes)));
    Ok(Outcome::Done)
}

fn to_stdout(
    store: &dyn Store,
    keys: &[CacheKey],
    progress: &mut dyn FnMut(&Manifest),
) -> anyhow::Result<ArchiveReport> {
    let mut stdout = output::data();
    let report = write(store, keys, &mut stdout, progress)?;
    stdout.flush().context("writing to stdout")?;
    Ok(report)
}

/// Writes beside the file's place, and renames it there once it is on the disk.
fn to_file(
    path: &Path,
    store: &dyn Store,
    keys: &[CacheKey],
    progress: &mut dyn FnMut(&Manifest),
) -> anyhow::Result<ArchiveReport> {
    let doing = || format!("writing `{}`", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE);
    let temporary = tempfile::Builder::new()
        .prefix(".cairn-export-")
        .permissions(permissions)
        .tempfile_in(folder)
        .with_context(doing)?;
    let mut out = BufWriter::new(temporary.as_file());
    let report = write(store, keys, &mut out, progress).with_context(doing)?;
    out.flush().with_context(doing)?;
    drop(out);
    temporary.as_file().sync_all().with_context(doing)?;
    temporary.persist(path).map_err(|error| error.error).with_context(doing)?;
    // The name, too.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(doing)?;
    Ok(report)
}

fn write(
    store: &dyn Store,
    keys: &[CacheKey],
    out: impl Write,
    progress: &mut dyn FnMut(&Manifest),
) -> anyhow::Result<ArchiveReport> {
    export(store, keys, out, progress).hint(
        "`cairn cache verify --repair` moves bad entries away, `cairn warmup` compiles what is \
         missing",
    )
}

//! `cairn cache show`: everything that an entry says of itself.

use std::fmt::Write as _;

use anyhow::bail;
use cairn_graph_cache::{CacheKey, Manifest, Store as _};
use clap::Args;

use super::select::KeyPrefix;
use super::stores::{self, Looked};
use super::view;
use crate::cli::cache_args::CacheArgs;
use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::output::Table;
use crate::cli::values::display_bytes;
use crate::cli::{Context, output};

const EXAMPLES: &str = "\
Examples:
  cairn cache show 3f9a62
  cairn cache show 3f9a62 --json | jq .io";

/// Show what an entry says of itself: the fields of its key, its files, the end of the compiler's log.
///
/// Looks into the folder, then into its layers.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArgs {
    /// The entry's key, or its beginning.
    #[arg(value_name = "KEY")]
    key: KeyPrefix,

    /// Print the entry's manifest as JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(super) fn run(args: &ShowArgs, context: &Context) -> anyhow::Result<Outcome> {
    let stores = stores::open_all(&args.cache.config(&context.environment))?;
    let key = find(&args.key, &stores)?;
    let found = stores.iter().find_map(|store| Some((store, store.store().manifest(&key)?)));
    let Some((store, manifest)) = found else {
        let why = stores.iter().map(|store| (store.place(), stores::why_not(store.store(), &key)));
        let why: Vec<String> = why.map(|(place, why)| format!("{place}: {why}")).collect();
        return nothing(&key, &why.join("; "));
    };
    if args.json {
        output::write_json(&manifest)?;
    } else {
        output::write(&to_text(store, &manifest))?;
    }
    Ok(Outcome::Done)
}

fn nothing(key: &CacheKey, why: &str) -> anyhow::Result<Outcome> {
    let show = || -> anyhow::Result<Outcome> { bail!("there is no good entry {key}: {why}") };
    show().hint("`cairn cache ls` lists the entries, `cairn cache verify` says what is wrong")
}

/// The key of that beginning, wherever the entry is.
pub(super) fn find(prefix: &KeyPrefix, stores: &[Looked]) -> anyhow::Result<CacheKey> {
    let mut known = Vec::new();
    for store in stores {
        known.extend(store.store().list()?);
    }
    prefix.find(&known)
}

fn to_text(store: &Looked, manifest: &Manifest) -> String {
    let meta = &manifest.meta;
    let files = view::count(manifest.files.len(), "file");
    let size = display_bytes(manifest.num_artifact_bytes());
    let mut rows = vec![
        ["key".to_owned(), manifest.key.to_string()],
        ["kind".to_owned(), view::plain(&meta.kind)],
        ["note".to_owned(), view::plain(&meta.note)],
        ["place".to_owned(), place(store, &manifest.key)],
        ["producer".to_owned(), view::plain(&meta.producer)],
        ["created".to_owned(), view::plain(&manifest.created)],
        ["compile s".to_owned(), format!("{:.2}", meta.compile_ms as f64 / 1000.0)],
        ["size".to_owned(), format!("{size} in {files}")],
    ];
    let fields = meta.fields.iter();
    let fields = fields.map(|field| [view::plain(&field.name), view::value(&field.value)]);
    let mut text = view::table(&rows);
    text.push_str("\nfields of the key:\n");
    rows = fields.collect();
    text.push_str(&indented(&view::table(&rows)));
    let mut files = Table::default();
    for file in &manifest.files {
        let sha256 = file.sha256.to_string();
        files.row([&file.name, &display_bytes(file.bytes), &sha256]);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "\nfiles:\n{}", indented(&files.to_string()));
    if !meta.io.is_null() {
        let io = serde_json::to_string_pretty(&meta.io).unwrap_or_default();
        let _ = write!(text, "\nin and out:\n{}", indented(&lines(&io)));
    }
    if !meta.log_tail.is_empty() {
        let _ = write!(text, "\nend of the compiler's log:\n{}", indented(&lines(&meta.log_tail)));
    }
    text
}

fn place(store: &Looked, key: &CacheKey) -> String {
    match store {
        Looked::Disk(store) => store.entry_folder(key).display().to_string(),
        Looked::Other(store) => store.place(),
    }
}

fn lines(text: &str) -> String {
    text.lines().map(|line| view::plain(line) + "\n").collect()
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ", line, "\n"]).collect()
}

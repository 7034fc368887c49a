//! `cairn keys`: fresh keys, and the hashes of keys.

use std::io::{self, Read as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Hint as _, Outcome};
use super::output;
use crate::server::access::{Digest, KeyEntry, entry_text, fresh_key};

const EXAMPLES: &str = "\
Examples:
  cairn keys new --name alice >> keys.toml      the entry goes to the file, the key to the screen
  cairn serve --api-keys-file keys.toml
  cairn keys hash < key.txt                     the hash of a key that exists";

/// Keys are at most this long.
const MAX_KEY_BYTES: u64 = 512;

/// Make keys for the clients of a server, and hash them for its key file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a fresh key. The key goes to stderr, this once; its entry for the key file to stdout.
    New(NewArgs),
    /// Read a key from stdin and print its hash.
    Hash,
}

/// Flags of `cairn keys new`.
#[derive(Debug, Args)]
struct NewArgs {
    /// Whose key it is: letters, digits, `-`, `_` and `.`.
    #[arg(long, value_name = "NAME")]
    name: String,

    /// Let it use admin endpoints.
    #[arg(long)]
    admin: bool,

    /// Print the key, its hash and its entry as JSON on stdout instead.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &KeysArgs) -> anyhow::Result<Outcome> {
    match &args.command {
        KeysCommand::New(args) => new(args)?,
        KeysCommand::Hash => output::write(&format!("{}\n", hash()?))?,
    }
    Ok(Outcome::Done)
}

fn new(args: &NewArgs) -> anyhow::Result<()> {
    let key = fresh_key().context("asking the system for random bytes")?;
    let hash = Digest::of(key.as_bytes());
    let entry = KeyEntry::new(args.name.as_str(), hash).with_admin(args.admin);
    let entry = entry.checked().hint("choose another name with `--name`")?;
    let text = entry_text(&entry);
    if args.json {
        let hash = hash.to_string();
        return output::write_json(
            &json!({ "name": args.name, "key": key, "hash": hash, "entry": text }),
        );
    }
    output::say(format_args!("the key, which is shown only now: {key}"));
    output::write(&text)
}

fn hash() -> anyhow::Result<Digest> {
    let mut text = Vec::new();
    io::stdin().take(MAX_KEY_BYTES + 2).read_to_end(&mut text).context("reading the key")?;
    // A line's end is no part of a key, nor is any other blank around it: headers lose them.
    let key = text.trim_ascii();
    if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES {
        bail!("expected a key of 1 to {MAX_KEY_BYTES} bytes on stdin, got {}", key.len());
    }
    Ok(Digest::of(key))
}

//! `cairn cache keygen`: a new pair of keys.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cairn_graph_cache::SigningKey;
use clap::Args;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::cli::failure::{Hint as _, Outcome};
use crate::cli::output;

/// Nobody else may sign.
const SECRET_MODE: u32 = 0o600;
/// Everybody may check.
const PUBLIC_MODE: u32 = 0o644;

const EXAMPLES: &str = "\
Examples:
  cairn cache keygen builder.key
  cairn cache sign --key builder.key
  cairn serve model.gguf --cache-trust signed --cache-keys builder.key.pub";

/// Make a key to sign entries with.
///
/// Writes the secret key into FILE, which only this user can read, and the public key into FILE.pub;
/// prints the public key. A file that is there is never replaced.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeygenArgs {
    /// The file for the secret key.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &KeygenArgs) -> anyhow::Result<Outcome> {
    let public_file = with_suffix(&args.file, ".pub");
    let key = SigningKey::generate()?;
    let public = format!("{}\n", key.public());
    // The public one first: a secret key that is left alone could be taken for a good one.
    write(&public_file, &public, PUBLIC_MODE)?;
    if let Err(error) = write(&args.file, &format!("{}\n", key.to_text()), SECRET_MODE) {
        let _ = fs::remove_file(&public_file);
        return Err(error);
    }
    output::write(&public)?;
    output::say(format_args!(
        "the secret key is in `{}`: keep it where entries are signed; the public key is in `{}`",
        args.file.display(),
        public_file.display()
    ));
    Ok(Outcome::Done)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    let hint = "choose another name: keys are never replaced, for others may depend on them";
    match write() {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(error).context("writing a key").hint(hint)
        }
        written => written.context("writing a key"),
    }
}

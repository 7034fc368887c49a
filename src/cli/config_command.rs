//! `cairn config`: what can be known about settings without running anything.
//!
//! What this module deliberately does not do: the settings of a command are printed by that command,
//! with `--print-config`.

use clap::{Args, Subcommand};

use super::failure::Outcome;
use super::{output, profiles};

const EXAMPLES: &str = "\
Examples:
  cairn config profiles                              what there is
  cairn config profiles throughput > cairn.toml      start a file of your own
  cairn serve --config cairn.toml --print-config     what it comes to, and where each value is from
  cairn serve --threads 4 --print-config=toml        the settings as a file";

/// Look into configurations: built-in profiles.
///
/// Settings come from a profile (--profile), a file (--config), the environment and flags; the later
/// ones win.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Profiles(ProfilesArgs),
}

/// List the profiles, or print one as a file.
#[derive(Debug, Args)]
struct ProfilesArgs {
    /// The profile to print.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<Outcome> {
    let ConfigCommand::Profiles(ProfilesArgs { name }) = &args.command;
    match name {
        None => output::write(&profiles::list())?,
        Some(name) => output::write(profiles::find(name, None)?.text)?,
    }
    Ok(Outcome::Done)
}

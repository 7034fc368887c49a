//! `--print-config`: every setting of a command and where it came from.
//!
//! ```text
//! threads              2          # environment CAIRN_THREADS
//! max-num-seqs         32         # default
//! port                 9000       # command line
//! ```

use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::output;
use crate::config::Environment;

/// What a setting without a value means: it depends on what is found later.
const UNSET: &str = "-";

/// Prints the settings of the innermost command in `matches`.
pub(crate) fn print(
    mut command: Command,
    mut matches: &ArgMatches,
    environment: &Environment,
) -> anyhow::Result<()> {
    // Hands global flags down to the commands.
    command.build();
    let mut command = &command;
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, inner);
    }

    let rows: Vec<[String; 3]> = command
        .get_arguments()
        .filter(|arg| is_setting(arg))
        .map(|arg| {
            let (value, origin) = setting(arg, matches, environment);
            [name_of(arg), value, origin]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (names, values) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let line = |[name, value, origin]: &[String; 3]| {
        format!("{name:<names$}  {value:<values$}  # {origin}\n")
    };
    output::write(&rows.iter().map(line).collect::<Vec<_>>().concat())
}

fn is_setting(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version" | "print_config")
}

fn name_of(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().to_uppercase(), str::to_owned)
}

fn setting(arg: &Arg, matches: &ArgMatches, environment: &Environment) -> (String, String) {
    let id = arg.get_id().as_str();
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => "command line".to_owned(),
        Some(ValueSource::EnvVariable) => {
            let variable = arg.get_env().unwrap_or_default();
            format!("environment {}", variable.to_string_lossy())
        }
        _ => "default".to_owned(),
    };
    let values = matches.get_raw(id).map(|values| values.map(OsStr::to_string_lossy));
    let value = match values {
        // A screen is no place for a key.
        Some(values) if is_secret(arg) => format!("({} not shown)", values.count()),
        Some(values) => values.collect::<Vec<_>>().join(" "),
        None => computed_default(arg, environment).unwrap_or_else(|| UNSET.to_owned()),
    };
    (value, origin)
}

fn is_secret(arg: &Arg) -> bool {
    arg.get_id() == "api_key"
}

/// Defaults that the parser does not know.
fn computed_default(arg: &Arg, environment: &Environment) -> Option<String> {
    match arg.get_id().as_str() {
        "cache_dir" => Some(environment.graphs_dir()?.display().to_string()),
        "state_dir" => Some(environment.state_root.as_ref()?.display().to_string()),
        // As a flag, it names entries of the cache: without it, none.
        "model" if arg.is_positional() => Some(super::models::default_model().name.to_owned()),
        _ => None,
    }
}

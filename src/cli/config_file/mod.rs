//! Settings from a file and from a profile, below the environment and the command line.
//!
//! ```text
//! profile  <  file  <  environment  <  flags
//!    |         |            |            |
//!    '- layer -'            '-- argv ----'--clap--> what the user said
//!         |                                            |
//!         '--schema: which flag is it?--> merge: what nobody above has said
//!                                                      |
//!                      argv + those as flags --clap--> matches, and the place of each
//! ```
//!
//! The flags stay the one definition of what can be set: a key of a file is a flag's long name, and
//! its value is read by the flag's own parser. What a file says is put before what the user typed,
//! as flags, so that every rule between flags holds for files as well.
//!
//! ```toml
//! profile = "throughput"          # what this file builds on
//! model = "models/qwen.gguf"      # for every command; paths start at this file's folder
//! max-num-seqs = 64
//!
//! [serve]                         # for one command
//! port = 9000
//!
//! [bench.latency]
//! runs = 10
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | entry | a key, its value, its section and its place |
//! | layer | the entries of one file or profile |
//! | section | the command that an entry is for; outside of sections: every command |
//! | setting | a flag that an entry sets |
//!
//! | File | Holds |
//! | --- | --- |
//! | `layer` | TOML to entries |
//! | `schema` | entries to flags: what may be said where |
//! | `merge` | which entries count for a command, and how they are said to the parser |
//! | `error` | what is wrong with a file, with its line and the nearest name |
//!
//! A key outside of its command's own section reaches only flags that have a variable: those are
//! settings, while the others (`--prompt`, `--overwrite`, `--json`) belong to one run.
//!
//! What this module deliberately does not do: it knows no flag but its own two, and looks for no file
//! that was not named.

mod error;
mod layer;
mod merge;
mod schema;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextValue, ErrorKind};
use clap::{ArgMatches, Command};

use super::profiles;
pub(crate) use error::{ConfigFileError, nearest};
use layer::Layer;
pub(crate) use layer::Place;
use schema::Schema;
pub(crate) use schema::{is_list, is_relative_path, is_setting, is_switch, key_of};

/// The flag that names a file.
pub(crate) const CONFIG: &str = "config";
/// The flag, and the key of a file, that names a profile.
pub(crate) const PROFILE: &str = "profile";

/// What was said in all places together.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What the parser makes of it.
    pub(crate) matches: ArgMatches,
    /// Where the flags were set that come from a file or profile, by id.
    pub(crate) places: BTreeMap<String, Place>,
}

/// Why there are no settings.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// What the parser says, and which of the flags that it may name come from where.
    Usage { error: Box<clap::Error>, hint: Option<String> },
    /// The list of profiles was asked for.
    Profiles(String),
    /// A file or a profile is at fault.
    File(Box<ConfigFileError>),
}

impl From<clap::Error> for Refusal {
    fn from(error: clap::Error) -> Self {
        Self::Usage { error: Box::new(error), hint: None }
    }
}

impl From<ConfigFileError> for Refusal {
    fn from(error: ConfigFileError) -> Self {
        Self::File(Box::new(error))
    }
}

/// Reads the arguments of the process, and the file and the profile that they name.
///
/// # Errors
/// Wrong usage of whatever kind; that help was asked for counts as such.
pub(crate) fn read(command: &Command, arguments: &[OsString]) -> Result<Settings, Refusal> {
    let typed = match command.clone().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        // What is missing may be in the file.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            lenient(command, arguments).ok_or(error)?
        }
        // Profiles can be asked for without a command.
        Err(error) if error.kind() == ErrorKind::MissingSubcommand => {
            let asks =
                lenient(command, arguments).is_some_and(|matches| asks_for_profiles(&matches));
            return Err(if asks { Refusal::Profiles(profiles::list()) } else { error.into() });
        }
        Err(error) => return Err(error.into()),
    };
    if asks_for_profiles(&typed) {
        return Err(Refusal::Profiles(profiles::list()));
    }
    let layers = layers(&typed)?;
    if layers.is_empty() {
        let matches = command.clone().try_get_matches_from(arguments)?;
        return Ok(Settings { matches, places: BTreeMap::new() });
    }
    let schema = Schema::new(command);
    let path = subcommands(&typed);
    for layer in &layers {
        schema.check(layer, &path)?;
    }
    let merged = merge::merge(&schema, &layers, &path, &typed);
    let before = position_after_command(command, arguments, path.len());
    let (head, tail) = arguments.split_at(before);
    let all = head.iter().chain(&merged.arguments).chain(tail);
    let matches = command.clone().try_get_matches_from(all).map_err(|error| {
        let hint = merged.hint(&error, &schema, &path);
        Refusal::Usage { error: Box::new(error), hint }
    })?;
    Ok(Settings { matches, places: merged.places })
}

fn asks_for_profiles(typed: &ArgMatches) -> bool {
    innermost(typed).get_one::<String>(PROFILE).is_some_and(|name| name == profiles::HELP)
}

/// The profile and the file, in this order.
fn layers(typed: &ArgMatches) -> Result<Vec<Layer>, ConfigFileError> {
    let innermost = innermost(typed);
    let file = innermost.get_one::<PathBuf>(CONFIG).map(|path| Layer::open(path)).transpose()?;
    let named_here = innermost.get_one::<String>(PROFILE);
    let named_there = file.as_ref().and_then(|file| file.profile.as_ref());
    let profile = match (named_here, named_there) {
        (Some(name), _) => Some(profiles::find(name, None)?),
        (None, Some((name, place))) => Some(profiles::find(name, Some(place))?),
        (None, None) => None,
    };
    let profile =
        profile.map(|profile| Layer::of_profile(profile.name, profile.text)).transpose()?;
    Ok(profile.into_iter().chain(file).collect())
}

/// What can be understood of the arguments.
fn lenient(command: &Command, arguments: &[OsString]) -> Option<ArgMatches> {
    command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()
}

/// How many arguments it takes to name the command. Only the parser itself knows which of the
/// arguments are values of flags.
fn position_after_command(command: &Command, arguments: &[OsString], depth: usize) -> usize {
    (1..=arguments.len())
        .find(|&len| {
            lenient(command, &arguments[..len])
                .is_some_and(|matches| subcommands(&matches).len() >= depth)
        })
        .unwrap_or(arguments.len())
}

/// The names of the commands, outermost first.
fn subcommands(mut matches: &ArgMatches) -> Vec<String> {
    let mut names = Vec::new();
    while let Some((name, inner)) = matches.subcommand() {
        names.push(name.to_owned());
        matches = inner;
    }
    names
}

/// What was said to the innermost command.
pub(crate) fn innermost(mut matches: &ArgMatches) -> &ArgMatches {
    while let Some((_, inner)) = matches.subcommand() {
        matches = inner;
    }
    matches
}

/// Every text in what a parser's error is about.
fn texts_of(error: &clap::Error) -> Vec<&str> {
    let mut texts = Vec::new();
    for (_, value) in error.context() {
        match value {
            ContextValue::String(text) => texts.push(text.as_str()),
            ContextValue::Strings(more) => texts.extend(more.iter().map(String::as_str)),
            _ => {}
        }
    }
    texts
}

#[cfg(test)]
mod tests;

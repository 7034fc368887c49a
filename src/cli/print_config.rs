//! `--print-config`: every setting of a command and where it came from.
//!
//! ```text
//! threads              2          # environment CAIRN_THREADS
//! max-num-seqs         32         # default
//! block-size           64         # file /etc/cairn.toml:3
//! port                 9000       # command line
//! ```
//!
//! `--print-config=toml` prints the same as a file that `--config` reads: what is not at its default
//! is set, the rest is there as comments.
//!
//! What this module deliberately does not do: it shows no secret.

use std::ffi::{OsStr, OsString};
use std::path::{Path, absolute};

use anyhow::Context as _;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, ValueEnum};

use super::config_file::{
    Settings, innermost, is_list, is_relative_path, is_setting, is_switch, key_of,
};
use super::output;
use crate::config::Environment;

/// What a setting without a value means: it depends on what is found later.
const UNSET: &str = "-";
/// What is shown of a secret.
const HIDDEN: &str = "***";

/// How settings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrintFormat {
    /// For people.
    Text,
    /// As a file for `--config`.
    Toml,
}

/// Prints the settings of the command that was named.
pub(crate) fn print(
    format: PrintFormat,
    mut command: Command,
    settings: &Settings,
    environment: &Environment,
) -> anyhow::Result<()> {
    // Hands global flags down to the commands.
    command.build();
    output::write(&match format {
        PrintFormat::Text => to_text(&command, settings, environment),
        PrintFormat::Toml => to_toml(&command, settings)?,
    })
}

fn to_text(root: &Command, settings: &Settings, environment: &Environment) -> String {
    let (command, _) = innermost_command(root, &settings.matches);
    let is_shown =
        |arg: &&Arg| !matches!(arg.get_id().as_str(), "help" | "version" | "print_config");
    let row = |arg| {
        let shown = shown(settings, arg);
        let value = shown.or_else(|| computed_default(arg, environment));
        [name_of(arg), value.unwrap_or_else(|| UNSET.to_owned()), origin(settings, arg)]
    };
    let rows: Vec<[String; 3]> = command.get_arguments().filter(is_shown).map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let (names, values) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let line = |[name, value, origin]: &[String; 3]| {
        format!("{name:<names$}  {value:<values$}  # {origin}\n")
    };
    rows.iter().map(line).collect()
}

/// The settings as a file. Global flags must have been handed down in `root`.
pub(super) fn to_toml(root: &Command, settings: &Settings) -> anyhow::Result<String> {
    let (command, path) = innermost_command(root, &settings.matches);
    let mut text = format!("[{path}]\n");
    for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
        let key = key_of(arg);
        let line = match values(settings, arg) {
            None => format!("# {key} =\n"),
            Some(_) if is_secret(arg) => format!("# {key} = \"{HIDDEN}\"  # a secret\n"),
            Some(values) => {
                let comment = if is_default(settings, arg) { "# " } else { "" };
                format!("{comment}{key} = {}\n", toml_value(arg, &values)?)
            }
        };
        text.push_str(&line);
    }
    Ok(text)
}

fn shown(settings: &Settings, arg: &Arg) -> Option<String> {
    let values = values(settings, arg)?;
    let text = |value: &&OsStr| value.to_string_lossy().into_owned();
    Some(if is_secret(arg) {
        HIDDEN.to_owned()
    } else {
        values.iter().map(text).collect::<Vec<_>>().join(" ")
    })
}

fn values<'a>(settings: &'a Settings, arg: &Arg) -> Option<Vec<&'a OsStr>> {
    Some(innermost(&settings.matches).get_raw(arg.get_id().as_str())?.collect())
}

fn source(settings: &Settings, arg: &Arg) -> Option<ValueSource> {
    innermost(&settings.matches).value_source(arg.get_id().as_str())
}

fn is_default(settings: &Settings, arg: &Arg) -> bool {
    let source = source(settings, arg);
    !matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn origin(settings: &Settings, arg: &Arg) -> String {
    if let Some(place) = settings.places.get(arg.get_id().as_str()) {
        return place.origin();
    }
    match source(settings, arg) {
        Some(ValueSource::CommandLine) => "command line".to_owned(),
        Some(ValueSource::EnvVariable) => {
            let variable = arg.get_env().unwrap_or_default();
            format!("environment {}", variable.to_string_lossy())
        }
        _ => "default".to_owned(),
    }
}

fn innermost_command<'a>(
    mut command: &'a Command,
    mut matches: &ArgMatches,
) -> (&'a Command, String) {
    let mut path = Vec::new();
    while let Some((name, inner)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        path.push(name);
        (command, matches) = (found, inner);
    }
    (command, path.join("."))
}

/// Whether a flag's value is for nobody's eyes.
pub(super) fn is_secret(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    let has_value = !is_switch(arg);
    has_value
        && (id.ends_with("api_key")
            || id.ends_with("admin_key")
            || id.contains("secret")
            || id.contains("password"))
}

fn name_of(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().as_str().to_uppercase(), str::to_owned)
}

/// What a file says to get the same values.
fn toml_value(arg: &Arg, values: &[&OsStr]) -> anyhow::Result<String> {
    let one = |value: &OsStr| -> anyhow::Result<toml::Value> {
        let value = with_whole_path(arg, value);
        let key = key_of(arg);
        let text = value
            .into_string()
            .ok()
            .with_context(|| format!("cannot print `{key}` as TOML: its value is not UTF-8"))?;
        Ok(scalar(arg, text))
    };
    let value = match values {
        [value] if !is_list(arg) => one(value)?,
        values => {
            toml::Value::Array(values.iter().map(|value| one(value)).collect::<Result<_, _>>()?)
        }
    };
    Ok(value.to_string())
}

fn scalar(arg: &Arg, text: String) -> toml::Value {
    if is_switch(arg) {
        return toml::Value::Boolean(text == "true");
    }
    // Numbers stay numbers where TOML writes them in the same way.
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => toml::Value::Integer(number),
        _ => toml::Value::String(text),
    }
}

/// A path that means the same in every folder: the file may be kept elsewhere.
fn with_whole_path(arg: &Arg, value: &OsStr) -> OsString {
    let is_relative = value.to_str().is_none_or(|text| is_relative_path(arg, text, Path::new(".")));
    let whole = is_relative.then(|| absolute(value).ok()).flatten();
    whole.map_or_else(|| value.to_owned(), Into::into)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for (id, expected) in [
            ("api_key", true),
            ("admin_api_key", true),
            ("admin_key", true),
            ("tls_password", true),
            ("cache_keys", false),
            ("max_tokens", false),
        ] {
            assert_eq!(is_secret(&Arg::new(id)), expected, "{id}");
        }
    }
}

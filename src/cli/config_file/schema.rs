//! What may be said where: entries to flags.
//!
//! | Entry | Sets |
//! | --- | --- |
//! | of a command's section | any flag of the command |
//! | outside of sections, or of a section around it | a flag of the command that has a variable |
//!
//! What this module deliberately does not do: it has no list of its own; the parser's definition of
//! the commands is the list.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::ValueHint;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::error::{ConfigFileError, nearest};
use super::layer::{Entry, Layer, Value};
use super::{CONFIG, PROFILE};
use crate::cli::models;

/// Flags that are not settings.
const NEVER: &[&str] = &["help", "version", "print_config", CONFIG, PROFILE];

/// The commands and their flags.
#[derive(Debug)]
pub(super) struct Schema {
    root: Command,
    /// The same without variables, so that they cannot be at fault.
    bare: Command,
}

/// A flag, and whether it is set by saying it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) arg: &'a Arg,
    /// What a switch is set to: `x = false` says `no-x` where that exists.
    pub(super) is_on: bool,
}

/// Whether an argument is one that files may set.
pub(crate) fn is_setting(arg: &Arg) -> bool {
    let is_named = arg.get_long().is_some() || arg.get_env().is_some();
    is_named && !NEVER.contains(&arg.get_id().as_str())
}

/// What a file calls a flag.
pub(crate) fn key_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or(arg.get_id().as_str())
}

/// Whether an argument is turned on by being said.
pub(crate) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// Whether an argument takes several values.
pub(crate) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Whether a value of this argument is a path that starts at some folder.
pub(crate) fn is_relative_path(arg: &Arg, text: &str, folder: &Path) -> bool {
    let is_path = matches!(
        arg.get_value_hint(),
        ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath
    );
    // `-` is a stream, `s3://...` a place of its own, and a model may be a name.
    let is_other = text.is_empty() || text == "-" || text.contains("://");
    let is_model = arg.get_id() == "model" && models::known_model(text).is_some();
    is_path
        && !is_other
        && Path::new(text).is_relative()
        && (!is_model || folder.join(text).exists())
}

fn without_variables(command: Command) -> Command {
    command.mut_args(|arg| arg.env(None)).mut_subcommands(without_variables)
}

impl Schema {
    /// The schema of a program.
    pub(super) fn new(command: &Command) -> Self {
        // Hands global flags down to the commands.
        let mut root = command.clone();
        root.build();
        Self { root, bare: without_variables(command.clone()) }
    }

    /// A command by its names.
    pub(super) fn command(&self, section: &[String]) -> Option<&Command> {
        section.iter().try_fold(&self.root, |command, name| {
            command.find_subcommand(name).filter(|found| found.get_name() != "help")
        })
    }

    /// The flag that an entry sets of a command, if it is for this command.
    pub(super) fn target<'a>(&'a self, entry: &Entry, path: &[String]) -> Option<Target<'a>> {
        if !path.starts_with(&entry.section) {
            return None;
        }
        let is_own = path.len() == entry.section.len();
        find(self.command(path)?, &entry.key, &entry.value, is_own)
    }

    /// Checks every entry: that there is such a flag, and that its parser takes the value. For
    /// entries of several commands, the one that runs is asked first.
    pub(super) fn check(&self, layer: &Layer, path: &[String]) -> Result<(), ConfigFileError> {
        for (section, place) in &layer.sections {
            self.check_section(section).map_err(|nearest| ConfigFileError::UnknownSection {
                place: place.clone(),
                section: section.join("."),
                nearest,
            })?;
        }
        for (idx, entry) in layer.entries.iter().enumerate() {
            check_twice(entry, &layer.entries[..idx])?;
            let commands = self.commands_in(&entry.section);
            let mut order = [path.to_vec()].into_iter().chain(commands);
            let found = order
                .find_map(|path| Some((self.target(entry, &path)?, path)))
                .ok_or_else(|| self.not_found(entry))?;
            self.check_value(entry, found.0, &found.1)?;
        }
        Ok(())
    }

    fn check_section(&self, section: &[String]) -> Result<(), Option<String>> {
        for depth in 1..=section.len() {
            if self.command(&section[..depth]).is_some() {
                continue;
            }
            let around = self.command(&section[..depth - 1]).into_iter();
            let names = around.flat_map(Command::get_subcommands).map(Command::get_name);
            return Err(nearest(&section[depth - 1], names.filter(|name| *name != "help")));
        }
        Ok(())
    }

    /// A command and all inside it.
    fn commands_in(&self, section: &[String]) -> Vec<Vec<String>> {
        let mut found = vec![section.to_vec()];
        let mut idx = 0;
        while let Some(path) = found.get(idx).cloned() {
            let inner = self.command(&path).into_iter().flat_map(Command::get_subcommands);
            let names = inner.map(Command::get_name).filter(|name| *name != "help");
            found.extend(names.map(|name| [&path[..], &[name.to_owned()]].concat()));
            idx += 1;
        }
        found
    }

    fn not_found(&self, entry: &Entry) -> ConfigFileError {
        let (place, key) = (entry.place.clone(), entry.key.clone());
        let section = entry.section.join(".");
        let all = self.commands_in(&[]);
        let has = |path: &&Vec<String>| {
            self.command(path)
                .is_some_and(|command| find(command, &key, &entry.value, true).is_some())
        };
        let sections: Vec<String> = all
            .iter()
            .filter(has)
            .map(|path| path.join("."))
            .filter(|name| !name.is_empty())
            .collect();
        if !sections.is_empty() {
            return ConfigFileError::Elsewhere { place, key, section, sections };
        }
        let reachable = self.commands_in(&entry.section);
        let commands = reachable.iter().filter_map(|path| Some((path, self.command(path)?)));
        let names = commands.flat_map(|(path, command)| {
            let is_own = path.len() == entry.section.len();
            let may = move |arg: &&Arg| is_setting(arg) && (is_own || arg.get_env().is_some());
            command.get_arguments().filter(may).map(key_of)
        });
        let own = entry.section.is_empty().then_some(PROFILE);
        let nearest = nearest(&key.replace('_', "-"), names.chain(own));
        ConfigFileError::UnknownKey { place, key, section, nearest }
    }

    /// Has the flag's own parser read the value.
    fn check_value(
        &self,
        entry: &Entry,
        target: Target<'_>,
        path: &[String],
    ) -> Result<(), ConfigFileError> {
        check_shape(entry, target.arg)?;
        let names = [self.root.get_name()].into_iter().chain(path.iter().map(String::as_str));
        let arguments = names.map(OsString::from).chain(target.arguments(entry));
        let Err(error) = self.bare.clone().try_get_matches_from(arguments) else { return Ok(()) };
        // What is wrong between flags shows when all of them are known.
        let is_value = matches!(
            error.kind(),
            ErrorKind::ValueValidation
                | ErrorKind::InvalidValue
                | ErrorKind::InvalidUtf8
                | ErrorKind::WrongNumberOfValues
        );
        if !is_value {
            return Ok(());
        }
        let message = essence(&error.to_string());
        Err(ConfigFileError::Value { place: entry.place.clone(), message })
    }
}

fn check_twice(entry: &Entry, before: &[Entry]) -> Result<(), ConfigFileError> {
    let same = |other: &&Entry| {
        other.section == entry.section && meaning(&other.key) == meaning(&entry.key)
    };
    match before.iter().find(same) {
        None => Ok(()),
        Some(other) => Err(ConfigFileError::Twice {
            place: entry.place.clone(),
            key: entry.key.clone(),
            other: other.key.clone(),
            line: other.place.line(),
        }),
    }
}

/// What two keys have in common that set the same.
fn meaning(key: &str) -> String {
    let key = key.replace('_', "-");
    key.strip_prefix("no-").map(str::to_owned).unwrap_or(key)
}

fn check_shape(entry: &Entry, arg: &Arg) -> Result<(), ConfigFileError> {
    let (expected, got) = match &entry.value {
        Value::One(_) if is_switch(arg) => ("true or false", "a text or a number"),
        Value::Many(_) if is_switch(arg) => ("true or false", "a list"),
        Value::Many(_) if !is_list(arg) => ("one value", "a list"),
        _ => return Ok(()),
    };
    let (place, key) = (entry.place.clone(), entry.key.clone());
    Err(ConfigFileError::Shape { place, key, expected, got })
}

/// The first paragraph of a parser's error in one line, without its first word.
fn essence(error: &str) -> String {
    let paragraph = error.split("\n\n").next().unwrap_or_default();
    let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    words.strip_prefix("error: ").map(str::to_owned).unwrap_or(words)
}

/// The flag of a command that a key sets.
fn find<'a>(command: &'a Command, key: &str, value: &Value, is_own: bool) -> Option<Target<'a>> {
    let key = key.replace('_', "-");
    let named = |name: &str| {
        command
            .get_arguments()
            .filter(|arg| is_setting(arg) && (is_own || arg.get_env().is_some()))
            .find(|arg| key_of(arg).replace('_', "-") == name)
    };
    let opposite = key.strip_prefix("no-").map_or_else(|| format!("no-{key}"), str::to_owned);
    let any = |name: &str| {
        command.get_arguments().find(|arg| is_setting(arg) && arg.get_long() == Some(name))
    };
    // Of a pair, one half may have the variable of both.
    let arg = named(&key).or_else(|| any(&key).filter(|_| named(&opposite).is_some()))?;
    match value {
        Value::Switch(false) if is_switch(arg) => Some(match any(&opposite) {
            Some(opposite) if is_switch(opposite) => Target { arg: opposite, is_on: true },
            _ => Target { arg, is_on: false },
        }),
        _ => Some(Target { arg, is_on: true }),
    }
}

impl Target<'_> {
    /// What to type for an entry.
    pub(super) fn arguments(self, entry: &Entry) -> Vec<OsString> {
        let texts: Vec<String> = match &entry.value {
            Value::Switch(_) if is_switch(self.arg) => {
                let said = self.is_on.then(|| format!("--{}", key_of(self.arg)).into());
                return said.into_iter().collect();
            }
            Value::Switch(is_on) => vec![is_on.to_string()],
            Value::One(text) => vec![text.clone()],
            Value::Many(texts) => texts.clone(),
        };
        texts.iter().map(|text| self.argument(text, entry)).collect()
    }

    fn argument(self, text: &str, entry: &Entry) -> OsString {
        let folder = entry.place.folder();
        let value = match folder.filter(|folder| is_relative_path(self.arg, text, folder)) {
            Some(folder) => folder.join(text).into_os_string(),
            None => text.into(),
        };
        match self.arg.get_long() {
            None => value,
            Some(long) => {
                let mut argument = OsString::from(format!("--{long}="));
                argument.push(value);
                argument
            }
        }
    }
}

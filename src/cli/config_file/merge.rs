//! Which entries count for a command, and what to type for them.
//!
//! ```text
//! profile: port = 1, raw = true      file: port = 2      typed: --system x
//!          |         |                     |
//!          |         dropped: conflicts with what was typed
//!          dropped: set again by a later layer or a section nearer to the command
//! ```
//!
//! What this module deliberately does not do: it checks nothing; `schema` has.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::layer::{Entry, Layer, Place};
use super::schema::{Schema, Target};
use super::{innermost, texts_of};

/// What files and profiles add to what was typed.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// To be typed right after the command's name.
    pub(super) arguments: Vec<OsString>,
    /// Where each flag of them is set, by id.
    pub(super) places: BTreeMap<String, Place>,
}

/// Merges layers, of which the last counts most, under what was typed.
pub(super) fn merge(
    schema: &Schema,
    layers: &[Layer],
    path: &[String],
    typed: &ArgMatches,
) -> Merged {
    let Some(command) = schema.command(path) else { return Merged::default() };
    let said = said(command, innermost(typed));
    let mut chosen: Vec<(Target<'_>, &Entry)> = Vec::new();
    for layer in layers {
        let mut own: Vec<(Target<'_>, &Entry)> = Vec::new();
        for depth in 0..=path.len() {
            let entries = layer.entries.iter().filter(|entry| entry.section == path[..depth]);
            let nearer: Vec<_> =
                entries.filter_map(|entry| Some((schema.target(entry, path)?, entry))).collect();
            own.retain(|(far, _)| {
                !nearer.iter().any(|(near, _)| gives_way(command, far.arg, near.arg))
            });
            own.extend(nearer);
        }
        chosen.retain(|(below, _)| {
            !own.iter().any(|(above, _)| gives_way(command, below.arg, above.arg))
        });
        chosen.extend(own);
    }
    chosen.retain(|(target, _)| !said.iter().any(|above| gives_way(command, target.arg, above)));

    let mut merged = Merged::default();
    for (target, entry) in chosen {
        merged.arguments.extend(target.arguments(entry));
        merged.places.insert(target.arg.get_id().to_string(), entry.place.clone());
    }
    merged
}

/// The flags that the command line and the environment set.
fn said<'a>(command: &'a Command, matches: &ArgMatches) -> Vec<&'a Arg> {
    let is_said = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        let source = matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    command.get_arguments().filter(is_said).collect()
}

/// Whether a flag counts no more when another one is set above it: the same, its opposite, or one
/// that it cannot be used with.
fn gives_way(command: &Command, below: &Arg, above: &Arg) -> bool {
    below.get_id() == above.get_id()
        || are_opposite(below, above)
        || conflicts(command, below, above)
        || conflicts(command, above, below)
}

fn are_opposite(left: &Arg, right: &Arg) -> bool {
    let is_negation = |negated: &Arg, plain: &Arg| {
        negated.get_id().as_str().strip_prefix("no_") == Some(plain.get_id().as_str())
    };
    is_negation(left, right) || is_negation(right, left)
}

fn conflicts(command: &Command, arg: &Arg, other: &Arg) -> bool {
    // Global flags conflict with nothing, and cannot be asked for inside of a command.
    !arg.is_global_set()
        && command.get_arg_conflicts_with(arg).iter().any(|arg| arg.get_id() == other.get_id())
}

impl Merged {
    /// Which of the flags that an error is about were not typed.
    pub(super) fn hint(
        &self,
        error: &clap::Error,
        schema: &Schema,
        path: &[String],
    ) -> Option<String> {
        let texts = texts_of(error);
        let args = schema.command(path)?.get_arguments();
        let named: Vec<String> = args
            .filter(|arg| texts.contains(&arg.to_string().as_str()))
            .filter_map(|arg| Some((arg, self.places.get(arg.get_id().as_str())?)))
            .map(|(arg, place)| format!("`{arg}` comes from {place}"))
            .collect();
        (!named.is_empty()).then(|| named.join(", "))
    }
}

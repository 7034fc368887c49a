//! How a command ends: exit codes, and errors told to a person.
//!
//! ```text
//! error: cannot listen on 127.0.0.1:8000: Address already in use (os error 98)
//! hint: stop the program that listens there, or choose another port with `--port` (0: any free one)
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Outcome`] | how a command ended that did not fail |
//! | [`Usage`] | an error in what was typed that only shows once all of it is known |
//! | [`Hint`] | adds the way out to an error, wherever in its chain |
//!
//! | Exit code | Meaning |
//! | --- | --- |
//! | 0 | all was done |
//! | 1 | it failed |
//! | 2 | what was typed cannot be |
//! | 3 | the device is in an unknown state, or the engine panicked: restart the process |
//! | 4 | the device or a link to it is broken: a restart alone does not help |
//! | 130 | Ctrl-C ended it early, in good order |
//!
//! A supervisor that restarts on 3 and calls somebody on 4 does the right thing.
//!
//! What this module deliberately does not do: it does not guess hints from messages. Who makes an
//! error knows the way out, or there is none.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::models::ModelError;
use super::output::{self, StdoutClosed};
use crate::backend::compile::{CompileError, NotCached};
use crate::backend::{BackendError, DeviceFate};
use crate::config;
use crate::engine::{Death, EngineHandle, Fate};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const RESTART: u8 = 3;
const DEVICE_LOST: u8 = 4;
/// 128 + SIGINT, as shells count.
const INTERRUPTED: u8 = 130;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All was done.
    Done,
    /// Ctrl-C ended it early, in good order.
    Interrupted,
}

impl Outcome {
    /// What the process ends with.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Interrupted => INTERRUPTED,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

/// What was typed cannot be: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error with the way out of it. Takes the place of the error in its chain.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds a hint to an error.
pub(crate) trait Hint<T> {
    /// Adds the way out, in the imperative, code in backticks, no full stop.
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| hinted(error.into(), hint))
    }
}

/// The error with the way out of it.
pub(crate) fn hinted(error: anyhow::Error, hint: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Hinted { error, hint: hint.to_string() })
}

/// Tells a person what failed, with its chain of causes and the hint that we know.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // `cairn ... | head`: who reads has enough, and that is no failure.
    if error.chain().any(<dyn Error>::is::<StdoutClosed>) {
        return ExitCode::SUCCESS;
    }
    output::say(format_args!("error: {}", chain(error)));
    if let Some(hint) = hint(error) {
        output::say(format_args!("hint: {hint}"));
    }
    ExitCode::from(code(error))
}

/// What the process ends with.
fn code(error: &anyhow::Error) -> u8 {
    if let Some(code) = error.chain().find_map(code_of_device) {
        return code;
    }
    let is_usage = error.chain().any(<dyn Error>::is::<Usage>);
    if is_usage { USAGE } else { FAILED }
}

/// The code of an error that says that this process cannot use the device any more.
fn code_of_device(error: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(Death { fate, .. }) = error.downcast_ref() {
        return Some(match fate {
            Fate::Restart | Fate::StaleArtifact { .. } => RESTART,
            Fate::Lost => DEVICE_LOST,
        });
    }
    match backend_error(error)? {
        BackendError::Device { fate: DeviceFate::Restart, .. } => Some(RESTART),
        BackendError::Device { fate: DeviceFate::Lost, .. } => Some(DEVICE_LOST),
        _ => None,
    }
}

/// Also one that says nothing of its own around it.
fn backend_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a BackendError> {
    match error.downcast_ref() {
        Some(CompileError::Backend(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

/// Adds what the engine died of, if it did, to the error of a request that did not know.
pub(crate) fn with_death(error: anyhow::Error, engine: &EngineHandle) -> anyhow::Error {
    match engine.death() {
        Some(death) if !error.chain().any(<dyn Error>::is::<Death>) => {
            anyhow::Error::new(death).context(chain(&error))
        }
        _ => error,
    }
}

/// The messages of the chain, outermost first. A message that the one before it ends with is not
/// repeated: some errors write their cause into their own message and also name it as their source.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if text.is_empty() {
            text = message;
        } else if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
    }
    text
}

/// The first hint of the chain.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(hint_of)
}

fn hint_of(error: &(dyn Error + 'static)) -> Option<String> {
    let hinted = error.downcast_ref::<Hinted>().map(|hinted| hinted.hint.clone());
    hinted
        .or_else(|| error.downcast_ref::<ModelError>()?.hint())
        .or_else(|| error.downcast_ref().map(hint_of_death))
        .or_else(|| is_not_cached(error).then(|| NotCached::REMEDY.to_owned()))
        .or_else(|| hint_of_backend(backend_error(error)?))
}

fn is_not_cached(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(CompileError::NotCached(_))) || error.is::<NotCached>()
}

const RESTART_HINT: &str = "the device is in an unknown state: restart the process";
const DEVICE_LOST_HINT: &str = "the device or a link to it is broken: look at it before a restart";

fn hint_of_death(death: &Death) -> String {
    let hint = match death.fate {
        Fate::Restart => RESTART_HINT,
        Fate::Lost => DEVICE_LOST_HINT,
        Fate::StaleArtifact { .. } => {
            "the graph is dropped from the cache: restart the process, which compiles it again"
        }
    };
    hint.to_owned()
}

fn hint_of_backend(error: &BackendError) -> Option<String> {
    let hint = match error {
        BackendError::Device { fate: DeviceFate::Restart, .. } => RESTART_HINT,
        BackendError::Device { fate: DeviceFate::Lost, .. } => DEVICE_LOST_HINT,
        BackendError::OutOfMemory { .. } => {
            "a smaller `--kv-cache-bytes`, `--max-num-seqs` or `--max-num-batched-tokens` needs \
             less, and so does a smaller `--dtype`; other processes may hold memory, too"
        }
        BackendError::Compile { remedy, .. } => return remedy.clone(),
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Prints what the parser has to say: help and version are asked for, all else is wrong usage.
pub(crate) fn report_usage(command: &Command, error: &clap::Error) -> ExitCode {
    // A closed stdout or stderr leaves nobody to tell.
    let _ = error.print();
    if let Some(variable) = variable_at_fault(command, error) {
        output::say(format_args!(
            "hint: the value comes from the environment variable `{variable}`"
        ));
    }
    let is_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    ExitCode::from(if is_asked_for { 0 } else { USAGE })
}

/// The variable that a wrong value came from. The parser names the flag only, which puzzles who
/// typed no such flag.
fn variable_at_fault(command: &Command, error: &clap::Error) -> Option<String> {
    let text_of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (flag, value) = (text_of(ContextKind::InvalidArg)?, text_of(ContextKind::InvalidValue)?);
    // Only a built command knows what its flags look like in messages.
    let mut command = command.clone();
    command.build();
    let variable = variable_of(&command, flag)?;
    let is_from_there = config::variable(&variable).is_some_and(|found| found == value);
    is_from_there.then(|| variable.to_string_lossy().into_owned())
}

/// The variable of a flag, which is given as messages show it, in a command or one below it.
fn variable_of(command: &Command, flag: &str) -> Option<OsString> {
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|argument| argument.to_string() == flag);
    let own = argument.and_then(Arg::get_env).map(OsStr::to_owned);
    own.or_else(|| command.get_subcommands().find_map(|command| variable_of(command, flag)))
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;
    use crate::engine::{Bucket, RequestError};

    #[test]
    fn a_hint_leaves_the_chain_of_causes_as_it_was() {
        let result: Result<(), _> = Err(io::Error::other("inner")).context("middle");
        let error = result.hint("do this").context("outer").unwrap_err();
        assert_eq!(chain(&error), "outer: middle: inner");
        assert_eq!(hint(&error), Some("do this".to_owned()));
    }

    #[test]
    fn an_exit_code_says_whether_a_restart_helps() {
        let death = |fate| Death { what: "it smokes".to_owned(), fate };
        let device = |fate| BackendError::Device { what: "no answer".to_owned(), fate };
        let error = |error: anyhow::Error| code(&error.context("serving"));
        let request = RequestError::Died(death(Fate::Lost));
        assert_eq!(error(anyhow::anyhow!("else")), 1);
        assert_eq!(error(Usage("no".to_owned()).into()), 2);
        assert_eq!(error(death(Fate::Restart).into()), 3);
        let bucket = Bucket::DYNAMIC;
        assert_eq!(error(death(Fate::StaleArtifact { bucket }).into()), 3);
        assert_eq!(error(death(Fate::Lost).into()), 4);
        assert_eq!(error(request.into()), 4);
        assert_eq!(error(device(DeviceFate::Restart).into()), 3);
        assert_eq!(error(CompileError::from(device(DeviceFate::Lost)).into()), 4);
        let stale = anyhow::Error::new(death(Fate::StaleArtifact { bucket: Bucket::DYNAMIC }));
        assert!(hint(&stale).unwrap().contains("dropped from the cache"));
        let error = anyhow::Error::new(RequestError::Died(death(Fate::Restart)));
        assert_eq!(chain(&error), "the engine died: it smokes");
        assert!(hint(&error).unwrap().ends_with("restart the process"));
    }

    #[test]
    fn a_failed_compile_tells_its_own_way_out() {
        let failed = |remedy: Option<&str>| {
            let remedy = remedy.map(str::to_owned);
            let error = BackendError::Compile { what: "atc failed".to_owned(), remedy };
            anyhow::Error::new(CompileError::from(error)).context("compiling graph `decode 1`")
        };
        let error = failed(Some("install a compiler"));
        assert_eq!((code(&error), hint(&error)), (1, Some("install a compiler".to_owned())));
        assert_eq!(chain(&error), "compiling graph `decode 1`: atc failed");
        assert_eq!(hint(&failed(None)), None);
    }

    #[test]
    fn what_does_not_fit_is_told_with_the_flags_that_change_it() {
        let error = BackendError::OutOfMemory {
            what: "the workspace".to_owned(),
            needed: Some(12),
            detail: "8 are free".to_owned(),
        };
        let text = "no memory for the workspace: 12 bytes could not be allocated (8 are free)";
        assert_eq!(error.to_string(), text);
        assert!(hint(&error.into()).unwrap().contains("--kv-cache-bytes"));
    }

    #[test]
    fn a_cause_that_is_part_of_a_message_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading the header: {0}")]
        struct Talkative(#[source] io::Error);
        let error = anyhow::Error::new(Talkative(io::Error::other("it is cut")));
        assert_eq!(chain(&error.context("loading")), "loading: reading the header: it is cut");
    }
}

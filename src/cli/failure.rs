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
//!
//! | Exit code | Meaning |
//! | --- | --- |
//! | 0 | all was done |
//! | 1 | it failed |
//! | 2 | what was typed cannot be |
//! | 3 | the device is in an unknown state, or the engine panicked: restart the process |
//! | 4 | the device or a link to it is broken: a restart alone does not help |
//! | 130 | Ctrl-C ended it early, in good order |
//! | 143 | a second SIGTERM ended a server before its requests |
//!
//! A supervisor that restarts on 3 and calls somebody on 4 does the right thing.
//!
//! What this module deliberately does not do: it makes no error and no hint; who makes an error adds
//! its way out, see [`boot::failure`](crate::boot).

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::config_file::{ConfigFileError, Refusal};
use super::output::{self, StdoutClosed};
use crate::backend::{BackendError, DeviceFate};
use crate::boot::failure::{backend_error, causes, chain};
pub(crate) use crate::boot::{Hint, Usage, hint};
use crate::config;
use crate::engine::{Death, Fate};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const RESTART: u8 = 3;
const DEVICE_LOST: u8 = 4;
/// 128 + SIGINT, as shells count.
const INTERRUPTED: u8 = 130;
/// 128 + SIGTERM: what a process ends with that was told to stop at once.
pub(crate) const TERMINATED: u8 = 143;

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

/// Tells a person what failed, with its chain of causes and the hint that we know.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // `cairn ... | head`: who reads has enough, and that is no failure.
    if error.chain().any(<dyn Error>::is::<StdoutClosed>) {
        return ExitCode::SUCCESS;
    }
    output::say(format_args!("error: {}", chain(error)));
    let of_file =
        || causes(error).find_map(|cause| cause.downcast_ref::<ConfigFileError>()?.hint());
    if let Some(hint) = hint(error).or_else(of_file) {
        output::say(format_args!("hint: {hint}"));
    }
    ExitCode::from(code(error))
}

/// What the process ends with.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(code) = causes(error).find_map(code_of_device) {
        return code;
    }
    let is_usage = causes(error).any(|cause| cause.is::<Usage>() || cause.is::<ConfigFileError>());
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

/// Tells a person why there are no settings.
pub(crate) fn report_refusal(command: &Command, refusal: Refusal) -> ExitCode {
    match refusal {
        Refusal::Usage { error, hint } => report_usage(command, &error, hint.as_deref()),
        Refusal::Profiles(list) => {
            output::write(&list).map_or_else(|error| report(&error), |()| Outcome::Done.into())
        }
        Refusal::File(error) => report(&(*error).into()),
    }
}

/// Prints what the parser has to say: help and version are asked for, all else is wrong usage.
fn report_usage(command: &Command, error: &clap::Error, hint: Option<&str>) -> ExitCode {
    // A closed stdout or stderr leaves nobody to tell.
    let _ = error.print();
    if let Some(hint) = hint {
        output::say(format_args!("hint: {hint}"));
    }
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
    use crate::backend::compile::CompileError;
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
    fn a_hint_leaves_the_exit_code_as_it_was() {
        let usage = || Err::<(), _>(Usage("no".to_owned()));
        assert_eq!(code(&usage().hint("do this").unwrap_err()), 2);
        assert_eq!(code(&usage().hint("do this").hint("and that").unwrap_err()), 2);
        assert_eq!(code(&usage().context("in here").hint("do this").unwrap_err()), 2);
        let lost = Death { what: "it smokes".to_owned(), fate: Fate::Lost };
        let error = Err::<(), _>(lost).hint("look").context("serving").unwrap_err();
        assert_eq!(code(&error), 4);
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

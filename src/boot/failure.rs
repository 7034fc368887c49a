//! Errors of a start with the way out of them, and how an error is told.
//!
//! ```text
//! error --hint("...")--> error, hinted --context--> ... --chain--> "outer: middle: inner"
//!                                                       `-hint---> the first hint in the chain
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Usage`] | what was asked for cannot be, whatever there is |
//! | [`Hint`] | adds the way out to an error, wherever in its chain |
//!
//! What this module deliberately does not do: it does not guess hints from messages. Who makes an
//! error knows the way out, or there is none.

use std::error::Error;
use std::fmt;

use super::models::ModelError;
use crate::backend::compile::{CompileError, NotCached};
use crate::backend::{BackendError, DeviceFate};
use crate::engine::{Death, EngineHandle, Fate};

/// What was asked for cannot be.
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

/// The errors of the chain, each as it was before a hint took its place.
pub(crate) fn causes(error: &anyhow::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    fn without_hint<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
        error.downcast_ref::<Hinted>().map_or(error, |hinted| without_hint(hinted.error.as_ref()))
    }
    error.chain().map(without_hint)
}

/// Adds what the engine died of, if it did, to the error of a request that did not know.
pub(crate) fn with_death(error: anyhow::Error, engine: &EngineHandle) -> anyhow::Error {
    match engine.death() {
        Some(death) if !causes(&error).any(<dyn Error>::is::<Death>) => {
            anyhow::Error::new(death).context(chain(&error))
        }
        _ => error,
    }
}

/// The messages of the chain, outermost first. A message that the one before it ends with is not
/// repeated: some errors write their cause into their own message and also name it as their source.
pub(crate) fn chain(error: &anyhow::Error) -> String {
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

/// Also one that says nothing of its own around it.
pub(crate) fn backend_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a BackendError> {
    match error.downcast_ref() {
        Some(CompileError::Backend(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

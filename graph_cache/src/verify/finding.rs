//! What was found, and what a repair does about it.
//!
//! What this module deliberately does not do: it finds nothing and repairs nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::report::{Problem, ProblemKind};
use crate::gc::LeftoverKind;
use crate::key::CacheKey;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: PathBuf,
    pub(super) key: Option<CacheKey>,
    pub(super) kind: ProblemKind,
    pub(super) reason: String,
    pub(super) is_note: bool,
    pub(super) remedy: Remedy,
}

/// What a repair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Moves the whole entry into the quarantine: it is of no use.
    MoveEntry,
    /// Moves only the thing itself there; what is around it is good.
    MoveThing,
    /// Removes it: nobody will ever look at it.
    Remove,
    /// Removes it by one rename first, for there may be somebody who looks.
    TakeAway,
    /// Removes what somebody has left, who is gone.
    RemoveLeftover(LeftoverKind),
    /// Nothing: a person has to look at it.
    Nothing,
}

impl Finding {
    pub(super) fn new(
        kind: ProblemKind,
        path: &Path,
        reason: impl Into<String>,
        remedy: Remedy,
    ) -> Self {
        let (path, reason) = (path.to_owned(), reason.into());
        Self { path, key: None, kind, reason, is_note: false, remedy }
    }

    /// Trouble that makes an entry useless.
    pub(super) fn fatal(kind: ProblemKind, path: &Path, reason: impl Into<String>) -> Self {
        Self::new(kind, path, reason, Remedy::MoveEntry)
    }

    /// Nobody knows what it is.
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let reason = format!("cannot be read: {error}; see to it that this user can read it");
        Self::new(ProblemKind::Unreadable, path, reason, Remedy::Nothing)
    }

    /// The same, but nothing is wrong with the store.
    pub(super) fn note(self) -> Self {
        Self { is_note: true, ..self }
    }

    /// The same about an entry.
    pub(super) fn of_entry(self, key: CacheKey) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(super) fn into_problem(self, repaired: Option<String>) -> Problem {
        let Self { path, key, kind, reason, is_note, remedy: _ } = self;
        Problem { path, key, kind, reason, is_note, repaired }
    }
}

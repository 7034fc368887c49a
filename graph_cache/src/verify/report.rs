//! What was found: the words of a report.

use std::fmt;
use std::path::PathBuf;

use crate::gc::Tally;
use crate::key::CacheKey;

/// What kind of trouble something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A file is missing or was cut.
    Torn,
    /// A file is not what was written.
    Damaged,
    /// Something that has no business there.
    Foreign,
    /// An entry under another name than its own.
    Misplaced,
    /// Left by a process that is gone.
    Orphaned,
    /// Larger than it should or may be.
    Oversized,
    /// Somebody who is not trusted could have written it.
    Untrusted,
    /// It cannot be read now, so nobody knows.
    Unreadable,
    /// Of an older format, which no program reads any more.
    OldFormat,
    /// Of a newer format, which this version does not read.
    NewFormat,
}

impl ProblemKind {
    /// One word for it, as scripts have it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Damaged => "damaged",
            Self::Foreign => "foreign",
            Self::Misplaced => "misplaced",
            Self::Orphaned => "orphaned",
            Self::Oversized => "oversized",
            Self::Untrusted => "untrusted",
            Self::Unreadable => "unreadable",
            Self::OldFormat => "old_format",
            Self::NewFormat => "new_format",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: PathBuf,
    /// The entry that it is about, if it is about one.
    pub key: Option<CacheKey>,
    /// What kind of trouble.
    pub kind: ProblemKind,
    /// What exactly, and what to do where nothing is done about it here.
    pub reason: String,
    /// Nothing is wrong with the store: only worth knowing.
    pub is_note: bool,
    /// What was done about it.
    pub repaired: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.kind, self.path.display(), self.reason)?;
        match &self.repaired {
            Some(what) => write!(f, "; {what}"),
            None => Ok(()),
        }
    }
}

/// What [`DiskStore::verify`](crate::DiskStore::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Entries that were there.
    pub num_entries: usize,
    /// Entries of which every byte is right.
    pub num_good: usize,
    /// Bytes of all entries.
    pub bytes: u64,
    /// What was moved away earlier: expected, and not looked into.
    pub quarantined: Tally,
    /// Everything that is not as it should be, by path.
    pub problems: Vec<Problem>,
    /// Repairs that did not succeed, and why.
    pub failed: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.iter().all(|problem| problem.is_note) && self.failed.is_empty()
    }

    /// Whether nothing is wrong any more: there was nothing, or all of it was repaired.
    pub fn is_repaired(&self) -> bool {
        let is_settled = |problem: &Problem| problem.is_note || problem.repaired.is_some();
        self.problems.iter().all(is_settled) && self.failed.is_empty()
    }
}

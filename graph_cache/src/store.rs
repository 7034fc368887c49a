//! Where artifacts are kept: the trait and its words.
//!
//! | Store | Keeps |
//! | --- | --- |
//! | [`DiskStore`](crate::DiskStore) | in a folder that processes share |
//! | [`MemoryStore`](crate::MemoryStore) | in this process: for tests, and when there is no usable folder |
//!
//! A store finds out what is wrong with an entry, but does nothing about it: [`Store::get`] changes
//! nothing. [`GraphCache`](crate::GraphCache) decides, and it holds the key's lock when it has a bad
//! entry moved away, so that nobody moves away the good one that has just replaced it.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::key::CacheKey;
use crate::lock::LockOutcome;
use crate::record::EntryMeta;

/// An artifact that was found and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The compiled graph.
    pub artifact: Vec<u8>,
    /// What is known about it.
    pub meta: EntryMeta,
}

/// The answer to [`Store::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is there, and every byte of it is what was written.
    Hit(Entry),
    /// It has to be compiled.
    Miss(MissReason),
}

/// Why there was nothing to use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissReason {
    /// Nobody has compiled it yet.
    Absent,
    /// Something is there, but it is not what was written: to be moved away.
    Bad(String),
    /// Something may be there, but it cannot be read now: to be left alone.
    Unreadable(String),
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not in the cache"),
            Self::Bad(what) => write!(f, "bad entry: {what}"),
            Self::Unreadable(what) => write!(f, "entry cannot be read: {what}"),
        }
    }
}

/// The answer to [`Store::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The entry is there now.
    Stored {
        /// Bytes written.
        bytes: u64,
    },
    /// A good entry was there first; this one was dropped.
    AlreadyThere,
}

/// Why a store did not do what it was asked. Never a reason to fail a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file system's answer, with the path.
        source: io::Error,
    },
    /// What was to be stored is larger than the store takes.
    #[error("{what} has {got} bytes, the most that is stored is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: u64,
        /// The largest size.
        limit: u64,
    },
}

impl StoreError {
    /// For `map_err`: the error of the file system while `doing` something.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// A place for artifacts.
pub trait Store: Send + Sync + fmt::Debug {
    /// Looks for an artifact and verifies all of it. Changes nothing.
    fn get(&self, key: &CacheKey) -> Lookup;

    /// What an entry says of itself, without its artifact; `None` where there is none, or a bad one.
    fn meta(&self, key: &CacheKey) -> Option<EntryMeta> {
        match self.get(key) {
            Lookup::Hit(entry) => Some(entry.meta),
            Lookup::Miss(_) => None,
        }
    }

    /// Stores an artifact, whole or not at all.
    ///
    /// # Errors
    /// When it could not be stored; what was there before is then still there.
    fn put(&self, key: &CacheKey, artifact: &[u8], meta: &EntryMeta) -> Result<Put, StoreError>;

    /// Moves whatever is under this key out of the way, to be looked at later by a person.
    ///
    /// # Errors
    /// When it is still in the way.
    fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError>;

    /// Removes an entry; says whether there was one.
    ///
    /// # Errors
    /// When it is still there.
    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError>;

    /// The keys of all entries, sorted. The entries are not verified.
    ///
    /// # Errors
    /// When the entries cannot be listed.
    fn list(&self) -> Result<Vec<CacheKey>, StoreError>;

    /// Keeps other processes from compiling the same key, waiting for at most `wait`.
    fn lock(&self, key: &CacheKey, wait: Duration) -> LockOutcome {
        let _ = (key, wait);
        LockOutcome::Unneeded
    }
}

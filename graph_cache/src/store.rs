//! Where entries are kept: the trait and its words.
//!
//! | Store | Keeps |
//! | --- | --- |
//! | [`DiskStore`](crate::DiskStore) | in a folder that processes and hosts share |
//! | [`MemoryStore`](crate::MemoryStore) | in this process: for tests, and when there is no usable folder |
//! | [`ReadOnly`](crate::ReadOnly) | in another store, of which nothing is changed |
//! | [`Layered`](crate::Layered) | in one writable store over any number of read-only ones |
//! | `RemoteStore` (feature `remote`) | in an object store, such as S3 or OBS |
//!
//! What every store promises is written as tests in `conformance` (feature `conformance`).
//!
//! A store finds out what is wrong with an entry, but does nothing about it.
//! [`GraphCache`](crate::GraphCache) decides, and it holds the key's lock when it has a bad entry
//! moved away, so that nobody moves away the good one that has just replaced it.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::entry::{Entry, EntryError, Manifest};
use crate::key::CacheKey;
use crate::lock::KeyLock;

/// The answer to [`Store::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is there, and every byte of it is what was written.
    Hit(Box<Entry>),
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
    /// Something is there, but somebody who is not trusted could have written it: to be left alone.
    Untrusted(String),
    /// A whole entry of another format is there, of a newer version: to be left alone.
    OtherFormat(String),
}

impl MissReason {
    /// One word for it, as metrics have it.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Bad(_) => "bad",
            Self::Unreadable(_) => "unreadable",
            Self::Untrusted(_) => "untrusted",
            Self::OtherFormat(_) => "other_format",
        }
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not in the cache"),
            Self::Bad(what) => write!(f, "bad entry: {what}"),
            Self::Unreadable(what) => write!(f, "entry cannot be read: {what}"),
            Self::Untrusted(what) => write!(f, "entry is not trusted: {what}"),
            Self::OtherFormat(what) => write!(f, "entry is of another version: {what}"),
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
    /// The store may only be read.
    #[error("{place} is only read")]
    ReadOnly {
        /// Which store.
        place: String,
    },
    /// Something is in the way that is not to be moved.
    #[error("{what} is in the way")]
    Occupied {
        /// What.
        what: String,
    },
    /// Somebody who is not trusted could change what is there.
    #[error("{what}")]
    Untrusted {
        /// What, and what to do about it.
        what: String,
    },
    /// The object store refused for want of a permission.
    #[error("cannot {doing}: no permission for {permission} on {place}")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// The permission that is missing, as in `s3:PutObject`.
        permission: &'static str,
        /// Bucket and prefix.
        place: String,
    },
    /// The object store did not answer as it should.
    #[error("cannot {doing} at {place}: {reason}")]
    Remote {
        /// What was being done.
        doing: &'static str,
        /// Bucket and prefix.
        place: String,
        /// What it said.
        reason: String,
    },
    /// What was given is not an entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

impl StoreError {
    /// For `map_err`: the error of the file system while `doing` something.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// The answer to a request for a lock.
#[derive(Debug)]
pub enum LockOutcome {
    /// Nobody else has it until this is dropped.
    Held(KeyLock),
    /// This store is not shared with other processes.
    Unneeded,
    /// Somebody else still has it after the time to wait.
    TimedOut {
        /// Who, in words.
        owner: String,
    },
    /// There are no locks here.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// How to wait for a lock.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    /// For at most so long.
    pub at_most: Duration,
    /// A word for people about what is being waited for, written into the lock.
    pub note: &'a str,
    /// Is told now and then who has the lock, and for how long this has been waiting.
    pub progress: &'a dyn Fn(&str, Duration),
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("at_most", &self.at_most).finish_non_exhaustive()
    }
}

/// A place for entries.
pub trait Store: Send + Sync + fmt::Debug {
    /// Which place, for messages: a folder, an address.
    fn place(&self) -> String;

    /// Whether looking at many entries is cheap. Not so across a network.
    fn is_local(&self) -> bool {
        true
    }

    /// Looks for an entry and verifies all of it. Changes no entry.
    fn get(&self, key: &CacheKey) -> Lookup;

    /// What an entry says of itself, verified, without its artifact; `None` where there is none, or
    /// none that is good.
    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        match self.get(key) {
            Lookup::Hit(entry) => Some(entry.manifest().clone()),
            Lookup::Miss(_) => None,
        }
    }

    /// Stores an entry, whole or not at all.
    ///
    /// # Errors
    /// When it could not be stored; what was there before is then still there.
    fn put(&self, entry: &Entry) -> Result<Put, StoreError>;

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

    /// Keeps other processes from compiling the same key.
    fn lock(&self, key: &CacheKey, wait: &Wait<'_>) -> LockOutcome {
        let _ = (key, wait);
        LockOutcome::Unneeded
    }
}

//! What changes in access while a server runs, and why a change is refused.
//!
//! What this module deliberately does not do: it changes nothing; see [`registry`](super::registry).

use std::fmt;

use super::entry::FieldError;
use super::key_file::KeyFileError;

/// Something changed that operators want to know of. Never says more of a key than its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The file of keys was read again.
    Reloaded {
        /// How many keys it holds.
        num_keys: usize,
    },
    /// The file of keys is wrong; the keys stay as they were.
    ReloadFailed {
        /// What is wrong with it.
        message: String,
    },
    /// There is a new key.
    Added {
        /// Its name.
        name: String,
    },
    /// A key has other limits or rights.
    Changed {
        /// Its name.
        name: String,
        /// The fields that were set or left out.
        fields: Vec<String>,
    },
    /// A key is gone.
    Removed {
        /// Its name.
        name: String,
    },
    /// A limit of the whole server is another.
    ServerLimit {
        /// Its name.
        limit: &'static str,
        /// What it is now; `None`: no limit.
        value: Option<u64>,
    },
}

impl Change {
    /// Whether somebody should look.
    pub fn is_abnormal(&self) -> bool {
        matches!(self, Self::ReloadFailed { .. })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reloaded { num_keys } => {
                write!(f, "the key file was read again: {num_keys} keys")
            }
            Self::ReloadFailed { message } => {
                write!(f, "the key file is wrong, the keys stay as they were: {message}")
            }
            Self::Added { name } => write!(f, "key `{name}` was added"),
            Self::Changed { name, fields } => {
                write!(f, "key `{name}` was changed: {}", fields.join(", "))
            }
            Self::Removed { name } => write!(f, "key `{name}` was removed"),
            Self::ServerLimit { limit, value: Some(value) } => write!(f, "{limit} is now {value}"),
            Self::ServerLimit { limit, value: None } => write!(f, "{limit} has no limit now"),
        }
    }
}

/// Why keys were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ChangeError {
    /// There is nothing to read from or write to.
    #[error("this server has no key file; start it with `--api-keys-file`")]
    NoFile,
    /// The file is wrong, or cannot be read or written.
    #[error("the keys stay as they were: {0}")]
    File(#[from] KeyFileError),
    /// What was asked for is wrong.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// Another key has this name.
    #[error("there is a key `{0}` already; change it, or choose another name")]
    Exists(String),
    /// Another key has this hash.
    #[error("key `{0}` has the same hash; every key needs its own")]
    SameHash(String),
    /// No key has this name.
    #[error("there is no key `{0}` in the key file")]
    NotFound(String),
    /// The file holds as many as it may.
    #[error("the key file holds {0} keys, the most that it may")]
    Full(usize),
}

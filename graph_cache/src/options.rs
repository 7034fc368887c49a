//! What a cache is opened with.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::events::Observer;
use crate::store::Store;
use crate::trust::Trust;

/// How long another thread or process may compile before this one does it, too.
pub const DEFAULT_MAX_WAIT: Duration = Duration::from_mins(30);
/// Starts that may fail with the same entries before these are moved away.
pub const DEFAULT_MAX_FAILED_STARTS: usize = 3;

/// What may be done with the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Read it, compile what is missing, keep what was compiled.
    #[default]
    ReadWrite,
    /// Read it, compile what is missing, change nothing on disk.
    ReadOnly,
    /// Compile everything; keep it in memory.
    Off,
    /// Read it, and fail where something is missing instead of compiling.
    Require,
}

impl CacheMode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::ReadWrite, Self::ReadOnly, Self::Off, Self::Require];

    /// The mode's name: `rw`, `ro`, `off` or `require`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
            Self::Off => "off",
            Self::Require => "require",
        }
    }
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `rw`, `ro`, `off` or `require`")]
pub struct ParseModeError;

impl FromStr for CacheMode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or(ParseModeError)
    }
}

/// A read-only layer below the cache's own folder.
#[derive(Debug)]
pub enum Layer {
    /// A folder, which may belong to anybody.
    Folder(PathBuf),
    /// Any other store.
    Store(Box<dyn Store>),
}

/// What a cache is opened with.
pub struct CacheOptions {
    /// Name and version of the program, for new entries.
    pub producer: String,
    /// The folder; `None`: graphs are kept in memory.
    pub folder: Option<PathBuf>,
    /// Read-only layers below it, the first asked first.
    pub layers: Vec<Layer>,
    /// What may be done.
    pub mode: CacheMode,
    /// Whose entries may be used.
    pub trust: Trust,
    /// Bytes that the folder may have; beyond them, entries are removed, least recently used first.
    pub max_bytes: Option<u64>,
    /// How long another thread or process may compile a graph before this one does it, too.
    pub max_wait: Duration,
    /// Starts that may fail with the same entries before these are moved away.
    pub max_failed_starts: usize,
    /// Who is told what happens.
    pub observers: Vec<Arc<dyn Observer>>,
}

impl CacheOptions {
    /// A cache in memory, with every other option at its default.
    pub fn new(producer: impl Into<String>) -> Self {
        Self {
            producer: producer.into(),
            folder: None,
            layers: Vec::new(),
            mode: CacheMode::default(),
            trust: Trust::default(),
            max_bytes: None,
            max_wait: DEFAULT_MAX_WAIT,
            max_failed_starts: DEFAULT_MAX_FAILED_STARTS,
            observers: Vec::new(),
        }
    }

    /// The same in a folder.
    pub fn in_folder(producer: impl Into<String>, folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..Self::new(producer) }
    }
}

impl fmt::Debug for CacheOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheOptions")
            .field("folder", &self.folder)
            .field("layers", &self.layers)
            .field("mode", &self.mode)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

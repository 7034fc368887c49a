//! Makes room: removes what nobody needs any more, then the entries used least recently.
//!
//! | What | Goes when |
//! | --- | --- |
//! | drafts and doomed things in `tmp`, leases, lock files, starts | whoever made them is gone; see `leftovers` |
//! | folders of older formats | always |
//! | things in the quarantine | after 30 days; while the store is over its budget, the oldest first |
//! | entries | while the store is over its budget, the least recently used first; see `plan` |
//! | pinned entries, entries in use, folders of newer formats, pins | never |
//!
//! ```text
//! gc.lock -> leftovers -> one scan -> quarantine -> entry, entry, ... until within the budget
//!                                                   each: still in use? one rename, then removal
//! ```
//!
//! The budget counts entries and the quarantine: all that stays. Other processes read, write and
//! remove meanwhile; whatever has vanished is none of our business, and what cannot be removed is
//! reported and left for the next time.
//!
//! What this module deliberately does not do: it reads no artifact and decides nothing about good or
//! bad; that is `verify`. It starts by itself never: somebody calls it.

#[cfg(test)]
mod fault_tests;
mod leftovers;
mod plan;
mod quarantine;
mod run;
#[cfg(test)]
mod tests;

use std::fs::TryLockError;
use std::path::Path;
use std::time::SystemTime;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

pub(crate) use leftovers::{Leftover, LeftoverKind, leftovers, remove_leftover};
pub(crate) use quarantine::{Quarantined, quarantined};

use crate::disk::DiskStore;
use crate::filesystem::{Filesystem, Kind};
use crate::key::CacheKey;
use crate::store::StoreError;

/// The file that is locked by whoever is at it, in the folder of the format.
pub(crate) const GC_LOCK: &str = "gc.lock";

/// What is to be done by [`DiskStore::gc`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// The most bytes that entries and quarantine may have together; `None` evicts no entry.
    pub max_bytes: Option<u64>,
    /// Change nothing, and report what would be done.
    pub dry_run: bool,
}

/// An entry that was removed to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its key.
    pub key: CacheKey,
    /// Its word for people; empty where it could not be read.
    pub note: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was used last, as far as is known.
    pub last_used: Option<SystemTime>,
}

/// A number of things and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: usize,
    /// Their bytes together.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What was removed besides entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Drafts, and things whose removal was interrupted.
    pub temporary: Tally,
    /// Things in the quarantine.
    pub quarantine: Tally,
    /// Lock files.
    pub locks: Tally,
    /// Leases of processes that are gone.
    pub leases: Tally,
    /// Notes of starts that nobody will end.
    pub starts: Tally,
    /// Folders of older formats.
    pub old_formats: Tally,
}

impl Reclaimed {
    /// All of it together.
    pub fn total(&self) -> Tally {
        let all = [
            self.temporary,
            self.quarantine,
            self.locks,
            self.leases,
            self.starts,
            self.old_formats,
        ];
        all.iter().fold(Tally::default(), |sum, one| Tally {
            count: sum.count + one.count,
            bytes: sum.bytes.saturating_add(one.bytes),
        })
    }
}

/// What [`DiskStore::gc`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Nothing was changed: this is what would have been done.
    pub dry_run: bool,
    /// Another process was at it, so nothing was done.
    pub skipped: bool,
    /// Entries that were there before.
    pub num_entries: usize,
    /// Bytes of entries and quarantine before.
    pub bytes_before: u64,
    /// Bytes of entries and quarantine afterwards.
    pub bytes_after: u64,
    /// Entries that were removed, in this order.
    pub evicted: Vec<Evicted>,
    /// Entries that are pinned.
    pub num_pinned: usize,
    /// Entries that a living process uses.
    pub num_in_use: usize,
    /// Bytes by which what must stay exceeds the budget.
    pub still_over_by: u64,
    /// What was removed besides entries.
    pub reclaimed: Reclaimed,
    /// What could not be done, and why; it is tried again the next time.
    pub failed: Vec<String>,
    /// What was left alone though somebody might wonder, such as folders of newer formats.
    pub notes: Vec<String>,
}

impl DiskStore {
    /// Makes room. What is in the way of that is in the report; nothing that is needed is removed.
    ///
    /// # Errors
    /// When the store may only be read, unless it is a dry run.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        if options.dry_run {
            return Ok(run::run(self, options));
        }
        self.check_writable()?;
        // Held until the end of this function; the file stays.
        let lock = open_lock(&self.layout().version().join(GC_LOCK));
        if let Some(lock) = &lock
            && matches!(lock.file().try_lock(), Err(TryLockError::WouldBlock))
        {
            return Ok(GcReport { skipped: true, ..GcReport::default() });
        }
        Ok(run::run(self, options))
    }
}

/// The file to be locked. Where there is none, as in a folder that is gone, or no locks, as on some
/// network file systems, two at a time do no harm: each finds gone what the other has removed.
fn open_lock(path: &Path) -> Option<fs::File> {
    let opened = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    opened.map_err(|error| tracing::debug!(%error, "no lock against a second collector")).ok()
}

/// The bytes of a file, or of all files in a folder, as far as they can be seen. No link is followed.
pub(crate) fn tree_bytes(fs: &dyn Filesystem, path: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(stat) = fs.stat(&path) else { continue };
        match stat.kind {
            Kind::File => bytes = bytes.saturating_add(stat.bytes),
            Kind::Folder => {
                let listed = fs.list(&path).unwrap_or_default();
                waiting.extend(listed.into_iter().map(|item| path.join(item.name)));
            }
            Kind::Absent | Kind::Link | Kind::Special => {}
        }
    }
    bytes
}

//! What lies in a store's folder, for people and their tools: who looks, where it lies, what was
//! moved away.
//!
//! What this module deliberately does not do: it verifies nothing, and nothing is decided by what it
//! tells. Between two of its answers, other processes may have changed everything.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{DiskStore, Scanned};
use crate::gc;
use crate::key::CacheKey;
use crate::lease;
use crate::store::StoreError;

/// Longest reason that is read.
const MAX_REASON_BYTES: u64 = 64 << 10;

/// What can be said of an entry by a glance at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Its key.
    pub key: CacheKey,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When it was used last, as far as is known.
    pub last_used: Option<SystemTime>,
    /// Whether it is never evicted.
    pub is_pinned: bool,
    /// Whether a living process uses it.
    pub is_in_use: bool,
}

/// Something that was moved away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedThing {
    /// Where it lies now; of something that is gone, where its reason lies.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Since when it lies there, as far as is known.
    pub since: Option<SystemTime>,
    /// Why, in the words of whoever moved it; empty where they are lost.
    pub reason: String,
}

impl DiskStore {
    /// All entries, good or bad, by their keys.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn entries(&self) -> Result<Vec<EntryInfo>, StoreError> {
        let pins = self.pins()?;
        let in_use = lease::keys_in_use(&self.layout().leases());
        let mut entries = Vec::new();
        let scanned = self.scan(|found| {
            if let Scanned::Entry(entry) = found {
                entries.push(EntryInfo {
                    key: entry.key,
                    bytes: entry.bytes,
                    last_used: entry.last_used,
                    is_pinned: pins.contains(&entry.key),
                    is_in_use: in_use.contains(&entry.key),
                });
            }
        });
        scanned.map_err(StoreError::io("look at all entries"))?;
        entries.sort_unstable_by_key(|entry| entry.key);
        Ok(entries)
    }

    /// Where the entry of this key lies, if it is there.
    pub fn entry_folder(&self, key: &CacheKey) -> PathBuf {
        self.layout().entry(key)
    }

    /// What was moved away, the oldest first.
    ///
    /// # Errors
    /// When the quarantine cannot be read.
    pub fn quarantined(&self) -> Result<Vec<QuarantinedThing>, StoreError> {
        let found = gc::quarantined(self.fs(), &self.layout().quarantine());
        let found = found.map_err(StoreError::io("look at the quarantine"))?;
        let thing = |one: gc::Quarantined| {
            let path = one.thing.or_else(|| one.reason.clone())?;
            let reason = one.reason.map(|path| self.reason_at(&path)).unwrap_or_default();
            Some(QuarantinedThing { path, bytes: one.bytes, since: one.since, reason })
        };
        Ok(found.into_iter().filter_map(thing).collect())
    }

    /// Removes everything that was moved away; says how many things and bytes that were.
    ///
    /// # Errors
    /// When the store is only read, or at the first thing that cannot be removed.
    pub fn clear_quarantine(&self) -> Result<gc::Tally, StoreError> {
        self.check_writable()?;
        let clear = || {
            let mut tally = gc::Tally::default();
            for one in gc::quarantined(self.fs(), &self.layout().quarantine())? {
                // The reason last: alone, it is known for what it is.
                for path in one.thing.iter().chain(&one.reason) {
                    self.fs().remove(path)?;
                }
                tally.add(one.bytes);
            }
            Ok(tally)
        };
        clear().map_err(StoreError::io("clear the quarantine"))
    }

    fn reason_at(&self, path: &std::path::Path) -> String {
        let mut text = Vec::new();
        let read = self.fs().open(path);
        let read = read.and_then(|file| file.content.take(MAX_REASON_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
            Err(_) => String::new(),
        }
    }
}

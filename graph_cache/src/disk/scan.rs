//! All entries of a store, one after the other: for sums, for choosing, for looking at everything.
//!
//! | Found in `entries` | Told as |
//! | --- | --- |
//! | a folder where a key's entry belongs, good or bad | [`Scanned::Entry`] |
//! | anything else | [`Scanned::Foreign`] |
//! | a folder that cannot be listed or looked at | [`Scanned::Unreadable`] |
//!
//! What goes away while it is looked at is not told. What this module deliberately does not do: it
//! does not verify entries.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::DiskStore;
use super::content::{self, Size};
use crate::entry::codec::MAX_RECORD_BYTES;
use crate::entry::{RECORD, manifest};
use crate::filesystem::{Kind, Stat};
use crate::key::CacheKey;

/// What can be said of an entry by a glance at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryStat {
    pub(crate) key: CacheKey,
    pub(crate) path: PathBuf,
    /// Of all files.
    pub(crate) bytes: u64,
    /// `None` where the file system does not say.
    pub(crate) last_used: Option<SystemTime>,
}

/// One thing that lies among the entries.
#[derive(Debug)]
pub(crate) enum Scanned {
    Entry(EntryStat),
    Foreign(PathBuf),
    Unreadable(PathBuf, io::Error),
}

impl DiskStore {
    /// Tells of everything that lies among the entries, in no order. Reads nothing but `record.bin`
    /// of each entry.
    pub(crate) fn scan(&self, mut visit: impl FnMut(Scanned)) -> io::Result<()> {
        self.each_entry(&mut |found| match found {
            Named::Entry(key, path) => match self.entry_stat(key, &path) {
                Ok(None) => {}
                Ok(Some(entry)) => visit(Scanned::Entry(entry)),
                Err(error) => visit(Scanned::Unreadable(path, error)),
            },
            Named::Foreign(path) => visit(Scanned::Foreign(path)),
            Named::Unreadable(path, error) => visit(Scanned::Unreadable(path, error)),
        })
    }

    /// The keys of all entries, sorted.
    pub(super) fn list_keys(&self) -> io::Result<Vec<CacheKey>> {
        let mut keys = Vec::new();
        let mut failed = None;
        self.each_entry(&mut |found| match found {
            Named::Entry(key, _) => keys.push(key),
            Named::Foreign(_) => {}
            Named::Unreadable(_, error) => failed = Some(error),
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// What one entry looks like; `None` when it is not there.
    pub(crate) fn entry_stat(&self, key: CacheKey, path: &Path) -> io::Result<Option<EntryStat>> {
        let folder = self.fs.stat(path)?;
        if folder.kind != Kind::Folder {
            return Ok(None);
        }
        let bytes = match self.recorded_bytes(&key, path) {
            Some(bytes) => bytes,
            // Without a record, whatever is there counts: it takes room all the same.
            None => match self.bytes_in(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                bytes => bytes?,
            },
        };
        let Stat { modified, .. } = folder;
        Ok(Some(EntryStat { key, path: path.to_owned(), bytes, last_used: modified }))
    }

    /// The bytes of all files, as the record says.
    fn recorded_bytes(&self, key: &CacheKey, entry: &Path) -> Option<u64> {
        let size = Size::AtMost(MAX_RECORD_BYTES as u64);
        let bytes = content::read(&*self.fs, &entry.join(RECORD), size, |_, _| Ok(())).ok()?;
        let record = manifest::checked_record(key, &bytes).ok()?;
        (bytes.len() as u64).checked_add(record.manifest.bytes)?.checked_add(record.artifact_bytes)
    }

    fn bytes_in(&self, folder: &Path) -> io::Result<u64> {
        let mut bytes = 0_u64;
        for item in self.fs.list(folder)? {
            bytes = bytes.saturating_add(self.fs.stat(&folder.join(item.name))?.bytes);
        }
        Ok(bytes)
    }

    fn each_entry(&self, visit: &mut dyn FnMut(Named)) -> io::Result<()> {
        let entries = self.layout.entries();
        if self.fs.kind(&entries)? != Kind::Folder {
            return Ok(());
        }
        for shard in self.fs.list(&entries)? {
            let path = entries.join(&shard.name);
            if shard.kind != Kind::Folder || !is_shard(&shard.name) {
                visit(Named::Foreign(path));
                continue;
            }
            match self.fs.list(&path) {
                Ok(items) => {
                    for item in items {
                        let path = path.join(&item.name);
                        let key = item.name.to_str().and_then(|name| name.parse().ok());
                        // An entry in the wrong folder would never be found.
                        match key.filter(|key| self.layout.entry(key) == path) {
                            Some(key) if item.kind == Kind::Folder => {
                                visit(Named::Entry(key, path));
                            }
                            _ => visit(Named::Foreign(path)),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => visit(Named::Unreadable(path, error)),
            }
        }
        Ok(())
    }
}

/// What a name among the entries stands for.
enum Named {
    Entry(CacheKey, PathBuf),
    Foreign(PathBuf),
    Unreadable(PathBuf, io::Error),
}

fn is_shard(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == 2 && name.iter().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(c))
}

//! The ways out: into the quarantine, to be looked at by a person, or away for good.
//!
//! ```text
//! entries/ab/<key>/  --one rename-->  quarantine/<key>.<n>      and <key>.<n>.reason.txt beside it
//! anything           --one rename-->  tmp/<lease>.<n>           and then removed, file by file
//! ```
//!
//! One rename each, so that no reader sees half a folder. What is no folder is renamed over an empty
//! file made for it: should somebody have put a folder in its place meanwhile, a good one, the rename
//! fails and nothing is lost.
//!
//! What this module deliberately does not do: it does not decide what is bad.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::DiskStore;
use crate::filesystem::Kind;
use crate::key::CacheKey;

/// Bad things that are kept of one key; further ones are removed.
const MAX_KEPT_PER_KEY: usize = 4;
/// Foreign things of one name that are kept; further ones stay where they are.
const MAX_KEPT_FOREIGN: usize = 1000;
/// The longest name of a foreign thing that is kept, in bytes.
const MAX_STEM_BYTES: usize = 80;

impl DiskStore {
    /// Renames what blocks this key, or its entry, into the quarantine.
    pub(crate) fn move_away(&self, key: &CacheKey, reason: &str) -> io::Result<()> {
        let entry = self.layout.entry(key);
        match self.first_obstacle(&entry)? {
            None => {}
            Some((_, Kind::Absent)) => return Ok(()),
            Some((path, _)) if path == entry => {}
            Some((path, _)) => return self.clear_unless(&path, Kind::Folder),
        }
        let moved = match self.keep(&entry, &key.to_string(), MAX_KEPT_PER_KEY, reason) {
            Ok(false) => self.take_away(&entry),
            moved => moved.map(|_| ()),
        };
        match moved {
            // Somebody else was faster.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && self.fs.kind(&entry)? == Kind::Absent =>
            {
                Ok(())
            }
            moved => moved,
        }
    }

    /// Renames something that does not belong where it is into the quarantine.
    pub(crate) fn move_away_path(&self, path: &Path, reason: &str) -> io::Result<()> {
        let name = path.file_name().and_then(OsStr::to_str).filter(|name| is_plain(name));
        if self.keep(path, name.unwrap_or("foreign"), MAX_KEPT_FOREIGN, reason)? {
            return Ok(());
        }
        let what =
            format!("`{}`: too many of that name are there", self.layout.quarantine().display());
        Err(io::Error::other(what))
    }

    /// Removes something, at once for readers, who would otherwise see a folder of which files are
    /// missing.
    pub(crate) fn take_away(&self, path: &Path) -> io::Result<()> {
        self.prepare()?;
        let doomed = self.layout.tmp().join(self.tmp_name());
        self.fs.rename(path, &doomed)?;
        if let Err(error) = self.fs.remove(&doomed) {
            tracing::debug!(%error, "a removed thing is left for a later sweep");
        }
        Ok(())
    }

    /// Removes the entry of a key; says whether there was one.
    pub(super) fn remove_entry(&self, key: &CacheKey) -> io::Result<bool> {
        let entry = self.layout.entry(key);
        if self.first_obstacle(&entry)?.is_some() {
            return Ok(false);
        }
        match self.take_away(&entry) {
            Ok(()) => Ok(true),
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves whatever is not of this kind out of the way of something that is to be there.
    pub(super) fn clear_unless(&self, path: &Path, kind: Kind) -> io::Result<()> {
        let found = self.fs.kind(path)?;
        if found == kind || found == Kind::Absent {
            return Ok(());
        }
        let reason = format!("{found} where {kind} belongs");
        tracing::warn!(path = %path.display(), "moved out of the graph cache: {reason}");
        // The quarantine itself, and what it lies in, can only be put beside their places.
        if path == self.layout.quarantine() || path == self.layout.version() {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".aside.{}", crate::atomic_write::unique_name()));
            self.rename_to_new(path, found, &path.with_file_name(name)).map(|_| ())
        } else {
            self.move_away_path(path, &reason)
        }
    }

    /// Renames into the quarantine, if one of the names for it is free.
    fn keep(&self, path: &Path, stem: &str, max_kept: usize, reason: &str) -> io::Result<bool> {
        let quarantine = self.layout.quarantine();
        self.prepare_root()?;
        self.prepare_folder(self.layout.version())?;
        self.prepare_folder(&quarantine)?;
        for number in 0..max_kept {
            let kind = self.fs.kind(path)?;
            if kind == Kind::Absent {
                // Somebody else was faster.
                return Ok(true);
            }
            if !self.rename_to_new(path, kind, &quarantine.join(format!("{stem}.{number}")))? {
                continue;
            }
            // Beside it: what was moved may be a link, and nothing is written through it.
            let note = quarantine.join(format!("{stem}.{number}.reason.txt"));
            let text = format!("{}\n{reason}\n", path.display());
            if let Err(error) = self.fs.write_new(&note, text.as_bytes()) {
                tracing::debug!(%error, "the reason of a quarantine was not written");
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Renames something of a kind; says no where the new name is taken.
    fn rename_to_new(&self, from: &Path, kind: Kind, to: &Path) -> io::Result<bool> {
        if self.fs.kind(to)? != Kind::Absent {
            return Ok(false);
        }
        if kind == Kind::Folder {
            return taken(self.fs.rename(from, to));
        }
        if !taken(self.fs.write_new(to, b""))? {
            return Ok(false);
        }
        let renamed = self.fs.rename(from, to);
        if renamed.is_err() {
            let _ = self.fs.remove(to);
        }
        renamed.map(|()| true)
    }
}

/// Whether it was done, unless something had the name.
fn taken(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_occupied(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether something is where something else was to be created or renamed to.
pub(super) fn is_occupied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_STEM_BYTES
        && !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
}

//! From an entry to a folder.
//!
//! | Under the key is | Then |
//! | --- | --- |
//! | nothing | the new entry appears there |
//! | a good entry | it stays, the new one is dropped |
//! | something bad | it is moved into the quarantine, and the new entry appears |
//! | an entry of a newer format, or one that is not trusted | it stays; [`StoreError::Occupied`] |
//! | what cannot be read now | it stays; [`StoreError::Io`] |
//! | under `Trust::Signed`, one without a good signature, and the new one has one | like something bad |
//!
//! Writers need no lock either: at worst two of them write, and one is dropped.
//!
//! What this module deliberately does not do: it never changes an entry that is there, but for its
//! signatures.

use std::io;
use std::path::Path;

use super::DiskStore;
use super::quarantine::is_occupied;
use crate::atomic_write::Draft;
use crate::entry::manifest::MAX_MANIFEST_BYTES;
use crate::entry::{
    Entry, MANIFEST, MAX_SIGNATURES_BYTES, RECORD, SIGNATURES, artifact::MAX_ARTIFACT_BYTES,
};
use crate::key::CacheKey;
use crate::store::{MissReason, Put, StoreError};
use crate::trust::{SigningKey, Trust};

/// How often something that is in the way is moved away for one new entry: others may write and remove
/// the same one meanwhile.
const MAX_ATTEMPTS: usize = 8;

impl DiskStore {
    /// Adds a signature to the entry of this key, after all of it was verified.
    ///
    /// # Errors
    /// When the store is only read, when there is no good entry, when somebody else could have
    /// written it, and when the signature cannot be written.
    pub fn sign(&self, key: &CacheKey, signing_key: &SigningKey) -> Result<(), StoreError> {
        const DOING: &str = "sign an entry";
        self.check_writable()?;
        // What is signed is vouched for: a signature that is not there yet cannot be asked for, but
        // nobody else may have written it.
        let trust = match &self.options.trust {
            Trust::Signed(_) => &Trust::Owner,
            trust => trust,
        };
        let entry = self.read_entry(key, trust).map_err(|reason| no_entry(DOING, &reason))?;
        let line = signing_key.sign(entry.manifest_json());
        let mut signatures = entry.signatures().to_vec();
        if signatures.split(|c| *c == b'\n').any(|there| there == line.as_bytes()) {
            return Ok(());
        }
        if signatures.last().is_some_and(|c| *c != b'\n') {
            signatures.push(b'\n');
        }
        signatures.extend(line.as_bytes());
        signatures.push(b'\n');
        check_size("file of signatures", signatures.len() as u64, MAX_SIGNATURES_BYTES)?;
        self.replace_file(&self.layout.entry(key), SIGNATURES, &signatures)
            .map_err(StoreError::io(DOING))
    }

    /// Writes a file beside its place and renames it there.
    fn replace_file(&self, folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
        self.prepare()?;
        let written = self.layout.tmp().join(self.tmp_name());
        let renamed = self
            .fs
            .write_new(&written, content)
            .and_then(|()| self.fs.rename(&written, &folder.join(name)));
        if let Err(error) = renamed {
            let _ = self.fs.remove(&written);
            return Err(error);
        }
        self.fs.sync_folder(folder)
    }

    pub(super) fn write_entry(&self, entry: &Entry) -> Result<Put, StoreError> {
        const DOING: &str = "store an entry";
        self.check_writable()?;
        check_size("manifest", entry.manifest_json().len() as u64, MAX_MANIFEST_BYTES)?;
        check_size("file of signatures", entry.signatures().len() as u64, MAX_SIGNATURES_BYTES)?;
        check_size("artifact", entry.artifact().num_bytes(), MAX_ARTIFACT_BYTES)?;
        if !self.make_room(entry, "in the way of a new entry")? {
            return Ok(Put::AlreadyThere);
        }
        let (mut draft, bytes) = self.write_draft(entry).map_err(StoreError::io(DOING))?;
        let key = entry.key();
        // Before it appears, lest somebody who makes room takes it at once.
        self.hold(key);
        let mut attempt = 1;
        loop {
            let error = match self.publish(&mut draft, key) {
                Ok(()) => break,
                Err(error) => error,
            };
            if attempt == MAX_ATTEMPTS || !is_in_the_way(&error) {
                return Err(StoreError::io(DOING)(error));
            }
            if !self.make_room(entry, &format!("in the way of a new entry: {error}"))? {
                return Ok(Put::AlreadyThere);
            }
            attempt += 1;
        }
        Ok(Put::Stored { bytes })
    }

    fn write_draft(&self, entry: &Entry) -> io::Result<(Draft<'_>, u64)> {
        let draft = self.draft()?;
        let mut bytes = 0;
        let mut write = |name: &str, content: &[u8]| {
            bytes += content.len() as u64;
            draft.write(name, content)
        };
        for file in entry.artifact().files() {
            write(&file.name, &file.bytes)?;
        }
        write(MANIFEST, entry.manifest_json())?;
        if !entry.signatures().is_empty() {
            write(SIGNATURES, entry.signatures())?;
        }
        write(RECORD, &entry.record())?;
        Ok((draft, bytes))
    }

    fn publish(&self, draft: &mut Draft<'_>, key: &CacheKey) -> io::Result<()> {
        let target = self.layout.entry(key);
        let way = self.layout.way_to(&target);
        for folder in &way[..way.len() - 1] {
            self.prepare_folder(folder)?;
        }
        draft.publish(&target)
    }

    /// Makes the place of a new entry free; says no when a good entry is there.
    fn make_room(&self, entry: &Entry, reason: &str) -> Result<bool, StoreError> {
        let key = entry.key();
        let Err(found) = self.read_entry(key, &self.options.trust) else {
            return Ok(false);
        };
        let is_better = match &self.options.trust {
            Trust::Signed(keys) => keys.verify(entry.manifest_json(), entry.signatures()).is_ok(),
            Trust::Owner | Trust::Any => false,
        };
        match found {
            MissReason::Absent => Ok(true),
            MissReason::Bad(what) => self.replace(key, &format!("{reason}: {what}")),
            MissReason::Untrusted(what) if is_better => {
                self.replace(key, &format!("{reason}: {what}"))
            }
            MissReason::Untrusted(what) | MissReason::OtherFormat(what) => {
                Err(StoreError::Occupied { what })
            }
            MissReason::Unreadable(what) => {
                Err(StoreError::io("look whether it is stored already")(io::Error::other(what)))
            }
        }
    }

    fn replace(&self, key: &CacheKey, reason: &str) -> Result<bool, StoreError> {
        let moved = self.move_away(key, reason);
        moved.map(|()| true).map_err(StoreError::io("move a bad entry away"))
    }
}

/// Whether publishing failed because of what lies there.
fn is_in_the_way(error: &io::Error) -> bool {
    is_occupied(error)
        || matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory)
}

fn check_size(what: &'static str, got: u64, limit: u64) -> Result<(), StoreError> {
    if got <= limit { Ok(()) } else { Err(StoreError::TooLarge { what, got, limit }) }
}

fn no_entry(doing: &'static str, reason: &MissReason) -> StoreError {
    let what = reason.to_string();
    match reason {
        MissReason::Untrusted(what) => StoreError::Untrusted { what: what.clone() },
        MissReason::Absent => StoreError::io(doing)(io::Error::new(io::ErrorKind::NotFound, what)),
        _ => StoreError::io(doing)(io::Error::new(io::ErrorKind::InvalidData, what)),
    }
}

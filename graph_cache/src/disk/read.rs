//! From a folder to a verified entry.
//!
//! ```text
//! root, v2, entries, ab, entry   each a folder, and nobody else can write to it
//!   record.bin                   its own digest, the key
//!     manifest.json              digest in the record; the key again, from the fields
//!     manifest.sig               under `Trust::Signed`: one of the keys signed the manifest
//!       the artifact's files     size, then digest, in the manifest; and no other file
//! ```
//!
//! Each line is read only after the one above it was found good. What is checked is the memory that
//! is returned, so that it does not matter what happens to the files afterwards.
//!
//! What this module deliberately does not do: it repairs nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::DiskStore;
use super::content::{self, Size, unreadable};
use crate::entry::codec::{FORMAT, MAX_RECORD_BYTES};
use crate::entry::{
    Artifact, ArtifactFile, Entry, EntryError, MANIFEST, MAX_SIGNATURES_BYTES, Manifest, RECORD,
    SIGNATURES, manifest,
};
use crate::filesystem::{Kind, Stat};
use crate::key::CacheKey;
use crate::store::{MissReason, StoreError};
use crate::trust::Trust;

/// How often an entry may be replaced by another one while it is read.
const MAX_ATTEMPTS: usize = 3;

/// All of an entry but its artifact.
struct Head {
    manifest: Manifest,
    manifest_json: Vec<u8>,
    signatures: Vec<u8>,
}

impl DiskStore {
    /// The entry of a key, every byte verified.
    pub(super) fn read_entry(&self, key: &CacheKey, trust: &Trust) -> Result<Entry, MissReason> {
        self.read_stable(key, trust, |folder| {
            let head = self.read_head(key, folder, trust)?;
            self.check_names(folder, &head.manifest)?;
            let artifact = self.read_artifact(folder, &head.manifest, trust)?;
            Ok(Entry::assembled(head.manifest, head.manifest_json, head.signatures, artifact))
        })
    }

    /// What the entry of a key says of itself, verified.
    pub(crate) fn read_manifest(&self, key: &CacheKey) -> Result<Manifest, MissReason> {
        let trust = &self.options.trust;
        self.read_stable(key, trust, |folder| {
            self.read_head(key, folder, trust).map(|head| head.manifest)
        })
    }

    /// Tells others that the entry is in use; its folder's time says when that was last.
    pub(super) fn mark_used(&self, key: &CacheKey) {
        if !self.is_writable() {
            return;
        }
        if let Err(error) = self.fs.set_modified(&self.layout.entry(key), SystemTime::now()) {
            tracing::debug!(%error, "the time of use of a cache entry is not recorded");
        }
        self.hold(key);
    }

    /// Says that an entry was used last at this time, whatever its own time says. For whoever knows
    /// of uses that read nothing here.
    ///
    /// # Errors
    /// When the store is only read, or there is no entry of this key.
    pub fn set_last_used(&self, key: &CacheKey, time: SystemTime) -> Result<(), StoreError> {
        self.check_writable()?;
        let set = self.fs.set_modified(&self.layout.entry(key), time);
        set.map_err(StoreError::io("set an entry's last use"))
    }

    /// Tells others that this process needs the entry as long as it lives.
    pub(super) fn hold(&self, key: &CacheKey) {
        if !self.options.releases
            && let Some(lease) = self.lease()
        {
            lease.mark_used(key);
        }
    }

    /// The first thing on the way to `path`, and `path` itself, that is no real folder.
    pub(super) fn first_obstacle(&self, path: &Path) -> std::io::Result<Option<(PathBuf, Kind)>> {
        for path in self.layout.way_to(path) {
            let kind = self.fs.kind(&path)?;
            if kind != Kind::Folder {
                return Ok(Some((path, kind)));
            }
        }
        Ok(None)
    }

    /// Reads from the entry's folder. What was read while another one came in its place counts for
    /// nothing, and whoever removes an entry renames its folder first: then it is just absent.
    fn read_stable<T>(
        &self,
        key: &CacheKey,
        trust: &Trust,
        read: impl Fn(&Path) -> Result<T, MissReason>,
    ) -> Result<T, MissReason> {
        let folder = self.layout.entry(key);
        for _ in 0..MAX_ATTEMPTS {
            let before = self.check_way(&folder, trust)?;
            let reason = match read(&folder) {
                Ok(read) => return Ok(read),
                Err(reason) => reason,
            };
            match self.fs.stat(&folder) {
                Ok(now) if now.kind == Kind::Absent => return Err(MissReason::Absent),
                Ok(now) if !now.is_of_same(&before) => {}
                _ => return Err(reason),
            }
        }
        let what = format!("`{}` is replaced again and again", folder.display());
        Err(MissReason::Unreadable(what))
    }

    /// Checks everything from the root down to the entry's folder, of which it says what it is.
    fn check_way(&self, folder: &Path, trust: &Trust) -> Result<Stat, MissReason> {
        let mut stat = self.fs.stat(self.root()).map_err(unreadable)?;
        self.check_folder(self.root(), &stat, trust, MissReason::Unreadable)?;
        for path in self.layout.way_to(folder) {
            stat = self.fs.stat(&path).map_err(unreadable)?;
            self.check_folder(&path, &stat, trust, MissReason::Bad)?;
        }
        Ok(stat)
    }

    fn check_folder(
        &self,
        path: &Path,
        stat: &Stat,
        trust: &Trust,
        otherwise: fn(String) -> MissReason,
    ) -> Result<(), MissReason> {
        match stat.kind {
            Kind::Folder => {
                self.check_permissions(path, stat, trust).map_err(MissReason::Untrusted)
            }
            Kind::Absent => Err(MissReason::Absent),
            kind => Err(otherwise(format!("`{}` is {kind}, expected a folder", path.display()))),
        }
    }

    fn read_head(&self, key: &CacheKey, folder: &Path, trust: &Trust) -> Result<Head, MissReason> {
        let read = |name: &str, size| self.read_file(&folder.join(name), size, trust);
        let bad = |error| bad_entry(folder, &error);
        let record = read(RECORD, Size::AtMost(MAX_RECORD_BYTES as u64))?;
        let expected = manifest::checked_record(key, &record).map_err(bad)?.manifest.bytes;
        let manifest_json = read(MANIFEST, Size::Exactly(expected))?;
        let manifest = Manifest::verified(key, &record, &manifest_json).map_err(bad)?;
        let signatures = match self.fs.kind(&folder.join(SIGNATURES)).map_err(unreadable)? {
            Kind::Absent => Vec::new(),
            _ => read(SIGNATURES, Size::AtMost(MAX_SIGNATURES_BYTES))?,
        };
        if let Trust::Signed(keys) = trust {
            keys.verify(&manifest_json, &signatures).map_err(|reason| {
                MissReason::Untrusted(format!("`{}`: {reason}", folder.display()))
            })?;
        }
        Ok(Head { manifest, manifest_json, signatures })
    }

    /// Whether there is nothing in the folder that the manifest does not name. What it names and
    /// what is not there is found missing later.
    fn check_names(&self, folder: &Path, manifest: &Manifest) -> Result<(), MissReason> {
        for item in self.fs.list(folder).map_err(unreadable)? {
            let is_known = [RECORD, MANIFEST, SIGNATURES].iter().any(|own| *own == item.name)
                || manifest.files.iter().any(|file| file.name.as_str() == item.name)
                || is_left_by_nfs(&item.name);
            if !is_known {
                let path = folder.join(&item.name);
                let what = format!("`{}` is a foreign file: no manifest names it", path.display());
                return Err(MissReason::Bad(what));
            }
        }
        Ok(())
    }

    fn read_artifact(
        &self,
        folder: &Path,
        manifest: &Manifest,
        trust: &Trust,
    ) -> Result<Artifact, MissReason> {
        let check = |path: &Path, stat: &Stat| {
            self.check_permissions(path, stat, trust).map_err(MissReason::Untrusted)
        };
        let read = |idx: usize| {
            let info = &manifest.files[idx];
            let path = folder.join(&info.name);
            let size = Size::Exactly(info.bytes);
            let (bytes, digest) = content::read_digested(&*self.fs, &path, size, check)?;
            if digest != info.sha256 {
                return Err(bad_entry(folder, &EntryError::Digest { name: info.name.clone() }));
            }
            Ok(ArtifactFile { name: info.name.clone(), bytes })
        };
        let is_much = content::is_much(manifest.num_artifact_bytes());
        let files = content::in_parallel(manifest.files.len(), is_much, read);
        let files = files.into_iter().collect::<Result<_, _>>()?;
        Artifact::new(files).map_err(|error| bad_entry(folder, &error.into()))
    }

    fn read_file(&self, path: &Path, size: Size, trust: &Trust) -> Result<Vec<u8>, MissReason> {
        content::read(&*self.fs, path, size, |path, stat| {
            self.check_permissions(path, stat, trust).map_err(MissReason::Untrusted)
        })
    }
}

/// NFS keeps a replaced signature under such a name for as long as somebody on this host reads it.
pub(crate) fn is_left_by_nfs(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".nfs")
}

fn bad_entry(folder: &Path, error: &EntryError) -> MissReason {
    let what = format!("`{}`: {error}", folder.display());
    match error {
        EntryError::Format { got, .. } if *got > FORMAT => MissReason::OtherFormat(what),
        _ => MissReason::Bad(what),
    }
}

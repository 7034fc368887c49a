//! One entry, byte by byte.
//!
//! ```text
//! names in the folder -> record.bin -> manifest.json -> each file, 1 MiB at a time -> who may write
//! ```
//!
//! The order is that of who vouches for whom: where one link is bad, those after it say nothing.
//!
//! What this module deliberately does not do: it changes nothing and keeps no artifact in memory.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::finding::{Finding, Remedy};
use super::report::ProblemKind;
use crate::digest::Digest;
use crate::disk::{DiskStore, is_left_by_nfs};
use crate::entry::codec::{self, DecodeError, FORMAT, MAX_RECORD_BYTES};
use crate::entry::manifest::{EntryError, FileInfo, Manifest, checked_record};
use crate::entry::record::Record;
use crate::entry::{ArtifactError, MANIFEST, MAX_SIGNATURES_BYTES, RECORD, SIGNATURES};
use crate::filesystem::{Kind, Listed, Opened};
use crate::key::CacheKey;
use crate::trust::Trust;

/// So much of a file is in memory at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Checks entries, one after the other, with one buffer.
pub(super) struct Checker<'a> {
    store: &'a DiskStore,
    buffer: Vec<u8>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(store: &'a DiskStore) -> Self {
        Self { store, buffer: vec![0; CHUNK_BYTES] }
    }

    /// All that is wrong with the entry of `key` in `folder`; `None` when it is gone.
    pub(super) fn check(&mut self, folder: &Path, key: &CacheKey) -> Option<Vec<Finding>> {
        let findings = self.check_folder(folder, key).into_iter();
        let findings: Vec<_> = findings.map(|finding| finding.of_entry(*key)).collect();
        // Whoever removes an entry renames its folder first: then nothing is wrong with it.
        let is_gone =
            !findings.is_empty() && matches!(self.store.fs().kind(folder), Ok(Kind::Absent));
        (!is_gone).then_some(findings)
    }

    fn check_folder(&mut self, folder: &Path, key: &CacheKey) -> Vec<Finding> {
        let listed = match self.store.fs().list(folder) {
            Ok(listed) => listed,
            Err(error) => return vec![Finding::unreadable(folder, &error)],
        };
        let (manifest, manifest_json) = match self.manifest(folder, key, &listed) {
            Ok(read) => read,
            Err(finding) => return vec![finding],
        };
        let mut findings = Vec::new();
        for file in &manifest.files {
            findings.extend(self.check_file(folder, file, &listed).err());
        }
        findings.extend(self.check_signatures(folder, &manifest_json, &listed).err());
        findings.extend(foreign_names(folder, &manifest, &listed));
        findings.extend(self.check_permissions(folder, &listed));
        findings
    }

    /// Whether the signatures may be some, and are the right ones where any are needed.
    fn check_signatures(
        &self,
        folder: &Path,
        manifest_json: &[u8],
        listed: &[Listed],
    ) -> Result<(), Finding> {
        let path = folder.join(SIGNATURES);
        let is_signed = listed.iter().any(|item| item.name == SIGNATURES);
        let signatures = if is_signed {
            self.read_small(&path, Size::UpTo(MAX_SIGNATURES_BYTES), listed)
                // Without them the entry is still good.
                .map_err(|finding| Finding { remedy: Remedy::MoveThing, ..finding })?
        } else {
            Vec::new()
        };
        let Trust::Signed(keys) = self.store.trust() else { return Ok(()) };
        keys.verify(manifest_json, &signatures).map_err(|reason| {
            let reason = format!("{reason}; sign it with `cache sign`, or trust its signer's key");
            Finding::new(ProblemKind::Untrusted, &path, reason, Remedy::Nothing)
        })
    }

    /// Who else could have written the entry: the first place that shows it.
    fn check_permissions(&self, folder: &Path, listed: &[Listed]) -> Option<Finding> {
        let files = listed.iter().map(|item| folder.join(&item.name));
        std::iter::once(folder.to_owned()).chain(files).find_map(|path| {
            let stat = self.store.fs().stat(&path).ok()?;
            // A link has no permissions of its own; that it is one was told of.
            if !matches!(stat.kind, Kind::File | Kind::Folder) {
                return None;
            }
            let what = self.store.check_permissions(&path, &stat, self.store.trust()).err()?;
            Some(Finding::new(ProblemKind::Untrusted, &path, what, Remedy::Nothing))
        })
    }

    /// The manifest, with its bytes, which the record vouches for.
    fn manifest(
        &self,
        folder: &Path,
        key: &CacheKey,
        listed: &[Listed],
    ) -> Result<(Manifest, Vec<u8>), Finding> {
        let record_path = folder.join(RECORD);
        let record_bytes =
            self.read_small(&record_path, Size::UpTo(MAX_RECORD_BYTES as u64), listed)?;
        let record = checked(key, &record_path, &record_bytes)?;
        let manifest_path = folder.join(MANIFEST);
        let size = Size::Exactly(record.manifest.bytes);
        let manifest_json = self.read_small(&manifest_path, size, listed)?;
        let manifest = Manifest::verified(key, &record_bytes, &manifest_json)
            .map_err(|error| of_entry_error(&manifest_path, error))?;
        Ok((manifest, manifest_json))
    }

    /// A whole file of a size that fits into memory.
    fn read_small(&self, path: &Path, size: Size, listed: &[Listed]) -> Result<Vec<u8>, Finding> {
        let opened = self.open(path, size, listed)?;
        let mut content = Vec::new();
        opened
            .content
            .take(opened.stat.bytes)
            .read_to_end(&mut content)
            .map_err(|error| Finding::unreadable(path, &error))?;
        size.check(path, content.len() as u64)?;
        Ok(content)
    }

    fn open(&self, path: &Path, size: Size, listed: &[Listed]) -> Result<Opened, Finding> {
        check_kind(path, listed)?;
        let opened = self.store.fs().open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Finding::fatal(ProblemKind::Torn, path, "is missing"),
            _ => Finding::unreadable(path, &error),
        })?;
        size.check(path, opened.stat.bytes)?;
        Ok(opened)
    }

    /// One file of the artifact, however large.
    fn check_file(
        &mut self,
        folder: &Path,
        info: &FileInfo,
        listed: &[Listed],
    ) -> Result<(), Finding> {
        let path = folder.join(&info.name);
        let size = Size::Exactly(info.bytes);
        let opened = self.open(&path, size, listed)?;
        let mut file = opened.content.take(opened.stat.bytes);
        let mut hasher = Sha256::new();
        let mut num_read = 0;
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&self.buffer[..count]);
                    num_read += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Finding::unreadable(&path, &error)),
            }
        }
        size.check(&path, num_read)?;
        if Digest::from_bytes(hasher.finalize().into()) == info.sha256 {
            Ok(())
        } else {
            let reason = "does not match the digest in the manifest";
            Err(Finding::fatal(ProblemKind::Damaged, &path, reason))
        }
    }
}

/// What is expected of a file's size.
#[derive(Clone, Copy, Debug)]
enum Size {
    Exactly(u64),
    UpTo(u64),
}

impl Size {
    fn check(self, path: &Path, got: u64) -> Result<(), Finding> {
        match self {
            Self::Exactly(expected) if got < expected => {
                let reason = format!("was cut: {got} bytes, expected {expected}");
                Err(Finding::fatal(ProblemKind::Torn, path, reason))
            }
            Self::Exactly(expected) if got > expected => {
                let reason = format!("is too long: {got} bytes, expected {expected}");
                Err(Finding::fatal(ProblemKind::Oversized, path, reason))
            }
            Self::UpTo(limit) if got > limit => {
                let reason = format!("is too long: {got} bytes, expected at most {limit}");
                Err(Finding::fatal(ProblemKind::Oversized, path, reason))
            }
            Self::Exactly(_) | Self::UpTo(_) => Ok(()),
        }
    }
}

/// Whether there is a file at `path`, by the names in its folder.
fn check_kind(path: &Path, listed: &[Listed]) -> Result<(), Finding> {
    match listed.iter().find(|item| path.file_name() == Some(&item.name)).map(|item| item.kind) {
        Some(Kind::File) => Ok(()),
        None | Some(Kind::Absent) => Err(Finding::fatal(ProblemKind::Torn, path, "is missing")),
        Some(kind) => {
            let reason = format!("is {kind}, expected a file");
            Err(Finding::fatal(ProblemKind::Foreign, path, reason))
        }
    }
}

fn checked(key: &CacheKey, path: &Path, record: &[u8]) -> Result<Record, Finding> {
    // Decoded twice, for the decoder knows best in which way a record is no record.
    if let Err(error) = codec::decode(record) {
        let kind = match error {
            DecodeError::Format { got } if got > FORMAT => {
                return Err(newer(path, error.to_string()));
            }
            DecodeError::Format { .. } => ProblemKind::OldFormat,
            DecodeError::Size { got } if got <= MAX_RECORD_BYTES => ProblemKind::Torn,
            DecodeError::Length { expected, got } if got < expected as usize => ProblemKind::Torn,
            DecodeError::Size { .. } | DecodeError::Length { .. } => ProblemKind::Oversized,
            DecodeError::Magic | DecodeError::Digest { .. } | DecodeError::Payload(_) => {
                ProblemKind::Damaged
            }
        };
        return Err(Finding::fatal(kind, path, error.to_string()));
    }
    checked_record(key, record).map_err(|error| match error {
        // Everything else was found by the decoder: what is left is the manifest's size.
        EntryError::Record(_) => Finding::fatal(ProblemKind::Oversized, path, error.to_string()),
        error => of_entry_error(path, error),
    })
}

fn of_entry_error(path: &Path, error: EntryError) -> Finding {
    let kind = match &error {
        EntryError::Format { got, .. } if *got > FORMAT => return newer(path, error.to_string()),
        EntryError::Format { .. } => ProblemKind::OldFormat,
        EntryError::Key { .. } => ProblemKind::Misplaced,
        EntryError::Artifact(ArtifactError::Size { .. }) => ProblemKind::Oversized,
        _ => ProblemKind::Damaged,
    };
    Finding::fatal(kind, path, error.to_string())
}

fn newer(path: &Path, what: String) -> Finding {
    let reason = format!("{what}; left for the newer version that wrote it");
    Finding::new(ProblemKind::NewFormat, path, reason, Remedy::Nothing).note()
}

/// What is in the folder, but not in the manifest.
fn foreign_names(folder: &Path, manifest: &Manifest, listed: &[Listed]) -> Vec<Finding> {
    let own = |name: &OsStr| {
        [RECORD, MANIFEST, SIGNATURES].iter().any(|own| name == *own)
            || manifest.files.iter().any(|file| name == file.name.as_str())
            || is_left_by_nfs(name)
    };
    let foreign = listed.iter().filter(|item| !own(&item.name));
    foreign
        .map(|item| {
            let path = folder.join(&item.name);
            let reason = format!("is {}, of which the manifest knows nothing", item.kind);
            Finding::new(ProblemKind::Foreign, &path, reason, Remedy::MoveThing)
        })
        .collect()
}

//! `manifest.json`: all that is known about an entry, for people and for checks.
//!
//! ```json
//! { "format": 2, "kind": "graph", "key": "3f9a...", "note": "decode, 8 sequences",
//!   "producer": "cairn 0.1.0", "created": "2026-11-22T21:44:36Z", "compile_ms": 1234,
//!   "fields": [ {"name": "backend", "text": "cpu"}, {"name": "graph", "sha256": "...", "bytes": 9 } ],
//!   "files": [ {"name": "model.om", "bytes": 99, "sha256": "..."} ],
//!   "io": { ... }, "log_tail": "..." }
//! ```
//!
//! The key can be computed from the fields as they are written here, so a manifest cannot claim
//! fields that are not those of its key. Unknown members are ignored: a later version may add some.
//!
//! What this module deliberately does not do: it reads no files; a manifest is bytes.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::artifact::{self, Artifact, ArtifactError};
use super::codec::{self, DecodeError, FORMAT};
use super::record::{FileDigest, Record};
use crate::digest::Digest;
use crate::key::{CacheKey, ClearField, key_of};

/// No manifest is longer than this.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// Bytes of a compiler's log that are kept: its end.
const MAX_LOG_TAIL_BYTES: usize = 8 << 10;

/// What is known about an artifact besides its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryMeta {
    /// What kind of thing it is, in one word: `graph`, `request`.
    pub kind: String,
    /// A word for people, such as the bucket; not part of the key.
    pub note: String,
    /// Name and version of the program that compiled it.
    pub producer: String,
    /// When it was compiled, in seconds since 1970. For people: nothing is decided by it.
    pub created_unix_s: u64,
    /// How long the compiler took, in milliseconds.
    pub compile_ms: u64,
    /// Every field of the key, in order.
    pub fields: Vec<ClearField>,
    /// What goes in and comes out of the artifact, in the caller's own words; or null.
    pub io: serde_json::Value,
    /// The end of what the compiler said.
    pub log_tail: String,
}

/// Name, size and digest of one file of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: Digest,
}

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Number of the format.
    pub format: u32,
    /// The entry's key.
    pub key: CacheKey,
    /// `created_unix_s` as people write it.
    pub created: String,
    /// What is known besides the files.
    #[serde(flatten)]
    pub meta: EntryMeta,
    /// The files of the artifact, in order.
    pub files: Vec<FileInfo>,
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// `record.bin` is whole, but of a format that this version does not read.
    #[error("{what} is of format {got}, this version reads format {FORMAT}")]
    Format {
        /// Which file.
        what: &'static str,
        /// Its format.
        got: u32,
    },
    /// `record.bin` is not what was written.
    #[error("`record.bin`: {0}")]
    Record(String),
    /// The entry of another key.
    #[error("holds the entry of key {found}, expected {expected}")]
    Key {
        /// The key asked for.
        expected: CacheKey,
        /// The key found.
        found: CacheKey,
    },
    /// A file is not the one that was written.
    #[error("`{name}` does not match its digest")]
    Digest {
        /// Its name.
        name: String,
    },
    /// A file has another size than was written.
    #[error("`{name}` has {got} bytes, expected {expected}")]
    Size {
        /// Its name.
        name: String,
        /// Its size.
        got: u64,
        /// The size that it should have.
        expected: u64,
    },
    /// The manifest cannot be read, though it is what was written.
    #[error("`manifest.json`: {0}")]
    Manifest(String),
    /// The files cannot be an artifact.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl From<DecodeError> for EntryError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Format { got } => Self::Format { what: "`record.bin`", got },
            other => Self::Record(other.to_string()),
        }
    }
}

impl Manifest {
    /// The manifest of a new entry.
    pub(crate) fn new(key: CacheKey, artifact: &Artifact, mut meta: EntryMeta) -> Self {
        meta.log_tail = tail(&meta.log_tail, MAX_LOG_TAIL_BYTES).to_owned();
        let files = artifact.files().iter().map(|file| FileInfo {
            name: file.name.clone(),
            bytes: file.bytes.len() as u64,
            sha256: Digest::of(&file.bytes),
        });
        let created =
            SystemTime::UNIX_EPOCH + Duration::from_secs(meta.created_unix_s.min(MAX_TIME));
        Self {
            format: FORMAT,
            key,
            created: humantime::format_rfc3339_seconds(created).to_string(),
            files: files.collect(),
            meta,
        }
    }

    /// The bytes of `manifest.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self)
            .expect("invariant: a manifest is strings, numbers and JSON, which always encode");
        json.push(b'\n');
        json
    }

    /// Reads a record and the manifest that it vouches for, and checks all that can be checked
    /// without the artifact's files.
    pub(crate) fn verified(
        key: &CacheKey,
        record: &[u8],
        manifest_json: &[u8],
    ) -> Result<Self, EntryError> {
        let record = checked_record(key, record)?;
        if FileDigest::of(manifest_json) != record.manifest {
            return Err(EntryError::Digest { name: super::MANIFEST.to_owned() });
        }
        let bad = |what: String| EntryError::Manifest(what);
        let manifest: Self =
            serde_json::from_slice(manifest_json).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(EntryError::Format { what: "`manifest.json`", got: manifest.format });
        }
        let of_fields = key_of(&manifest.meta.fields);
        if manifest.key != *key || of_fields != *key {
            let named = manifest.key;
            return Err(bad(format!("names key {named}, its fields give {of_fields}")));
        }
        let sizes = manifest.files.iter().map(|file| (file.name.as_str(), file.bytes));
        artifact::check(sizes)?;
        let num_bytes = manifest.num_artifact_bytes();
        if num_bytes != record.artifact_bytes {
            let expected = record.artifact_bytes;
            return Err(bad(format!("lists {num_bytes} bytes of files, the record {expected}")));
        }
        Ok(manifest)
    }

    /// The bytes of the artifact's files together.
    pub fn num_artifact_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// Reads a record, which must be that of `key` and name a manifest of a sensible size.
pub(crate) fn checked_record(key: &CacheKey, record: &[u8]) -> Result<Record, EntryError> {
    let record = codec::decode(record)?;
    let found = CacheKey::from_bytes(record.key);
    if found != *key {
        return Err(EntryError::Key { expected: *key, found });
    }
    if record.manifest.bytes > MAX_MANIFEST_BYTES {
        let got = record.manifest.bytes;
        return Err(EntryError::Record(format!("says that the manifest has {got} bytes")));
    }
    Ok(record)
}

/// The last second that can be written as a date.
const MAX_TIME: u64 = 253_402_300_799;

/// The last bytes of a text, from the beginning of a character.
fn tail(text: &str, max_bytes: usize) -> &str {
    let from = text.len().saturating_sub(max_bytes);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

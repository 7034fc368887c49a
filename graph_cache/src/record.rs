//! What is written beside an artifact.
//!
//! | File | Type | For |
//! | --- | --- | --- |
//! | `record.bin` | [`Record`] | the machine: key, size and digest of the other files |
//! | `manifest.json` | [`Manifest`], with the [`EntryMeta`] | people: every key field in clear |
//!
//! The record vouches for the manifest, so both are either right or noticed. How a record becomes
//! bytes is the business of `codec`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{CacheKey, ClearField};

/// What is known about an artifact besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryMeta {
    /// Every field of the key, in order.
    pub fields: Vec<ClearField>,
    /// Name and version of the program that compiled it.
    pub producer: String,
    /// How long the compiler took, in milliseconds.
    pub compile_ms: u64,
    /// When it was compiled, in seconds since 1970. For people: nothing is decided by it.
    pub created_unix_s: u64,
    /// A word for people, such as the model and the bucket; not part of the key.
    pub note: String,
}

/// Size and digest of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileDigest {
    pub(crate) bytes: u64,
    pub(crate) sha256: [u8; 32],
}

impl FileDigest {
    pub(crate) fn of(content: &[u8]) -> Self {
        Self { bytes: content.len() as u64, sha256: *Digest::of(content).as_bytes() }
    }
}

/// The content of `record.bin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: [u8; 32],
    pub(crate) artifact: FileDigest,
    pub(crate) manifest: FileDigest,
}

/// The content of `manifest.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) key: CacheKey,
    pub(crate) artifact_bytes: u64,
    pub(crate) artifact_sha256: Digest,
    #[serde(flatten)]
    pub(crate) meta: EntryMeta,
}

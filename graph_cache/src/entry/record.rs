//! What `record.bin` holds: enough to tell whose entry it is, how large, and whether the manifest
//! beside it is the right one. How a record becomes bytes is the business of `codec`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

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

/// The content of `record.bin`. It vouches for the manifest, and the manifest for every other byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The entry's key.
    pub(crate) key: [u8; 32],
    /// `manifest.json`.
    pub(crate) manifest: FileDigest,
    /// Bytes of all files of the artifact, for sums that need not read manifests.
    pub(crate) artifact_bytes: u64,
}

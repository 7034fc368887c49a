//! An entry: an artifact and all that vouches for it.
//!
//! ```text
//! record.bin --digest--> manifest.json --digests--> the artifact's files
//!                             ^
//! manifest.sig --signatures---'    optional; added later, covers every byte through the manifest
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Artifact`] | what the compiler produced: named files |
//! | [`Manifest`], [`EntryMeta`] | what is known about it, readable by a person |
//! | [`Entry`] | all of it, verified: the only thing that stores take and give |
//!
//! What this module deliberately does not do: it touches no file system and no network. Wherever an
//! entry comes from, it becomes one here or not at all.

pub(crate) mod artifact;
pub(crate) mod codec;
pub(crate) mod manifest;
pub(crate) mod record;

pub use artifact::{Artifact, ArtifactError, ArtifactFile};
pub use manifest::{EntryError, EntryMeta, FileInfo, Manifest};

use crate::digest::Digest;
use crate::key::CacheKey;
use crate::key::KeyFields;
use record::{FileDigest, Record};

/// The file with the machine's summary.
pub(crate) const RECORD: &str = "record.bin";
/// The file for people.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The file with signatures, if any.
pub(crate) const SIGNATURES: &str = "manifest.sig";
/// No file of signatures is longer than this.
pub(crate) const MAX_SIGNATURES_BYTES: u64 = 16 << 10;

/// An artifact and all that vouches for it, every byte verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    manifest: Manifest,
    manifest_json: Vec<u8>,
    signatures: Vec<u8>,
    artifact: Artifact,
}

impl Entry {
    /// A new entry. The fields of `meta` are replaced by those of the key. Whether it is too large
    /// to be stored is for the store to say.
    pub fn seal(fields: &KeyFields, artifact: Artifact, mut meta: EntryMeta) -> Self {
        meta.fields = fields.clear().to_vec();
        let manifest = Manifest::new(fields.key(), &artifact, meta);
        let manifest_json = manifest.to_json();
        Self { manifest, manifest_json, signatures: Vec::new(), artifact }
    }

    /// An entry from its bytes, verified. Signatures are carried along, not checked: whether a
    /// signature is needed, and whose, is decided where the entry is used.
    ///
    /// # Errors
    /// When a byte is not the one that was written.
    pub fn from_parts(
        key: &CacheKey,
        record: &[u8],
        manifest_json: Vec<u8>,
        signatures: Vec<u8>,
        files: Vec<ArtifactFile>,
    ) -> Result<Self, EntryError> {
        let manifest = Manifest::verified(key, record, &manifest_json)?;
        let artifact = Artifact::new(files)?;
        if artifact.files().len() != manifest.files.len() {
            let got = artifact.files().len();
            return Err(EntryError::Artifact(ArtifactError::Count { got }));
        }
        for (file, info) in artifact.files().iter().zip(&manifest.files) {
            let (got, expected) = (file.bytes.len() as u64, info.bytes);
            let name = info.name.clone();
            if file.name != info.name {
                return Err(EntryError::Artifact(ArtifactError::Name { name: file.name.clone() }));
            } else if got != expected {
                return Err(EntryError::Size { name, got, expected });
            } else if Digest::of(&file.bytes) != info.sha256 {
                return Err(EntryError::Digest { name });
            }
        }
        Ok(Self { manifest, manifest_json, signatures, artifact })
    }

    /// An entry of parts that were verified one by one while they were read.
    pub(crate) fn assembled(
        manifest: Manifest,
        manifest_json: Vec<u8>,
        signatures: Vec<u8>,
        artifact: Artifact,
    ) -> Self {
        Self { manifest, manifest_json, signatures, artifact }
    }

    /// Its key.
    pub fn key(&self) -> &CacheKey {
        &self.manifest.key
    }

    /// What is known about it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// `manifest.json`, byte for byte: what signatures are made over.
    pub fn manifest_json(&self) -> &[u8] {
        &self.manifest_json
    }

    /// `manifest.sig`, unchecked; empty when nobody signed it.
    pub fn signatures(&self) -> &[u8] {
        &self.signatures
    }

    /// Replaces the signatures.
    pub fn with_signatures(mut self, signatures: Vec<u8>) -> Self {
        self.signatures = signatures;
        self
    }

    /// What was compiled.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// What was compiled, without the rest.
    pub fn into_artifact(self) -> Artifact {
        self.artifact
    }

    /// The bytes of `record.bin`.
    pub fn record(&self) -> Vec<u8> {
        codec::encode(&Record {
            key: *self.key().as_bytes(),
            manifest: FileDigest::of(&self.manifest_json),
            artifact_bytes: self.artifact.num_bytes(),
        })
    }
}

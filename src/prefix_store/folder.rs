//! The folder, open, before it is known whose blocks are asked for: finding that out takes the digest
//! of all weights, which the folder remembers.
//!
//! What this module deliberately does not do: it knows no blocks.

use std::path::Path;

use cairn_graph_cache::{DiskAccess, DiskOptions, DiskStore, StoreError, Trust};

use super::{DiskPrefixStore, PrefixIdentity};

/// How a folder of prefixes is opened.
#[derive(Clone, Debug)]
pub struct PrefixStoreOptions {
    /// Bytes that the folder may have.
    pub max_bytes: u64,
    /// Whose blocks are used. Blocks are not signed: with [`Trust::Signed`], none is found.
    pub trust: Trust,
    /// Whether nothing in the folder is changed. A folder that cannot be written needs no word: what
    /// is there is used all the same.
    pub is_only_read: bool,
}

impl PrefixStoreOptions {
    /// So many bytes, written and used by this user only.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, trust: Trust::default(), is_only_read: false }
    }
}

/// An open folder of prefixes.
#[derive(Debug)]
pub struct PrefixFolder {
    pub(super) disk: DiskStore,
    pub(super) options: PrefixStoreOptions,
    /// Name and version of the program, for new entries.
    pub(super) producer: String,
}

impl PrefixFolder {
    /// Opens a folder, creating it where it is missing.
    ///
    /// # Errors
    /// When the folder is not to be trusted, or can neither be read nor created.
    pub fn open(
        path: &Path,
        options: PrefixStoreOptions,
        producer: &str,
    ) -> Result<Self, StoreError> {
        let access =
            if options.is_only_read { DiskAccess::ReadOnly } else { DiskAccess::ReadWrite };
        let trust = options.trust.clone();
        // What was loaded lies in the engine's memory: nobody needs the entry any more.
        let disk = DiskOptions { trust, access, releases: true, ..DiskOptions::default() };
        let disk = DiskStore::open_with(path, disk)?;
        Ok(Self { disk, options, producer: producer.to_owned() })
    }

    /// The folder, without links.
    pub fn path(&self) -> &Path {
        self.disk.root()
    }

    /// The store of the blocks of this identity.
    ///
    /// # Errors
    /// When it cannot be seen what is there.
    pub fn into_store(self, identity: &PrefixIdentity) -> Result<DiskPrefixStore, StoreError> {
        DiskPrefixStore::new(self, identity)
    }
}

//! Pins: keys whose entries are never evicted, as empty files named by the key.
//!
//! A pin is of a key, not of what lies under it: it stays when the entry is compiled again. What this
//! module deliberately does not do: a pin keeps nobody from removing the entry by hand.

use std::collections::BTreeSet;
use std::io;

use super::DiskStore;
use crate::filesystem::Kind;
use crate::key::CacheKey;
use crate::store::StoreError;

impl DiskStore {
    /// Keeps the entry of this key from being evicted, whether it is there yet or not.
    ///
    /// # Errors
    /// When the store is only read, or the pin cannot be written.
    pub fn pin(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.check_writable()?;
        let create = || {
            self.prepare()?;
            match self.fs.write_new(&self.layout.pin(key), b"") {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
                Ok(()) => self.fs.sync_folder(&self.layout.pins()),
            }
        };
        create().map_err(StoreError::io("pin an entry"))
    }

    /// Lets the entry of this key be evicted again.
    ///
    /// # Errors
    /// When the store is only read, or the pin cannot be removed.
    pub fn unpin(&self, key: &CacheKey) -> Result<(), StoreError> {
        self.check_writable()?;
        self.fs.remove(&self.layout.pin(key)).map_err(StoreError::io("unpin an entry"))
    }

    /// The keys that are pinned.
    ///
    /// # Errors
    /// When they cannot be read: then it is not known what may be evicted.
    pub fn pins(&self) -> Result<BTreeSet<CacheKey>, StoreError> {
        let pins = self.layout.pins();
        let list = || match self.fs.kind(&pins)? {
            Kind::Folder => self.fs.list(&pins),
            _ => Ok(Vec::new()),
        };
        let listed = list().map_err(StoreError::io("read the pins"))?;
        Ok(listed.iter().filter_map(|item| item.name.to_str()?.parse().ok()).collect())
    }
}

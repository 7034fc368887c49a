//! Entries in a folder that processes and hosts share.
//!
//! The layout is drawn in [`layout`]. What the folder may throw at us, and the answer:
//!
//! | Found | Answer |
//! | --- | --- |
//! | a file missing, cut, changed in any bit, too many, or of an older format | [`MissReason::Bad`] |
//! | the entry of another key under this name | [`MissReason::Bad`] |
//! | a link, a FIFO, a folder or a file where something else belongs | [`MissReason::Bad`], never followed or opened |
//! | a whole entry of a newer format | [`MissReason::OtherFormat`] |
//! | somebody who is not trusted could have written it | [`MissReason::Untrusted`] |
//! | no permission, an input error, too many open files | [`MissReason::Unreadable`]: the entry may be good |
//! | the folder is gone, or goes while it is read | [`MissReason::Absent`]; the next [`Store::put`] creates it again |
//!
//! Readers take no lock: an entry appears by one rename, goes by one rename, and is never changed in
//! between, but for its signatures, which are replaced by one rename.
//!
//! | File | Holds |
//! | --- | --- |
//! | `layout` | where everything lies |
//! | `open` | opening, creating and healing the folders |
//! | `read`, `content`, `permissions` | from a folder to a verified entry |
//! | `write`, `quarantine` | the ways in and out |
//! | `overview` | what is there, for people |
//! | `scan`, `pins`, `sweep` | all entries, those to keep, and what nobody needs any more |
//!
//! What this module deliberately does not do: it does not choose what to evict (`gc`) and does not
//! look for damage that nobody asked about (`verify`).

mod content;
pub(crate) mod layout;
mod open;
mod overview;
mod permissions;
mod pins;
mod quarantine;
mod read;
mod scan;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trust_tests;
mod write;

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use crate::atomic_write::{Draft, unique_name};
use crate::entry::{Entry, Manifest};
use crate::events::{Event, Events};
use crate::filesystem::{Filesystem, Kind};
use crate::key::CacheKey;
use crate::lease::Lease;
use crate::lock::KeyLock;
use crate::store::{LockOutcome, Lookup, Put, Store, StoreError, Wait};
use crate::trust::Trust;
pub(crate) use layout::Layout;
pub use overview::{EntryInfo, QuarantinedThing};
pub(crate) use read::is_left_by_nfs;
pub(crate) use scan::{EntryStat, Scanned};
pub(crate) use sweep::lease_in;

/// How a [`DiskStore`] is opened.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// Whose entries may be used.
    pub trust: Trust,
    /// What may be done with the folder.
    pub access: DiskAccess,
    /// Whether entries may be evicted as soon as they were read or written, though this process
    /// lives: for whoever keeps what it needs of them elsewhere.
    pub releases: bool,
    /// Where is told what happens.
    pub events: Events,
}

/// What may be done with a store's folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskAccess {
    /// Everything; what is missing is created.
    #[default]
    ReadWrite,
    /// Nothing is created, changed or removed; a folder that is missing is an empty store.
    ReadOnly,
    /// Like `ReadOnly`, and the folder may belong to anybody: whoever named it knows whose it is.
    Layer,
}

/// A [`Store`] in a folder.
#[derive(Debug)]
pub struct DiskStore {
    fs: Box<dyn Filesystem>,
    layout: Layout,
    options: DiskOptions,
    /// Created when it is first needed; `None` in it when it could not be.
    lease: OnceLock<Option<Lease>>,
}

impl DiskStore {
    /// The folder.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    pub(crate) fn fs(&self) -> &dyn Filesystem {
        &*self.fs
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.options.trust
    }

    pub(crate) fn events(&self) -> &Events {
        &self.options.events
    }

    /// Whether this store may change anything.
    pub(crate) fn is_writable(&self) -> bool {
        self.options.access == DiskAccess::ReadWrite
    }

    /// An error unless this store may change things.
    pub(crate) fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_writable() { Ok(()) } else { Err(StoreError::ReadOnly { place: self.place() }) }
    }

    /// What tells other processes that this one is alive, and which entries it uses. Without one,
    /// because none can be created here, others may take this process for dead; the worst that
    /// follows is that something is compiled twice.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        if !self.is_writable() {
            return None;
        }
        let create = || {
            let leases = self.layout.leases();
            let created = self.prepare_folder(&leases).and_then(|()| Lease::create(&leases));
            created.inspect_err(|error| tracing::debug!(%error, "this process has no lease")).ok()
        };
        self.lease.get_or_init(create).as_ref()
    }

    /// A new name in `tmp`, by which others can see whether its owner is alive.
    fn tmp_name(&self) -> String {
        match self.lease() {
            // Somebody may have deleted the store under a running process: then others would take
            // the name for that of a dead one.
            Some(lease) if self.is_there(&self.layout.leases().join(lease.name())) => {
                sweep::name_of(lease.name(), &unique_name())
            }
            _ => unique_name(),
        }
    }

    fn is_there(&self, path: &Path) -> bool {
        matches!(self.fs.kind(path), Ok(kind) if kind != Kind::Absent)
    }

    /// A folder in `tmp` to write an entry in.
    pub(crate) fn draft(&self) -> io::Result<Draft<'_>> {
        self.prepare()?;
        Draft::create(&*self.fs, &self.layout.tmp(), || self.tmp_name())
    }
}

impl Store for DiskStore {
    fn place(&self) -> String {
        self.layout.root().display().to_string()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        match self.read_entry(key, &self.options.trust) {
            Ok(entry) => {
                self.mark_used(key);
                Lookup::Hit(Box::new(entry))
            }
            Err(reason) => Lookup::Miss(reason),
        }
    }

    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        self.read_manifest(key).ok()
    }

    fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
        self.write_entry(entry)
    }

    fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError> {
        self.check_writable()?;
        self.move_away(key, reason).map_err(StoreError::io("move a bad entry away"))
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        self.check_writable()?;
        self.remove_entry(key).map_err(StoreError::io("remove an entry"))
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        self.list_keys().map_err(StoreError::io("list the graph cache"))
    }

    fn lock(&self, key: &CacheKey, wait: &Wait<'_>) -> LockOutcome {
        if !self.is_writable() {
            return LockOutcome::Unneeded;
        }
        let path = self.layout.lock(key);
        let prepared = self.prepare().and_then(|()| self.clear_unless(&path, Kind::File));
        if let Err(error) = prepared {
            return LockOutcome::Unavailable { reason: error.to_string() };
        }
        self.lease();
        let mut took_over = |owner: &str| {
            self.events().emit(&Event::TookOver { key: *key, owner: owner.to_owned() });
        };
        KeyLock::acquire(&path, wait, &mut took_over)
    }
}

//! Opening a store: its folders are created, or healed where something else is in their place.
//!
//! | Found at the root | Read and write | Only read |
//! | --- | --- | --- |
//! | nothing | created, 0700 | an empty store |
//! | a folder of this user | opened | opened |
//! | a folder that others can write to, or another user's | refused under `Trust::Owner` | opened; its entries are checked one by one |
//! | a symbolic link | refused, unless `Trust::Any` | the same |
//! | anything else | an error | the same |
//!
//! Links further up the way are the user's choice, and are followed only this once. Below the root
//! nothing is followed: what is not as it should be is moved into the quarantine.
//!
//! What this module deliberately does not do: it looks at no entry.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use super::layout::CACHEDIR_TAG_CONTENT;
use super::{DiskOptions, DiskStore, Layout};
use crate::filesystem::{Filesystem, Kind, RealFilesystem};
use crate::store::StoreError;
use crate::trust::Trust;

const DOING: &str = "open the graph cache";

impl DiskStore {
    /// Opens the store at `root`, creating it where it is missing. A folder that can be read but
    /// not written is opened, too: what is there is used.
    ///
    /// # Errors
    /// When nothing can be read there, nor a new store created; when others can write there.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, DiskOptions::default())
    }

    /// Opens the store at `root` in another way.
    ///
    /// # Errors
    /// Like [`DiskStore::open`].
    pub fn open_with(root: &Path, options: DiskOptions) -> Result<Self, StoreError> {
        Self::open_on(Box::new(RealFilesystem), root, options)
    }

    pub(crate) fn open_on(
        fs: Box<dyn Filesystem>,
        root: &Path,
        options: DiskOptions,
    ) -> Result<Self, StoreError> {
        // Without a slash at its end, which would follow a link.
        let root: PathBuf = root.components().collect();
        if !matches!(options.trust, Trust::Any) {
            refuse_link(&*fs, &root)?;
        }
        let store = Self { fs, layout: Layout::new(root), options, lease: OnceLock::new() };
        if store.is_writable() { store.open_to_write() } else { store.open_to_read() }
    }

    fn open_to_write(self) -> Result<Self, StoreError> {
        let created = self.fs.create_folders(self.root());
        let store = self.with_real_root(created.err())?;
        let stat = store.fs.stat(store.root()).map_err(StoreError::io(DOING))?;
        store
            .check_permissions(store.root(), &stat, &store.options.trust)
            .map_err(|what| StoreError::Untrusted { what })?;
        match store.prepare() {
            Ok(()) => store.sweep(SystemTime::now()),
            Err(error) if store.fs.list(&store.layout.entries()).is_ok() => {
                tracing::debug!(%error, "the graph cache can only be read");
            }
            Err(error) => return Err(StoreError::io(DOING)(error)),
        }
        Ok(store)
    }

    fn open_to_read(self) -> Result<Self, StoreError> {
        match self.fs.kind(self.root()).map_err(StoreError::io(DOING))? {
            Kind::Absent => Ok(self),
            _ => self.with_real_root(None),
        }
    }

    /// The same store, its root without links; `before` is why it could not be created, if so.
    fn with_real_root(self, before: Option<io::Error>) -> Result<Self, StoreError> {
        let root = self.fs.canonicalize(self.root()).map_err(|error| before.unwrap_or(error));
        let root = root.map_err(StoreError::io(DOING))?;
        let kind = self.fs.kind(&root).map_err(StoreError::io(DOING))?;
        if kind != Kind::Folder {
            return Err(StoreError::io(DOING)(not_a_folder(&root, kind)));
        }
        Ok(Self { layout: Layout::new(root), ..self })
    }

    /// Creates the store's own folders where they are missing. Also called before each write:
    /// somebody may have deleted the whole store meanwhile, which is always allowed. `entries` is
    /// not among them: it comes with the first entry.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.prepare_root()?;
        for folder in self.layout.own_folders() {
            self.prepare_folder(&folder)?;
        }
        Ok(())
    }

    pub(super) fn prepare_root(&self) -> io::Result<()> {
        let root = self.root();
        match self.fs.kind(root)? {
            Kind::Folder => {}
            Kind::Absent => self.fs.create_folders(root)?,
            other => return Err(not_a_folder(root, other)),
        }
        let tag = self.layout.tag();
        if self.fs.kind(&tag)? != Kind::Absent {
            return Ok(());
        }
        match self.fs.write_new(&tag, CACHEDIR_TAG_CONTENT) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    /// Creates a folder of the store unless it is there.
    pub(super) fn prepare_folder(&self, path: &Path) -> io::Result<()> {
        if self.fs.kind(path)? == Kind::Folder {
            return Ok(());
        }
        self.clear_unless(path, Kind::Folder)?;
        match self.fs.create_folder(path) {
            Ok(()) => path.parent().map_or(Ok(()), |parent| self.fs.sync_folder(parent)),
            // Another process was faster; what it created is looked at again.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.fs.kind(path)? {
                    Kind::Folder => Ok(()),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

fn refuse_link(fs: &dyn Filesystem, root: &Path) -> Result<(), StoreError> {
    // What cannot be looked at now is found out by whatever comes next.
    if !matches!(fs.kind(root), Ok(Kind::Link)) {
        return Ok(());
    }
    let target = fs
        .canonicalize(root)
        .map_or_else(|_| "nowhere".to_owned(), |target| format!("`{}`", target.display()));
    let what = format!(
        "the graph cache `{}` is a symbolic link to {target}: name the folder itself, or use \
         `--cache-trust any`",
        root.display()
    );
    Err(StoreError::Untrusted { what })
}

fn not_a_folder(path: &Path, kind: Kind) -> io::Error {
    let what = format!("`{}` is {kind}, expected a folder", path.display());
    io::Error::new(io::ErrorKind::NotADirectory, what)
}

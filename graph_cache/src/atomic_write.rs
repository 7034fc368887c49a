//! A folder that appears whole or not at all.
//!
//! ```text
//! tmp/<name>/           created
//! tmp/<name>/file ...   written and flushed, one after the other
//! tmp/<name>/           flushed
//! tmp/<name>/  --one rename-->  its final name;  the folder above is flushed
//! ```
//!
//! Whatever stops the writer before the rename leaves nothing but a temporary folder, which a later
//! process sweeps away. Readers look only at the final name. The temporary folder must be on the
//! same file system as the final one.
//!
//! What this module deliberately does not do: it does not say whose a temporary folder is; names do.

use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::filesystem::Filesystem;

/// How many names are tried before giving up on finding an unused one.
const MAX_ATTEMPTS: usize = 16;

/// A folder that is being written. Dropping it unpublished removes what was written.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    fs: &'a dyn Filesystem,
    folder: PathBuf,
    is_published: bool,
}

impl<'a> Draft<'a> {
    /// An empty folder in `tmp`, under the first of `names` that nobody has.
    pub(crate) fn create(
        fs: &'a dyn Filesystem,
        tmp: &Path,
        mut name: impl FnMut() -> String,
    ) -> io::Result<Self> {
        let mut attempt = 0;
        loop {
            let folder = tmp.join(name());
            match fs.create_folder(&folder) {
                Ok(()) => {
                    return Ok(Self { fs, folder, is_published: false });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempt < MAX_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds a file.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.fs.write_new(&self.folder.join(name), content)
    }

    /// Makes it appear at `target`, whose folder exists. After an error it can be tried again.
    pub(crate) fn publish(&mut self, target: &Path) -> io::Result<()> {
        self.fs.sync_folder(&self.folder)?;
        self.fs.rename(&self.folder, target)?;
        self.is_published = true;
        // It is whole and visible now. Should this flush fail, a power cut may lose it, and that
        // is a miss: no reason to report a failure.
        if let Some(parent) = target.parent()
            && let Err(error) = self.fs.sync_folder(parent)
        {
            tracing::debug!(%error, "a new cache entry may not survive a power cut");
        }
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = self.fs.remove(&self.folder)
        {
            tracing::debug!(%error, "a temporary folder is left for a later sweep");
        }
    }
}

/// A name that no other thread, process or host is likely to use at the same time.
pub(crate) fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Only to be different from others: a clock that jumps does no harm.
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    format!("{}-{nanos}-{count}", process::id())
}

//! Where everything in a store's folder lies: the one place that knows the names.
//!
//! ```text
//! <root>/
//!   CACHEDIR.TAG                       for programs that make backups
//!   v2/                                version of everything below
//!     entries/ab/<64 hex digits>/      one entry
//!     tmp/<lease>.<n>/                 drafts and doomed things of a process
//!     locks/<key>.lock                 who compiles
//!     leases/<name>                    who is alive
//!     starts/                          starts that did not get ready yet
//!     pins/<key>                       never evicted
//!     quarantine/<key>.<n>             what was bad, and why
//! ```
//!
//! What this module deliberately does not do: it touches no file system.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::entry::codec::FORMAT;
use crate::key::CacheKey;

const ENTRIES: &str = "entries";
const TMP: &str = "tmp";
const LOCKS: &str = "locks";
const LEASES: &str = "leases";
const STARTS: &str = "starts";
const PINS: &str = "pins";
const QUARANTINE: &str = "quarantine";

/// By this file, programs that make backups know a folder that needs none.
pub(crate) const CACHEDIR_TAG: &str = "CACHEDIR.TAG";
/// What is written in it.
pub(crate) const CACHEDIR_TAG_CONTENT: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n\
      # This folder holds compiled graphs. All of it can be deleted at any time.\n";

/// The paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    version: PathBuf,
}

impl Layout {
    /// That of the store at `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        let version = root.join(version_name(FORMAT));
        Self { root, version }
    }

    /// The store's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The tag for programs that make backups.
    pub(crate) fn tag(&self) -> PathBuf {
        self.root.join(CACHEDIR_TAG)
    }

    /// The folder of this format.
    pub(crate) fn version(&self) -> &Path {
        &self.version
    }

    pub(crate) fn entries(&self) -> PathBuf {
        self.version.join(ENTRIES)
    }

    /// The folder of a key's entry.
    pub(crate) fn entry(&self, key: &CacheKey) -> PathBuf {
        let hex = key.to_string();
        let mut path = self.entries();
        path.extend([&hex[..2], &hex]);
        path
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.version.join(TMP)
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.version.join(LOCKS)
    }

    pub(crate) fn lock(&self, key: &CacheKey) -> PathBuf {
        self.locks().join(format!("{key}.lock"))
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.version.join(LEASES)
    }

    pub(crate) fn starts(&self) -> PathBuf {
        self.version.join(STARTS)
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.version.join(PINS)
    }

    pub(crate) fn pin(&self, key: &CacheKey) -> PathBuf {
        self.pins().join(key.to_string())
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.version.join(QUARANTINE)
    }

    /// The folders that a store that is written to has, besides those of entries; each after the
    /// one that it lies in, and the quarantine before whatever may have to be moved there.
    pub(crate) fn own_folders(&self) -> [PathBuf; 7] {
        [
            self.version.clone(),
            self.quarantine(),
            self.tmp(),
            self.locks(),
            self.leases(),
            self.starts(),
            self.pins(),
        ]
    }

    /// The folders from the version down to `path`, which lies in it.
    pub(crate) fn way_to(&self, path: &Path) -> Vec<PathBuf> {
        let mut way: Vec<_> =
            path.ancestors().take_while(|path| *path != self.root).map(Path::to_owned).collect();
        way.reverse();
        way
    }
}

/// The name of the folder of a format.
pub(crate) fn version_name(format: u32) -> String {
    format!("v{format}")
}

/// The format that a folder of this name is of.
pub(crate) fn format_of_version(name: &OsStr) -> Option<u32> {
    let format = name.to_str()?.strip_prefix('v')?.parse().ok()?;
    // One spelling each: neither `v02` nor `v+2`.
    (version_name(format).as_str() == name).then_some(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_one_that_is_drawn() {
        let layout = Layout::new(PathBuf::from("/root"));
        let key = CacheKey::from_bytes([0xab; 32]);
        let hex = "ab".repeat(32);
        assert_eq!(layout.version(), Path::new("/root/v2"));
        assert_eq!(layout.entry(&key), Path::new("/root/v2/entries/ab").join(&hex));
        assert_eq!(layout.lock(&key), Path::new("/root/v2/locks").join(format!("{hex}.lock")));
        assert_eq!(layout.pin(&key), Path::new("/root/v2/pins").join(&hex));
        let way = layout.way_to(&layout.entry(&key));
        assert_eq!(way.len(), 4);
        assert_eq!(way[0], layout.version());
        assert_eq!(way[3], layout.entry(&key));
    }

    #[test]
    fn a_version_has_one_spelling() {
        assert_eq!(format_of_version(OsStr::new("v1")), Some(1));
        assert_eq!(format_of_version(OsStr::new(&version_name(FORMAT))), Some(FORMAT));
        for other in ["v", "v01", "v+1", "V1", "v1 ", "1", "v-1", "v99999999999", "vx"] {
            assert_eq!(format_of_version(OsStr::new(other)), None, "{other}");
        }
    }
}

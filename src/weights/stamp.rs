//! Which file it is that is mapped, and in which state: for whoever keeps what was computed from its
//! bytes.
//!
//! | Done to the file | Its stamp |
//! | --- | --- |
//! | replaced by another one | another inode |
//! | written to, cut, appended to | other times, perhaps another size |
//! | its time set back | another time of change, which nobody can set |
//! | copied or restored elsewhere | another inode: whoever compares takes it for another file |
//!
//! A file system counts time in ticks of some milliseconds: what is written twice within one tick
//! looks as if it was written once. So a stamp says something only of a file that has been at rest
//! for longer: see [`FileStamp::is_settled`].
//!
//! What this module deliberately does not do: it reads no content.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;

/// Longer than a tick of any file system; some count whole seconds.
const AT_REST: Duration = Duration::from_secs(3);

/// Which file, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds since 1970, and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The stamp of what lies at a path now; links are followed.
    ///
    /// # Errors
    /// When nothing can be seen there.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(path)?))
    }

    /// Whether the file had been at rest for so long before `then` that a later change shows.
    pub fn is_settled(&self, then: SystemTime) -> bool {
        let then = then.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let last = self.modified.0.max(self.changed.0);
        let rest = i64::try_from(then).unwrap_or(i64::MAX).saturating_sub(last);
        rest > AT_REST.as_secs() as i64
    }
}

/// As in `device 1, inode 2, 300 bytes, modified 1763849000.000000123, changed 1763849001.000000000`.
impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, bytes, modified: (m, m_ns), changed: (c, c_ns) } = self;
        write!(f, "device {device}, inode {inode}, {bytes} bytes, ")?;
        write!(f, "modified {m}.{m_ns:09}, changed {c}.{c_ns:09}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_to_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"content").unwrap();
        let stamp = FileStamp::at(&path).unwrap();
        assert_eq!(FileStamp::at(&path).unwrap(), stamp);

        let other = folder.path().join("other");
        fs::write(&other, b"CONTENT").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        fs::OpenOptions::new().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        fs::rename(&other, &path).unwrap();
        let replaced = FileStamp::at(&path).unwrap();
        assert_eq!((replaced.bytes, replaced.modified), (stamp.bytes, stamp.modified));
        assert_ne!(replaced, stamp);

        fs::write(&path, b"content and more").unwrap();
        assert_ne!(FileStamp::at(&path).unwrap(), replaced);
        fs::remove_file(&path).unwrap();
        assert!(FileStamp::at(&path).is_err());
    }

    #[test]
    fn only_a_file_at_rest_is_settled() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = FileStamp::at(file.path()).unwrap();
        let now = SystemTime::now();
        assert!(!stamp.is_settled(now));
        assert!(!stamp.is_settled(SystemTime::UNIX_EPOCH));
        assert!(stamp.is_settled(now + Duration::from_mins(1)));
    }
}

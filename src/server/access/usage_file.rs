//! Where usage outlives the server: one file per server, replaced as a whole.
//!
//! ```text
//! state folder
//!   usage-8000.json       what the server on port 8000 counted
//!   usage-8000.lock       held while it runs, by whoever writes that file
//!   usage-8000-2.json     of a second server for the same port number, on another address
//!   usage-8000.json.bad   one that could not be read, set aside
//! ```
//!
//! A file is written beside its place and then moved there: whatever ends the process, the file is
//! the old one or the new one. Locks end with the process that holds them.
//!
//! What this module deliberately does not do: it stops nothing. A server that cannot keep its
//! usage says so and serves.

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::usage::{self, Days};

/// Most servers with the same port number that share a folder.
const MAX_SHARING: usize = 64;
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The file of one server, which nobody else writes.
#[derive(Debug)]
pub(crate) struct UsageFile {
    path: PathBuf,
    /// Locked as long as this lives.
    _lock: fs::File,
}

impl UsageFile {
    /// Takes the first file that no other server holds, and reads it. Of `instance`, what is no letter
    /// or digit becomes `_`.
    ///
    /// # Errors
    /// The folder cannot be made or written, or all files are held.
    pub(crate) fn open(
        folder: &Path,
        instance: &str,
    ) -> io::Result<(Self, BTreeMap<String, Days>)> {
        fs::create_dir_all(folder)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let instance: String =
            instance.chars().map(|c| if is_plain(c) { c } else { '_' }).take(100).collect();
        for number in 1..=MAX_SHARING {
            let stem = match number {
                1 => format!("usage-{instance}"),
                _ => format!("usage-{instance}-{number}"),
            };
            let lock = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(folder.join(format!("{stem}.lock")))?;
            match lock.file().try_lock() {
                Ok(()) => {
                    let file = Self { path: folder.join(format!("{stem}.json")), _lock: lock };
                    let keys = file.read();
                    return Ok((file, keys));
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let message = format!("{MAX_SHARING} servers share {}", folder.display());
        Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
    }

    /// What was used before; a file that cannot be read is set aside.
    fn read(&self) -> BTreeMap<String, Days> {
        let path = self.path.as_path();
        let bytes = match fs::metadata(path).map(|metadata| metadata.len()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
            Ok(length) if length <= MAX_FILE_BYTES => fs::read(path),
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let keys = bytes.as_ref().ok().and_then(|bytes| usage::from_text(bytes));
        keys.unwrap_or_else(|| {
            let aside = path.with_extension("json.bad");
            let reason =
                bytes.err().map_or_else(|| "damaged".to_owned(), |error| error.to_string());
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), reason,
                "the usage of keys cannot be read and is set aside; counting begins anew"
            );
            if let Err(error) = fs::rename(path, &aside) {
                tracing::warn!(%error, "setting it aside failed");
            }
            BTreeMap::new()
        })
    }

    /// Replaces what is there.
    ///
    /// # Errors
    /// It cannot be written; what was there stays.
    pub(crate) fn write(&self, keys: &BTreeMap<String, Days>) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".usage-").tempfile_in(folder)?;
        file.write_all(&usage::to_text(keys))?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::usage::Usage;
    use super::*;

    fn used(requests: u64) -> BTreeMap<String, Days> {
        let usage = Usage { requests, ..Usage::default() };
        BTreeMap::from([("a".to_owned(), Days::from([(20_780, usage)]))])
    }

    #[test]
    fn usage_outlives_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new/state");
        let (file, keys) = UsageFile::open(&place, "8000").unwrap();
        assert!(keys.is_empty());
        file.write(&used(1)).unwrap();
        file.write(&used(2)).unwrap();
        drop(file);
        assert_eq!(UsageFile::open(&place, "8000").unwrap().1, used(2));
        assert!(UsageFile::open(&place, "8001").unwrap().1.is_empty());
        let temporary = std::fs::read_dir(&place).unwrap().flatten();
        let temporary = temporary.filter(|entry| entry.file_name().as_encoded_bytes()[0] == b'.');
        assert_eq!(temporary.count(), 0);
    }

    #[test]
    fn servers_that_share_a_folder_have_a_file_each() {
        let folder = tempfile::tempdir().unwrap();
        let open = || UsageFile::open(folder.path(), "8000").unwrap();
        let ((first, _), (second, _)) = (open(), open());
        first.write(&used(1)).unwrap();
        second.write(&used(2)).unwrap();
        drop((first, second));
        let ((first, one), (_second, two)) = (open(), open());
        assert_eq!((one, two), (used(1), used(2)));
        drop(first);
        assert_eq!(open().1, used(1));
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage-x.json");
        for damage in [&b""[..], b"{", b"\xff\xfe", b"[]", b"{\"version\":9,\"keys\":{}}"] {
            std::fs::write(&path, damage).unwrap();
            let (file, keys) = UsageFile::open(folder.path(), "x").unwrap();
            assert!(keys.is_empty() && !path.exists());
            assert_eq!(std::fs::read(folder.path().join("usage-x.json.bad")).unwrap(), damage);
            file.write(&used(1)).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(UsageFile::open(folder.path(), "x").unwrap().1.is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(UsageFile::open(&file, "x").is_err());
    }
}

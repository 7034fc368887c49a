//! The few file operations that the disk store is made of, behind a trait so that tests can make
//! each of them fail.
//!
//! | Rule | Kept by |
//! | --- | --- |
//! | no symbolic link is followed | `lstat` before, `O_NOFOLLOW` while opening |
//! | nothing blocks | `O_NONBLOCK` while opening: a FIFO has no writer to wait for |
//! | only this user reads and writes | folders are 0700, files 0600 |
//! | a file that was written is on the disk | `fsync` before [`Filesystem::write_new`] returns |
//!
//! What this module deliberately does not do: it knows no entry and no layout.

use std::ffi::OsString;
use std::fmt;
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::SystemTime;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

/// What lies at a path, without following a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Absent,
    File,
    Folder,
    Link,
    Special,
}

impl Kind {
    fn of(file_type: std::fs::FileType) -> Self {
        if file_type.is_file() {
            Self::File
        } else if file_type.is_dir() {
            Self::Folder
        } else if file_type.is_symlink() {
            Self::Link
        } else {
            Self::Special
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "missing",
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Special => "neither a file nor a folder",
        })
    }
}

/// One name in a folder.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
    /// `None` where the file system does not say.
    pub(crate) modified: Option<SystemTime>,
}

pub(crate) trait Filesystem: Send + Sync + fmt::Debug {
    /// What lies there. A path that leads through something that is no folder is absent.
    fn kind(&self, path: &Path) -> io::Result<Kind>;

    /// Opens a regular file for reading; with its length.
    fn open(&self, path: &Path) -> io::Result<(fs::File, u64)>;

    /// Creates a folder in an existing one.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Creates a file that must not exist, writes it and flushes it to the disk.
    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Flushes the names in a folder to the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Renames; replaces at most an empty folder when `from` is a folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file, a link itself, or a folder and all in it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>>;
}

/// The operating system's files.
#[derive(Debug)]
pub(crate) struct RealFilesystem;

impl Filesystem for RealFilesystem {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Kind::of(metadata.file_type())),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Kind::Absent),
                _ => Err(error),
            },
        }
    }

    fn open(&self, path: &Path) -> io::Result<(fs::File, u64)> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let what = format!("`{}` is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok((file, metadata.len()))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(|error| with_path(&error, "create folder", path))
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match fs::File::open(path)?.sync_all() {
            // Some network and user-space file systems have no such call for folders.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.kind(path)? {
            Kind::Absent => Ok(()),
            Kind::Folder => fs::remove_dir_all(path),
            Kind::File | Kind::Link | Kind::Special => fs::remove_file(path),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        fs::read_dir(path)?
            .map(|item| {
                let item = item?;
                Ok(Listed {
                    name: item.file_name(),
                    kind: Kind::of(item.file_type()?),
                    modified: item.metadata().and_then(|metadata| metadata.modified()).ok(),
                })
            })
            .collect()
    }
}

/// Creates a folder and those above it, private to this user.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| with_path(&error, "create folder", path))
}

fn with_path(error: &io::Error, doing: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("failed to {doing} `{}`: {error}", path.display()))
}

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
use std::fs::{DirBuilder, FileTimes};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
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

/// What is known of something without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: Kind,
    pub(crate) bytes: u64,
    /// The number of the user whose it is.
    pub(crate) owner: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Device and number; see [`Stat::is_of_same`].
    pub(crate) id: (u64, u64),
    /// `None` where the file system does not say.
    pub(crate) modified: Option<SystemTime>,
}

impl Stat {
    const ABSENT: Self =
        Self { kind: Kind::Absent, bytes: 0, owner: 0, mode: 0, id: (0, 0), modified: None };

    /// Whether this is of the same thing as `other`, and nothing was done to it in between. The
    /// number alone would not tell: that of a removed folder is often given to the next one.
    pub(crate) fn is_of_same(&self, other: &Self) -> bool {
        (self.id, self.modified) == (other.id, other.modified)
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            kind: Kind::of(metadata.file_type()),
            bytes: metadata.len(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
            id: (metadata.dev(), metadata.ino()),
            modified: metadata.modified().ok(),
        }
    }
}

/// One name in a folder.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
}

/// A regular file, open for reading from its beginning.
pub(crate) struct Opened {
    pub(crate) content: Box<dyn Read + Send>,
    pub(crate) stat: Stat,
}

pub(crate) trait Filesystem: Send + Sync + fmt::Debug {
    /// What lies there. A path that leads through something that is no folder is absent.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// What kind of thing lies there.
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.stat(path).map(|stat| stat.kind)
    }

    /// Opens a regular file for reading.
    fn open(&self, path: &Path) -> io::Result<Opened>;

    /// The path with all links on it followed; it must exist.
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// Creates a folder in an existing one.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and those above it, as far as they are missing.
    fn create_folders(&self, path: &Path) -> io::Result<()>;

    /// Creates a file that must not exist, writes it and flushes it to the disk.
    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Flushes the names in a folder to the disk.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Sets the time at which a folder was last changed.
    fn set_modified(&self, folder: &Path, time: SystemTime) -> io::Result<()>;

    /// Renames; replaces at most a file, or an empty folder when `from` is a folder.
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
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Stat::of(&metadata)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Stat::ABSENT),
                _ => Err(error),
            },
        }
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let file = open_without_following(path, 0)?;
        let stat = Stat::of(&file.metadata()?);
        if stat.kind != Kind::File {
            let what = format!("`{}` is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(Opened { content: Box::new(file), stat })
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        create_folder(path, false)
    }

    fn create_folders(&self, path: &Path) -> io::Result<()> {
        create_folders(path)
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match open_without_following(path, libc::O_DIRECTORY)?.sync_all() {
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

    fn set_modified(&self, folder: &Path, time: SystemTime) -> io::Result<()> {
        let opened = open_without_following(folder, libc::O_DIRECTORY)?;
        opened.file().set_times(FileTimes::new().set_modified(time))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match self.kind(path)? {
            Kind::Absent => Ok(()),
            Kind::Folder => fs::remove_dir_all(path),
            Kind::File | Kind::Link | Kind::Special => fs::remove_file(path),
        };
        match removed {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        fs::read_dir(path)?
            .map(|item| {
                let item = item?;
                Ok(Listed { name: item.file_name(), kind: Kind::of(item.file_type()?) })
            })
            .collect()
    }
}

fn open_without_following(path: &Path, flags: i32) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | flags)
        .open(path)
}

/// Creates a folder and those above it, private to this user.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    create_folder(path, true)
}

fn create_folder(path: &Path, with_those_above: bool) -> io::Result<()> {
    DirBuilder::new().recursive(with_those_above).mode(0o700).create(path).map_err(|error| {
        let what = format!("failed to create folder `{}`: {error}", path.display());
        io::Error::new(error.kind(), what)
    })
}

//! The content of files, digested while it is read.
//!
//! ```text
//! small file:  read all, digest all
//! large file:  reader   |chunk 0|chunk 1|chunk 2| ...     a thread of its own
//!              digest           |chunk 0|chunk 1| ...     of the very bytes that are returned
//! many files:  as many at a time as there are processors
//! ```
//!
//! The digest costs more than the reading, so a large file takes hardly longer than its digest, as
//! long as memory that is fresh from the system comes fast. Large pages were tried for that: twice as
//! fast where memory is the machine's own, but three times as slow on virtual machines that give free
//! large pages back to their host.
//!
//! What this module deliberately does not do: it does not say what a difference means; `read` does.

use std::io::{self, Read};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::{fmt, hint};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::filesystem::{Filesystem, Kind, Stat};
use crate::store::MissReason;

/// What is read, and digested, at a time: small enough for a processor's cache.
const CHUNK_BYTES: usize = 1 << 20;
/// Less than this is read in one go by one thread.
const LARGE_BYTES: u64 = 2 << 20;

/// What is expected of a file's size.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    Exactly(u64),
    AtMost(u64),
}

impl Size {
    fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(expected) => bytes == expected,
            Self::AtMost(limit) => bytes <= limit,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(expected) => write!(f, "{expected}"),
            Self::AtMost(limit) => write!(f, "at most {limit}"),
        }
    }
}

/// Reads a regular file of the expected size that `check` has nothing against; not a byte is read of
/// another one.
pub(crate) fn read(
    fs: &dyn Filesystem,
    path: &Path,
    size: Size,
    check: impl Fn(&Path, &Stat) -> Result<(), MissReason>,
) -> Result<Vec<u8>, MissReason> {
    let (mut content, bytes) = open(fs, path, size, check)?;
    let mut buffer = buffer(path, bytes)?;
    content.read_exact(&mut buffer).map_err(|error| failed(path, &error))?;
    Ok(buffer)
}

/// Like [`read`], with the digest of what was read.
pub(super) fn read_digested(
    fs: &dyn Filesystem,
    path: &Path,
    size: Size,
    check: impl Fn(&Path, &Stat) -> Result<(), MissReason>,
) -> Result<(Vec<u8>, Digest), MissReason> {
    let (mut content, bytes) = open(fs, path, size, check)?;
    let mut buffer = buffer(path, bytes)?;
    if bytes >= LARGE_BYTES
        && let Some(digest) = read_and_digest_at_once(&mut *content, &mut buffer)
    {
        return digest.map(|digest| (buffer, digest)).map_err(|error| failed(path, &error));
    }
    content.read_exact(&mut buffer).map_err(|error| failed(path, &error))?;
    let digest = Digest::of(&buffer);
    Ok((buffer, digest))
}

fn open(
    fs: &dyn Filesystem,
    path: &Path,
    size: Size,
    check: impl Fn(&Path, &Stat) -> Result<(), MissReason>,
) -> Result<(Box<dyn Read + Send>, u64), MissReason> {
    let kind = fs.kind(path).map_err(unreadable)?;
    if kind != Kind::File {
        let what = format!("`{}` is {kind}, expected a file", path.display());
        return Err(MissReason::Bad(what));
    }
    let opened = fs.open(path).map_err(unreadable)?;
    check(path, &opened.stat)?;
    let bytes = opened.stat.bytes;
    if !size.allows(bytes) {
        let what = format!("`{}` has {bytes} bytes, expected {size}", path.display());
        return Err(MissReason::Bad(what));
    }
    Ok((opened.content, bytes))
}

/// Zeroed memory for so many bytes.
fn buffer(path: &Path, bytes: u64) -> Result<Vec<u8>, MissReason> {
    let no_memory = || {
        let path = path.display();
        MissReason::Unreadable(format!("no memory for the {bytes} bytes of `{path}`"))
    };
    let bytes = usize::try_from(bytes).map_err(|_| no_memory())?;
    // Tried first, because what follows cannot report that there is no memory. It takes the pages
    // zeroed from the system, one by one as they are filled, instead of going over all of them.
    let mut trial = Vec::<u8>::new();
    trial.try_reserve_exact(bytes).map_err(|_| no_memory())?;
    drop(hint::black_box(trial));
    Ok(vec![0; bytes])
}

/// Fills the buffer in one thread and digests it in another; `None` when no thread can be had, and
/// then nothing was read.
fn read_and_digest_at_once(
    content: &mut (dyn Read + Send),
    buffer: &mut [u8],
) -> Option<io::Result<Digest>> {
    thread::scope(|scope| {
        let (filled, chunks) = mpsc::channel::<&[u8]>();
        let empty = buffer.chunks_mut(CHUNK_BYTES);
        let fill = move || {
            for chunk in empty {
                content.read_exact(chunk)?;
                // The other side listens until this one is done.
                let _ = filled.send(chunk);
            }
            Ok(())
        };
        let reader = thread::Builder::new().spawn_scoped(scope, fill).ok()?;
        let mut hasher = Sha256::new();
        for chunk in chunks {
            hasher.update(chunk);
        }
        let read: io::Result<()> = reader.join().expect("invariant: reading does not panic");
        Some(read.map(|()| Digest::from_bytes(hasher.finalize().into())))
    })
}

/// Does `work` for each of `0..count`, several at a time when it is much; results are in order.
pub(super) fn in_parallel<T: Send>(
    count: usize,
    is_much: bool,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    if !is_much || count < 2 {
        return (0..count).map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let take_some = || {
        let mut done = Vec::new();
        loop {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            if idx >= count {
                return done;
            }
            done.push((idx, work(idx)));
        }
    };
    let num_threads = thread::available_parallelism().map_or(1, NonZero::get).min(count);
    let mut done = thread::scope(|scope| {
        // A thread that cannot be had leaves its share to the others; this one is always there.
        let helpers: Vec<_> = (1..num_threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, take_some).ok())
            .collect();
        let mut done = take_some();
        for helper in helpers {
            done.extend(helper.join().expect("invariant: reading does not panic"));
        }
        done
    });
    done.sort_unstable_by_key(|(idx, _)| *idx);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What is said when reading fails: a file that ends early was cut after its size was looked at.
fn failed(path: &Path, error: &io::Error) -> MissReason {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        MissReason::Bad(format!("`{}` was cut while it was read", path.display()))
    } else {
        MissReason::Unreadable(format!("cannot read `{}`: {error}", path.display()))
    }
}

pub(super) fn unreadable(error: io::Error) -> MissReason {
    MissReason::Unreadable(error.to_string())
}

/// Whether reading so many bytes is worth more than one thread.
pub(super) fn is_much(bytes: u64) -> bool {
    bytes >= LARGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::RealFilesystem;

    #[test]
    fn a_large_file_is_read_and_digested_like_a_small_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let large = LARGE_BYTES as usize;
        for bytes in [0, 1, large - 1, large, large + 1, 3 * large + CHUNK_BYTES / 2] {
            let content: Vec<u8> = (0..bytes).map(|at| (at * at % 251) as u8).collect();
            fs_err::write(&path, &content).unwrap();
            let size = Size::Exactly(bytes as u64);
            let found = read_digested(&RealFilesystem, &path, size, |_, _| Ok(())).unwrap();
            assert!(found == (content.clone(), Digest::of(&content)), "{bytes} bytes");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_no_hang() {
        let mut buffer = vec![0; 3 * CHUNK_BYTES];
        let mut content = io::Cursor::new(vec![1; 2 * CHUNK_BYTES + 1]);
        let error = read_and_digest_at_once(&mut content, &mut buffer).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn parallel_work_is_done_once_each_and_comes_back_in_order() {
        let calls = AtomicUsize::new(0);
        let work = |idx| {
            calls.fetch_add(1, Ordering::Relaxed);
            idx * 2
        };
        for is_much in [false, true] {
            let expected: Vec<_> = (0..100).map(|idx| idx * 2).collect();
            assert_eq!(in_parallel(100, is_much, work), expected);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 200);
        assert_eq!(in_parallel(0, true, work), [0; 0]);
    }

    #[test]
    fn more_memory_than_there_can_be_is_a_miss() {
        let reason = buffer(Path::new("file"), u64::MAX).unwrap_err();
        assert!(matches!(reason, MissReason::Unreadable(_)), "{reason:?}");
    }
}

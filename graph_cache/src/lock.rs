//! One compiler per key among processes: a lock file whose lock the operating system holds.
//!
//! | Event | What happens |
//! | --- | --- |
//! | the owner ends, however it ends | its lock is gone with it; the next one has it at once |
//! | the owner hangs or is stopped | waiters give up after their time and compile privately |
//! | the lock file is deleted or replaced | waiters notice that they locked a file that nobody else sees |
//! | locks are not supported, no space, no permission | nobody is kept from compiling |
//!
//! The file holds a line about its owner, for messages. It is removed when the lock is released and
//! stays behind, harmless, when the owner is killed.
//!
//! What this module deliberately does not do: nothing is ever decided by the file's existence, age
//! or content, only by the lock on it.

use std::fs::TryLockError;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(100);
/// No more of a lock file is read: its owner's line is shorter.
const MAX_OWNER_BYTES: u64 = 200;

/// The answer to a request for a lock.
#[derive(Debug)]
pub enum LockOutcome {
    /// Nobody else has it until this is dropped.
    Held(KeyLock),
    /// This store is not shared with other processes.
    Unneeded,
    /// Somebody else still has it after the time to wait.
    TimedOut {
        /// Who, in words.
        owner: String,
    },
    /// There are no locks here.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// A lock on one key, released when dropped.
#[derive(Debug)]
pub struct KeyLock {
    file: fs::File,
    path: PathBuf,
}

impl KeyLock {
    /// Takes the lock at `path`, whose folder exists, waiting for at most `wait`.
    pub(crate) fn acquire(path: &Path, wait: Duration) -> LockOutcome {
        let started = Instant::now();
        let mut poll = FIRST_POLL;
        loop {
            let file = match open(path) {
                Ok(file) => file,
                Err(error) => return unavailable(&error),
            };
            match file.file().try_lock() {
                Ok(()) if is_at(&file, path) => return LockOutcome::Held(Self::own(file, path)),
                // The last owner removed the file between our opening and our locking it.
                Ok(()) if started.elapsed() < wait => continue,
                Ok(()) => {
                    let owner = "somebody who replaces the lock file".to_owned();
                    return LockOutcome::TimedOut { owner };
                }
                Err(TryLockError::Error(error)) => return unavailable(&error),
                Err(TryLockError::WouldBlock) => {}
            }
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return LockOutcome::TimedOut { owner: owner_of(&file) };
            }
            if poll == FIRST_POLL {
                tracing::info!(owner = owner_of(&file), "waiting for a graph being compiled");
            }
            thread::sleep(poll.min(left));
            poll = (poll * 2).min(LONGEST_POLL);
        }
    }

    fn own(mut file: fs::File, path: &Path) -> Self {
        // For people only, so a full disk does not matter.
        let _ = file.set_len(0).and_then(|()| file.write_all(this_process().as_bytes()));
        Self { file, path: path.to_owned() }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while still locked: whoever locks this file afterwards sees that it is not at
        // its path any more. Somebody else's file at the path is left alone.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let what = format!("`{}` is not a regular file", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

fn unavailable(error: &io::Error) -> LockOutcome {
    LockOutcome::Unavailable { reason: error.to_string() }
}

/// Whether `path` still leads to the open `file`.
fn is_at(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn this_process() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "an unknown host",
        host => host,
    };
    let started =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("process {} on {host}, since {started}\n", process::id())
}

/// What the owner wrote about itself, fit for a message.
fn owner_of(file: &fs::File) -> String {
    let mut line = Vec::new();
    let _ = file.file().take(MAX_OWNER_BYTES).read_to_end(&mut line);
    let line = String::from_utf8_lossy(&line);
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    match line.trim() {
        "" => "an unknown process".to_owned(),
        line => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_second_owner_waits_and_is_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let held = KeyLock::acquire(&path, SHORT);
        assert!(matches!(held, LockOutcome::Held(_)));
        let LockOutcome::TimedOut { owner } = KeyLock::acquire(&path, SHORT) else {
            panic!("the lock was given twice");
        };
        let expected = format!("process {} on ", process::id());
        assert!(owner.starts_with(&expected), "{owner}");
        drop(held);
        assert!(!path.exists());
        assert!(matches!(KeyLock::acquire(&path, SHORT), LockOutcome::Held(_)));
    }

    #[test]
    fn at_most_one_thread_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let held = KeyLock::acquire(&path, LONG);
                        assert!(matches!(held, LockOutcome::Held(_)));
                        let ordering = std::sync::atomic::Ordering::SeqCst;
                        assert_eq!(inside.fetch_add(1, ordering), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, ordering);
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_left_by_a_killed_owner_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        fs::write(&path, "process 1 on elsewhere, since 0\n").unwrap();
        assert!(matches!(KeyLock::acquire(&path, Duration::ZERO), LockOutcome::Held(_)));
    }

    #[test]
    fn whatever_is_in_the_way_is_no_lock_and_no_hang() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder");
        fs::create_dir(&path).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let fifo = folder.path().join("fifo");
        crate::testing::make_fifo(&fifo);
        let missing = folder.path().join("missing").join("key.lock");
        for path in [path, link, fifo, missing] {
            let outcome = KeyLock::acquire(&path, SHORT);
            assert!(matches!(outcome, LockOutcome::Unavailable { .. }), "{path:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_deleted_lock_file_does_not_keep_anyone_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let first = KeyLock::acquire(&path, SHORT);
        fs::remove_file(&path).unwrap();
        let second = KeyLock::acquire(&path, SHORT);
        assert!(matches!(second, LockOutcome::Held(_)));
        drop(first);
        assert!(path.exists(), "the second owner's file is not the first's");
    }
}

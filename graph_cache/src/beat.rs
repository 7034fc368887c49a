//! Files that show that their owner lives: what leases, locks and starts have in common.
//!
//! ```text
//! beat 000000000042                       counted on every second, rewritten in place
//! process 12 on a host, since 1763849000.123
//! further lines, as the owner likes
//! ```
//!
//! | Observed | The owner |
//! | --- | --- |
//! | the file's lock, which the operating system keeps, can be taken | [`Life::Dead`], however it ended |
//! | the lock is taken | [`Life::Alive`], or stopped, or on a host that is gone: a [`Watch`] tells |
//! | the file system knows no locks | [`Life::Unknown`]: a [`Watch`] tells |
//!
//! A [`Watch`] looks only at whether the text changes, by the observer's own monotonic clock. Clocks
//! of hosts are never compared.
//!
//! What this module deliberately does not do: it trusts no process number, since hosts and
//! containers share the folder. On a mount that keeps locks to its own host (NFS with `nolock`), the
//! living on other hosts look dead; what follows from it is work done twice, and replicas that start
//! together may count as failed starts; never anything torn.

use std::fs::TryLockError;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use fs_err::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// An owner whose beat stands still for so long is taken for gone.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(10);
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Files of owners of which nothing can be known are removed when this old.
const SWEEP_AFTER: Duration = Duration::from_hours(1);
/// The beat, the owner and the note are within so many bytes.
const MAX_HEAD_BYTES: usize = 1024;
/// Longest host name or note that is written, in characters.
const MAX_WORD_CHARS: usize = 200;
/// How often something that others get in the way of is tried.
const MAX_ATTEMPTS: usize = 20;
/// Between two such attempts: others hold a lock only to look, which takes no time.
const SHORT_PAUSE: Duration = Duration::from_millis(1);

/// The times, and what the file system can do: a value, so that tests need not wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) beat_every: Duration,
    pub(crate) stale_after: Duration,
    /// Whether locks are asked for at all. Where they are and the file system has none, its first
    /// answer says so.
    pub(crate) has_locks: bool,
}

impl Conditions {
    pub(crate) const REAL: Self =
        Self { beat_every: BEAT_EVERY, stale_after: STALE_AFTER, has_locks: true };

    /// Asks for a lock that nobody else has, for as long as `file` is open.
    pub(crate) fn try_lock(&self, file: &fs::File) -> io::Result<Locked> {
        self.ask(|| file.file().try_lock())
    }

    /// Asks for a lock that the owner does not let others have, but observers do.
    fn try_lock_shared(&self, file: &fs::File) -> io::Result<Locked> {
        self.ask(|| file.file().try_lock_shared())
    }

    fn ask(&self, attempt: impl FnOnce() -> Result<(), TryLockError>) -> io::Result<Locked> {
        if !self.has_locks {
            return Ok(Locked::Unsupported);
        }
        match attempt() {
            Ok(()) => Ok(Locked::Yes),
            Err(TryLockError::WouldBlock) => Ok(Locked::Busy),
            Err(TryLockError::Error(error)) => match error.raw_os_error() {
                Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
                    Ok(Locked::Unsupported)
                }
                _ => Err(error),
            },
        }
    }
}

/// The answer to a request for the operating system's lock on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    Yes,
    /// Somebody else has it.
    Busy,
    /// The file system has no locks.
    Unsupported,
}

/// What is known of the owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Dead,
    Unknown,
}

/// Whether the owner of the file at `path` lives. The owner of a file that is not there is dead.
pub(crate) fn life(path: &Path) -> Life {
    match open_to_read(path) {
        Ok(file) => life_of(&file, &Conditions::REAL),
        Err(error) if is_absent(&error) => Life::Dead,
        Err(_) => Life::Unknown,
    }
}

/// Whether the owner of `file` lives. When it is dead, the file stays locked while it is open, so
/// that nobody else can become its owner.
pub(crate) fn life_of(file: &fs::File, conditions: &Conditions) -> Life {
    match conditions.try_lock_shared(file) {
        Ok(Locked::Yes) => Life::Dead,
        Ok(Locked::Busy) => Life::Alive,
        Ok(Locked::Unsupported) | Err(_) => Life::Unknown,
    }
}

/// Removes the files of the dead from a folder, and those of which nothing is known and that have
/// not been written to for an hour. Says how many.
pub(crate) fn sweep(folder: &Path, conditions: &Conditions, now: SystemTime) -> usize {
    let is_over = |file: &fs::File| match life_of(file, conditions) {
        Life::Alive => false,
        Life::Dead => true,
        Life::Unknown => age(file, now).is_some_and(|age| age > SWEEP_AFTER),
    };
    let removed = files_in(folder).filter(|path| {
        open_to_read(path)
            .is_ok_and(|file| is_over(&file) && is_at(&file, path) && fs::remove_file(path).is_ok())
    });
    removed.count()
}

/// The regular files in a folder; none when it cannot be listed.
pub(crate) fn files_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let items = fs::read_dir(folder).into_iter().flatten().flatten();
    items.filter(|item| item.file_type().is_ok_and(|kind| kind.is_file())).map(|item| item.path())
}

/// How long before `now` a file was written to; `None` when that is in the future.
pub(crate) fn age(file: &fs::File, now: SystemTime) -> Option<Duration> {
    now.duration_since(file.metadata().ok()?.modified().ok()?).ok()
}

/// Says when somebody's text has stood still for too long, of a text that it is shown again and
/// again, at least twice within that time.
#[derive(Debug)]
pub(crate) struct Watch {
    stale_after: Duration,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    text: Vec<u8>,
    first: Instant,
    last: Instant,
}

impl Watch {
    pub(crate) const fn new(stale_after: Duration) -> Self {
        Self { stale_after, seen: None }
    }

    /// Whether `text` is still what it was `stale_after` ago.
    pub(crate) fn is_stale(&mut self, text: &[u8], now: Instant) -> bool {
        if let Some(seen) = &mut self.seen
            && seen.text == text
            // An observer that was stopped itself, perhaps together with the owner, knows nothing.
            && now.saturating_duration_since(seen.last) <= self.stale_after / 2
        {
            seen.last = now;
            return now.saturating_duration_since(seen.first) >= self.stale_after;
        }
        self.seen = Some(Seen { text: text.to_owned(), first: now, last: now });
        false
    }
}

/// A file of this process, open and, where that works, locked.
#[derive(Debug)]
pub(crate) struct BeatFile {
    file: fs::File,
    path: PathBuf,
}

impl BeatFile {
    /// Takes a file that is open and locked.
    pub(crate) fn own(file: fs::File, path: &Path) -> Self {
        Self { file, path: path.to_owned() }
    }

    /// Creates a file under an unused name in a folder that exists, without a text.
    pub(crate) fn create_in(folder: &Path, conditions: &Conditions) -> io::Result<Self> {
        let mut attempts = 1;
        loop {
            match Self::create(&folder.join(unique_name()), conditions) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempts < MAX_ATTEMPTS =>
                {
                    attempts += 1;
                }
                result => return result,
            }
        }
    }

    /// Creates the file at `path`, which must not exist, without a text. Should others look at it
    /// before it is locked and take it for a dead one's, that is `AlreadyExists`, too.
    pub(crate) fn create(path: &Path, conditions: &Conditions) -> io::Result<Self> {
        let file = create_new(path)?;
        for _ in 0..MAX_ATTEMPTS {
            match conditions.try_lock(&file)? {
                Locked::Busy => thread::sleep(SHORT_PAUSE),
                Locked::Yes | Locked::Unsupported if is_at(&file, path) => {
                    return Ok(Self::own(file, path));
                }
                Locked::Yes | Locked::Unsupported => break,
            }
        }
        let what = format!("`{}` is always in use by others", path.display());
        Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether others still see it.
    pub(crate) fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path)
    }

    /// Writes the first beat, the owner and further lines. Says where the text ends.
    pub(crate) fn write_text(&self, more: &str) -> io::Result<u64> {
        let text = format!("{}{}\n{more}", beat_line(1), this_process());
        // Cut afterwards, so that an observer never finds it empty.
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)?;
        Ok(text.len() as u64)
    }

    /// Writes at a place that [`write_text`](Self::write_text) or a former call said, and says
    /// where the text ends now.
    pub(crate) fn write_at(&self, text: &str, end: u64) -> io::Result<u64> {
        self.file.write_all_at(text.as_bytes(), end)?;
        Ok(end.saturating_add(text.len() as u64))
    }

    pub(crate) fn beat(&self, count: u64) {
        let line = beat_line(count);
        // Closing a file is what shows its content to other hosts on a network file system, and it
        // costs nothing on others. Our own must stay open for its lock.
        let shown = open_to_write(&self.path).is_ok_and(|again| {
            is_same_file(&again, &self.file) && again.write_all_at(line.as_bytes(), 0).is_ok()
        });
        if !shown {
            // No more open files allowed, or a lock that keeps out other handles as well.
            let _ = self.file.write_all_at(line.as_bytes(), 0);
        }
    }

    /// Forgets the text, for a file that has to stay: nobody is mentioned in it any more.
    pub(crate) fn clear(&self) {
        let _ = self.file.set_len(0);
    }

    /// Removes the file if it is still in its place. What comes next sees no file at all or one
    /// that is not locked.
    pub(crate) fn remove(&self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "a file of the graph cache is left for a later sweep");
            self.clear();
        }
        self.unlock();
    }

    /// Gives up the lock. Closing would do so, too, but not while a process that was started
    /// meanwhile still has a copy of the open file.
    pub(crate) fn unlock(&self) {
        let _ = self.file.file().unlock();
    }
}

/// A thread that beats until this is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Heart {
    running: Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>,
}

impl Heart {
    /// Calls `beat` with 2, 3, ..., the first time after `every`.
    pub(crate) fn start(
        every: Duration,
        mut beat: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut count = 1_u64;
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                count = count.saturating_add(1);
                beat(count);
            }
        };
        let thread = thread::Builder::new().name("cairn-beat".to_owned()).spawn(run)?;
        Ok(Self { running: Some((stop, thread)) })
    }

    /// Ends the thread; there is no beat after this.
    pub(crate) fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop();
    }
}

fn beat_line(count: u64) -> String {
    format!("beat {count:012}\n")
}

/// The lines of a text that are for people and observers.
pub(crate) fn head_of(file: &fs::File) -> Vec<u8> {
    let mut head = vec![0; MAX_HEAD_BYTES];
    let length = file.read_at(&mut head, 0).unwrap_or(0);
    head.truncate(length);
    head
}

/// A whole text, of at most so many bytes.
pub(crate) fn read_text(file: &fs::File, max_bytes: u64) -> io::Result<String> {
    let mut text = Vec::new();
    file.file().take(max_bytes).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Who wrote a text, what about and since when, fit for a message.
pub(crate) fn describe_owner(head: &[u8], conditions: &Conditions) -> String {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let count = lines.next().and_then(|line| line.strip_prefix("beat ")?.parse::<u64>().ok());
    let who = lines.next().unwrap_or_default();
    let who = word(who.split_once(", since ").map_or(who, |(who, _)| who));
    let note = word(lines.next().unwrap_or_default());
    let Some(count) = count.filter(|_| !who.is_empty()) else {
        return "an unknown process".to_owned();
    };
    // From its beats: its clock may differ from ours.
    let seconds = conditions.beat_every.as_secs_f64() * count.saturating_sub(1) as f64;
    let separator = if note.is_empty() { "" } else { ", " };
    format!("{who} ({note}{separator}for {seconds:.0} s)")
}

/// One line without control characters, not too long.
pub(crate) fn word(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MAX_WORD_CHARS).collect()
}

fn this_process() -> String {
    let host = match host_name() {
        host if host.is_empty() => "an unknown host".to_owned(),
        host => format!("host {host}"),
    };
    let since = since_epoch();
    let (seconds, ms) = (since.as_secs(), since.subsec_millis());
    format!("process {} on {host}, since {seconds}.{ms:03}", process::id())
}

fn host_name() -> String {
    word(&fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

/// Only for people and to be different from others: a clock that jumps does no harm.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A file name that no other thread, process or host uses: `<host>-<pid>-<nanoseconds>-<n>`, of
/// letters, digits, `-` and `_`.
pub(crate) fn unique_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let host: String = host_name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .take(64)
        .collect();
    format!("{host}-{}-{}-{count}", process::id(), since_epoch().as_nanos())
}

pub(crate) fn create_new(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a regular file; neither follows a link nor waits for a FIFO.
pub(crate) fn open_to_write(path: &Path) -> io::Result<fs::File> {
    open(path, true)
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<fs::File> {
    open(path, false)
}

fn open(path: &Path, to_write: bool) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(to_write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        let what = format!("`{}` is not a regular file", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

/// Whether nothing is there, or not any more.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

/// Whether `path` still leads to the open `file`.
pub(crate) fn is_at(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => is_same(&ours, &there),
        _ => false,
    }
}

fn is_same_file(one: &fs::File, other: &fs::File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => is_same(&one, &other),
        _ => false,
    }
}

fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

//! One compiler per key among threads, processes and hosts: a lock file that shows that its owner
//! lives.
//!
//! ```text
//! locks/<key>.lock               locked by the operating system while its owner lives
//!   beat 000000000042            see `beat`
//!   process 12 on host a, since 1763849000.123
//!   decode, 8 sequences          what is being compiled
//! locks/<key>.lock.takeover      locked for the instant in which a lock file is removed
//! ```
//!
//! | Event | What happens |
//! | --- | --- |
//! | the owner is done | it removes the file; the next one creates its own |
//! | the owner is killed | its lock is gone with it; the next one takes over the file at once |
//! | the owner is stopped, or its host is gone | its beat stands still; after ten seconds its file is moved away |
//! | the owner is slow | waiters give up after their time and compile privately |
//! | the lock file is deleted or replaced | waiters notice that they locked a file that nobody else sees |
//! | the file system has no locks | who creates the file has it; life shows only by the beat |
//! | something else is in the way, no space, no permission | nobody is kept from compiling |
//!
//! Where there are locks, at most one process at a time owns the file at the path: files are removed
//! only under the second lock, and only the very file that was looked at. An owner that wakes up
//! after it was taken for gone notices that its file is not there any more, and leaves the other's
//! alone. Where there are no locks, two may compile the same; that is all.
//!
//! What this module deliberately does not do: it does not keep anybody from writing an entry, which
//! is whole in any case.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::beat::{
    BeatFile, Conditions, Heart, Locked, Watch, create_new, describe_owner, head_of, is_absent,
    is_at, open_to_write, unique_name, word,
};
use crate::store::{LockOutcome, Wait};

const FIRST_POLL: Duration = Duration::from_millis(2);
const LONGEST_POLL: Duration = Duration::from_millis(100);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// How often the second lock is tried, once a millisecond: it is held for less than that.
const MAX_GUARD_ATTEMPTS: usize = 50;

/// A lock on one key, released when dropped.
#[derive(Debug)]
pub struct KeyLock {
    file: Arc<BeatFile>,
    heart: Heart,
    conditions: Conditions,
}

impl KeyLock {
    /// Takes the lock at `path`, whose folder exists; says when it was taken from an owner that is
    /// gone, and who that was.
    pub(crate) fn acquire(
        path: &Path,
        wait: &Wait<'_>,
        on_takeover: &mut dyn FnMut(&str),
    ) -> LockOutcome {
        Self::acquire_under(&Conditions::REAL, path, wait, on_takeover)
    }

    fn acquire_under(
        conditions: &Conditions,
        path: &Path,
        wait: &Wait<'_>,
        on_takeover: &mut dyn FnMut(&str),
    ) -> LockOutcome {
        let mut waiting = Waiting::new(wait);
        let mut watch = Watch::new(conditions.stale_after);
        loop {
            match look(path, conditions) {
                Ok(Sight::Ours(file)) => {
                    let left = head_of(&file);
                    return match Self::hold(file, path, wait.note, conditions) {
                        Ok(lock) => {
                            if !left.is_empty() {
                                on_takeover(&describe_owner(&left, conditions));
                            }
                            LockOutcome::Held(lock)
                        }
                        Err(error) => unavailable(&error),
                    };
                }
                Ok(Sight::Moving) if waiting.is_over() => {
                    let owner = "somebody who replaces the lock file".to_owned();
                    return LockOutcome::TimedOut { owner };
                }
                Ok(Sight::Moving) => thread::yield_now(),
                Ok(Sight::Theirs(file, _)) => {
                    let head = head_of(&file);
                    let owner = describe_owner(&head, conditions);
                    if watch.is_stale(&head, Instant::now())
                        && remove_stale(&file, path, &head, conditions)
                    {
                        on_takeover(&owner);
                    } else if waiting.is_over() {
                        return LockOutcome::TimedOut { owner };
                    } else {
                        waiting.pause(&owner);
                    }
                }
                Err(error) => return unavailable(&error),
            }
        }
    }

    fn hold(file: fs::File, path: &Path, note: &str, conditions: &Conditions) -> io::Result<Self> {
        let file = Arc::new(BeatFile::own(file, path));
        let beating = Arc::clone(&file);
        // Without a text and a beat it would soon be taken for a dead one's.
        let heart = file
            .write_text(&format!("{}\n", word(note)))
            .and_then(|_| Heart::start(conditions.beat_every, move |count| beating.beat(count)));
        match heart {
            Ok(heart) => Ok(Self { file, heart, conditions: *conditions }),
            Err(error) => {
                release(&file, conditions);
                Err(error)
            }
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        self.heart.stop();
        release(&self.file, &self.conditions);
    }
}

/// What an attempt to get the lock came to.
enum Sight {
    Ours(fs::File),
    /// `Locked` says why it is not ours.
    Theirs(fs::File, Locked),
    /// The last owner was just removing it.
    Moving,
}

fn look(path: &Path, conditions: &Conditions) -> io::Result<Sight> {
    let (file, is_new) = match create_new(path) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match open_to_write(path) {
            Ok(file) => (file, false),
            Err(error) if is_absent(&error) => return Ok(Sight::Moving),
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    match conditions.try_lock(&file) {
        Ok(Locked::Yes) if is_at(&file, path) => Ok(Sight::Ours(file)),
        Ok(Locked::Yes) => Ok(Sight::Moving),
        Ok(Locked::Unsupported) if is_new => Ok(Sight::Ours(file)),
        Ok(locked) => Ok(Sight::Theirs(file, locked)),
        Err(error) if is_absent(&error) => Ok(Sight::Moving),
        Err(error) => Err(error),
    }
}

/// How long this has been waiting, and what it told about it.
struct Waiting<'a> {
    wait: &'a Wait<'a>,
    started: Instant,
    poll: Duration,
    next_progress: Duration,
}

impl<'a> Waiting<'a> {
    fn new(wait: &'a Wait<'a>) -> Self {
        // A lock that is passed on within the first poll is not worth a word.
        Self { wait, started: Instant::now(), poll: FIRST_POLL, next_progress: FIRST_POLL }
    }

    fn is_over(&self) -> bool {
        self.started.elapsed() >= self.wait.at_most
    }

    fn pause(&mut self, owner: &str) {
        let waited = self.started.elapsed();
        if waited >= self.next_progress {
            (self.wait.progress)(owner, waited);
            self.next_progress = waited.saturating_add(PROGRESS_EVERY);
        }
        thread::sleep(self.poll.min(self.wait.at_most.saturating_sub(waited)));
        self.poll = (self.poll * 2).min(LONGEST_POLL);
    }
}

/// Gives the file up: removes it, if it is still the one at its path.
fn release(file: &BeatFile, conditions: &Conditions) {
    if let Some(_guard) = Guard::take(file.path(), conditions) {
        file.remove();
    } else {
        // Somebody is looking whether to take it over. An empty file that is not locked is as good
        // as none.
        file.clear();
        file.unlock();
    }
}

/// Moves the file of an owner that shows no life out of the way; whether it did.
fn remove_stale(file: &fs::File, path: &Path, head: &[u8], conditions: &Conditions) -> bool {
    let Some(_guard) = Guard::take(path, conditions) else {
        return false;
    };
    let woke_up = head_of(file) != head;
    if woke_up || !is_at(file, path) {
        return false;
    }
    // The guard keeps others away from here, but only where there are locks. Elsewhere what was
    // moved may be the file of somebody who took over a moment ago: it is put back.
    let moved = with_suffix(path, &unique_name());
    if fs::rename(path, &moved).is_err() {
        return false;
    }
    let is_the_one = is_at(file, &moved);
    if !is_the_one {
        let _ = fs::hard_link(&moved, path);
    }
    let _ = fs::remove_file(&moved);
    is_the_one
}

/// The right to remove the file at a path, held for an instant.
struct Guard {
    file: BeatFile,
}

impl Guard {
    fn take(path: &Path, conditions: &Conditions) -> Option<Self> {
        let path = with_suffix(path, "takeover");
        for _ in 0..MAX_GUARD_ATTEMPTS {
            match look(&path, conditions).ok()? {
                // Without locks there is no guard, only less of a crowd.
                Sight::Ours(file) | Sight::Theirs(file, Locked::Unsupported) => {
                    return Some(Self { file: BeatFile::own(file, &path) });
                }
                Sight::Theirs(..) => thread::sleep(Duration::from_millis(1)),
                Sight::Moving => {}
            }
        }
        None
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.file.remove();
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn unavailable(error: &io::Error) -> LockOutcome {
    LockOutcome::Unavailable { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::process;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::beat::testing::{
        NO_LOCKS, QUICK, kill, path_of_child, signal, start_child, wait_until,
    };

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_mins(2);

    fn wait(at_most: Duration) -> Wait<'static> {
        Wait { at_most, note: "decode, 8 sequences", progress: &|_, _| {} }
    }

    /// An attempt, and whom the lock was taken from.
    fn acquire(
        path: &Path,
        at_most: Duration,
        conditions: &Conditions,
    ) -> (LockOutcome, Vec<String>) {
        let mut taken = Vec::new();
        let mut on_takeover = |owner: &str| taken.push(owner.to_owned());
        let outcome = KeyLock::acquire_under(conditions, path, &wait(at_most), &mut on_takeover);
        (outcome, taken)
    }

    /// An attempt that takes the lock from nobody.
    fn take(path: &Path, at_most: Duration, conditions: &Conditions) -> LockOutcome {
        let (outcome, taken) = acquire(path, at_most, conditions);
        assert_eq!(taken, [""; 0]);
        outcome
    }

    /// Has the lock until there is a file beside it.
    #[test]
    #[ignore = "run by the other tests as a process of its own"]
    fn child() {
        let Some(path) = path_of_child() else { return };
        let held = take(&path, LONG, &QUICK);
        wait_until("it may end", || path.with_extension("end").exists());
        drop(held);
        fs::write(path.with_extension("ended"), "").unwrap();
    }

    fn start_owner(path: &Path) -> process::Child {
        let child = start_child("lock::tests::child", path);
        let of_child = format!("\nprocess {} on ", child.id());
        let is_held = || fs::read_to_string(path).is_ok_and(|text| text.contains(&of_child));
        wait_until("the child has it", is_held);
        child
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn a_second_owner_waits_and_is_told_who_has_it_and_for_what() {
        for conditions in [QUICK, NO_LOCKS] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key.lock");
            let held = take(&path, SHORT, &conditions);
            assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
            let told = RefCell::new(Vec::new());
            let progress = |owner: &str, _| told.borrow_mut().push(owner.to_owned());
            let wait = Wait { at_most: 10 * SHORT, note: "", progress: &progress };
            let outcome = KeyLock::acquire_under(&conditions, &path, &wait, &mut |_| {});
            let LockOutcome::TimedOut { owner } = outcome else {
                panic!("the lock was given twice");
            };
            let expected = format!("process {} on host ", process::id());
            assert!(owner.starts_with(&expected), "{owner}");
            assert!(owner.ends_with(" (decode, 8 sequences, for 0 s)"), "{owner}");
            assert_eq!(told.into_inner(), [owner]);
            drop(held);
            assert_eq!(names_in(folder.path()), [""; 0]);
            assert!(matches!(take(&path, SHORT, &conditions), LockOutcome::Held(_)));
        }
    }

    #[test]
    fn at_most_one_thread_has_it_at_a_time() {
        for conditions in [QUICK, NO_LOCKS] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key.lock");
            let inside = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..20 {
                            let held = take(&path, LONG, &conditions);
                            assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            });
            assert_eq!(names_in(folder.path()), [""; 0]);
        }
    }

    #[test]
    fn a_killed_owner_is_taken_over_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let child = start_owner(&path);
        assert!(matches!(take(&path, SHORT, &QUICK), LockOutcome::TimedOut { .. }));
        let expected = format!("process {} on ", child.id());
        kill(child);
        let (outcome, taken) = acquire(&path, Duration::ZERO, &Conditions::REAL);
        assert!(matches!(outcome, LockOutcome::Held(_)), "{outcome:?}");
        assert!(taken.len() == 1 && taken[0].starts_with(&expected), "{taken:?}");
    }

    #[test]
    fn a_stopped_owner_is_taken_over_and_leaves_the_next_alone_when_it_wakes_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let mut child = start_owner(&path);
        signal(&child, "-STOP");
        assert!(matches!(take(&path, SHORT, &QUICK), LockOutcome::TimedOut { .. }));
        let (held, taken) = acquire(&path, LONG, &QUICK);
        assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
        assert_eq!(taken.len(), 1, "{taken:?}");
        let own_text = format!("\nprocess {} on ", process::id());
        fs::write(path.with_extension("end"), "").unwrap();
        signal(&child, "-CONT");
        wait_until("it has let go", || path.with_extension("ended").exists());
        assert!(child.wait().unwrap().success());
        assert!(fs::read_to_string(&path).unwrap().contains(&own_text));
        assert!(matches!(take(&path, SHORT, &QUICK), LockOutcome::TimedOut { .. }));
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn of_many_who_wait_for_a_stopped_owner_one_at_a_time_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let child = start_owner(&path);
        signal(&child, "-STOP");
        let (inside, taken_over) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (held, taken) = acquire(&path, LONG, &QUICK);
                    assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
                    taken_over.fetch_add(taken.len(), Ordering::SeqCst);
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    thread::sleep(Duration::from_millis(5));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        kill(child);
        assert_eq!(taken_over.into_inner(), 1);
        assert_eq!(names_in(folder.path()), [""; 0]);
    }

    #[test]
    fn without_locks_a_living_owner_is_waited_for_and_a_dead_one_taken_over_when_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let held = take(&path, SHORT, &NO_LOCKS);
        let outcome = take(&path, 2 * NO_LOCKS.stale_after, &NO_LOCKS);
        assert!(matches!(outcome, LockOutcome::TimedOut { .. }), "{outcome:?}");
        drop(held);
        fs::write(&path, "beat 000000000002\nprocess 1 on host elsewhere, since 0\n").unwrap();
        let started = Instant::now();
        let (outcome, taken) = acquire(&path, LONG, &NO_LOCKS);
        assert!(matches!(outcome, LockOutcome::Held(_)), "{outcome:?}");
        assert!(started.elapsed() >= NO_LOCKS.stale_after);
        assert_eq!(taken, ["process 1 on host elsewhere (for 0 s)"]);
        drop(outcome);
        assert_eq!(names_in(folder.path()), [""; 0]);
    }

    #[test]
    fn a_stale_file_that_is_not_there_any_more_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        fs::write(&path, "beat 1\n").unwrap();
        let file = open_to_write(&path).unwrap();
        assert!(!remove_stale(&file, &path, b"beat 0\n", &QUICK), "it woke up");
        assert!(path.exists());
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "beat 1\n").unwrap();
        assert!(!remove_stale(&file, &path, b"beat 1\n", &QUICK), "it is another one's");
        assert!(path.exists());
        let file = open_to_write(&path).unwrap();
        let guard = Guard::take(&path, &QUICK);
        assert!(!remove_stale(&file, &path, b"beat 1\n", &QUICK), "somebody is at it");
        drop(guard);
        assert!(remove_stale(&file, &path, b"beat 1\n", &QUICK));
        assert_eq!(names_in(folder.path()), ["moved"]);
    }

    #[test]
    fn an_owner_that_cannot_remove_its_file_leaves_an_empty_one_which_is_nobody_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        let held = take(&path, SHORT, &QUICK);
        let guard = Guard::take(&path, &QUICK);
        drop(held);
        assert_eq!(fs::read(&path).unwrap(), b"");
        drop(guard);
        assert!(matches!(take(&path, SHORT, &QUICK), LockOutcome::Held(_)));
        assert_eq!(names_in(folder.path()), [""; 0]);
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
            let outcome = take(&path, SHORT, &QUICK);
            assert!(matches!(outcome, LockOutcome::Unavailable { .. }), "{path:?}: {outcome:?}");
        }
    }

    #[test]
    fn nonsense_in_the_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.lock");
        fs::write(&path, vec![0xff; 100_000]).unwrap();
        let (held, taken) = acquire(&path, SHORT, &QUICK);
        assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
        assert_eq!(taken, ["an unknown process"]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_deleted_lock_file_does_not_keep_anyone_waiting() {
        for conditions in [QUICK, NO_LOCKS] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key.lock");
            let first = take(&path, SHORT, &conditions);
            fs::remove_file(&path).unwrap();
            let second = take(&path, SHORT, &conditions);
            assert!(matches!(second, LockOutcome::Held(_)));
            drop(first);
            assert!(path.exists(), "the second owner's file is not the first's");
        }
    }
}

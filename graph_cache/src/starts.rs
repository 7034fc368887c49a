//! Which starts did not get ready: entries that bring the process down again and again are told by
//! it.
//!
//! ```text
//! starts/<SHA-256 of the sorted keys>/<host>-<pid>-<nanoseconds>-<n>
//!   beat 000000000003                            see `beat`
//!   process 12 on host a, since 1763849000.123
//!   failed                                       only when the process said so itself
//! ```
//!
//! | A start that | Its file | Counts as failed |
//! | --- | --- | --- |
//! | is on its way, here or on another host | beats | no |
//! | got ready | is removed, and with it the failures of the same entries | no |
//! | was stopped in an orderly way | is removed | no |
//! | was killed, crashed, or panicked | stays | yes |
//! | said that it failed | stays, marked | yes |
//! | is a week old | is removed | no |
//!
//! Where the file system has no locks, a start is taken for dead when its file is a minute older
//! than the one that has just been created beside it.
//!
//! What this module deliberately does not do: it does not know how many failures are too many, nor
//! what is done then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use crate::beat::{
    BeatFile, Conditions, Heart, Life, age, files_in, head_of, is_absent, life_of, open_to_read,
};
use crate::digest::Digest;
use crate::filesystem::create_folders;
use crate::key::CacheKey;

/// Failures older than this say nothing about what is there today.
const FORGET_AFTER: Duration = Duration::from_hours(7 * 24);
/// Where there are no locks, a start that has not beaten for so long is over.
const DEAD_AFTER: Duration = Duration::from_mins(1);
/// No more files of one set of entries are looked at.
const MAX_FILES: usize = 64;
/// How often the folder is created again that others remove because it is empty.
const MAX_ATTEMPTS: usize = 20;
const FAILED: &str = "failed\n";

/// A start on its way. Dropped without a word, it is forgotten: it was stopped in an orderly way,
/// which says nothing about the entries. A process that ends without dropping it has failed.
#[derive(Debug)]
#[must_use = "a start that is dropped at once is not counted"]
pub(crate) struct StartGuard {
    file: Arc<BeatFile>,
    /// Where its text ends.
    end: u64,
    heart: Heart,
    folder: PathBuf,
    conditions: Conditions,
    is_failed: bool,
}

/// Begins a start with these entries; also says how many earlier ones with the same entries failed
/// since the last that got ready.
pub(crate) fn begin(starts: &Path, keys: &[CacheKey]) -> io::Result<(StartGuard, usize)> {
    begin_under(&Conditions::REAL, starts, keys, SystemTime::now())
}

fn begin_under(
    conditions: &Conditions,
    starts: &Path,
    keys: &[CacheKey],
    now: SystemTime,
) -> io::Result<(StartGuard, usize)> {
    let folder = folder_of(starts, keys);
    let file = create_file(starts, &folder, conditions)?;
    let guard = StartGuard::own(file, folder, conditions)?;
    remove_old(&guard.folder, conditions, now);
    let num_failed = failures_in(&guard.folder, conditions).take(MAX_FILES).count();
    Ok((guard, num_failed))
}

/// Removes the failures of starts with these entries.
pub(crate) fn forget(starts: &Path, keys: &[CacheKey]) -> io::Result<()> {
    remove_failures(&folder_of(starts, keys), &Conditions::REAL)
}

impl StartGuard {
    fn own(file: BeatFile, folder: PathBuf, conditions: &Conditions) -> io::Result<Self> {
        let file = Arc::new(file);
        let beating = Arc::clone(&file);
        let beat = move |count| beating.beat(count);
        let started = file
            .write_text("")
            .and_then(|end| Ok((end, Heart::start(conditions.beat_every, beat)?)));
        match started {
            Ok((end, heart)) => {
                let conditions = *conditions;
                Ok(Self { file, end, heart, folder, conditions, is_failed: false })
            }
            Err(error) => {
                file.remove();
                Err(error)
            }
        }
    }

    /// The entries did their work: the failures of earlier starts with them are forgotten.
    pub(crate) fn ready(self) {
        if let Err(error) = remove_failures(&self.folder, &self.conditions) {
            tracing::debug!(%error, "failed starts are still remembered");
        }
    }

    /// Loading or running the entries failed.
    pub(crate) fn failed(mut self) {
        self.is_failed = true;
    }
}

impl Drop for StartGuard {
    fn drop(&mut self) {
        self.heart.stop();
        if self.is_failed || thread::panicking() {
            // Without the mark, a file that nobody holds says the same where there are locks.
            let _ = self.file.write_at(FAILED, self.end);
            self.file.unlock();
        } else {
            self.file.remove();
            // For the last one to go.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// The same for the same entries in any order.
fn folder_of(starts: &Path, keys: &[CacheKey]) -> PathBuf {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    let bytes: Vec<u8> = keys.iter().flat_map(CacheKey::as_bytes).copied().collect();
    starts.join(Digest::of(&bytes).to_string())
}

fn create_file(starts: &Path, folder: &Path, conditions: &Conditions) -> io::Result<BeatFile> {
    let mut attempts = 1;
    loop {
        for folder in [starts, folder] {
            create_folders(folder)?;
            if !fs::symlink_metadata(folder)?.is_dir() {
                let what = format!("`{}` is not a folder", folder.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
            }
        }
        match BeatFile::create_in(folder, conditions) {
            // Somebody else's start ended, and the folder was empty.
            Err(error) if is_absent(&error) && attempts < MAX_ATTEMPTS => attempts += 1,
            result => return result,
        }
    }
}

/// The files of failed starts. While one of them is looked at, it is locked.
fn failures_in(folder: &Path, conditions: &Conditions) -> impl Iterator<Item = PathBuf> {
    let newest = files_in(folder).filter_map(|path| modified(&path)).max();
    let conditions = *conditions;
    files_in(folder).filter(move |path| {
        open_to_read(path).is_ok_and(|file| is_failed(&file, &conditions, newest))
    })
}

fn is_failed(file: &fs::File, conditions: &Conditions, newest: Option<SystemTime>) -> bool {
    let text = head_of(file);
    // One without a text has only just been created.
    !text.is_empty()
        && (text.ends_with(FAILED.as_bytes())
            || match life_of(file, conditions) {
                Life::Alive => false,
                Life::Dead => true,
                // Both times are from the file system's one clock.
                Life::Unknown => {
                    newest.and_then(|newest| age(file, newest)).is_some_and(|age| age > DEAD_AFTER)
                }
            })
}

fn remove_failures(folder: &Path, conditions: &Conditions) -> io::Result<()> {
    failures_in(folder, conditions).try_for_each(fs::remove_file)
}

/// Removes what nobody beats on any more, failed or not.
fn remove_old(folder: &Path, conditions: &Conditions, now: SystemTime) {
    let is_old = |path: &PathBuf| {
        open_to_read(path).is_ok_and(|file| {
            age(&file, now).is_some_and(|age| age > FORGET_AFTER)
                && life_of(&file, conditions) != Life::Alive
        })
    };
    for path in files_in(folder).filter(is_old) {
        let _ = fs::remove_file(path);
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).ok()?.modified().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beat::testing::{NO_LOCKS, QUICK, kill, path_of_child, start_child, wait_until};

    const KEYS: [CacheKey; 2] = [CacheKey::from_bytes([1; 32]), CacheKey::from_bytes([2; 32])];

    #[test]
    #[ignore = "run by the other tests as a process of its own"]
    fn child() {
        let Some(starts) = path_of_child() else { return };
        let _guard = begin(&starts, &KEYS).unwrap();
        thread::sleep(Duration::from_mins(1));
    }

    fn num_files(starts: &Path) -> usize {
        files_in(&folder_of(starts, &KEYS)).count()
    }

    fn num_failed(starts: &Path) -> usize {
        begin(starts, &KEYS).unwrap().1
    }

    #[test]
    fn a_start_that_is_killed_counts_and_one_that_lives_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let starts = &folder.path().join("starts");
        for num_killed in 0..3 {
            let child = start_child("starts::tests::child", starts);
            wait_until("the child has begun", || num_files(starts) == num_killed + 1);
            wait_until("its file is whole", || num_failed(starts) == num_killed);
            kill(child);
            assert_eq!(num_failed(starts), num_killed + 1);
        }
        let (guard, failed) = begin(starts, &[KEYS[1], KEYS[0], KEYS[1]]).unwrap();
        assert_eq!(failed, 3, "the same entries in any order");
        let (other, failed) = begin(starts, &KEYS[..1]).unwrap();
        assert_eq!(failed, 0, "other entries");
        other.ready();
        guard.ready();
        assert_eq!(num_failed(starts), 0);
        assert_eq!(fs::read_dir(starts).unwrap().count(), 0);
    }

    #[test]
    fn a_start_that_says_so_or_panics_has_failed_and_one_that_is_dropped_has_not() {
        for conditions in [QUICK, NO_LOCKS] {
            let folder = tempfile::tempdir().unwrap();
            let begin = || begin_under(&conditions, folder.path(), &KEYS, SystemTime::now());
            begin().unwrap().0.failed();
            assert_eq!(begin().unwrap().1, 1);
            drop(begin().unwrap());
            let panicking = thread::scope(|scope| {
                let run = || {
                    let _guard = begin().unwrap();
                    panic!("this panic is part of the test");
                };
                scope.spawn(run).join()
            });
            assert!(panicking.is_err());
            let (replica, failed) = begin().unwrap();
            assert_eq!(failed, 2);
            let (guard, failed) = begin().unwrap();
            assert_eq!(failed, 2, "a living start is no failure");
            guard.ready();
            assert!(replica.file.is_in_place(), "nor forgotten");
            assert_eq!(begin().unwrap().1, 0);
        }
    }

    #[test]
    fn failures_are_forgotten_on_request() {
        let folder = tempfile::tempdir().unwrap();
        forget(folder.path(), &KEYS).unwrap();
        begin(folder.path(), &KEYS).unwrap().0.failed();
        let (guard, failed) = begin(folder.path(), &KEYS).unwrap();
        assert_eq!(failed, 1);
        forget(folder.path(), &KEYS).unwrap();
        assert_eq!(num_failed(folder.path()), 0);
        assert!(guard.file.is_in_place());
    }

    #[test]
    fn failures_of_last_week_are_removed_and_a_clock_that_is_behind_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let begin_at = |now| begin_under(&QUICK, folder.path(), &KEYS, now).unwrap().1;
        begin(folder.path(), &KEYS).unwrap().0.failed();
        let now = SystemTime::now();
        assert_eq!(begin_at(now - 1000 * FORGET_AFTER), 1);
        assert_eq!(begin_at(now + FORGET_AFTER - DEAD_AFTER), 1);
        assert_eq!(num_files(folder.path()), 1);
        assert_eq!(begin_at(now + FORGET_AFTER + DEAD_AFTER), 0);
        assert_eq!(num_files(folder.path()), 0);
    }

    #[test]
    fn without_locks_a_start_that_has_not_beaten_for_a_minute_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path();
        let begin = || begin_under(&NO_LOCKS, starts, &KEYS, SystemTime::now()).unwrap();
        let dead = folder_of(starts, &KEYS).join("dead");
        let alive = begin();
        fs::write(&dead, "beat 000000000009\nprocess 1 on host a\n").unwrap();
        assert_eq!(begin().1, 0);
        let file = std::fs::File::options().write(true).open(&dead).unwrap();
        file.set_modified(SystemTime::now() - 2 * DEAD_AFTER).unwrap();
        assert_eq!(begin().1, 1);
        alive.0.ready();
        assert!(!dead.exists());
    }

    #[test]
    fn no_more_failures_are_counted_than_anybody_needs_and_all_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder_of(folder.path(), &KEYS);
        fs::create_dir(&set).unwrap();
        for n in 0..2 * MAX_FILES {
            fs::write(set.join(n.to_string()), "beat 000000000009\n").unwrap();
        }
        fs::write(set.join("empty"), "").unwrap();
        let (guard, failed) = begin(folder.path(), &KEYS).unwrap();
        assert_eq!(failed, MAX_FILES);
        guard.ready();
        assert_eq!(num_files(folder.path()), 1);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(begin(&file, &KEYS).is_err());
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(begin(&link, &KEYS).is_err());
        let starts = folder.path().join("starts");
        fs::create_dir(&starts).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder_of(&starts, &KEYS)).unwrap();
        assert!(begin(&starts, &KEYS).is_err());
    }
}

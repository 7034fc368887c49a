//! Who writes in the folder, and which entries it uses.
//!
//! ```text
//! leases/<host>-<pid>-<nanoseconds>-<n>
//!   beat 000000000042                            see `beat`
//!   process 12 on host a, since 1763849000.123
//!   3f0c...64 digits                             an entry that it uses; one per line, appended
//!   ...
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`Lease`] | the file of this process; drafts are named after it |
//! | [`Life`] | what is known of a lease's owner |
//!
//! A lease that is deleted while its process lives, perhaps with the whole folder, is written again
//! at the next beat.
//!
//! What this module deliberately does not do: a lease keeps nobody from anything. It only says what
//! better stays for now.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::beat::{self, BeatFile, Conditions, Heart, files_in, life_of, open_to_read, read_text};
pub(crate) use crate::beat::{Life, life};
use crate::key::CacheKey;

/// No more of a lease is read: a quarter of a million keys.
const MAX_LEASE_BYTES: u64 = 16 << 20;

/// The file of a process that writes in the folder; removed when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    name: String,
    state: Arc<Mutex<State>>,
    heart: Heart,
}

#[derive(Debug)]
struct State {
    file: BeatFile,
    /// Where the text ends.
    end: u64,
    keys: BTreeSet<CacheKey>,
    conditions: Conditions,
}

impl Lease {
    /// A new lease in the folder `leases`, which exists.
    pub(crate) fn create(leases: &Path) -> io::Result<Self> {
        Self::create_under(&Conditions::REAL, leases)
    }

    fn create_under(conditions: &Conditions, leases: &Path) -> io::Result<Self> {
        let file = BeatFile::create_in(leases, conditions)?;
        // A lease without a text would be one without a use.
        let end = file.write_text("").inspect_err(|_| file.remove())?;
        let name = file.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.expect("invariant: the path is a folder and a name in it");
        let state = State { file, end, keys: BTreeSet::new(), conditions: *conditions };
        let state = Arc::new(Mutex::new(state));
        let beating = Arc::clone(&state);
        let beat = move |count| {
            let mut state = lock(&beating);
            state.renew();
            state.file.beat(count);
        };
        let heart = Heart::start(conditions.beat_every, beat)
            .inspect_err(|_| lock(&state).file.remove())?;
        Ok(Self { name, state, heart })
    }

    /// Its file's name, which no other process on any host has.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Lets others know that this process uses an entry.
    pub(crate) fn mark_used(&self, key: &CacheKey) {
        let mut state = lock(&self.state);
        if state.keys.contains(key) {
            return;
        }
        state.renew();
        match state.file.write_at(&format!("{key}\n"), state.end) {
            Ok(end) => {
                state.end = end;
                state.keys.insert(*key);
            }
            Err(error) => tracing::debug!(%error, "an entry in use cannot be marked as such"),
        }
    }
}

impl State {
    /// Writes the file again if somebody removed it.
    fn renew(&mut self) {
        if self.file.is_in_place() {
            return;
        }
        let mut keys = String::new();
        for key in &self.keys {
            keys.extend([&key.to_string(), "\n"]);
        }
        let renewed = BeatFile::create(self.file.path(), &self.conditions)
            .and_then(|file| file.write_text(&keys).map(|end| (file, end)));
        match renewed {
            Ok((file, end)) => (self.file, self.end) = (file, end),
            Err(error) => tracing::debug!(%error, "a lease in the graph cache is gone"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.heart.stop();
        lock(&self.state).file.remove();
    }
}

/// The entries that living processes use.
pub(crate) fn keys_in_use(leases: &Path) -> BTreeSet<CacheKey> {
    keys_in_use_under(&Conditions::REAL, leases)
}

fn keys_in_use_under(conditions: &Conditions, leases: &Path) -> BTreeSet<CacheKey> {
    let mut keys = BTreeSet::new();
    for path in files_in(leases) {
        let Ok(file) = open_to_read(&path) else {
            continue;
        };
        if life_of(&file, conditions) != Life::Dead
            && let Ok(text) = read_text(&file, MAX_LEASE_BYTES)
        {
            keys.extend(text.lines().filter_map(|line| line.parse::<CacheKey>().ok()));
        }
    }
    keys
}

/// Removes the leases of the dead, and those of which nothing is known and that have not been
/// written to for an hour.
pub(crate) fn sweep(leases: &Path) {
    beat::sweep(leases, &Conditions::REAL, SystemTime::now());
}

/// A panic elsewhere leaves the state whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::thread;
    use std::time::Duration;

    use fs_err as fs;

    use super::*;
    use crate::beat::testing::{NO_LOCKS, QUICK, kill, path_of_child, start_child, wait_until};

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);
    const OTHER: CacheKey = CacheKey::from_bytes([2; 32]);

    #[test]
    #[ignore = "run by the other tests as a process of its own"]
    fn child() {
        let Some(leases) = path_of_child() else { return };
        let lease = Lease::create(&leases).unwrap();
        lease.mark_used(&KEY);
        thread::sleep(Duration::from_mins(1));
    }

    fn only_file(leases: &Path) -> PathBuf {
        files_in(leases).next().unwrap()
    }

    #[test]
    fn a_lease_lives_as_long_as_its_process_and_names_what_it_uses_once() {
        let folder = tempfile::tempdir().unwrap();
        let leases = folder.path();
        assert!(keys_in_use(leases).is_empty());
        let lease = Lease::create(leases).unwrap();
        let path = leases.join(lease.name());
        assert_eq!(life(&path), Life::Alive);
        for key in [KEY, OTHER, KEY, KEY] {
            lease.mark_used(&key);
        }
        assert_eq!(keys_in_use(leases), [KEY, OTHER].into());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
        sweep(leases);
        assert!(path.exists());
        drop(lease);
        assert!(!path.exists());
        assert_eq!(life(&path), Life::Dead);
        assert!(keys_in_use(leases).is_empty());
    }

    #[test]
    fn the_lease_of_a_killed_process_is_dead_and_swept() {
        let folder = tempfile::tempdir().unwrap();
        let leases = folder.path();
        let child = start_child("lease::tests::child", leases);
        wait_until("the child uses an entry", || keys_in_use(leases) == [KEY].into());
        let path = only_file(leases);
        assert_eq!(life(&path), Life::Alive);
        kill(child);
        assert_eq!(life(&path), Life::Dead);
        assert!(keys_in_use(leases).is_empty());
        sweep(leases);
        assert!(!path.exists());
    }

    #[test]
    fn without_locks_nothing_is_known_and_everything_counts_as_used() {
        let folder = tempfile::tempdir().unwrap();
        let lease = Lease::create_under(&NO_LOCKS, folder.path()).unwrap();
        lease.mark_used(&KEY);
        let file = open_to_read(&folder.path().join(lease.name())).unwrap();
        assert_eq!(life_of(&file, &NO_LOCKS), Life::Unknown);
        assert_eq!(keys_in_use_under(&NO_LOCKS, folder.path()), [KEY].into());
    }

    #[test]
    fn a_lease_beats_and_is_written_again_when_the_folder_was_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let leases = folder.path().join("leases");
        fs::create_dir(&leases).unwrap();
        let lease = Lease::create_under(&QUICK, &leases).unwrap();
        lease.mark_used(&KEY);
        let path = leases.join(lease.name());
        let has_beaten = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.starts_with("beat 0") && !text.starts_with("beat 000000000001\n")
        };
        wait_until("it beats", has_beaten);
        fs::remove_dir_all(&leases).unwrap();
        thread::sleep(3 * QUICK.beat_every);
        fs::create_dir(&leases).unwrap();
        wait_until("it beats again", has_beaten);
        assert_eq!(life(&path), Life::Alive);
        fs::remove_file(&path).unwrap();
        lease.mark_used(&OTHER);
        assert_eq!(keys_in_use(&leases), [KEY, OTHER].into());
        drop(lease);
        assert!(!path.exists());
    }

    #[test]
    fn whatever_else_is_in_the_folder_is_no_lease_and_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let leases = folder.path();
        let target = leases.join("target");
        fs::write(&target, [&[0xff, b'\n', 0][..], &[b'x'; 5000]].concat()).unwrap();
        std::os::unix::fs::symlink(&target, leases.join("link")).unwrap();
        fs::create_dir(leases.join("folder")).unwrap();
        crate::testing::make_fifo(&leases.join("fifo"));
        assert_eq!(life(&leases.join("link")), Life::Unknown);
        assert_eq!(life(&leases.join("folder")), Life::Unknown);
        assert_eq!(life(&leases.join("fifo")), Life::Unknown);
        assert!(keys_in_use(leases).is_empty());
        assert!(Lease::create(&leases.join("missing")).is_err());
        assert!(Lease::create(&target).is_err());
    }
}

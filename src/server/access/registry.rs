//! All keys of a server, live: who has which, since when, under which limits.
//!
//! ```text
//! --api-key ----------------.
//! key file --read, whole -->|  table (replaced at once)  <-- every request looks here
//!     ^  |                  |    key -> entry
//!     |  rests after a      |        -> ledger, by name, which outlives tables
//!     |  change, SIGHUP,    |
//!     |  admin API ---------'
//!     '--- admin API writes
//! ```
//!
//! A file that is wrong at the start is an error; later it is a warning and a number in the metrics,
//! and the keys stay as they were. Requests that run go on whatever becomes of their key.
//!
//! A server with a key file is never open, also when the file holds no key: whoever empties it by
//! accident does not let everybody in.
//!
//! What this module deliberately does not do: no HTTP; see [`guard`](super::guard).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use super::change::{Change, ChangeError};
use super::clock::Now;
use super::digest::Digest;
use super::entry::KeyEntry;
use super::gate::Gate;
use super::key_file::{self, KeyFileError, Stamp};
use super::ledger::Ledger;
use super::usage::{Days, MAX_NAMES};
use super::usage_file::UsageFile;

/// The name of the keys that came by flag; no entry of a file may have it.
pub(crate) const FLAG_NAME: &str = "--api-key";

/// Where keys come from, and what is done with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessOptions {
    /// The hashes of keys without limits.
    pub keys: Vec<Digest>,
    /// The file of keys.
    pub keys_file: Option<PathBuf>,
    /// Whether `/metrics` needs a key.
    pub is_metrics_guarded: bool,
    /// Where usage is kept, and under which word: a folder, and the server's own name in it.
    pub usage: Option<(PathBuf, String)>,
}

/// One key: what its entry says, and what is counted under its name.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) entry: KeyEntry,
    pub(crate) ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct Table {
    /// In the file's order, those of flags first.
    keys: Vec<Arc<Key>>,
    by_digest: HashMap<Digest, Arc<Key>>,
}

/// What is known of the file on disk.
#[derive(Debug, Default)]
struct Watch {
    /// Of the version that was read last, good or bad.
    read: Stamp,
    /// Of another version that was seen since, and may still be written.
    seen: Option<Stamp>,
}

/// Is told of changes.
type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// Who may do what on a server; cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    options: AccessOptions,
    origin: Instant,
    table: RwLock<Arc<Table>>,
    /// By name: of every key that there is or was.
    ledgers: Mutex<BTreeMap<String, Arc<Ledger>>>,
    /// Held while keys change, one change at a time.
    watch: Mutex<Watch>,
    usage_file: Option<UsageFile>,
    /// Whether something was counted that is not written yet.
    has_news: AtomicBool,
    gate: Gate,
    num_unknown: AtomicU64,
    num_reloads: AtomicU64,
    num_failed_reloads: AtomicU64,
    listener: OnceLock<Listener>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("options", &self.0.options).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Access {
    /// Everybody may do everything.
    fn default() -> Self {
        Self::with(AccessOptions::default(), None, BTreeMap::new())
    }
}

impl Access {
    /// Reads the keys, and what was used before.
    ///
    /// # Errors
    /// The file of keys is not there or is wrong. Usage that cannot be read or kept is a warning.
    pub fn open(options: AccessOptions) -> Result<Self, KeyFileError> {
        let read = match &options.keys_file {
            Some(path) => Some((Stamp::of(path)?, key_file::read(path)?)),
            None => None,
        };
        let has_keys = read.is_some() || !options.keys.is_empty();
        let usage = options.usage.as_ref().filter(|_| has_keys).and_then(|(folder, instance)| {
            let opened = UsageFile::open(folder, instance);
            let warn = |error: &std::io::Error| {
                tracing::warn!(folder = %folder.display(), %error, "usage of keys is not kept");
            };
            opened.inspect_err(warn).ok()
        });
        let (file, days) = usage.map_or((None, BTreeMap::new()), |(file, days)| (Some(file), days));
        let access = Self::with(options, file, days);
        let (stamp, entries) = read.unwrap_or_default();
        lock(&access.0.watch).read = stamp;
        access.install(entries);
        Ok(access)
    }

    fn with(
        options: AccessOptions,
        usage_file: Option<UsageFile>,
        days: BTreeMap<String, Days>,
    ) -> Self {
        let origin = Instant::now();
        let now = Now::read(origin);
        let ledger = |(name, days)| (name, Arc::new(Ledger::resumed(now, days)));
        Self(Arc::new(Inner {
            options,
            origin,
            table: RwLock::default(),
            ledgers: Mutex::new(days.into_iter().map(ledger).collect()),
            watch: Mutex::default(),
            usage_file,
            has_news: AtomicBool::new(false),
            gate: Gate::default(),
            num_unknown: AtomicU64::new(0),
            num_reloads: AtomicU64::new(0),
            num_failed_reloads: AtomicU64::new(0),
            listener: OnceLock::new(),
        }))
    }

    /// From now on, this is told of changes. Only the first call counts.
    pub fn on_change(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        let _ = self.0.listener.set(Box::new(listener));
    }

    /// Says that something changed.
    pub(crate) fn tell(&self, change: &Change) {
        if change.is_abnormal() {
            tracing::warn!(%change, "access");
        } else {
            tracing::info!(%change, "access");
        }
        if let Some(listener) = self.0.listener.get() {
            listener(change);
        }
    }

    /// What the clocks say.
    pub(crate) fn now(&self) -> Now {
        Now::read(self.0.origin)
    }

    /// Whether no key is asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.0.options.keys.is_empty() && self.0.options.keys_file.is_none()
    }

    pub(crate) fn options(&self) -> &AccessOptions {
        &self.0.options
    }

    /// The limit on requests of all keys together.
    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key with this hash.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Arc<Key>> {
        self.table().by_digest.get(digest).cloned()
    }

    /// All keys, those of flags first, then in the file's order.
    pub(crate) fn keys(&self) -> Vec<Arc<Key>> {
        self.table().keys.clone()
    }

    /// Puts these keys, and those of flags, in the place of all others.
    fn install(&self, entries: Vec<KeyEntry>) {
        let now = self.now();
        let mut ledgers = lock(&self.0.ledgers);
        let flags = self.0.options.keys.iter().map(|hash| KeyEntry::new(FLAG_NAME, *hash));
        let mut table = Table::default();
        for entry in flags.chain(entries) {
            let new = || Arc::new(Ledger::resumed(now, Days::new()));
            let ledger = Arc::clone(ledgers.entry(entry.name.clone()).or_insert_with(new));
            ledger.set_limits((&entry).into(), now);
            let key = Arc::new(Key { entry, ledger });
            // A key of a file replaces the same one of a flag: limits win.
            table.by_digest.insert(key.entry.hash, Arc::clone(&key));
            table.keys.push(key);
        }
        forget_oldest(&mut ledgers, &table);
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// Reads the file again, now.
    ///
    /// # Errors
    /// There is no file, or it is wrong; the keys stay as they were.
    pub(crate) fn reload(&self) -> Result<usize, ChangeError> {
        let path = self.file()?;
        let mut watch = lock(&self.0.watch);
        self.read_again(path, &mut watch)
    }

    /// Reads the file again when it is another one and has rested since the last call.
    pub(crate) fn poll(&self) {
        let Some(path) = &self.0.options.keys_file else { return };
        let mut watch = lock(&self.0.watch);
        // A file that is gone is another one, too.
        let stamp = Stamp::of(path).unwrap_or_default();
        if stamp == watch.read {
            watch.seen = None;
        } else if watch.seen.as_ref() == Some(&stamp) {
            // What went wrong has been told.
            let _ = self.read_again(path, &mut watch);
        } else {
            watch.seen = Some(stamp);
        }
    }

    fn read_again(&self, path: &Path, watch: &mut Watch) -> Result<usize, ChangeError> {
        watch.seen = None;
        watch.read = Stamp::of(path).unwrap_or_default();
        match key_file::read(path) {
            Ok(entries) => {
                let num_keys = entries.len();
                self.install(entries);
                self.0.num_reloads.fetch_add(1, Ordering::Relaxed);
                self.tell(&Change::Reloaded { num_keys });
                Ok(num_keys)
            }
            Err(error) => {
                self.0.num_failed_reloads.fetch_add(1, Ordering::Relaxed);
                self.tell(&Change::ReloadFailed { message: error.to_string() });
                Err(error.into())
            }
        }
    }

    fn file(&self) -> Result<&Path, ChangeError> {
        self.0.options.keys_file.as_deref().ok_or(ChangeError::NoFile)
    }

    /// Changes the keys of the file, on disk and here.
    ///
    /// # Errors
    /// `edit` refuses, or the file is wrong or cannot be written; everything is as it was.
    pub(crate) fn change<T>(
        &self,
        edit: impl FnOnce(&mut Vec<KeyEntry>) -> Result<(T, Change), ChangeError>,
    ) -> Result<T, ChangeError> {
        let path = self.file()?;
        let mut watch = lock(&self.0.watch);
        // What someone else wrote since it was read is kept.
        let mut entries = key_file::read(path)?;
        let (result, change) = edit(&mut entries)?;
        key_file::write(path, &entries)?;
        watch.seen = None;
        watch.read = Stamp::of(path).unwrap_or_default();
        self.install(entries);
        self.tell(&change);
        Ok(result)
    }

    /// Notes that something was counted.
    pub(crate) fn note_usage(&self) {
        self.0.has_news.store(true, Ordering::Relaxed);
    }

    /// Notes a request without a key that is one.
    pub(crate) fn note_unknown(&self) {
        self.0.num_unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests without a key that is one; reloads that went well, and that did not.
    pub(crate) fn counts(&self) -> [u64; 3] {
        let Inner { num_unknown, num_reloads, num_failed_reloads, .. } = &*self.0;
        [num_unknown, num_reloads, num_failed_reloads].map(|count| count.load(Ordering::Relaxed))
    }

    /// What was used by day, by every name that is known.
    pub(crate) fn usage(&self) -> BTreeMap<String, Days> {
        let ledgers = lock(&self.0.ledgers).clone();
        let used = ledgers.into_iter().map(|(name, ledger)| (name, ledger.days()));
        used.filter(|(_, days)| !days.is_empty()).collect()
    }

    /// Writes what was used to disk, if it has changed.
    pub fn flush(&self) {
        let Some(file) = &self.0.usage_file else { return };
        if self.0.has_news.swap(false, Ordering::Relaxed)
            && let Err(error) = file.write(&self.usage())
        {
            self.note_usage();
            tracing::warn!(%error, "the usage of keys cannot be written; trying again");
        }
    }
}

/// Drops names that no key has any more, those first that were used longest ago.
fn forget_oldest(ledgers: &mut BTreeMap<String, Arc<Ledger>>, table: &Table) {
    if ledgers.len() <= MAX_NAMES {
        return;
    }
    let names: std::collections::HashSet<&str> =
        table.keys.iter().map(|key| key.entry.name.as_str()).collect();
    let last_day = |ledger: &Ledger| ledger.days().last_key_value().map(|(day, _)| *day);
    let former = ledgers.iter().filter(|(name, _)| !names.contains(name.as_str()));
    let mut former: Vec<_> =
        former.map(|(name, ledger)| (last_day(ledger), name.clone())).collect();
    former.sort();
    let num_excess = ledgers.len() - MAX_NAMES;
    for (_, name) in former.into_iter().take(num_excess) {
        ledgers.remove(&name);
    }
}

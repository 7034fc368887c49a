//! Every file operation of the disk store fails or is its process's last, one after the other;
//! whatever is left must be the old state or the new one, and the next call must repair it. And what
//! a power cut may leave of an entry that a disk only claimed to have written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fs_err as fs;

use crate::disk::{DiskOptions, DiskStore, Layout, Scanned, lease_in};
use crate::entry::{MANIFEST, RECORD, SIGNATURES};
use crate::store::{Lookup, MissReason, Put, Store as _};
use crate::testing::{Hook, Hooked, entry, tempdir};
use crate::trust::SigningKey;

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails with this error; a write has then written half.
    Fails(i32),
    /// It and every later one fail.
    FailsFromThenOn,
    /// The process is killed half-way through it.
    Killed,
    /// The process is killed just after it.
    KilledAfter,
}

const FAULTS: [Fault; 9] = [
    Fault::Fails(libc::EIO),
    Fault::Fails(libc::ENOSPC),
    Fault::Fails(libc::EDQUOT),
    Fault::Fails(libc::EROFS),
    Fault::Fails(libc::EACCES),
    Fault::Fails(libc::EMFILE),
    Fault::FailsFromThenOn,
    Fault::Killed,
    Fault::KilledAfter,
];

/// The real file system until the chosen operation.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    at: usize,
    operations: AtomicUsize,
    is_dead: AtomicBool,
    has_failed_removal: AtomicBool,
}

impl Faulty {
    fn new(fault: Fault, at: usize) -> Arc<Self> {
        Arc::new(Self {
            fault,
            at,
            operations: AtomicUsize::new(0),
            is_dead: AtomicBool::new(false),
            has_failed_removal: AtomicBool::new(false),
        })
    }

    fn killed(&self) -> io::Error {
        self.is_dead.store(true, Ordering::SeqCst);
        io::Error::other("killed")
    }
}

impl Hook for Faulty {
    fn run<T>(
        &self,
        operation: &'static str,
        _: &Path,
        whole: impl FnOnce() -> io::Result<T>,
        half: impl FnOnce(),
    ) -> io::Result<T> {
        if self.is_dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the process is dead"));
        }
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        let fail = |number| {
            if operation == "remove" {
                self.has_failed_removal.store(true, Ordering::SeqCst);
            }
            Err(io::Error::from_raw_os_error(number))
        };
        match self.fault {
            Fault::FailsFromThenOn if number > self.at => fail(libc::EIO),
            _ if number != self.at => whole(),
            Fault::Fails(error) => {
                half();
                fail(error)
            }
            Fault::FailsFromThenOn => {
                half();
                fail(libc::EIO)
            }
            Fault::Killed => {
                half();
                Err(self.killed())
            }
            Fault::KilledAfter => {
                let _ = whole();
                Err(self.killed())
            }
        }
    }
}

fn open(root: &Path) -> DiskStore {
    DiskStore::open(root).unwrap()
}

fn layout(root: &Path) -> Layout {
    Layout::new(root.to_owned())
}

fn entry_folder(root: &Path) -> PathBuf {
    layout(root).entry(entry("graph").key())
}

/// The old state or the new one: the entry whole, or none; bad only where it was bad before.
fn assert_old_or_new(store: &DiskStore, graph: &str, place: &str) {
    let expected = entry(graph);
    match store.get(expected.key()) {
        Lookup::Hit(found) => assert_eq!(*found, expected, "{place}"),
        Lookup::Miss(MissReason::Absent) => {}
        Lookup::Miss(_) if entry_folder(store.root()).join("spoilt").exists() => {}
        Lookup::Miss(reason) => panic!("{place}: {reason}"),
    }
}

/// Runs `prepare`, then `act` during which each fault happens at each operation in turn.
fn for_each_operation(prepare: impl Fn(&Path), act: impl Fn(&DiskStore)) {
    for fault in FAULTS {
        let mut at = 0;
        loop {
            let folder = tempdir();
            let root = folder.path().join("cache");
            open(&root).put(&entry("another")).unwrap();
            prepare(&root);
            let hook = Faulty::new(fault, at);
            let faulty = Box::new(Hooked(Arc::clone(&hook)));
            let place = format!("{fault:?} at operation {at}");
            if let Ok(store) = DiskStore::open_on(faulty, &root, DiskOptions::default()) {
                act(&store);
            }
            assert_repaired(&root, &hook, &place);
            if at >= hook.operations.load(Ordering::SeqCst) {
                assert!(at > 20, "only {at} operations: is the fault injected at all?");
                break;
            }
            at += 1;
        }
    }
}

fn assert_repaired(root: &Path, hook: &Faulty, place: &str) {
    let store = open(root);
    assert_old_or_new(&store, "graph", place);
    let found = store.get(entry("another").key());
    assert!(matches!(found, Lookup::Hit(_)), "{place}: {found:?}");

    // What has a dead owner's name is swept; only what has no owner's name stays for an hour.
    let left = fs::read_dir(layout(root).tmp()).unwrap().map(|item| item.unwrap().file_name());
    let left: Vec<_> = left.collect();
    assert!(left.iter().all(|name| lease_in(name).is_none()), "{place}: {left:?}");
    let may_leave = hook.is_dead.load(Ordering::SeqCst)
        || hook.has_failed_removal.load(Ordering::SeqCst)
        || hook.fault == Fault::FailsFromThenOn;
    assert!(left.is_empty() || may_leave, "{place}: temporary things are left: {left:?}");

    let put = store.put(&entry("graph")).unwrap_or_else(|error| panic!("{place}: {error}"));
    assert!(matches!(put, Put::Stored { .. } | Put::AlreadyThere), "{place}");
    let found = store.get(entry("graph").key());
    assert!(matches!(found, Lookup::Hit(_)), "{place}: {found:?}");
    let mut num_entries = 0;
    store
        .scan(|found| match found {
            Scanned::Entry(_) => num_entries += 1,
            other => panic!("{place}: {other:?}"),
        })
        .unwrap();
    assert_eq!(num_entries, 2, "{place}");
}

fn put(root: &Path) {
    open(root).put(&entry("graph")).unwrap();
}

fn spoil(root: &Path) {
    put(root);
    fs::write(entry_folder(root).join("model.om"), b"the compiled grapH").unwrap();
    fs::write(entry_folder(root).join("spoilt"), b"").unwrap();
}

/// A lie about the store's own folders: a link where one belongs.
fn replace_folders(root: &Path) {
    put(root);
    for folder in &layout(root).own_folders()[1..] {
        fs::remove_dir_all(folder).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder).unwrap();
    }
}

#[test]
fn a_new_entry_is_whole_or_absent_whatever_happens() {
    for_each_operation(
        |_| {},
        |store| {
            let _ = store.put(&entry("graph"));
        },
    );
}

#[test]
fn a_bad_entry_is_replaced_whole_or_not_at_all() {
    for_each_operation(spoil, |store| {
        let _ = store.put(&entry("graph"));
    });
}

#[test]
fn a_bad_entry_is_moved_away_whole_or_not_at_all() {
    for_each_operation(spoil, |store| {
        let _ = store.quarantine(entry("graph").key(), "bad");
    });
}

#[test]
fn a_good_entry_is_removed_whole_or_not_at_all() {
    for_each_operation(put, |store| {
        let _ = store.remove(entry("graph").key());
    });
}

#[test]
fn reading_changes_nothing_and_trouble_is_never_called_damage() {
    for_each_operation(put, |store| {
        let expected = entry("graph");
        match store.get(expected.key()) {
            Lookup::Hit(found) => assert_eq!(*found, expected),
            Lookup::Miss(MissReason::Unreadable(_)) => {}
            Lookup::Miss(reason) => panic!("{reason}"),
        }
        let manifest = store.manifest(expected.key());
        assert!(manifest.is_none_or(|found| found == *expected.manifest()));
        if let Ok(keys) = store.list() {
            assert_eq!(keys.len(), 2);
        }
    });
}

#[test]
fn pins_and_folders_that_were_replaced_leave_entries_alone() {
    for_each_operation(replace_folders, |store| {
        let key = *entry("graph").key();
        let _ = store.pin(&key);
        if let Ok(pins) = store.pins() {
            assert!(pins.is_empty() || pins.contains(&key));
        }
        let _ = store.unpin(&key);
    });
}

#[test]
fn a_signature_is_added_whole_or_not_at_all() {
    let signing_key = SigningKey::generate().unwrap();
    for fault in FAULTS {
        let mut at = 0;
        loop {
            let folder = tempdir();
            let root = folder.path().join("cache");
            put(&root);
            let hook = Faulty::new(fault, at);
            let faulty = Box::new(Hooked(Arc::clone(&hook)));
            let key = *entry("graph").key();
            if let Ok(store) = DiskStore::open_on(faulty, &root, DiskOptions::default()) {
                let _ = store.sign(&key, &signing_key);
            }
            let store = open(&root);
            let Lookup::Hit(found) = store.get(&key) else {
                panic!("{fault:?} at operation {at}: {:?}", store.get(&key));
            };
            assert_eq!(found.artifact(), entry("graph").artifact());
            let whole = format!("{}\n", signing_key.sign(found.manifest_json())).into_bytes();
            assert!(found.signatures().is_empty() || found.signatures() == whole);
            store.sign(&key, &signing_key).unwrap();
            let Lookup::Hit(found) = store.get(&key) else { panic!() };
            assert_eq!(found.signatures(), whole, "{fault:?} at operation {at}");
            if at >= hook.operations.load(Ordering::SeqCst) {
                break;
            }
            at += 1;
        }
    }
}

/// What a power cut may leave of a file that was written.
const REMAINS: usize = 6;

fn remains(whole: &[u8], which: usize) -> Option<Vec<u8>> {
    let half = whole.len() / 2;
    match which {
        0 => Some(whole.to_vec()),
        1 => None,
        2 => Some(Vec::new()),
        3 => Some(whole[..half].to_vec()),
        4 => Some(vec![0; whole.len()]),
        _ => Some([&whole[..half], &vec![0; whole.len() - half]].concat()),
    }
}

#[test]
fn whatever_a_power_cut_leaves_of_an_entry_is_a_miss_or_the_right_bytes() {
    let folder = tempdir();
    let root = folder.path().join("cache");
    let signing_key = SigningKey::generate().unwrap();
    let whole = entry("graph");
    let key = *whole.key();
    let store = open(&root);
    store.put(&whole).unwrap();
    store.sign(&key, &signing_key).unwrap();
    let names = ["model.om", "io.json", MANIFEST, RECORD, SIGNATURES];
    let folder = entry_folder(&root);
    let contents = names.map(|name| fs::read(folder.join(name)).unwrap());

    let mut num_hits = 0;
    for combination in 0..REMAINS.pow(names.len() as u32) {
        let mut rest = combination;
        for (name, content) in names.iter().zip(&contents) {
            match remains(content, rest % REMAINS) {
                Some(content) => fs::write(folder.join(name), content).unwrap(),
                None => {
                    let _ = fs::remove_file(folder.join(name));
                }
            }
            rest /= REMAINS;
        }
        match store.get(&key) {
            Lookup::Hit(found) => {
                num_hits += 1;
                assert_eq!(found.artifact(), whole.artifact(), "combination {combination}");
                assert_eq!(found.manifest_json(), whole.manifest_json());
            }
            Lookup::Miss(MissReason::Bad(_)) => {}
            Lookup::Miss(reason) => panic!("combination {combination}: {reason}"),
        }
    }
    // All of the entry's own files are whole in these, and signatures may be anything: nobody asked.
    assert_eq!(num_hits, REMAINS);
}

#[test]
fn whatever_a_power_cut_leaves_of_a_store_is_repaired() {
    let folder = tempdir();
    let root = folder.path().join("cache");
    put(&root);
    let layout = layout(&root);
    let entry = entry("graph");
    let mut lost = layout.own_folders().to_vec();
    lost.extend([layout.entries(), layout.entry(entry.key()), layout.tag(), root.clone()]);
    for path in lost {
        // The folder's name is there, what is in it is not; or not even the name.
        for is_name_left in [true, false] {
            let before = open(&root);
            before.put(&entry).unwrap();
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
                if is_name_left {
                    fs::create_dir(&path).unwrap();
                }
            } else {
                fs::write(&path, b"").unwrap();
            }
            // By a store that was open all the time, and by the next process.
            for store in [before, open(&root)] {
                store.put(&entry).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert_eq!(store.get(entry.key()), Lookup::Hit(Box::new(entry.clone())));
            }
        }
    }
}

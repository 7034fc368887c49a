//! Every file operation of a collection, and of a repair, fails or is its process's last; nothing
//! that is needed may be lost by it, and the next call has to finish the work.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{GcOptions, GcReport};
use crate::disk::{DiskOptions, DiskStore, Layout};
use crate::entry::Entry;
use crate::store::{Lookup, MissReason, Store as _};
use crate::testing::{Hook, Hooked, entry};
use crate::verify::{VerifyOptions, VerifyReport};

const REPAIR: VerifyOptions<'static> = VerifyOptions { repair: true, progress: None };
const LOOK: VerifyOptions<'static> = VerifyOptions { repair: false, progress: None };

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fails,
    FailsFromThenOn,
    KilledBefore,
    KilledHalfWay,
    KilledAfter,
}

const FAULTS: [Fault; 5] = [
    Fault::Fails,
    Fault::FailsFromThenOn,
    Fault::KilledBefore,
    Fault::KilledHalfWay,
    Fault::KilledAfter,
];

/// The real file system until the chosen operation, counted from when it is armed.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    at: usize,
    is_armed: AtomicBool,
    is_dead: AtomicBool,
    operations: AtomicUsize,
}

impl Faulty {
    fn dies(&self) -> io::Error {
        self.is_dead.store(true, Ordering::SeqCst);
        io::Error::other("killed")
    }
}

impl Hook for Faulty {
    fn run<T>(
        &self,
        _: &'static str,
        _: &Path,
        whole: impl FnOnce() -> io::Result<T>,
        half: impl FnOnce(),
    ) -> io::Result<T> {
        if self.is_dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the process is dead"));
        }
        if !self.is_armed.load(Ordering::SeqCst) {
            return whole();
        }
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        let failure = || io::Error::from_raw_os_error(libc::EIO);
        match self.fault {
            Fault::FailsFromThenOn if number > self.at => Err(failure()),
            _ if number != self.at => whole(),
            Fault::Fails | Fault::FailsFromThenOn => {
                half();
                Err(failure())
            }
            Fault::KilledBefore => Err(self.dies()),
            Fault::KilledHalfWay => {
                half();
                Err(self.dies())
            }
            Fault::KilledAfter => {
                let _ = whole();
                Err(self.dies())
            }
        }
    }
}

/// A folder where a flush to the disk costs nothing, as far as there is one.
fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Runs `act` on what `prepare` has made, once for each fault at each operation; then `check`.
fn for_each_operation<T: std::fmt::Debug>(
    prepare: impl Fn(&Path),
    act: impl Fn(&DiskStore) -> T,
    check: impl Fn(&Path, T, &str),
) {
    for fault in FAULTS {
        for at in 0.. {
            let folder = tempdir();
            let root = folder.path().join("cache");
            prepare(&root);
            let (operations, [is_armed, is_dead]) =
                (AtomicUsize::new(0), [false; 2].map(AtomicBool::new));
            let hook = Arc::new(Faulty { fault, at, is_armed, is_dead, operations });
            let faulty = Box::new(Hooked(Arc::clone(&hook)));
            let store = DiskStore::open_on(faulty, &root, DiskOptions::default()).unwrap();
            // Opening has swept: what is to be found by the collection comes after it.
            litter(&root);
            hook.is_armed.store(true, Ordering::SeqCst);
            let report = act(&store);
            drop(store);
            check(&root, report, &format!("{fault:?} at operation {at}"));
            if at >= hook.operations.load(Ordering::SeqCst) {
                assert!(at > 30, "only {at} operations: is the fault injected at all?");
                break;
            }
        }
    }
}

fn entries() -> [Entry; 4] {
    ["pinned", "in use", "old", "young"].map(entry)
}

fn fill(root: &Path) {
    let store = DiskStore::open(root).unwrap();
    for entry in entries() {
        store.put(&entry).unwrap();
    }
    store.pin(entries()[0].key()).unwrap();
}

fn litter(root: &Path) {
    let layout = Layout::new(root.to_owned());
    let quarantine = layout.quarantine();
    fs::create_dir_all(layout.tmp().join("host-1-2-3.4-5-6")).unwrap();
    fs::write(layout.tmp().join("host-1-2-3.4-5-6/model.om"), b"x").unwrap();
    fs::write(layout.leases().join("host-1-2-3"), b"beat 000000000001\n").unwrap();
    fs::write(quarantine.join("x.0"), b"x").unwrap();
    fs::write(quarantine.join("x.0.reason.txt"), b"x").unwrap();
    fs::create_dir_all(root.join("v1/entries")).unwrap();
}

fn assert_good(root: &Path, entry: &Entry, place: &str) {
    let store = DiskStore::open(root).unwrap();
    assert_eq!(store.get(entry.key()), Lookup::Hit(Box::new(entry.clone())), "{place}");
}

#[test]
fn a_collection_loses_nothing_that_is_needed_whatever_fails() {
    let options = GcOptions { max_bytes: Some(1), dry_run: false };
    let act = |store: &DiskStore| {
        let other_process = crate::lease::Lease::create(&store.layout().leases()).unwrap();
        other_process.mark_used(entries()[1].key());
        store.gc(&options).unwrap()
    };
    for_each_operation(fill, act, |root, _: GcReport, place| {
        let entries = entries();
        for needed in &entries[..2] {
            assert_good(root, needed, place);
        }
        let store = DiskStore::open(root).unwrap();
        for other in &entries[2..] {
            let found = store.get(other.key());
            let is_whole = matches!(found, Lookup::Hit(_) | Lookup::Miss(MissReason::Absent));
            assert!(is_whole, "{place}: {found:?}");
        }
        drop(store);
        // The next one finishes the work.
        let store = DiskStore::open(root).unwrap();
        let report = store.gc(&options).unwrap();
        assert_eq!(report.failed, [""; 0], "{place}");
        assert_eq!(store.list().unwrap(), [*entries[0].key()], "{place}");
        assert!(!root.join("v1").exists(), "{place}");
        assert_eq!(fs::read_dir(store.layout().quarantine()).unwrap().count(), 0, "{place}");
        let report = store.verify(&LOOK).unwrap();
        assert_eq!(report.problems, [], "{place}");
    });
}

#[test]
fn a_collection_says_what_failed() {
    let options = GcOptions { max_bytes: Some(1), dry_run: false };
    let folder = tempdir();
    let root = folder.path().join("cache");
    fill(&root);
    let (operations, at) = (AtomicUsize::new(0), 0);
    let (is_armed, is_dead) = (AtomicBool::new(false), AtomicBool::new(false));
    let fault = Fault::FailsFromThenOn;
    let hook = Arc::new(Faulty { fault, at, is_armed, is_dead, operations });
    let faulty = Box::new(Hooked(Arc::clone(&hook)));
    let store = DiskStore::open_on(faulty, &root, DiskOptions::default()).unwrap();
    hook.is_armed.store(true, Ordering::SeqCst);
    let report = store.gc(&options).unwrap();
    assert!(report.failed.iter().any(|what| what.starts_with("cannot evict anything")));
    assert!(report.failed.len() >= 3, "{report:?}");
    assert!(report.evicted.is_empty());
    let report = store.verify(&REPAIR).unwrap();
    assert!(!report.is_clean(), "what cannot be read is not said to be good");
}

#[test]
fn a_repair_loses_nothing_that_is_good_whatever_fails() {
    let damage = |root: &Path| {
        fill(root);
        let layout = Layout::new(root.to_owned());
        let bad = layout.entry(entries()[3].key());
        fs::write(bad.join("model.om"), b"the compiled grapH").unwrap();
        fs::write(layout.entry(entries()[1].key()).join("extra"), b"x").unwrap();
        let old = layout.entry(entries()[2].key());
        fs::rename(&old, old.with_file_name("copy")).unwrap();
        fs::write(layout.tmp().join("my file"), b"x").unwrap();
    };
    let act = |store: &DiskStore| store.verify(&REPAIR).unwrap();
    for_each_operation(damage, act, |root, report: VerifyReport, place| {
        // Never taken for good, whatever could be seen of it.
        assert!(!report.is_clean(), "{place}: {report:?}");
        assert_good(root, &entries()[0], place);
        let store = DiskStore::open(root).unwrap();
        let before = store.verify(&REPAIR).unwrap();
        assert!(before.is_repaired(), "{place}: {before:?}");
        let report = store.verify(&LOOK).unwrap();
        assert_eq!(report.problems, [], "{place}");
        assert_eq!((report.num_entries, report.num_good), (2, 2), "{place}");
        for good in &entries()[..2] {
            assert_good(root, good, place);
        }
        assert!(report.quarantined.count >= 3, "{place}: {report:?}");
    });
}

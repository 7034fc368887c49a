//! What is removed, in which order, and what never is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::*;
use crate::disk::{DiskAccess, DiskOptions};
use crate::entry::Entry;
use crate::events::{Event, Events, Observer};
use crate::lease::Lease;
use crate::store::{Lookup, MissReason, Store as _};
use crate::testing::{entry, fields};

const DAY: Duration = Duration::from_hours(24);

/// A store with entries that were used one after the other, a minute apart.
struct Filled {
    _folder: tempfile::TempDir,
    root: PathBuf,
    store: DiskStore,
    entries: Vec<Entry>,
}

impl Filled {
    fn new(num_entries: usize) -> Self {
        Self::observed(num_entries, Vec::new())
    }

    fn observed(num_entries: usize, observers: Vec<Arc<dyn Observer>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        let entries: Vec<_> = (0..num_entries).map(|idx| entry(&format!("graph {idx}"))).collect();
        let writer = DiskStore::open(&root).unwrap();
        for entry in &entries {
            writer.put(entry).unwrap();
        }
        // With its lease, all that it has used.
        drop(writer);
        let options = DiskOptions { events: Events::new(observers), ..DiskOptions::default() };
        let store = DiskStore::open_with(&root, options).unwrap();
        let root = store.root().to_owned();
        let filled = Self { _folder: folder, root, store, entries };
        for idx in 0..num_entries {
            filled.set_last_use(idx, Duration::from_mins(60 - idx as u64));
        }
        filled
    }

    fn key(&self, idx: usize) -> CacheKey {
        *self.entries[idx].key()
    }

    fn set_last_use(&self, idx: usize, ago: Duration) {
        touch(&self.store.layout().entry(&self.key(idx)), SystemTime::now() - ago);
    }

    fn last_use(&self, idx: usize) -> SystemTime {
        let path = self.store.layout().entry(&self.key(idx));
        fs::metadata(path).unwrap().modified().unwrap()
    }

    fn entry_bytes(&self) -> u64 {
        tree_bytes(self.store.fs(), &self.store.layout().entry(&self.key(0)))
    }

    fn gc(&self, max_bytes: u64) -> GcReport {
        let options = GcOptions { max_bytes: Some(max_bytes), dry_run: false };
        let dry_run = self.store.gc(&GcOptions { dry_run: true, ..options }).unwrap();
        let report = self.store.gc(&options).unwrap();
        // What a dry run says is what comes to pass.
        assert_eq!(GcReport { dry_run: false, ..dry_run }, report);
        report
    }

    fn is_there(&self, idx: usize) -> bool {
        // A reader: nothing is in use because of this look.
        match reader(&self.root).get(&self.key(idx)) {
            Lookup::Hit(found) => {
                assert_eq!(*found, self.entries[idx]);
                true
            }
            Lookup::Miss(MissReason::Absent) => false,
            Lookup::Miss(reason) => panic!("{reason}"),
        }
    }

    fn there(&self) -> Vec<usize> {
        (0..self.entries.len()).filter(|idx| self.is_there(*idx)).collect()
    }
}

#[test]
fn a_store_that_releases_what_it_used_has_it_evicted_by_the_last_use_that_was_set() {
    let filled = Filled::new(3);
    let options = DiskOptions { releases: true, ..DiskOptions::default() };
    let store = DiskStore::open_with(&filled.root, options).unwrap();
    for idx in 0..3 {
        assert!(matches!(store.get(&filled.key(idx)), Lookup::Hit(_)));
        let minutes = [2, 3, 1][idx];
        let then = SystemTime::now() - Duration::from_mins(minutes);
        store.set_last_used(&filled.key(idx), then).unwrap();
    }
    let report = filled.gc(2 * filled.entry_bytes());
    assert_eq!((report.num_in_use, filled.there()), (0, vec![0, 2]));
    let new = entry("new");
    store.put(&new).unwrap();
    assert_eq!(filled.gc(0).num_in_use, 0);
    assert!(store.set_last_used(new.key(), SystemTime::now()).is_err());
    assert!(reader(&filled.root).set_last_used(new.key(), SystemTime::now()).is_err());
}

fn reader(root: &Path) -> DiskStore {
    let options = DiskOptions { access: DiskAccess::ReadOnly, ..DiskOptions::default() };
    DiskStore::open_with(root, options).unwrap()
}

fn touch(path: &Path, time: SystemTime) {
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn write_at(path: &Path, content: &[u8], time: SystemTime) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    touch(path, time);
}

/// Every path below, with the content of the files; without the leases, which beat.
fn picture(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            all.append(&mut picture(&path));
            all.insert(path, None);
        } else if !path.parent().unwrap().ends_with("leases") {
            let content = fs::read(&path).unwrap();
            all.insert(path, Some(content));
        }
    }
    all
}

#[test]
fn the_least_recently_used_entries_go_until_the_rest_fits() {
    let filled = Filled::new(5);
    let bytes = filled.entry_bytes();
    let report = filled.gc(3 * bytes + 1);
    let evicted: Vec<_> = report.evicted.iter().map(|one| one.key).collect();
    assert_eq!(evicted, [filled.key(0), filled.key(1)]);
    assert_eq!(report.evicted[0].note, "a note");
    assert_eq!(report.evicted[0].bytes, bytes);
    assert_eq!((report.num_entries, report.bytes_before), (5, 5 * bytes));
    assert_eq!((report.bytes_after, report.still_over_by), (3 * bytes, 0));
    assert_eq!(filled.there(), [2, 3, 4]);
    let left = fs::read_dir(filled.store.layout().tmp()).unwrap().count();
    assert_eq!(left, 0, "evicted entries are in the way of no one");
}

#[test]
fn a_use_saves_an_entry() {
    let filled = Filled::new(3);
    let other_process = DiskStore::open(&filled.root).unwrap();
    assert!(matches!(other_process.get(&filled.key(0)), Lookup::Hit(_)));
    let bytes = filled.entry_bytes();
    let report = filled.gc(2 * bytes);
    assert_eq!(report.num_in_use, 1);
    assert_eq!(report.evicted[0].key, filled.key(1));
    // After its end only the time counts.
    drop(other_process);
    let report = filled.gc(bytes);
    assert_eq!(report.num_in_use, 0);
    assert_eq!(report.evicted[0].key, filled.key(2));
    assert_eq!(filled.there(), [0]);
}

#[test]
fn without_a_budget_no_entry_goes() {
    let filled = Filled::new(2);
    let report = filled.store.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.evicted.len(), report.num_entries), (0, 2));
    assert_eq!(report.reclaimed.total(), Tally::default());
    assert_eq!(filled.there(), [0, 1]);
}

#[test]
fn pinned_entries_and_those_in_use_stay_and_the_report_says_what_they_cost() {
    let filled = Filled::new(4);
    let bytes = filled.entry_bytes();
    filled.store.pin(&filled.key(0)).unwrap();
    filled.store.pin(&CacheKey::from_bytes([7; 32])).unwrap();
    let other_process = Lease::create(&filled.store.layout().leases()).unwrap();
    other_process.mark_used(&filled.key(2));
    let report = filled.gc(bytes);
    assert_eq!((report.num_pinned, report.num_in_use), (1, 1));
    assert_eq!((report.bytes_after, report.still_over_by), (2 * bytes, bytes));
    drop(other_process);
    filled.store.unpin(&filled.key(0)).unwrap();
    assert_eq!(filled.gc(0).still_over_by, 0);
    assert_eq!(filled.there(), [0; 0]);
}

/// When something is evicted, does something once.
struct OnEviction(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Observer for OnEviction {
    fn observe(&self, event: &Event) {
        if matches!(event, Event::Evicted { .. })
            && let Some(act) = self.0.lock().unwrap().take()
        {
            act();
        }
    }
}

#[test]
fn whoever_is_needed_only_just_in_time_stays() {
    let on_eviction = Arc::new(OnEviction(Mutex::default()));
    let filled = Filled::observed(4, vec![Arc::clone(&on_eviction) as Arc<dyn Observer>]);
    let other_process = Lease::create(&filled.store.layout().leases()).unwrap();
    let (used, pinned) = (filled.key(1), filled.key(2));
    let pin = filled.store.layout().pin(&pinned);
    *on_eviction.0.lock().unwrap() = Some(Box::new(move || {
        other_process.mark_used(&used);
        fs::write(pin, b"").unwrap();
        std::mem::forget(other_process);
    }));
    let options = GcOptions { max_bytes: Some(0), dry_run: false };
    let report = filled.store.gc(&options).unwrap();
    let evicted: Vec<_> = report.evicted.iter().map(|one| one.key).collect();
    assert_eq!(evicted, [filled.key(0), filled.key(3)]);
    assert_eq!(report.still_over_by, 2 * report.evicted[0].bytes);
}

#[test]
fn a_clock_that_was_wrong_neither_keeps_an_entry_for_ever_nor_evicts_all() {
    let filled = Filled::new(4);
    let future = SystemTime::now() + 3650 * DAY;
    touch(&filled.store.layout().entry(&filled.key(1)), future);
    touch(&filled.store.layout().entry(&filled.key(0)), future + DAY);
    let before = SystemTime::now();
    let bytes = filled.entry_bytes();
    // Everything fits: nothing goes, whatever the clock says; but the times are put right.
    let dry_run = GcOptions { max_bytes: Some(4 * bytes), dry_run: true };
    assert!(filled.store.gc(&dry_run).unwrap().evicted.is_empty());
    assert_eq!(filled.last_use(0), future + DAY, "a dry run changes no time");
    let report = filled.store.gc(&GcOptions { dry_run: false, ..dry_run }).unwrap();
    assert!(report.evicted.is_empty());
    for idx in [0, 1] {
        let now = filled.last_use(idx);
        assert!(now <= SystemTime::now() && now >= before - DAY, "{now:?}");
    }
    assert!(filled.last_use(1) < filled.last_use(0), "the order stays");
    // The two are now the youngest, and no more than that.
    filled.set_last_use(2, Duration::ZERO);
    filled.set_last_use(3, Duration::ZERO);
    let report = filled.gc(2 * bytes);
    let evicted: Vec<_> = report.evicted.iter().map(|one| one.key).collect();
    assert_eq!(evicted, [filled.key(1), filled.key(0)]);
}

#[test]
fn a_clock_that_jumps_ahead_evicts_nothing() {
    let filled = Filled::new(3);
    for idx in 0..3 {
        filled.set_last_use(idx, 3650 * DAY);
    }
    assert!(filled.gc(3 * filled.entry_bytes()).evicted.is_empty());
    assert_eq!(filled.there(), [0, 1, 2]);
}

#[test]
fn what_the_dead_have_left_goes_and_what_the_living_use_stays() {
    let filled = Filled::new(1);
    let layout = filled.store.layout();
    let (now, old) = (SystemTime::now(), SystemTime::now() - 8 * DAY);
    let living = Lease::create(&layout.leases()).unwrap();
    let (dead_key, digest) = (filled.key(0), "ab".repeat(32));
    let goes = [
        (layout.leases().join("host-1-2-3"), now),
        (layout.tmp().join("host-1-2-3.4-5-6/model.om"), now),
        (layout.tmp().join("1-2-3"), old),
        (layout.locks().join(format!("{dead_key}.lock")), old),
        (layout.starts().join(&digest).join("host-1-2-3"), old),
    ];
    let stays = [
        (layout.tmp().join(format!("{}.4-5-6/model.om", living.name())), old),
        (layout.tmp().join("7-8-9"), now),
        (layout.locks().join(format!("{}.lock", CacheKey::from_bytes([7; 32]))), now),
        (layout.starts().join(&digest).join("host-4-5-6"), now),
    ];
    for (path, time) in goes.iter().chain(&stays) {
        write_at(path, b"12345", *time);
    }
    let held = fs::File::create(layout.locks().join(format!("{digest}.lock"))).unwrap();
    held.try_lock().unwrap();
    held.set_modified(old).unwrap();
    let report = filled.gc(u64::MAX);
    assert_eq!(report.failed, [""; 0]);
    let one = Tally { count: 1, bytes: 5 };
    let expected = Reclaimed {
        temporary: Tally { count: 2, bytes: 10 },
        locks: one,
        leases: one,
        starts: one,
        ..Reclaimed::default()
    };
    assert_eq!(report.reclaimed, expected);
    assert_eq!(report.reclaimed.total(), Tally { count: 5, bytes: 25 });
    assert!(goes.iter().all(|(path, _)| !path.exists()));
    assert!(stays.iter().all(|(path, _)| path.exists()));
    assert!(layout.leases().join(living.name()).exists());
    assert!(layout.locks().join(format!("{digest}.lock")).exists());
    assert_eq!(filled.there(), [0]);
}

#[test]
fn the_quarantine_is_emptied_by_age_and_before_any_entry() {
    let filled = Filled::new(2);
    let quarantine = filled.store.layout().quarantine();
    let now = SystemTime::now();
    // The thing's own time says when its entry was used, not when it was moved here.
    write_at(&quarantine.join("old.0"), b"12345", now);
    write_at(&quarantine.join("old.0.reason.txt"), b"123", now - 31 * DAY);
    write_at(&quarantine.join("young.0/file"), b"12345", now - 31 * DAY);
    write_at(&quarantine.join("young.0.reason.txt"), b"123", now - 29 * DAY);
    write_at(&quarantine.join("younger.0"), b"12345", now - DAY);
    write_at(&quarantine.join("alone.0.reason.txt"), b"123", now);
    let bytes = filled.entry_bytes();
    let report = filled.gc(2 * bytes + 13);
    assert_eq!(report.bytes_before, 2 * bytes + 8 + 8 + 5 + 3);
    assert_eq!(report.reclaimed.quarantine, Tally { count: 2, bytes: 11 });
    assert_eq!(report.bytes_after, 2 * bytes + 13);
    assert_eq!(fs::read_dir(&quarantine).unwrap().count(), 3);
    let report = filled.gc(2 * bytes + 12);
    assert_eq!(report.reclaimed.quarantine, Tally { count: 1, bytes: 8 });
    assert!(quarantine.join("younger.0").exists());
    let report = filled.gc(bytes);
    assert_eq!(report.reclaimed.quarantine, Tally { count: 1, bytes: 5 });
    assert_eq!(fs::read_dir(&quarantine).unwrap().count(), 0);
    assert_eq!(report.evicted.len(), 1);
}

#[test]
fn older_formats_go_and_newer_ones_are_left() {
    let filled = Filled::new(1);
    let root = &filled.root;
    write_at(&root.join("v1/entries/ab/cd/x/artifact.bin"), b"12345", SystemTime::now());
    write_at(&root.join("v3/entries/x"), b"12345", SystemTime::now());
    write_at(&root.join("v0"), b"a file is no format", SystemTime::now());
    let report = filled.gc(u64::MAX);
    assert_eq!(report.reclaimed.old_formats, Tally { count: 1, bytes: 5 });
    assert_eq!(report.notes.len(), 1);
    assert!(report.notes[0].contains("v3` is left for the newer version"), "{:?}", report.notes);
    assert!(!root.join("v1").exists());
    assert!(root.join("v3/entries/x").exists() && root.join("v0").exists());
}

#[test]
fn a_dry_run_changes_nothing() {
    let filled = Filled::new(3);
    let layout = filled.store.layout();
    let old = SystemTime::now() - 31 * DAY;
    write_at(&filled.root.join("v1/x"), b"1", old);
    write_at(&layout.tmp().join("1-2-3/x"), b"1", old);
    write_at(&layout.quarantine().join("x.0"), b"1", old);
    touch(&layout.tmp().join("1-2-3"), old);
    let before = picture(&filled.root);
    let options = GcOptions { max_bytes: Some(0), dry_run: true };
    let reader = reader(&filled.root);
    for store in [&filled.store, &reader] {
        let report = store.gc(&options).unwrap();
        assert!(report.dry_run);
        assert_eq!((report.evicted.len(), report.reclaimed.total().count), (3, 3));
        assert_eq!(picture(&filled.root), before);
    }
    let error = reader.gc(&GcOptions { dry_run: false, ..options }).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }));
    assert_eq!(picture(&filled.root), before);
}

#[test]
fn only_one_collects_at_a_time() {
    let filled = Filled::new(2);
    let path = filled.store.layout().version().join(GC_LOCK);
    let other_process = fs::File::create(&path).unwrap();
    other_process.try_lock().unwrap();
    let options = GcOptions { max_bytes: Some(0), dry_run: false };
    let report = filled.store.gc(&options).unwrap();
    assert_eq!(report, GcReport { skipped: true, ..GcReport::default() });
    drop(other_process);
    assert_eq!(filled.store.gc(&options).unwrap().evicted.len(), 2);
}

#[test]
fn whatever_is_in_place_of_the_lock_is_not_followed_and_keeps_nobody_from_collecting() {
    for in_the_way in ["link", "fifo", "folder"] {
        let filled = Filled::new(1);
        let path = filled.store.layout().version().join(GC_LOCK);
        let target = filled.root.join("target");
        match in_the_way {
            "link" => std::os::unix::fs::symlink(&target, &path).unwrap(),
            "fifo" => crate::testing::make_fifo(&path),
            _ => fs::create_dir(&path).unwrap(),
        }
        let options = GcOptions { max_bytes: Some(0), dry_run: false };
        assert_eq!(filled.store.gc(&options).unwrap().evicted.len(), 1, "{in_the_way}");
        assert!(!target.exists());
    }
}

#[test]
fn in_a_folder_that_is_gone_there_is_nothing_to_do() {
    let filled = Filled::new(1);
    fs::remove_dir_all(&filled.root).unwrap();
    let options = GcOptions { max_bytes: Some(0), dry_run: true };
    assert_eq!(filled.store.gc(&options).unwrap(), GcReport { dry_run: true, ..<_>::default() });
    let report = filled.store.gc(&GcOptions { dry_run: false, ..options }).unwrap();
    assert_eq!(report, GcReport::default());
    assert!(!filled.root.exists());
}

#[test]
fn damaged_entries_are_evicted_like_any_other() {
    let filled = Filled::new(3);
    fs::remove_file(filled.store.layout().entry(&filled.key(0)).join("record.bin")).unwrap();
    fs::write(filled.store.layout().entry(&filled.key(1)).join("manifest.json"), b"{").unwrap();
    filled.set_last_use(0, DAY);
    filled.set_last_use(1, DAY);
    let report = filled.gc(filled.entry_bytes() * 2);
    assert!(!report.evicted.is_empty());
    assert_eq!(report.evicted[0].note, "");
    assert_eq!(report.failed, [""; 0]);
    assert_eq!(filled.gc(0).evicted.len() + report.evicted.len(), 3);
}

#[test]
fn readers_writers_and_the_loss_of_everything_at_the_same_time_do_no_harm() {
    let filled = Filled::new(6);
    let is_over = AtomicBool::new(false);
    let until_over = |act: &dyn Fn()| {
        while !is_over.load(Ordering::Relaxed) {
            act();
        }
    };
    std::thread::scope(|scope| {
        for num_thread in 0..2 {
            let filled = &filled;
            scope.spawn(move || {
                let store = DiskStore::open(&filled.root).unwrap();
                until_over(&|| {
                    for entry in &filled.entries {
                        match store.get(entry.key()) {
                            Lookup::Hit(found) => assert_eq!(*found, *entry),
                            Lookup::Miss(MissReason::Absent) if num_thread == 0 => {
                                let _ = store.put(entry);
                            }
                            // Whoever removes a whole folder, removes it file by file.
                            Lookup::Miss(_) => {}
                        }
                    }
                });
            });
            scope.spawn(move || {
                // No lease of this one names an entry: everything may go.
                let options = GcOptions { max_bytes: Some(1), dry_run: false };
                until_over(&|| drop(filled.store.gc(&options).unwrap()));
            });
        }
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            let _ = fs::remove_dir_all(filled.root.join("v2"));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    for entry in &filled.entries {
        // What was half removed is moved away by whoever finds it.
        let moved = filled.store.quarantine(entry.key(), "half removed");
        assert!(moved.is_ok() && filled.store.put(entry).is_ok());
    }
    assert_eq!(filled.there(), [0, 1, 2, 3, 4, 5]);
}

#[test]
#[ignore = "writes 100,000 entries"]
fn a_hundred_thousand_entries_take_one_pass() {
    let filled = Filled::new(1);
    let record = filled.entries[0].record();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for idx in 0..100_000 {
        // A record of another key is no record: the folder is measured instead.
        let key = fields(&format!("many {idx}")).key();
        write_at(&filled.store.layout().entry(&key).join("record.bin"), &record, long_ago);
    }
    let max_bytes = Some(50_000 * record.len() as u64);
    let report = filled.store.gc(&GcOptions { max_bytes, dry_run: false }).unwrap();
    assert_eq!(report.num_entries, 100_001);
    assert!(report.evicted.len() >= 50_000);
    assert_eq!(report.failed, [""; 0]);
}

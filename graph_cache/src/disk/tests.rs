//! What the disk store does with folders in every state that somebody may leave them in.

use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::{DiskAccess, DiskOptions, DiskStore, Layout, Scanned, sweep};
use crate::entry::codec::FORMAT;
use crate::entry::{Entry, MANIFEST, RECORD, SIGNATURES};
use crate::filesystem::Kind;
use crate::key::CacheKey;
use crate::store::{LockOutcome, Lookup, MissReason, Put, Store as _, StoreError, Wait};
use crate::testing::{Hook, Hooked, entry, entry_of, make_fifo, tempdir};
use crate::trust::Trust;

pub(super) fn new_root() -> (tempfile::TempDir, PathBuf) {
    let folder = tempdir();
    let root = folder.path().join("cache");
    (folder, root)
}

pub(super) fn open(root: &Path) -> DiskStore {
    DiskStore::open(root).unwrap()
}

pub(super) fn open_as(root: &Path, access: DiskAccess, trust: Trust) -> DiskStore {
    let options = DiskOptions { trust, access, ..DiskOptions::default() };
    DiskStore::open_with(root, options).unwrap()
}

/// A store with one entry, and that entry.
pub(super) fn filled(root: &Path) -> (DiskStore, Entry) {
    let (store, entry) = (open(root), entry("graph"));
    assert!(matches!(store.put(&entry).unwrap(), Put::Stored { .. }));
    (store, entry)
}

pub(super) fn hit(entry: &Entry) -> Lookup {
    Lookup::Hit(Box::new(entry.clone()))
}

pub(super) fn names_in(path: &Path) -> Vec<String> {
    let items = fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name());
    let mut names: Vec<_> = items.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Everything below a folder: path, time of change, bytes.
fn snapshot(path: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let mut all = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            all.push((path.clone(), metadata.modified().unwrap(), metadata.len()));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort();
    all
}

#[test]
fn an_entry_round_trips_and_lies_where_it_is_drawn() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    assert_eq!(store.get(entry.key()), hit(&entry));
    assert_eq!(store.manifest(entry.key()).as_ref(), Some(entry.manifest()));
    assert_eq!(store.put(&entry).unwrap(), Put::AlreadyThere);
    assert_eq!(store.place(), store.root().display().to_string());
    let layout = Layout::new(root.clone());
    let place = layout.entry(entry.key());
    assert_eq!(names_in(&place), ["io.json", "manifest.json", "model.om", "record.bin"]);
    assert_eq!(names_in(&root), ["CACHEDIR.TAG", "v2"]);
    for path in [&root, &place] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o700);
    }
    assert_eq!(fs::metadata(place.join(RECORD)).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names_in(&layout.tmp()), [""; 0]);
    assert_eq!(names_in(&layout.leases()).len(), 1);
    drop(store);
    assert_eq!(names_in(&layout.leases()), [""; 0]);
}

#[test]
fn an_entry_of_many_large_files_round_trips() {
    let (_folder, root) = new_root();
    let large: Vec<u8> = (0..5_000_001_usize).map(|at| (at * at % 253) as u8).collect();
    let names: Vec<_> = (0..9).map(|idx| format!("file{idx}")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), &large[name.len()..])).collect();
    let entry = entry_of("large", &files);
    let store = open(&root);
    store.put(&entry).unwrap();
    assert!(store.get(entry.key()) == hit(&entry));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(store.layout().entry(entry.key()).join("file8"))
        .unwrap();
    std::os::unix::fs::FileExt::write_at(file.file(), b"?", 4_000_000).unwrap();
    let Lookup::Miss(MissReason::Bad(what)) = store.get(entry.key()) else { panic!() };
    assert!(what.contains("`file8` does not match its digest"), "{what}");
}

#[test]
fn every_flipped_bit_and_every_other_length_is_a_miss() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    for name in ["model.om", "io.json", MANIFEST, RECORD] {
        let path = store.layout().entry(entry.key()).join(name);
        let good = fs::read(&path).unwrap();
        let flipped = (0..good.len() * 8).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        });
        let cut = (0..good.len()).map(|length| good[..length].to_vec());
        for bad in flipped.chain(cut).chain([[&good[..], &[0]].concat()]) {
            fs::write(&path, &bad).unwrap();
            let found = store.get(entry.key());
            assert!(matches!(found, Lookup::Miss(MissReason::Bad(_))), "{name}: {found:?}");
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(store.get(entry.key()), hit(&entry));
    }
}

#[test]
fn a_file_that_no_manifest_names_makes_an_entry_bad() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let place = store.layout().entry(entry.key());
    fs::write(place.join(".nfs000000000001"), b"").unwrap();
    assert_eq!(store.get(entry.key()), hit(&entry));
    fs::write(place.join("more"), b"").unwrap();
    let Lookup::Miss(MissReason::Bad(what)) = store.get(entry.key()) else { panic!() };
    assert!(what.contains("foreign file"), "{what}");
    assert!(matches!(store.put(&entry).unwrap(), Put::Stored { .. }));
    assert_eq!(store.get(entry.key()), hit(&entry));
}

/// `record.bin` of the same content, with a right digest, of another format.
fn of_format(record: &[u8], format: u32) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    let mut record = record.to_vec();
    record[8..12].copy_from_slice(&format.to_le_bytes());
    let digest = Sha256::new().chain_update(&record[..16]).chain_update(&record[48..]).finalize();
    record[16..48].copy_from_slice(&digest);
    record
}

#[test]
fn a_newer_format_is_left_alone_and_an_older_one_is_replaced() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let record = store.layout().entry(entry.key()).join(RECORD);
    fs::write(&record, of_format(&entry.record(), FORMAT + 1)).unwrap();
    let found = store.get(entry.key());
    assert!(matches!(found, Lookup::Miss(MissReason::OtherFormat(_))), "{found:?}");
    assert!(matches!(store.put(&entry), Err(StoreError::Occupied { .. })));
    fs::write(&record, of_format(&entry.record(), FORMAT - 1)).unwrap();
    assert!(matches!(store.get(entry.key()), Lookup::Miss(MissReason::Bad(_))));
    store.put(&entry).unwrap();
    assert_eq!(store.get(entry.key()), hit(&entry));
}

#[test]
fn nothing_but_files_and_folders_is_opened_or_followed() {
    let (folder, root) = new_root();
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), b"precious").unwrap();
    let (store, entry) = filled(&root);
    let layout = store.layout();
    let place = layout.entry(entry.key());
    let mut places: Vec<_> =
        ["model.om", MANIFEST, RECORD, SIGNATURES].map(|f| place.join(f)).into();
    places.extend(layout.way_to(&place));
    for place in places {
        let is_file = place.extension().is_some();
        for replacement in 0..4 {
            store.put(&entry).unwrap();
            if place.is_dir() {
                fs::remove_dir_all(&place).unwrap();
            } else {
                let _ = fs::remove_file(&place);
            }
            match replacement {
                0 => symlink(&victim, &place).unwrap(),
                1 => symlink(victim.join("file"), &place).unwrap(),
                2 => make_fifo(&place),
                _ if is_file => fs::create_dir(&place).unwrap(),
                _ => fs::write(&place, b"a file").unwrap(),
            }
            let found = store.get(entry.key());
            assert!(matches!(found, Lookup::Miss(MissReason::Bad(_))), "{place:?}: {found:?}");
            store.put(&entry).unwrap_or_else(|error| panic!("{place:?} {replacement}: {error}"));
            assert_eq!(store.get(entry.key()), hit(&entry), "{place:?} {replacement}");
            let _ = fs::remove_dir_all(layout.quarantine());
        }
    }
    assert_eq!(fs::read(victim.join("file")).unwrap(), b"precious");
    assert_eq!(names_in(&victim), ["file"]);
}

#[test]
fn folders_of_the_store_that_something_else_took_the_place_of_are_healed() {
    let (folder, root) = new_root();
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let (store, entry) = filled(&root);
    for path in store.layout().own_folders() {
        for is_link in [true, false] {
            fs::remove_dir_all(&path).unwrap();
            if is_link {
                symlink(&victim, &path).unwrap();
            } else {
                fs::write(&path, b"a file").unwrap();
            }
            let store = open(&root);
            store.remove(entry.key()).unwrap();
            store.put(&entry).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(store.get(entry.key()), hit(&entry), "{path:?}");
            assert_eq!(store.fs().kind(&path).unwrap(), Kind::Folder);
        }
    }
    assert_eq!(names_in(&victim), [""; 0]);
    let kept = names_in(&store.layout().quarantine());
    assert!(kept.contains(&"tmp.0".to_owned()), "{kept:?}");
    assert!(kept.contains(&"tmp.1.reason.txt".to_owned()), "{kept:?}");
}

#[test]
fn a_store_that_is_only_read_changes_nothing() {
    for access in [DiskAccess::ReadOnly, DiskAccess::Layer] {
        let (folder, root) = new_root();
        let empty = open_as(&root, access, Trust::Owner);
        assert_eq!(empty.get(entry("graph").key()), Lookup::Miss(MissReason::Absent));
        assert_eq!(empty.list().unwrap(), []);
        assert!(empty.pins().unwrap().is_empty());
        assert_eq!(names_in(folder.path()), [""; 0]);

        let (store, entry) = filled(&root);
        drop(store);
        let before = snapshot(&root);
        for store in [empty, open_as(&root, access, Trust::Owner)] {
            assert_eq!(store.get(entry.key()), hit(&entry));
            assert_eq!(store.list().unwrap(), [*entry.key()]);
            let refused = |result: Result<(), StoreError>| {
                assert!(matches!(result, Err(StoreError::ReadOnly { .. })), "{result:?}");
            };
            refused(store.put(&entry).map(|_| ()));
            refused(store.quarantine(entry.key(), ""));
            refused(store.remove(entry.key()).map(|_| ()));
            refused(store.pin(entry.key()));
            refused(store.unpin(entry.key()));
            let wait = Wait { at_most: Duration::ZERO, note: "", progress: &|_, _| {} };
            assert!(matches!(store.lock(entry.key(), &wait), LockOutcome::Unneeded));
            assert!(store.lease().is_none());
        }
        assert_eq!(snapshot(&root), before);
    }
}

#[test]
fn a_hit_is_seen_in_the_folders_time_and_in_the_lease() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let place = store.layout().entry(entry.key());
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    store.fs().set_modified(&place, long_ago).unwrap();
    let last_used = || {
        let mut found = None;
        store
            .scan(|scanned| {
                if let Scanned::Entry(entry) = scanned {
                    found = entry.last_used;
                }
            })
            .unwrap();
        found.unwrap()
    };
    assert_eq!(last_used(), long_ago);
    assert!(store.manifest(entry.key()).is_some());
    assert_eq!(last_used(), long_ago);
    store.get(entry.key());
    assert!(last_used().elapsed().unwrap() < Duration::from_mins(10));
    let lease = store.layout().leases().join(store.lease().unwrap().name());
    assert!(fs::read_to_string(lease).unwrap().contains(&entry.key().to_string()));
}

#[test]
fn only_what_the_dead_left_is_swept() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let tmp = store.layout().tmp();
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    let alive = sweep::name_of(store.lease().unwrap().name(), "1");
    let dead = sweep::name_of("host-1-2-3", "1");
    for (name, modified) in [
        (alive.as_str(), now - day),
        (dead.as_str(), now),
        ("old", now - day),
        ("new", now),
        ("future", now + day),
    ] {
        fs::create_dir(tmp.join(name)).unwrap();
        fs::write(tmp.join(name).join("model.om"), b"half").unwrap();
        store.fs().set_modified(&tmp.join(name), modified).unwrap();
    }
    // An old entry is not temporary.
    store.fs().set_modified(&store.layout().entry(entry.key()), SystemTime::UNIX_EPOCH).unwrap();
    let other = open(&root);
    let mut expected = [alive, "new".to_owned(), "future".to_owned()];
    expected.sort();
    assert_eq!(names_in(&tmp), expected);
    assert_eq!(other.get(entry.key()), hit(&entry));
}

/// Cries out when the entries are listed.
#[derive(Debug)]
struct ForbidListing(AtomicBool);

impl Hook for ForbidListing {
    fn run<T>(
        &self,
        operation: &'static str,
        path: &Path,
        whole: impl FnOnce() -> io::Result<T>,
        _: impl FnOnce(),
    ) -> io::Result<T> {
        let is_among_entries = path.components().any(|part| part.as_os_str() == "entries");
        if operation == "list" && is_among_entries {
            self.0.store(true, Ordering::SeqCst);
        }
        whole()
    }
}

#[test]
fn opening_a_store_does_not_list_its_entries() {
    let (_folder, root) = new_root();
    filled(&root);
    let hook = Arc::new(ForbidListing(AtomicBool::new(false)));
    let fs = Box::new(Hooked(Arc::clone(&hook)));
    let store = DiskStore::open_on(fs, &root, DiskOptions::default()).unwrap();
    assert!(!hook.0.load(Ordering::SeqCst));
    store.list().unwrap();
    assert!(hook.0.load(Ordering::SeqCst));
}

#[test]
fn bad_entries_are_kept_with_the_reason_but_only_a_few() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    for number in 0..10 {
        store.put(&entry).unwrap();
        store.quarantine(entry.key(), &format!("reason {number}")).unwrap();
    }
    store.quarantine(entry.key(), "there is none").unwrap();
    let quarantine = store.layout().quarantine();
    assert_eq!(names_in(&quarantine).len(), 2 * 4);
    let first = quarantine.join(format!("{}.0.reason.txt", entry.key()));
    assert!(fs::read_to_string(first).unwrap().ends_with("reason 0\n"));
    assert_eq!(names_in(&store.layout().tmp()), [""; 0]);
}

#[test]
fn foreign_things_are_moved_away_under_a_name_that_is_safe() {
    let (_folder, root) = new_root();
    let store = open(&root);
    let entries = store.layout().entries();
    fs::create_dir(&entries).unwrap();
    for name in ["stray", "ümlaut name", ".hidden"] {
        fs::write(entries.join(name), name).unwrap();
        let mut foreign = Vec::new();
        store
            .scan(|found| match found {
                Scanned::Foreign(path) => foreign.push(path),
                other => panic!("{other:?}"),
            })
            .unwrap();
        assert_eq!(foreign, [entries.join(name)]);
        store.move_away_path(&foreign[0], "does not belong there").unwrap();
    }
    let kept = names_in(&store.layout().quarantine());
    let expected = ["foreign.0", "foreign.1", "stray.0"];
    let with_reasons =
        expected.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.reason.txt")]);
    assert_eq!(kept, with_reasons.collect::<Vec<_>>());
}

#[test]
fn scanning_tells_sizes_and_strangers() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let bad = entry_of("bad", &[("model.om", &[7; 1000])]);
    store.put(&bad).unwrap();
    let bad_place = store.layout().entry(bad.key());
    fs::write(bad_place.join(RECORD), b"no record").unwrap();
    let wrong_place = store.layout().entries().join("zz");
    fs::create_dir(&wrong_place).unwrap();
    let size = |path: &Path| -> u64 {
        names_in(path).iter().map(|name| fs::metadata(path.join(name)).unwrap().len()).sum()
    };
    let (mut entries, mut foreign) = (Vec::new(), Vec::new());
    store
        .scan(|found| match found {
            Scanned::Entry(stat) => entries.push((stat.key, stat.bytes)),
            Scanned::Foreign(path) => foreign.push(path),
            Scanned::Unreadable(path, error) => panic!("{path:?}: {error}"),
        })
        .unwrap();
    entries.sort_unstable();
    let mut expected = vec![
        (*entry.key(), size(&store.layout().entry(entry.key()))),
        (*bad.key(), size(&bad_place)),
    ];
    expected.sort_unstable();
    assert_eq!(entries, expected);
    assert_eq!(foreign, [wrong_place]);
    let keys: Vec<_> = expected.iter().map(|(key, _)| *key).collect();
    assert_eq!(store.list().unwrap(), keys);
    assert!(store.remove(&keys[0]).unwrap());
    assert!(!store.remove(&keys[0]).unwrap());
    assert_eq!(store.list().unwrap(), keys[1..]);
}

#[test]
fn pins_are_of_keys_and_last() {
    let (_folder, root) = new_root();
    let keys = [1, 2].map(|byte| CacheKey::from_bytes([byte; 32]));
    let store = open(&root);
    for key in &keys {
        store.pin(key).unwrap();
        store.pin(key).unwrap();
    }
    fs::write(store.layout().pins().join("no key"), b"").unwrap();
    assert_eq!(open(&root).pins().unwrap(), keys.into());
    store.unpin(&keys[0]).unwrap();
    store.unpin(&keys[0]).unwrap();
    assert_eq!(store.pins().unwrap(), [keys[1]].into());
}

#[test]
fn something_else_where_a_lock_belongs_is_moved_away() {
    let (_folder, root) = new_root();
    let (store, entry) = filled(&root);
    let wait = Wait { at_most: Duration::ZERO, note: "a graph", progress: &|_, _| {} };
    fs::create_dir(store.layout().lock(entry.key())).unwrap();
    let held = store.lock(entry.key(), &wait);
    assert!(matches!(held, LockOutcome::Held(_)), "{held:?}");
    let second = store.lock(entry.key(), &wait);
    assert!(matches!(second, LockOutcome::TimedOut { .. }), "{second:?}");
}

#[test]
fn whoever_reads_while_others_write_and_remove_sees_all_or_nothing() {
    let (_folder, root) = new_root();
    // Two entries of one key that differ in every file: a mix of them would be noticed.
    let bytes: [Vec<u8>; 2] = [1, 2].map(|byte| vec![byte; 100_000]);
    let entries = [&bytes[0], &bytes[1]].map(|b| entry_of("graph", &[("a", b), ("b", &b[1..])]));
    let key = *entries[0].key();
    open(&root).put(&entries[0]).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = open(&root);
                    let (mut num_hits, mut num_reads) = (0, 0);
                    while !is_over.load(Ordering::SeqCst) {
                        num_reads += 1;
                        match store.get(&key) {
                            Lookup::Hit(found) => {
                                num_hits += 1;
                                assert!(entries.contains(&found));
                            }
                            Lookup::Miss(MissReason::Absent) => {}
                            Lookup::Miss(reason) => panic!("read {num_reads}: {reason}"),
                        }
                    }
                    num_hits
                })
            })
            .collect();
        for entry in &entries {
            let (root, key, is_over) = (&root, &key, &is_over);
            scope.spawn(move || {
                let store = open(root);
                for round in 0..150 {
                    store.put(entry).unwrap();
                    match round % 3 {
                        0 => store.quarantine(key, "of the test").unwrap(),
                        1 => drop(store.remove(key).unwrap()),
                        _ => {}
                    }
                }
                is_over.store(true, Ordering::SeqCst);
            });
        }
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    let store = open(&root);
    assert_eq!(names_in(&store.layout().tmp()), [""; 0]);
}

#[test]
fn what_is_no_usable_folder_cannot_be_opened() {
    let (folder, _) = new_root();
    let file = folder.path().join("file");
    fs::write(&file, b"a file").unwrap();
    let below = file.join("below");
    for root in [&file, &below, Path::new("/proc/cache"), Path::new("")] {
        assert!(DiskStore::open(root).is_err(), "{root:?}");
    }
    let options = DiskOptions { access: DiskAccess::ReadOnly, ..DiskOptions::default() };
    assert!(DiskStore::open_with(&file, options).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"a file");
}

#[test]
fn what_is_too_large_is_not_stored() {
    let (_folder, root) = new_root();
    let store = open(&root);
    let entry = entry("graph").with_signatures(vec![b'x'; 20_000]);
    assert!(matches!(store.put(&entry), Err(StoreError::TooLarge { .. })));
    assert_eq!(names_in(&store.layout().tmp()), [""; 0]);
}

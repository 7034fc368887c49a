//! Every store of this crate keeps what all stores promise.

#![cfg(feature = "conformance")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_graph_cache::{
    DiskAccess, DiskOptions, DiskStore, Events, Layered, LockOutcome, Lookup, MemoryStore,
    MissReason, Put, ReadOnly, Store, StoreError, Wait, conformance,
};
const ROOM: u64 = 64 << 20;

fn memory() -> Box<dyn Store> {
    Box::new(MemoryStore::new(ROOM))
}

/// Stores in new folders, which are all removed at the end.
struct Folders {
    parent: tempfile::TempDir,
    num_folders: usize,
}

impl Folders {
    /// On a file system in memory, where there is one: nothing is flushed there, which is fast.
    fn new() -> Self {
        let parent = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { parent: parent.unwrap(), num_folders: 0 }
    }

    fn on_disk() -> Self {
        Self { parent: tempfile::tempdir().unwrap(), num_folders: 0 }
    }

    fn disk(&mut self) -> DiskStore {
        self.num_folders += 1;
        DiskStore::open(&self.parent.path().join(self.num_folders.to_string())).unwrap()
    }
}

#[test]
fn a_store_in_memory_keeps_its_promises() {
    conformance::run(&mut memory);
}

#[test]
fn a_store_in_a_folder_keeps_its_promises() {
    let mut folders = Folders::on_disk();
    conformance::run(&mut || Box::new(folders.disk()));
}

#[test]
fn a_store_over_layers_keeps_its_promises() {
    let mut folders = Folders::new();
    conformance::run(&mut || Box::new(Layered::new(memory(), vec![], Events::default())));
    conformance::run(&mut || {
        let layers: Vec<Box<dyn Store>> =
            vec![Box::new(ReadOnly(MemoryStore::new(ROOM))), Box::new(ReadOnly(folders.disk()))];
        Box::new(Layered::new(Box::new(folders.disk()), layers, Events::default()))
    });
}

#[test]
fn a_store_that_is_shared_keeps_its_promises() {
    let mut folders = Folders::new();
    conformance::run(&mut || Box::new(Arc::new(folders.disk())));
}

#[cfg(feature = "remote")]
#[test]
fn a_remote_store_keeps_its_promises() {
    use cairn_graph_cache::{RemoteOptions, RemoteStore};
    use object_store::memory::InMemory;

    let remote = || {
        let objects = Arc::new(InMemory::new());
        RemoteStore::over(objects, "bucket", "some/prefix", RemoteOptions::default()).unwrap()
    };
    conformance::run(&mut || Box::new(remote()));
    conformance::run(&mut || {
        let layers: Vec<Box<dyn Store>> = vec![Box::new(ReadOnly(remote()))];
        Box::new(Layered::new(memory(), layers, Events::default()))
    });
}

/// What is below is there as it is, and nothing of it can be changed.
fn assert_only_read(read_only: &dyn Store, below: &dyn Store) {
    let entry = conformance::entry(1, 1);
    let key = entry.key();
    assert_eq!(read_only.get(key), Lookup::Miss(MissReason::Absent));
    assert_eq!(read_only.list().unwrap(), []);
    below.put(&entry).unwrap();
    assert_eq!(read_only.get(key), Lookup::Hit(Box::new(entry.clone())));
    assert_eq!(read_only.manifest(key).as_ref(), Some(entry.manifest()));
    assert_eq!(read_only.list().unwrap(), [*key]);
    assert_eq!(read_only.place(), below.place());
    let is_refused = |error: &StoreError| {
        let is_read_only =
            matches!(error, StoreError::ReadOnly { place } if *place == below.place());
        assert!(is_read_only, "{error:?}");
    };
    is_refused(&read_only.put(&conformance::entry(2, 1)).unwrap_err());
    is_refused(&read_only.put(&entry).unwrap_err());
    is_refused(&read_only.remove(key).unwrap_err());
    is_refused(&read_only.quarantine(key, "for a test").unwrap_err());
    let wait = Wait { at_most: Duration::ZERO, note: "", progress: &|_, _| {} };
    assert!(matches!(read_only.lock(key, &wait), LockOutcome::Unneeded));
    assert_eq!(below.list().unwrap(), [*key]);
    assert_eq!(below.get(key), Lookup::Hit(Box::new(entry)));
}

/// Every path in a folder, with its size and the time at which it was changed.
fn tree(folder: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_that_is_only_read_refuses_every_change() {
    let shared = Arc::new(MemoryStore::new(ROOM));
    assert_only_read(&ReadOnly(Arc::clone(&shared)), &shared);
    let mut folders = Folders::new();
    for access in [DiskAccess::ReadOnly, DiskAccess::Layer] {
        let below = folders.disk();
        let options = DiskOptions { access, ..DiskOptions::default() };
        let read_only = DiskStore::open_with(below.root(), options).unwrap();
        assert_only_read(&read_only, &below);
        // Not even the time of the last use is written.
        let (root, key) = (below.root().to_owned(), below.list().unwrap()[0]);
        drop(below);
        let before = tree(&root);
        assert!(matches!(read_only.get(&key), Lookup::Hit(_)));
        assert_eq!(tree(&root), before);
    }
}

#[test]
fn a_folder_that_is_missing_is_an_empty_store_to_who_only_reads() {
    let folders = Folders::new();
    let root = folders.parent.path().join("missing");
    let options = DiskOptions { access: DiskAccess::ReadOnly, ..DiskOptions::default() };
    let store = DiskStore::open_with(&root, options).unwrap();
    let entry = conformance::entry(1, 1);
    assert_eq!(store.get(entry.key()), Lookup::Miss(MissReason::Absent));
    assert_eq!(store.list().unwrap(), []);
    assert!(store.put(&entry).is_err());
    assert!(!root.exists());
}

/// Entries move between stores of all kinds, and stay what they are, byte for byte.
#[test]
fn an_entry_is_the_same_in_every_store() {
    let mut folders = Folders::new();
    let entry = conformance::entry(1, 1).with_signatures(b"somebody's\n".to_vec());
    let key = *entry.key();
    let layer = folders.disk();
    assert!(matches!(layer.put(&entry).unwrap(), Put::Stored { .. }));
    let upper = Arc::new(folders.disk());
    let layers: Vec<Box<dyn Store>> = vec![memory(), Box::new(ReadOnly(layer))];
    let layered = Layered::new(Box::new(Arc::clone(&upper)), layers, Events::default());
    assert_eq!(layered.get(&key), Lookup::Hit(Box::new(entry.clone())));
    // It was copied up on the way.
    assert_eq!(upper.get(&key), Lookup::Hit(Box::new(entry.clone())));
    let other = memory();
    other.put(&entry).unwrap();
    assert_eq!(other.get(&key), Lookup::Hit(Box::new(entry.clone())));
    // Removed above, it is still below; moved away as bad, it does not come back.
    assert!(layered.remove(&key).unwrap());
    assert_eq!(layered.get(&key), Lookup::Hit(Box::new(entry)));
    layered.quarantine(&key, "for a test").unwrap();
    assert_eq!(layered.get(&key), Lookup::Miss(MissReason::Absent));
}

//! Every file operation of the cache fails or is its process's last, one after the other; whatever
//! is left must be the old state or the new one, and the next call must repair it.
//!
//! Power cuts are covered by the damage tests: what they leave is files cut or missing.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fs_err as fs;

use crate::disk::DiskStore;
use crate::filesystem::Kind;
use crate::filesystem::{Filesystem, Listed, RealFilesystem};
use crate::graph_cache::{GraphCache, LoadFailure, Origin, Outcome};
use crate::key::KeyFields;
use crate::store::{Lookup, MissReason};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It fails; a write has then written half.
    Fails,
    /// It and every later one fail.
    FailsFromThenOn,
    /// The process is killed half-way through it.
    Killed,
    /// The process is killed just after it.
    KilledAfter,
}

/// The real file system until the chosen operation.
#[derive(Debug)]
struct FaultyFilesystem {
    fault: Fault,
    at: usize,
    trace: Arc<Trace>,
}

/// What happened, for the test to see.
#[derive(Debug, Default)]
struct Trace {
    operations: AtomicUsize,
    is_dead: AtomicBool,
    has_failed_removal: AtomicBool,
}

impl FaultyFilesystem {
    fn run<T>(&self, whole: impl FnOnce() -> io::Result<T>, half: impl FnOnce()) -> io::Result<T> {
        if self.trace.is_dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the process is dead"));
        }
        let number = self.trace.operations.fetch_add(1, Ordering::SeqCst);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        match self.fault {
            Fault::FailsFromThenOn if number >= self.at => Err(full()),
            _ if number != self.at => whole(),
            Fault::Fails | Fault::FailsFromThenOn => {
                half();
                Err(full())
            }
            Fault::Killed => {
                self.trace.is_dead.store(true, Ordering::SeqCst);
                half();
                Err(io::Error::other("killed"))
            }
            Fault::KilledAfter => {
                let _ = whole();
                self.trace.is_dead.store(true, Ordering::SeqCst);
                Err(io::Error::other("killed"))
            }
        }
    }
}

impl Filesystem for FaultyFilesystem {
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.run(|| RealFilesystem.kind(path), || {})
    }

    fn open(&self, path: &Path) -> io::Result<(fs::File, u64)> {
        self.run(|| RealFilesystem.open(path), || {})
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.run(|| RealFilesystem.create_folder(path), || {})
    }

    fn write_new(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.run(
            || RealFilesystem.write_new(path, content),
            || {
                let _ = RealFilesystem.write_new(path, &content[..content.len() / 2]);
            },
        )
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.run(|| RealFilesystem.sync_folder(path), || {})
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(|| RealFilesystem.rename(from, to), || {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let result = self.run(|| RealFilesystem.remove(path), || {});
        if result.is_err() {
            self.trace.has_failed_removal.store(true, Ordering::SeqCst);
        }
        result
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.run(|| RealFilesystem.list(path), || {})
    }
}

const ARTIFACT: &[u8] = b"the compiled graph";

fn fields(graph: &str) -> KeyFields {
    KeyFields::new().text("backend", "test").text("graph", graph)
}

fn get(cache: &GraphCache, graph: &str) -> Outcome {
    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
    let (bytes, outcome) =
        cache.get_or_compile(&fields(graph), "", load, || Ok(ARTIFACT.to_vec())).unwrap();
    assert_eq!(bytes, ARTIFACT);
    outcome
}

fn open(root: &Path) -> GraphCache {
    GraphCache::new(Box::new(DiskStore::open(root).unwrap()), "test")
}

fn entry_folder(root: &Path, graph: &str) -> PathBuf {
    let hex = fields(graph).key().to_string();
    root.join("v1/entries").join(&hex[0..2]).join(&hex[2..4]).join(hex)
}

/// Runs `prepare`, then a call during which `fault` happens at each operation in turn.
fn for_each_operation(fault: Fault, prepare: impl Fn(&Path)) {
    for at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        get(&open(&root), "another");
        prepare(&root);
        let trace = Arc::new(Trace::default());
        let faulty = Box::new(FaultyFilesystem { fault, at, trace: Arc::clone(&trace) });
        let place = format!("{fault:?} at operation {at}");
        let cache = match DiskStore::open_with(faulty, &root) {
            Ok(store) => GraphCache::new(Box::new(store), "test"),
            Err(_) => GraphCache::in_memory("test"),
        };
        get(&cache, "graph");
        drop(cache);

        let cache = open(&root);
        match cache.store().get(&fields("graph").key()) {
            Lookup::Hit(entry) => assert_eq!(entry.artifact, ARTIFACT, "{place}"),
            Lookup::Miss(MissReason::Absent) => {}
            // Moving the old, bad entry away may be what has failed.
            Lookup::Miss(_) if entry_folder(&root, "graph").join("spoilt").exists() => {}
            Lookup::Miss(reason) => panic!("{place}: {reason}"),
        }
        if fault == Fault::Fails && !trace.has_failed_removal.load(Ordering::SeqCst) {
            let left = fs::read_dir(root.join("v1/tmp")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{place}: temporary folders are left");
        }
        get(&cache, "graph");
        assert_eq!(get(&cache, "graph").origin, Origin::Cache, "{place}");
        assert_eq!(get(&cache, "another").origin, Origin::Cache, "{place}");
        if at >= trace.operations.load(Ordering::SeqCst) {
            assert!(at > 20, "only {at} operations: is the fault injected at all?");
            return;
        }
    }
}

fn spoil(root: &Path) {
    get(&open(root), "graph");
    let folder = entry_folder(root, "graph");
    fs::write(folder.join("artifact.bin"), b"the compiled grapH").unwrap();
    fs::write(folder.join("spoilt"), b"").unwrap();
}

#[test]
fn a_new_entry_is_whole_or_absent_whatever_operation_fails() {
    for_each_operation(Fault::Fails, |_| {});
    for_each_operation(Fault::FailsFromThenOn, |_| {});
}

#[test]
fn a_new_entry_is_whole_or_absent_whenever_its_writer_is_killed() {
    for_each_operation(Fault::Killed, |_| {});
    for_each_operation(Fault::KilledAfter, |_| {});
}

#[test]
fn a_bad_entry_is_replaced_whole_or_not_at_all_whatever_operation_fails() {
    for_each_operation(Fault::Fails, spoil);
    for_each_operation(Fault::FailsFromThenOn, spoil);
}

#[test]
fn a_bad_entry_is_replaced_whole_or_not_at_all_whenever_its_writer_is_killed() {
    for_each_operation(Fault::Killed, spoil);
    for_each_operation(Fault::KilledAfter, spoil);
}

//! What every [`Store`] promises, as checks that any store can be given to.
//!
//! | Check | Promise |
//! | --- | --- |
//! | an empty store | holds nothing, says so, and has nothing to remove |
//! | round trips | every byte comes back: of all files, of what is known about them, of signatures |
//! | keys | entries whose keys have almost the same fields do not meet |
//! | put over an entry | the first one stays |
//! | remove, quarantine | what is gone is gone from every view, and something new can take its place |
//! | list | all keys, sorted, and no other |
//! | lock | one owner at a time, where there are locks |
//! | many threads | one good entry of many writers; a reader sees a whole entry or none |
//!
//! ```
//! use cairn_graph_cache::{MemoryStore, conformance};
//!
//! conformance::run(&mut || Box::new(MemoryStore::new(64 << 20)));
//! ```
//!
//! The checks know of a store what [`Store`] says and nothing else. What happens to a folder behind
//! a store's back is deliberately not among them: that is the business of each store's own tests.

use std::fmt::Write as _;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::entry::{Artifact, ArtifactFile, Entry, EntryMeta};
use crate::key::{CacheKey, KeyFields};
use crate::store::{LockOutcome, Lookup, MissReason, Put, Store, Wait};

/// One promise.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The promise, as a sentence.
    pub name: &'static str,
    /// Panics when the store, which must be empty, breaks it.
    pub run: fn(&dyn Store),
}

/// All promises.
pub const CHECKS: [Check; 14] = [
    Check { name: "an empty store holds nothing", run: an_empty_store_holds_nothing },
    Check { name: "every byte of an artifact comes back", run: every_byte_comes_back },
    Check { name: "all that is known comes back", run: all_that_is_known_comes_back },
    Check { name: "signatures are carried along", run: signatures_are_carried_along },
    Check { name: "keys that differ a little do not meet", run: near_keys_do_not_meet },
    Check { name: "the first entry of a key stays", run: the_first_entry_stays },
    Check { name: "what is removed is gone", run: what_is_removed_is_gone },
    Check { name: "what is quarantined is hidden", run: what_is_quarantined_is_hidden },
    Check { name: "keys are listed in order", run: keys_are_listed_in_order },
    Check { name: "a lock has one owner", run: a_lock_has_one_owner },
    Check { name: "many writers of one key leave one entry", run: many_writers_leave_one_entry },
    Check { name: "writers of many keys do not meet", run: writers_of_many_keys_do_not_meet },
    Check { name: "removing while reading", run: removing_while_reading },
    Check { name: "quarantining while reading", run: quarantining_while_reading },
];

/// Gives a new, empty store to every check.
///
/// # Panics
/// When a promise is broken; says which.
pub fn run(make: &mut dyn FnMut() -> Box<dyn Store>) {
    for check in CHECKS {
        let store = make();
        tracing::debug!(check = check.name, store = store.place(), "checking a store");
        (check.run)(&*store);
    }
}

/// An entry whose key and content are decided by two numbers: for tests that need some.
///
/// # Panics
/// Never: its names are allowed, and it is small.
pub fn entry(key: u32, content: u32) -> Entry {
    let text = format!("artifact {content} of key {key}");
    let files = [("model.bin", text.into_bytes()), ("empty", Vec::new())];
    sealed(&fields(key), &files)
}

fn fields(key: u32) -> KeyFields {
    KeyFields::new().text("backend", "conformance").text("number", key.to_string())
}

fn sealed(fields: &KeyFields, files: &[(&str, Vec<u8>)]) -> Entry {
    let file = |(name, bytes): &(&str, Vec<u8>)| ArtifactFile {
        name: (*name).to_owned(),
        bytes: bytes.clone(),
    };
    let artifact = Artifact::new(files.iter().map(file).collect())
        .expect("invariant: few small files with allowed names");
    Entry::seal(fields, artifact, meta())
}

fn meta() -> EntryMeta {
    EntryMeta {
        kind: "graph".to_owned(),
        note: "a note".to_owned(),
        producer: "conformance 1.0".to_owned(),
        created_unix_s: 1_700_000_000,
        compile_ms: 12,
        fields: Vec::new(),
        io: serde_json::Value::Null,
        log_tail: String::new(),
    }
}

/// Bytes without any pattern that a store could rely on, the same in each run.
fn noise(num_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..num_bytes).map(|_| next()).collect()
}

#[track_caller]
fn put(store: &dyn Store, entry: &Entry) -> Put {
    match store.put(entry) {
        Ok(put) => put,
        Err(error) => panic!("an entry was not stored in {}: {error}", store.place()),
    }
}

#[track_caller]
fn put_new(store: &dyn Store, entry: &Entry) {
    match put(store, entry) {
        // How many bytes that took is the store's own affair: it may compress, or count no names.
        Put::Stored { .. } => {}
        Put::AlreadyThere => panic!("nothing was there, but the store says otherwise"),
    }
}

/// There is this entry under its key, in all views.
#[track_caller]
fn assert_there(store: &dyn Store, entry: &Entry) {
    match store.get(entry.key()) {
        Lookup::Hit(found) => assert!(*found == *entry, "another entry came back: {found:?}"),
        Lookup::Miss(reason) => panic!("an entry is missing: {reason}"),
    }
    assert_eq!(store.manifest(entry.key()).as_ref(), Some(entry.manifest()));
    assert!(list(store).contains(entry.key()), "an entry is not listed");
}

/// There is nothing under this key, in all views.
#[track_caller]
fn assert_absent(store: &dyn Store, key: &CacheKey) {
    assert_eq!(store.get(key), Lookup::Miss(MissReason::Absent));
    assert_eq!(store.manifest(key), None);
    assert!(!list(store).contains(key), "a key is listed that is not there");
}

#[track_caller]
fn list(store: &dyn Store) -> Vec<CacheKey> {
    match store.list() {
        Ok(keys) => keys,
        Err(error) => panic!("the keys of {} were not listed: {error}", store.place()),
    }
}

#[track_caller]
fn remove(store: &dyn Store, key: &CacheKey) -> bool {
    match store.remove(key) {
        Ok(was_there) => was_there,
        Err(error) => panic!("an entry was not removed: {error}"),
    }
}

#[track_caller]
fn quarantine(store: &dyn Store, key: &CacheKey) {
    if let Err(error) = store.quarantine(key, "for a check") {
        panic!("an entry was not moved away: {error}");
    }
}

fn an_empty_store_holds_nothing(store: &dyn Store) {
    let key = *entry(1, 1).key();
    assert_absent(store, &key);
    assert_eq!(list(store), []);
    assert!(!remove(store, &key), "something was removed from an empty store");
    quarantine(store, &key);
    assert_absent(store, &key);
    assert_ne!(store.place(), "", "a store has a place, for messages");
}

fn every_byte_comes_back(store: &dyn Store) {
    let every_byte: Vec<u8> = (0..=255).collect();
    let many: Vec<(String, Vec<u8>)> =
        (0..64).map(|n| (format!("file-{n}.part_{n}"), noise(n, n as u64))).collect();
    let many: Vec<(&str, Vec<u8>)> =
        many.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let artifacts: [&[(&str, Vec<u8>)]; 5] = [
        &[("only", Vec::new())],
        &[("model.om", every_byte), ("weights.bin", vec![0; 4096]), ("0", b"\r\n\0".to_vec())],
        &[("large", noise((5 << 20) + 3, 7)), ("small", vec![1])],
        // Neither in the order of their names nor of their sizes.
        &[("b", vec![2; 10]), ("c", Vec::new()), ("a", vec![3; 5])],
        &many,
    ];
    let entries: Vec<Entry> =
        artifacts.iter().enumerate().map(|(n, files)| sealed(&fields(n as u32), files)).collect();
    for entry in &entries {
        put_new(store, entry);
        assert_there(store, entry);
    }
    for entry in &entries {
        assert_there(store, entry);
    }
}

fn all_that_is_known_comes_back(store: &dyn Store) {
    let fields = KeyFields::new()
        .text("graph.名前", "Größe \u{1f5ff} \u{202e}\0\n\"\\")
        .text("", "")
        .text("long text", "ä".repeat(100_000))
        .text("as long as it gets in full", "x".repeat(1024))
        .bytes("bytes", &noise(70_000, 3))
        .bytes("none", b"");
    let io = serde_json::json!({
        "inputs": [{ "name": "ids \"1\"", "shape": [1, null, -7], "scale": 0.1 }],
        "deep": [[[[{ "": [true, false, {}] }]]]],
    });
    let log_tail = (0..100).fold(String::new(), |mut log, line| {
        let _ = writeln!(log, "line {line}: ünïcode \t\u{1b}[31m");
        log
    });
    let meta = EntryMeta {
        note: "decode \u{0}\u{7f} 8 Sätze, \u{1f9ca}".to_owned(),
        created_unix_s: 0,
        compile_ms: u64::from(u32::MAX) + 1,
        io,
        log_tail,
        ..meta()
    };
    let artifact = Artifact::single("model", b"content".to_vec())
        .expect("invariant: one small file with an allowed name");
    let entry = Entry::seal(&fields, artifact, meta.clone());
    put_new(store, &entry);
    assert_there(store, &entry);
    let Some(manifest) = store.manifest(entry.key()) else { panic!("there is no manifest") };
    assert_eq!(manifest.meta.io, meta.io);
    assert_eq!(manifest.meta.log_tail, meta.log_tail);
    assert_eq!(manifest.meta.fields, fields.clear());
}

fn signatures_are_carried_along(store: &dyn Store) {
    let entry = entry(1, 1).with_signatures(b"ed25519 not checked by a store\n".to_vec());
    put_new(store, &entry);
    assert_there(store, &entry);
    let unsigned = self::entry(2, 1);
    put_new(store, &unsigned);
    assert_there(store, &unsigned);
}

fn near_keys_do_not_meet(store: &dyn Store) {
    let new = KeyFields::new;
    let near = [
        new(),
        new().text("", ""),
        new().bytes("", b""),
        new().text("ab", "c"),
        new().text("a", "bc"),
        new().text("a", "b").text("c", ""),
        new().text("c", "").text("a", "b"),
        new().bytes("ab", b"c"),
        new().text("AB", "c"),
        new().text("ab", "c ").text("z", "z".repeat(2000)),
        new().text("ab", "c ").text("z", "z".repeat(2001)),
    ];
    let entries: Vec<Entry> = near
        .iter()
        .enumerate()
        .map(|(n, fields)| sealed(fields, &[("f", noise(10 + n, n as u64))]))
        .collect();
    for entry in &entries {
        put_new(store, entry);
    }
    for entry in &entries {
        assert_there(store, entry);
    }
    assert_eq!(list(store).len(), entries.len());
}

fn the_first_entry_stays(store: &dyn Store) {
    let first = entry(1, 1);
    put_new(store, &first);
    assert_eq!(put(store, &entry(1, 2)), Put::AlreadyThere);
    assert_eq!(put(store, &first), Put::AlreadyThere);
    assert_there(store, &first);
    assert_eq!(list(store).len(), 1);
}

fn what_is_removed_is_gone(store: &dyn Store) {
    let (one, other) = (entry(1, 1), entry(2, 1));
    put_new(store, &one);
    put_new(store, &other);
    assert!(remove(store, one.key()), "the entry was there");
    assert_absent(store, one.key());
    assert!(!remove(store, one.key()), "the entry was removed before");
    assert_there(store, &other);
    let again = entry(1, 2);
    put_new(store, &again);
    assert_there(store, &again);
}

fn what_is_quarantined_is_hidden(store: &dyn Store) {
    let other = entry(2, 1);
    put_new(store, &other);
    // More often than a store may want to keep what was bad.
    for content in 0..10 {
        let bad = entry(1, content);
        put_new(store, &bad);
        assert_there(store, &bad);
        quarantine(store, bad.key());
        assert_absent(store, bad.key());
        assert!(!remove(store, bad.key()), "what is hidden can still be removed");
    }
    assert_there(store, &other);
    assert_eq!(list(store), [*other.key()]);
}

fn keys_are_listed_in_order(store: &dyn Store) {
    let entries: Vec<Entry> = (0..40).map(|key| entry(key, 1)).collect();
    let mut keys: Vec<CacheKey> = entries.iter().map(|entry| *entry.key()).collect();
    for entry in &entries {
        put_new(store, entry);
    }
    keys.sort_unstable();
    assert_eq!(list(store), keys);
    for gone in [0, 20, 37] {
        remove(store, &keys.remove(gone));
    }
    assert_eq!(list(store), keys);
}

fn a_lock_has_one_owner(store: &dyn Store) {
    let (key, other) = (*entry(1, 1).key(), *entry(2, 1).key());
    let at_once = Wait { at_most: Duration::ZERO, note: "a check", progress: &|_, _| {} };
    let first = store.lock(&key, &at_once);
    match &first {
        LockOutcome::Held(_) => {}
        LockOutcome::Unneeded | LockOutcome::Unavailable { .. } => return,
        LockOutcome::TimedOut { owner } => panic!("nobody has the lock, but {owner} is named"),
    }
    match store.lock(&key, &at_once) {
        LockOutcome::TimedOut { owner } => assert_ne!(owner, "", "an owner is named"),
        second => panic!("a lock was given twice: {second:?}"),
    }
    let of_other = store.lock(&other, &at_once);
    assert!(matches!(of_other, LockOutcome::Held(_)), "another key's lock: {of_other:?}");
    // A lock keeps nobody from reading or writing.
    put_new(store, &entry(1, 1));
    assert_there(store, &entry(1, 1));
    drop(first);
    let again = store.lock(&key, &at_once);
    assert!(matches!(again, LockOutcome::Held(_)), "a lock that is free: {again:?}");
}

fn many_writers_leave_one_entry(store: &dyn Store) {
    const NUM_WRITERS: u32 = 8;
    for key in 0..10 {
        let barrier = Barrier::new(NUM_WRITERS as usize);
        let answers: Vec<(u32, Put)> = thread::scope(|scope| {
            let writer = |content| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    (content, put(store, &entry(key, content)))
                })
            };
            let writers: Vec<_> = (0..NUM_WRITERS).map(writer).collect();
            // What a writer panicked with is told by its own thread.
            let join = |writer: thread::ScopedJoinHandle<'_, _>| {
                writer.join().expect("a writer among many stores its entry")
            };
            writers.into_iter().map(join).collect()
        });
        let stored = answers.iter().filter(|(_, put)| *put != Put::AlreadyThere);
        let stored: Vec<u32> = stored.map(|(content, _)| *content).collect();
        assert!(!stored.is_empty(), "each of {NUM_WRITERS} writers left it to another one");
        let Lookup::Hit(found) = store.get(entry(key, 0).key()) else {
            panic!("many writers left nothing that is good");
        };
        let is_one_of_them = stored.iter().any(|content| *found == entry(key, *content));
        assert!(is_one_of_them, "an entry that nobody said to have stored: {found:?}");
        assert_eq!(list(store).len(), key as usize + 1);
    }
}

fn writers_of_many_keys_do_not_meet(store: &dyn Store) {
    thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for key in 0..10 {
                    put_new(store, &entry(10 * writer + key, writer));
                }
            });
        }
    });
    for key in 0..40 {
        assert_there(store, &entry(key, key / 10));
    }
    assert_eq!(list(store).len(), 40);
}

fn removing_while_reading(store: &dyn Store) {
    while_reading(store, &|key| {
        remove(store, key);
    });
}

fn quarantining_while_reading(store: &dyn Store) {
    while_reading(store, &|key| quarantine(store, key));
}

/// Stores an entry and makes it go again, many times, while others read it.
fn while_reading(store: &dyn Store, make_go: &(dyn Fn(&CacheKey) + Sync)) {
    const NUM_ROUNDS: usize = 60;
    let files = [("one", noise(40_000, 1)), ("two", noise(3, 2)), ("three", noise(9000, 3))];
    let entry = sealed(&fields(1), &files);
    let key = *entry.key();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    match store.get(&key) {
                        Lookup::Hit(found) => assert!(*found == entry, "a torn entry: {found:?}"),
                        Lookup::Miss(MissReason::Absent) => {}
                        Lookup::Miss(reason) => panic!("neither there nor absent: {reason}"),
                    }
                    if let Some(manifest) = store.manifest(&key) {
                        assert_eq!(manifest, *entry.manifest());
                    }
                    assert!(list(store).iter().all(|listed| *listed == key), "a stranger's key");
                }
            });
        }
        // The readers end, too, when a round fails.
        let over = EndReaders(&is_over);
        for _ in 0..NUM_ROUNDS {
            put_new(store, &entry);
            thread::yield_now();
            make_go(&key);
        }
        drop(over);
    });
    assert_absent(store, &key);
}

struct EndReaders<'a>(&'a AtomicBool);

impl Drop for EndReaders<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

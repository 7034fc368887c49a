//! What the tests of the public surface share.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod forge;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cairn_graph_cache::{
    Artifact, ArtifactFile, CacheKey, CacheOptions, Compiled, DiskStore, Event, GetError,
    GraphCache, KeyFields, LoadFailure, Lookup, MissReason, Observer, Outcome, Store as _,
};

/// The folder of the format that the tests look into.
pub(crate) const VERSION: &str = "v2";
/// The content of the artifact's first file.
pub(crate) const CODE: &[u8] = b"bytes of a compiled graph";
/// The artifact's files.
pub(crate) const ARTIFACT_FILES: [&str; 2] = ["model.bin", "table.json"];
/// All files of the entry.
pub(crate) const FILES: [&str; 4] = ["model.bin", "table.json", "manifest.json", "record.bin"];

/// The one graph that most tests ask for.
pub(crate) fn fields() -> KeyFields {
    KeyFields::new().text("backend", "test").bytes("graph", b"canonical bytes")
}

/// What the compiler makes of it.
pub(crate) fn artifact() -> Artifact {
    let file = |name: &str, bytes: &[u8]| ArtifactFile { name: name.into(), bytes: bytes.into() };
    Artifact::new(vec![file(ARTIFACT_FILES[0], CODE), file(ARTIFACT_FILES[1], b"{}")]).unwrap()
}

/// An artifact of one file.
pub(crate) fn single(bytes: &[u8]) -> Artifact {
    Artifact::single("model.bin", bytes.to_vec()).unwrap()
}

pub(crate) fn options(root: &Path) -> CacheOptions {
    CacheOptions::in_folder("test 1.0", root)
}

/// The cache in a folder, and not the one in memory that it falls back to.
pub(crate) fn open_with(options: CacheOptions) -> GraphCache {
    let cache = GraphCache::open(options);
    assert!(cache.disk().is_some(), "the folder is of no use");
    cache
}

pub(crate) fn open(root: &Path) -> GraphCache {
    open_with(options(root))
}

/// Asks for the one graph; every answer must have the right bytes.
pub(crate) fn ask(cache: &GraphCache) -> Outcome {
    ask_or(cache, artifact)
}

/// The same with another compiler, of the same artifact.
pub(crate) fn ask_or(cache: &GraphCache, compile: impl FnOnce() -> Artifact) -> Outcome {
    let answer = try_ask(cache, &fields(), compile);
    let (bytes, outcome) = answer.unwrap();
    assert!(bytes == artifact(), "wrong bytes: {bytes:?}");
    outcome
}

pub(crate) fn try_ask(
    cache: &GraphCache,
    fields: &KeyFields,
    compile: impl FnOnce() -> Artifact,
) -> Result<(Artifact, Outcome), GetError<Infallible>> {
    let load = |artifact: &Artifact| Ok::<_, LoadFailure<Infallible>>(artifact.clone());
    cache.get_or_compile(fields, "a note", load, || Ok(Compiled::new(compile())))
}

/// The folder of a key's entry.
pub(crate) fn entry_of(root: &Path, key: &CacheKey) -> PathBuf {
    let hex = key.to_string();
    root.join(VERSION).join("entries").join(&hex[..2]).join(hex)
}

/// The folder of the one graph's entry.
pub(crate) fn entry_folder(root: &Path) -> PathBuf {
    entry_of(root, &fields().key())
}

/// The names in a folder of the store; none when it is not there.
pub(crate) fn names_in(root: &Path, folder: &str) -> Vec<String> {
    let listed = fs::read_dir(root.join(VERSION).join(folder));
    let name = |item: std::io::Result<fs::DirEntry>| {
        item.unwrap().file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = listed.into_iter().flatten().map(name).collect();
    names.sort();
    names
}

pub(crate) fn new_root() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    (folder, root)
}

/// A new folder on a file system in memory; on the ordinary one where there is none.
pub(crate) fn new_root_in_memory() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let root = folder.path().join("cache");
    (folder, root)
}

#[track_caller]
pub(crate) fn assert_bad(store: &DiskStore, key: &CacheKey, what: &dyn std::fmt::Display) {
    match store.get(key) {
        Lookup::Miss(MissReason::Bad(_)) => {}
        found => panic!("{what}: expected a bad entry, found {found:?}"),
    }
}

/// Remembers every event.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// One, and the options of a cache that tells it everything.
    pub(crate) fn with(mut options: CacheOptions) -> (Arc<Self>, CacheOptions) {
        let recorder = Arc::new(Self::default());
        options.observers.push(Arc::clone(&recorder) as Arc<dyn Observer>);
        (recorder, options)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// What was worth a warning, in words.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.events().iter().filter(|e| e.is_warning()).map(ToString::to_string).collect()
    }
}

impl Observer for Recorder {
    fn observe(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// Random numbers that are the same again for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(crate) fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        &these[self.below(these.len() as u64) as usize]
    }
}

/// A number from the environment, for runs by hand.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}: `{value}` is no number")))
}

/// This test program, to be started again for the one ignored test of this name, which finds what
/// it is to do in its environment.
pub(crate) fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.stdout(Stdio::null());
    command
}

/// The folder that a child is to work in; `None` when a person runs the child's test.
pub(crate) fn childs_path(variable: impl AsRef<OsStr>) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// Processes that are killed when the test fails.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    pub(crate) fn start(&mut self, command: &mut Command) {
        self.0.push(command.spawn().unwrap());
    }

    /// Fails when one has failed, and forgets those that have ended well.
    pub(crate) fn check(&mut self) {
        self.0.retain_mut(|child| match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success(), "a child failed: {status}");
                false
            }
            None => true,
        });
    }

    /// Waits until all have ended well.
    pub(crate) fn join(&mut self, at_most: Duration) {
        let started = Instant::now();
        while !self.0.is_empty() {
            self.check();
            assert!(started.elapsed() < at_most, "{} children hang", self.0.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for something that takes long only when it never comes.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_mins(5), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether this process may do everything: then permissions keep it from nothing.
pub(crate) fn is_root() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::MetadataExt::uid(&file.as_file().metadata().unwrap()) == 0
}

/// Says why a test did not test.
#[expect(clippy::print_stderr, reason = "a test that is skipped shall say so")]
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

//! One compile per key among threads and among processes, and nobody waits for the dead.
//!
//! The processes are this test program itself, started again for the one test `child`, which does
//! what its environment says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::convert::Infallible;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cairn_graph_cache::{GraphCache, LoadFailure, Origin};
use common::{ARTIFACT, ask, entry_folder, fields, open};

const ROOT: &str = "CAIRN_TEST_CACHE_ROOT";
const COMPILE_MS: &str = "CAIRN_TEST_COMPILE_MS";

/// Appends a line to this file for every compile.
fn log_of(root: &Path) -> std::path::PathBuf {
    root.with_extension("log")
}

fn compiles(root: &Path) -> usize {
    fs::read_to_string(log_of(root)).map_or(0, |log| log.lines().count())
}

#[test]
#[ignore = "run by the other tests as a process of its own"]
fn child() {
    let (Some(root), Some(ms)) = (env::var_os(ROOT), env::var_os(COMPILE_MS)) else {
        return;
    };
    let root = Path::new(&root);
    let compile_time = Duration::from_millis(ms.to_str().unwrap().parse().unwrap());
    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
    let compile = || {
        let log = OpenOptions::new().create(true).append(true).open(log_of(root));
        log.unwrap().write_all(b"compiled\n").unwrap();
        thread::sleep(compile_time);
        Ok(ARTIFACT.to_vec())
    };
    let (bytes, _) =
        GraphCache::open(root, "test").get_or_compile(&fields(), "", load, compile).unwrap();
    assert_eq!(bytes, ARTIFACT);
}

fn start_child(root: &Path, compile_ms: u64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(ROOT, root)
        .env(COMPILE_MS, compile_ms.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A child that is compiling and will not end by itself for a long time.
fn start_compiling_child(root: &Path) -> Child {
    let child = start_child(root, 60_000);
    let started = Instant::now();
    while compiles(root) == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "child did not start");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn many_threads_compile_once() {
    let folder = tempfile::tempdir().unwrap();
    // The same with a folder and with nowhere to store anything.
    let nowhere = GraphCache::new(Box::new(cairn_graph_cache::MemoryStore::new(0)), "test");
    for cache in [open(folder.path()), nowhere] {
        let compiles = AtomicUsize::new(0);
        let waiting = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
                    waiting.fetch_add(1, Ordering::SeqCst);
                    let compile = || {
                        compiles.fetch_add(1, Ordering::SeqCst);
                        while waiting.load(Ordering::SeqCst) < 8 {
                            thread::yield_now();
                        }
                        thread::sleep(Duration::from_millis(200));
                        Ok(ARTIFACT.to_vec())
                    };
                    let found = cache.get_or_compile(&fields(), "", load, compile);
                    assert_eq!(found.unwrap().0, ARTIFACT);
                });
            }
        });
        assert_eq!(compiles.load(Ordering::SeqCst), 1);
        let stats = cache.stats().snapshot();
        assert_eq!((stats.compiles, stats.hits, stats.misses), (1, 7, 1));
    }
}

#[test]
fn many_processes_compile_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let children: Vec<_> = (0..8).map(|_| start_child(&root, 300)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(compiles(&root), 1);
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
    assert_eq!(fs::read_dir(root.join("v1/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.join("v1/locks")).unwrap().count(), 0);
}

#[test]
fn many_processes_repair_a_bad_entry_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    ask(&open(&root));
    fs::write(entry_folder(&root).join("artifact.bin"), b"bad").unwrap();
    let children: Vec<_> = (0..6).map(|_| start_child(&root, 300)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(compiles(&root), 1);
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

#[test]
fn a_killed_owner_is_taken_over_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let mut child = start_compiling_child(&root);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&open(&root)));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        child.kill().unwrap();
        child.wait().unwrap();
        let outcome = waiting.join().unwrap();
        assert_eq!(outcome.origin, Origin::Compiled);
        assert_eq!(outcome.warnings, [""; 0]);
        assert!(outcome.elapsed < Duration::from_secs(20));
    });
}

#[test]
fn an_owner_that_hangs_is_named_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let mut child = start_compiling_child(&root);
    let cache = open(&root).with_max_wait(Duration::from_millis(100));
    let outcome = ask(&cache);
    let owner = format!("process {} on ", child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome.origin, Origin::Compiled);
    assert!(outcome.warnings[0].contains(&owner), "{:?}", outcome.warnings);
    assert_eq!(cache.stats().snapshot().lock_timeouts, 1);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn a_thread_that_hangs_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path()).with_max_wait(Duration::from_millis(100));
    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
    let (outcome, _) = cache
        .get_or_compile(&fields(), "", load, || {
            let outcome = thread::scope(|scope| scope.spawn(|| ask(&cache)).join().unwrap());
            assert_eq!(outcome.warnings.len(), 2, "{outcome:?}");
            assert_eq!(outcome.origin, Origin::Compiled);
            Ok(ARTIFACT.to_vec())
        })
        .unwrap();
    assert_eq!(outcome, ARTIFACT);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn deleting_the_folder_all_the_time_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    let deadline = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < deadline {
                let _ = fs::remove_dir_all(&root);
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let cache = GraphCache::open(&root, "test");
                while Instant::now() < deadline {
                    ask(&cache);
                }
            });
        }
    });
    let cache = open(&root);
    ask(&cache);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

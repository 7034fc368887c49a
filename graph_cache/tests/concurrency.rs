//! One compile per key among threads and among processes, and nobody waits for the dead.
//!
//! The processes are this test program itself, started again for the one test `child`, which does
//! what its environment says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cairn_graph_cache::{CacheOptions, Event, GraphCache, Origin, Outcome};
use common::{
    ARTIFACT_FILES, Children, Recorder, artifact, ask, ask_or, childs_path, entry_folder, names_in,
    new_root, open, open_with, options, this_program, wait_until,
};

const ROOT: &str = "CAIRN_TEST_CACHE_ROOT";
const COMPILE_MS: &str = "CAIRN_TEST_COMPILE_MS";
const LONG: Duration = Duration::from_mins(2);

/// Has a line for every compile.
fn log_of(root: &Path) -> PathBuf {
    root.with_extension("log")
}

fn compiles(root: &Path) -> usize {
    fs::read_to_string(log_of(root)).map_or(0, |log| log.lines().count())
}

#[test]
#[ignore = "run by the other tests as a process of its own"]
fn child() {
    let Some(root) = childs_path(ROOT) else { return };
    let ms = env::var(COMPILE_MS).unwrap().parse().unwrap();
    ask_or(&open(&root), || {
        let log = OpenOptions::new().create(true).append(true).open(log_of(&root));
        log.unwrap().write_all(b"compiled\n").unwrap();
        thread::sleep(Duration::from_millis(ms));
        artifact()
    });
}

fn child_command(root: &Path, compile_ms: u64) -> Command {
    let mut command = this_program("child");
    command.env(ROOT, root).env(COMPILE_MS, compile_ms.to_string());
    command
}

fn run_children(root: &Path, num_children: usize) {
    let mut children = Children::default();
    for _ in 0..num_children {
        children.start(&mut child_command(root, 300));
    }
    children.join(LONG);
}

/// A child that is compiling and will not end by itself for a long time.
fn start_compiling_child(root: &Path) -> Child {
    let child = child_command(root, 60_000).spawn().unwrap();
    wait_until("a child compiles", || compiles(root) > 0);
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

fn short_wait(root: &Path) -> CacheOptions {
    CacheOptions { max_wait: Duration::from_millis(100), ..options(root) }
}

#[test]
fn many_threads_compile_once() {
    let (_folder, root) = new_root();
    for cache in [open(&root), GraphCache::in_memory("test")] {
        let compiles = AtomicUsize::new(0);
        let waiting = AtomicUsize::new(0);
        let compile = || {
            compiles.fetch_add(1, Ordering::SeqCst);
            while waiting.load(Ordering::SeqCst) < 8 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(200));
            artifact()
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    ask_or(&cache, compile)
                });
            }
        });
        assert_eq!(compiles.load(Ordering::SeqCst), 1);
        let stats = cache.stats().snapshot();
        assert_eq!((stats.compiles, stats.hits, stats.misses_absent), (1, 7, 1));
    }
}

#[test]
fn two_and_then_eight_processes_compile_once() {
    for num_children in [2, 8] {
        let (_folder, root) = new_root();
        run_children(&root, num_children);
        assert_eq!(compiles(&root), 1, "by {num_children} processes");
        for empty in ["tmp", "locks", "leases", "quarantine"] {
            assert_eq!(names_in(&root, empty), [""; 0], "{empty}");
        }
        assert_eq!(ask(&open(&root)).origin, Origin::Cache);
    }
}

#[test]
fn many_processes_repair_a_bad_entry_once() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    fs::write(entry_folder(&root).join(ARTIFACT_FILES[0]), b"bad").unwrap();
    run_children(&root, 6);
    assert_eq!(compiles(&root), 1);
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

#[test]
fn a_killed_owner_is_taken_over_at_once() {
    let (_folder, root) = new_root();
    let child = start_compiling_child(&root);
    let (recorder, options) = Recorder::with(options(&root));
    let cache = open_with(options);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&cache));
        let is_waiting = |event: &Event| matches!(event, Event::Waiting { .. });
        wait_until("it waits", || recorder.events().iter().any(is_waiting));
        assert!(!waiting.is_finished());
        end(child);
        let outcome = waiting.join().unwrap();
        assert_eq!(outcome.origin, Origin::Compiled);
        let gave_up = |event: &Event| matches!(event, Event::GaveUpWaiting { .. });
        assert!(!recorder.events().iter().any(gave_up), "{:?}", recorder.events());
    });
}

/// A stopped process still has its lock, but shows no life.
#[test]
fn a_stopped_owner_is_taken_over_after_a_while_and_does_no_harm_when_it_goes_on() {
    let (_folder, root) = new_root();
    let mut child = child_command(&root, 1000).spawn().unwrap();
    wait_until("a child compiles", || compiles(&root) > 0);
    send(&child, "-STOP");
    let (recorder, options) = Recorder::with(options(&root));
    let outcome = ask(&open_with(options));
    assert_eq!(outcome.origin, Origin::Compiled);
    let owner = format!("process {} on ", child.id());
    let warnings = recorder.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with(&owner) && warnings[0].contains("no life"), "{warnings:?}");
    send(&child, "-CONT");
    // It finds the other's entry in its place, and drops its own.
    assert!(child.wait().unwrap().success());
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
    assert_eq!(names_in(&root, "tmp"), [""; 0]);
    assert_eq!(names_in(&root, "quarantine"), [""; 0]);
}

/// As when a compiler hangs or has much more to do than anybody thought.
#[test]
fn an_owner_that_takes_too_long_is_named_and_not_waited_for() {
    let (_folder, root) = new_root();
    let child = start_compiling_child(&root);
    let owner = format!("process {} on ", child.id());
    let cache = open_with(short_wait(&root));
    let outcome = ask(&cache);
    end(child);
    assert_eq!(outcome.origin, Origin::Compiled);
    assert!(outcome.warnings[0].contains(&owner), "{:?}", outcome.warnings);
    assert!(outcome.warnings[0].contains("end it"), "{:?}", outcome.warnings);
    assert_eq!(cache.stats().snapshot().lock_timeouts, 1);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn a_thread_that_hangs_is_not_waited_for() {
    let (_folder, root) = new_root();
    let cache = open_with(short_wait(&root));
    let mut inner: Option<Outcome> = None;
    ask_or(&cache, || {
        inner = Some(thread::scope(|scope| scope.spawn(|| ask(&cache)).join().unwrap()));
        artifact()
    });
    let outcome = inner.unwrap();
    assert_eq!(outcome.warnings.len(), 2, "{outcome:?}");
    assert_eq!(outcome.origin, Origin::Compiled);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn a_compiler_that_panics_keeps_nobody_waiting() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let panicked = thread::scope(|scope| {
        scope.spawn(|| ask_or(&cache, || panic!("as a test"))).join().is_err()
    });
    assert!(panicked);
    let outcome = ask(&cache);
    assert_eq!(outcome.origin, Origin::Compiled);
    assert_eq!(outcome.warnings, [""; 0]);
    assert_eq!(names_in(&root, "locks"), [""; 0]);
}

#[test]
fn deleting_the_folder_all_the_time_does_no_harm() {
    let (_folder, root) = new_root();
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
                let cache = GraphCache::open(options(&root));
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

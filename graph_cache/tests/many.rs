//! Very many ask for the same graphs at the same time, while others make room and do damage.
//!
//! ```text
//! 64 processes x 8 threads   each asks for the same 20 keys, twice, in an order of its own
//! 1 process                  gc, again and again, with room for what is in use and no more
//! 1 process                  flips bits in files of entries (in one of the two tests)
//! ```
//!
//! Every compile and every quarantine is a line in a log. There is exactly one compile per key, and
//! one for each damage that was noticed; nobody gets a wrong byte, and nobody hangs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cairn_graph_cache::{
    Artifact, ArtifactFile, DiskStore, Event, GcOptions, KeyFields, Observer, Store as _,
};
use common::{
    Children, Random, childs_path, names_in, new_root_in_memory, number_from, open, open_with,
    options, this_program, try_ask, wait_until,
};

const ROOT: &str = "CAIRN_MANY_ROOT";
const NUMBER: &str = "CAIRN_MANY_NUMBER";
const PROCESSES: &str = "CAIRN_MANY_PROCESSES";

const NUM_KEYS: u64 = 20;
const NUM_PROCESSES: u64 = 64;
const NUM_THREADS: u64 = 8;
/// How often each thread asks for all keys.
const NUM_PASSES: u64 = 2;
/// Bytes of one entry, with more than enough for its manifest.
const MAX_ENTRY_BYTES: u64 = 6000;
/// For the test as a whole, on a machine that does much else.
const LONG: Duration = Duration::from_mins(8);

fn key_fields(key: u64) -> KeyFields {
    KeyFields::new().text("backend", "many").text("key", key.to_string())
}

fn artifact(key: u64) -> Artifact {
    let mut random = Random(key);
    let mut file = |name: &str, bytes: u64| ArtifactFile {
        name: name.to_owned(),
        bytes: (0..bytes).map(|_| random.below(256) as u8).collect(),
    };
    Artifact::new(vec![file("model", 4000), file("table", 50)]).unwrap()
}

/// A file beside the store.
fn beside(root: &Path, what: &str) -> PathBuf {
    root.with_extension(what)
}

fn lines_in(path: &Path) -> Vec<String> {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Appends a line, which stays whole whoever else writes.
fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn is_over(root: &Path) -> bool {
    beside(root, "over").exists()
}

struct LogOfQuarantines(PathBuf);

impl Observer for LogOfQuarantines {
    fn observe(&self, event: &Event) {
        match event {
            Event::Quarantined { key, .. } => append(&self.0, &key.to_string()),
            Event::GaveUpWaiting { .. } | Event::TookOver { .. } | Event::StoreFailed { .. } => {
                append(&self.0.with_extension("trouble"), &event.to_string());
            }
            _ => {}
        }
    }
}

#[test]
#[ignore = "run by the other tests as a process of its own"]
fn asking() {
    let Some(root) = childs_path(ROOT) else { return };
    let number: u64 = env::var(NUMBER).unwrap().parse().unwrap();
    let mut options = options(&root);
    options.observers.push(Arc::new(LogOfQuarantines(beside(&root, "quarantines"))));
    let cache = open_with(options);
    append(&beside(&root, "ready"), "ready");
    wait_until("all are there", || beside(&root, "go").exists());
    let ask = |random: &mut Random| {
        let mut keys: Vec<u64> = (0..NUM_KEYS).collect();
        while !keys.is_empty() {
            let key = keys.swap_remove(random.below(keys.len() as u64) as usize);
            let compile = || {
                append(&beside(&root, "compiles"), &key.to_string());
                thread::sleep(Duration::from_millis(20));
                artifact(key)
            };
            let (found, _) = try_ask(&cache, &key_fields(key), compile).unwrap();
            assert!(found == artifact(key), "wrong bytes of key {key}");
        }
    };
    thread::scope(|scope| {
        for thread in 0..NUM_THREADS {
            scope.spawn(move || {
                let mut random = Random(number * NUM_THREADS + thread);
                (0..NUM_PASSES).for_each(|_| ask(&mut random));
            });
        }
    });
    append(&beside(&root, "done"), "done");
    // What this process uses stays in use until nobody evicts anything any more.
    wait_until("nobody collects", || beside(&root, "evicted").exists());
}

/// Makes room without end: there is always something that nobody uses.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn collecting() {
    let Some(root) = childs_path(ROOT) else { return };
    let disk = DiskStore::open(&root).unwrap();
    let mut num_evicted = 0;
    for round in 0_u64.. {
        let unused = KeyFields::new().text("backend", "unused").text("round", round.to_string());
        // Of a process that is gone, so that it is in use by nobody.
        try_ask(&open(&root), &unused, || artifact(round)).unwrap();
        // Room for all that the others use, for some damage, and not for many rounds of this.
        let max_bytes = Some((NUM_KEYS + 10) * MAX_ENTRY_BYTES);
        let report = disk.gc(&GcOptions { max_bytes, dry_run: false }).unwrap();
        let is_ours = |evicted: &cairn_graph_cache::Evicted| {
            (0..NUM_KEYS).any(|key| key_fields(key).key() == evicted.key)
        };
        let in_use: Vec<_> = report.evicted.iter().filter(|one| is_ours(one)).collect();
        assert!(in_use.is_empty(), "evicted, though it is in use: {in_use:?}");
        num_evicted += report.evicted.len();
        if is_over(&root) {
            break;
        }
    }
    append(&beside(&root, "evicted"), &num_evicted.to_string());
}

/// Flips a bit of a file of an entry, now and then.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn flipping() {
    let Some(root) = childs_path(ROOT) else { return };
    let mut random = Random(1);
    while !is_over(&root) {
        let key = key_fields(random.below(NUM_KEYS)).key();
        let name = random.one_of(&["model", "table", "manifest.json", "record.bin"]);
        let path = common::entry_of(&root, &key).join(name);
        if let Ok(file) = File::options().read(true).write(true).open(path) {
            let at = random.below(file.metadata().unwrap().len().max(1));
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            byte[0] ^= 1 << random.below(8);
            file.write_all_at(&byte, at).unwrap();
            append(&beside(&root, "flips"), &format!("{key} {name} {at}"));
        }
        thread::sleep(Duration::from_millis(random.below(40)));
    }
}

fn run(is_damaged: bool) {
    let (_folder, root) = new_root_in_memory();
    let num_processes = number_from(PROCESSES).unwrap_or(NUM_PROCESSES);
    let start = |children: &mut Children, test: &str, number: u64| {
        let mut command = this_program(test);
        command.env(ROOT, &root).env(NUMBER, number.to_string());
        children.start(&mut command);
    };
    let (mut asking, mut others) = (Children::default(), Children::default());
    start(&mut others, "collecting", 0);
    if is_damaged {
        start(&mut others, "flipping", 0);
    }
    for number in 0..num_processes {
        start(&mut asking, "asking", number);
    }
    wait_until("all are there", || lines_in(&beside(&root, "ready")).len() as u64 == num_processes);
    fs::write(beside(&root, "go"), "").unwrap();
    let started = Instant::now();
    while (lines_in(&beside(&root, "done")).len() as u64) < num_processes {
        assert!(started.elapsed() < LONG, "somebody hangs");
        asking.check();
        others.check();
        thread::sleep(Duration::from_millis(5));
    }
    fs::write(beside(&root, "over"), "").unwrap();
    others.join(LONG);
    asking.join(LONG);

    let compiles = lines_in(&beside(&root, "compiles")).len();
    let quarantines = lines_in(&beside(&root, "quarantines")).len();
    let num_flips = lines_in(&beside(&root, "flips")).len();
    let num_evicted = lines_in(&beside(&root, "evicted"));
    say(&format!(
        "{compiles} compiles, {num_flips} bits flipped, {quarantines} quarantines, {} evicted",
        num_evicted.join("")
    ));
    assert_eq!(lines_in(&beside(&root, "trouble")), [""; 0]);
    assert_eq!(compiles, NUM_KEYS as usize + quarantines, "one per key, one per damage noticed");
    if is_damaged {
        assert!(quarantines > 0, "no damage was noticed");
    } else {
        assert_eq!(quarantines, 0);
    }
    // The dead leave nothing behind.
    let disk = DiskStore::open(&root).unwrap();
    disk.gc(&GcOptions::default()).unwrap();
    assert_eq!(names_in(&root, "tmp"), [""; 0]);
    assert_eq!(names_in(&root, "locks"), [""; 0]);
    for key in 0..NUM_KEYS {
        let is_there =
            matches!(disk.get(&key_fields(key).key()), cairn_graph_cache::Lookup::Hit(_));
        assert!(is_there || is_damaged, "key {key} is gone");
    }
}

#[expect(clippy::print_stderr, reason = "for who runs it by hand")]
fn say(what: &str) {
    eprintln!("{what}");
}

#[test]
fn many_processes_compile_each_graph_once_while_others_make_room() {
    run(false);
}

#[test]
fn many_processes_compile_once_more_for_each_damage_that_is_noticed() {
    run(true);
}

//! A process that does everything to a store is killed at a random time, again and again, over the
//! same folder. Whatever it was at, afterwards:
//!
//! - every lookup is a hit with the right bytes, or a miss: nothing is torn;
//! - `verify` finds every entry good, and what else it finds, it can repair;
//! - opening and `gc` remove all that the dead have left, and no lock of theirs is waited for;
//! - the store never becomes larger than what is in it.
//!
//! ```text
//! parent: start child -> it says that it is at work -> a few milliseconds -> SIGKILL -> look
//! child:  get_or_compile, remove, quarantine, gc, verify, export, import, pin, start, ... for ever
//! ```
//!
//! `CAIRN_KILL_ROUNDS` says how often (1,000 by default), `CAIRN_KILL_SEED` repeats a run. A kill
//! cannot be repeated to the instruction: what fails once in ten thousand rounds needs as many.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cairn_graph_cache::{
    Artifact, ArtifactFile, CacheKey, CacheOptions, DiskStore, Event, GcOptions, GraphCache,
    KeyFields, Lookup, MissReason, Origin, ProblemKind, Store as _, VerifyOptions, VerifyReport,
    export, import,
};
use common::{
    Random, Recorder, childs_path, names_in, number_from, open, open_with, options, this_program,
    try_ask,
};

const ROOT: &str = "CAIRN_KILL_ROOT";
const SEED: &str = "CAIRN_KILL_SEED";
const ROUNDS: &str = "CAIRN_KILL_ROUNDS";

const NUM_KEYS: u64 = 6;
/// What the child says when it is at work.
const AT_WORK: &str = "at work";
const LONGEST_LIFE_MICROS: u64 = 15_000;
/// No entry has more, and there are no more of a key than one entry and four in the quarantine. The
/// rest is room for the draft that somebody was at, manifests, notes and empty folders.
const MAX_ENTRY_BYTES: u64 = 80_000;
const MAX_STORE_BYTES: u64 = NUM_KEYS * 5 * MAX_ENTRY_BYTES + 1_000_000;

fn key_fields(key: u64) -> KeyFields {
    KeyFields::new().text("backend", "kill").text("key", key.to_string())
}

/// The artifact of a key, always the same: small, larger, of many files, empty.
fn artifact(key: u64) -> Artifact {
    let mut random = Random(key);
    let sizes: &[u64] = match key {
        0 => &[100],
        1 => &[70_000],
        2 => &[1, 0, 300, 5000, 2, 9],
        3 => &[0],
        _ => &[4096, 20_000],
    };
    let file = |(at, bytes): (usize, &u64)| ArtifactFile {
        name: format!("part{at}"),
        bytes: (0..*bytes).map(|_| random.below(256) as u8).collect(),
    };
    Artifact::new(sizes.iter().enumerate().map(file).collect()).unwrap()
}

/// Where the child exports to.
fn archive(root: &Path) -> PathBuf {
    root.with_extension("archive")
}

#[test]
#[ignore = "run by the other test as a process of its own, to be killed"]
fn child() {
    let Some(root) = childs_path(ROOT) else { return };
    let parent = parent_id();
    let artifacts: Vec<Artifact> = (0..NUM_KEYS).map(artifact).collect();
    let mut random = Random(env::var(SEED).unwrap().parse().unwrap());
    let cache = open(&root);
    println_now(AT_WORK);
    // Should the parent be gone, nobody kills this process.
    while parent_id() == parent {
        do_something(&cache, &root, &artifacts, &mut random);
    }
}

/// Past whatever the test harness would keep back.
fn println_now(text: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{text}").unwrap();
    stdout.flush().unwrap();
}

/// One thing that somebody does to a store. Nothing of it may fail: this process is alone.
fn do_something(cache: &GraphCache, root: &Path, artifacts: &[Artifact], random: &mut Random) {
    let disk = cache.disk().unwrap();
    let number = random.below(NUM_KEYS);
    let fields = key_fields(number);
    let key = fields.key();
    match random.below(20) {
        0..10 => {
            // Else there would soon be nothing left to do.
            if random.below(2) == 0 {
                disk.remove(&key).unwrap();
            }
            let artifact = &artifacts[number as usize];
            let (found, _) = try_ask(cache, &fields, || artifact.clone()).unwrap();
            assert!(found == *artifact, "wrong bytes of key {number}");
        }
        10 | 11 => drop(disk.remove(&key).unwrap()),
        12 => cache.quarantine(&key, "for a test").unwrap(),
        13 => {
            let max_bytes = [0, 10_000, 100_000][random.below(3) as usize];
            disk.gc(&GcOptions { max_bytes: Some(max_bytes), dry_run: false }).unwrap();
        }
        14 => {
            let report = disk.verify(&VerifyOptions { repair: true, progress: None }).unwrap();
            assert!(report.is_repaired(), "{report:?}");
        }
        15 => {
            let unfinished = archive(root).with_extension("unfinished");
            let keys = disk.list().unwrap();
            export(disk, &keys, File::create(&unfinished).unwrap(), &mut |_| {}).unwrap();
            fs::rename(unfinished, archive(root)).unwrap();
        }
        16 => {
            if let Ok(file) = File::open(archive(root)) {
                import(file, &mut |entry| disk.put(&entry).map(drop)).unwrap();
            }
        }
        17 if random.below(2) == 0 => disk.pin(&key).unwrap(),
        17 => disk.unpin(&key).unwrap(),
        18 => {
            let start = cache.begin_start(&[key]);
            match random.below(3) {
                0 => start.ready(),
                1 => start.failed(),
                _ => drop(start),
            }
        }
        _ => drop(open(root)),
    }
}

struct Killed {
    root: PathBuf,
    rounds: u64,
    random: Random,
    artifacts: Vec<Artifact>,
    /// What happened to the keys, to see that the test tests something.
    num_hits: u64,
    num_misses: u64,
    num_left: usize,
    most_bytes: u64,
}

impl Killed {
    fn over(root: PathBuf, rounds: u64, seed: u64) -> Self {
        let artifacts = (0..NUM_KEYS).map(artifact).collect();
        let (num_hits, num_misses, num_left, most_bytes) = (0, 0, 0, 0);
        let random = Random(seed);
        Self { root, rounds, random, artifacts, num_hits, num_misses, num_left, most_bytes }
    }

    fn run(mut self) -> Self {
        for round in 0..self.rounds {
            self.kill_one();
            // Sometimes the next one finds what two or three have left.
            if self.random.below(4) > 0 {
                self.look(round);
            }
        }
        self.look(self.rounds);
        self
    }

    /// Starts a child and kills it when it has been at work for a while.
    fn kill_one(&mut self) {
        let seed = self.random.below(u64::MAX);
        let mut command = this_program("child");
        command.env(ROOT, &self.root).env(SEED, seed.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The test harness has begun the line.
        let is_at_work = lines.any(|line| line.unwrap().ends_with(AT_WORK));
        assert!(is_at_work, "a child ended before it was at work: {:?}", child.wait());
        thread::sleep(Duration::from_micros(self.random.below(LONGEST_LIFE_MICROS)));
        assert_eq!(child.try_wait().unwrap(), None, "a child ended before it was killed");
        kill(&mut child);
    }

    fn look(&mut self, round: u64) {
        let what = format!("after round {round} in {}", self.root.display());
        self.num_left += names_in(&self.root, "tmp").len();
        // Opened to be looked into only: nothing is swept yet.
        let report = verify(&self.root, false);
        let torn = report.problems.iter().find(|problem| {
            let harmless = [ProblemKind::Orphaned];
            !problem.is_note && !harmless.contains(&problem.kind)
        });
        assert_eq!(torn, None, "{what}");
        assert_eq!(report.num_good, report.num_entries, "{what}: {report:?}");

        let (recorder, options) = Recorder::with(options(&self.root));
        let options = CacheOptions { max_wait: Duration::from_mins(1), ..options };
        let cache = open_with(options);
        let disk = cache.disk().unwrap();
        for number in 0..NUM_KEYS {
            match disk.get(&key_fields(number).key()) {
                Lookup::Hit(entry) => {
                    assert!(*entry.artifact() == self.artifacts[number as usize], "{what}");
                    self.num_hits += 1;
                }
                Lookup::Miss(MissReason::Absent) => self.num_misses += 1,
                Lookup::Miss(reason) => panic!("{what}: {reason}"),
            }
        }
        let report = disk.gc(&GcOptions::default()).unwrap();
        assert_eq!(report.failed, [""; 0], "{what}");
        assert_eq!(names_in(&self.root, "tmp"), [""; 0], "{what}");
        assert!(names_in(&self.root, "leases").len() <= 1, "{what}: only this process lives");
        self.ask_for_all(&cache, &what);
        let is_blocked =
            |event: &Event| matches!(event, Event::GaveUpWaiting { .. } | Event::Waiting { .. });
        let events = recorder.events();
        assert_eq!(events.iter().find(|event| is_blocked(event)), None, "{what}");
        assert_eq!(names_in(&self.root, "locks"), [""; 0], "{what}: all keys were compiled");
        let bytes = bytes_in(&self.root);
        self.most_bytes = self.most_bytes.max(bytes);
        assert!(bytes <= MAX_STORE_BYTES, "{what}: {bytes} bytes");
        drop(cache);
        assert!(verify(&self.root, false).is_clean(), "{what}: {:?}", verify(&self.root, false));
    }

    /// Asks for every graph under its lock: once what is there is removed, all of them are compiled.
    fn ask_for_all(&self, cache: &GraphCache, what: &str) {
        for (number, artifact) in self.artifacts.iter().enumerate() {
            let fields = key_fields(number as u64);
            cache.disk().unwrap().remove(&fields.key()).unwrap();
            let (found, outcome) = try_ask(cache, &fields, || artifact.clone()).unwrap();
            assert!(found == *artifact, "{what}");
            assert_eq!(outcome.origin, Origin::Compiled, "{what}");
        }
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn verify(root: &Path, repair: bool) -> VerifyReport {
    let access = cairn_graph_cache::DiskAccess::ReadOnly;
    let disk_options = cairn_graph_cache::DiskOptions { access, ..Default::default() };
    let store = DiskStore::open_with(root, disk_options).unwrap();
    store.verify(&VerifyOptions { repair, progress: None }).unwrap()
}

fn bytes_in(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).unwrap().map(|item| bytes_in(&item.unwrap().path())).sum()
}

#[test]
#[expect(clippy::print_stderr, reason = "the seed of a run that fails is needed to repeat it")]
fn whenever_a_process_is_killed_the_store_is_good_and_goes_on() {
    let rounds = number_from(ROUNDS).unwrap_or(1000);
    let seed = number_from(SEED).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_nanos() as u64
    });
    eprintln!("{SEED}={seed} {ROUNDS}={rounds}");
    // Where flushing takes no time, most rounds; where it does, a tenth of them.
    let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let on_disk = tempfile::tempdir().unwrap();
    for (folder, rounds) in [(&in_memory, rounds - rounds / 10), (&on_disk, rounds / 10)] {
        let started = Instant::now();
        let killed = Killed::over(folder.path().join("cache"), rounds, seed).run();
        eprintln!(
            "{rounds} rounds in {:?}, {:?}: {} entries were there, {} were not, {} things were \
             left in tmp, at most {} bytes",
            folder.path(),
            started.elapsed(),
            killed.num_hits,
            killed.num_misses,
            killed.num_left,
            killed.most_bytes
        );
        if rounds >= 50 {
            let has_seen_all = killed.num_hits > 0 && killed.num_misses > 0 && killed.num_left > 0;
            assert!(has_seen_all, "nothing was interrupted");
        }
    }
}

/// The keys are as different as their numbers.
#[test]
fn every_key_has_its_own_artifact() {
    let keys: Vec<CacheKey> = (0..NUM_KEYS).map(|number| key_fields(number).key()).collect();
    for (number, key) in keys.iter().enumerate() {
        assert!(!keys[..number].contains(key));
        assert!(artifact(number as u64).num_bytes() < MAX_ENTRY_BYTES);
    }
}

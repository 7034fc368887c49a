//! Clocks that jump by ten years, forwards and backwards, as far as files can show it: nothing is
//! evicted for its age, nobody's time is over early, and nobody who lives is taken for dead.
//!
//! How long something takes is measured by a clock that no jump reaches; that a whole process lives
//! in another decade is tried by `tests/faults/cache_clock.sh`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use cairn_graph_cache::{
    CacheKey, CacheOptions, DiskStore, GcOptions, GcReport, KeyFields, Origin, Outcome,
    VerifyOptions,
};
use common::{
    artifact, ask, ask_or, childs_path, entry_folder, entry_of, fields, names_in, new_root, open,
    open_with, options, single, this_program, try_ask, wait_until,
};

const ROOT: &str = "CAIRN_CLOCKS_ROOT";
const TEN_YEARS: Duration = Duration::from_hours(10 * 365 * 24);
const DAY: Duration = Duration::from_hours(24);

fn before(time: Duration) -> SystemTime {
    SystemTime::now() - time
}

fn after(time: Duration) -> SystemTime {
    SystemTime::now() + time
}

fn set_time(path: &Path, time: SystemTime) {
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::open(path).unwrap().set_times(times).unwrap();
}

fn numbered(number: u32) -> KeyFields {
    KeyFields::new().text("number", number.to_string())
}

/// Compiles some graphs, and ends.
fn fill(root: &Path, num_entries: u32) -> Vec<CacheKey> {
    let cache = open(root);
    let ask = |number| try_ask(&cache, &numbered(number), || single(&[1; 1000])).unwrap();
    (0..num_entries).map(|number| ask(number).1.key).collect()
}

fn gc(root: &Path, max_bytes: Option<u64>) -> GcReport {
    DiskStore::open(root).unwrap().gc(&GcOptions { max_bytes, dry_run: false }).unwrap()
}

#[test]
fn only_the_order_of_use_decides_what_is_evicted_and_only_for_want_of_room() {
    let (_folder, root) = new_root();
    let keys = fill(&root, 6);
    let times = [
        before(TEN_YEARS),
        after(TEN_YEARS),
        after(TEN_YEARS + DAY),
        SystemTime::UNIX_EPOCH,
        before(DAY),
        before(DAY) + Duration::from_secs(1),
    ];
    for (key, time) in keys.iter().zip(times) {
        set_time(&entry_of(&root, key), time);
    }
    let order = [3, 0, 4, 5, 1, 2].map(|at| keys[at]);
    for max_bytes in [None, Some(u64::MAX), Some(1 << 20)] {
        assert_eq!(gc(&root, max_bytes).evicted, []);
    }
    let bytes = gc(&root, None).bytes_after;
    // One by one, the least recently used first; what is in the future counts as used now.
    let mut left = bytes;
    for key in order {
        let report = gc(&root, Some(left - 1));
        assert_eq!(report.evicted.iter().map(|one| one.key).collect::<Vec<_>>(), [key]);
        left = report.bytes_after;
    }
    assert_eq!(left, 0);
}

#[test]
fn a_time_of_use_in_the_future_does_not_stay_there() {
    let (_folder, root) = new_root();
    let keys = fill(&root, 3);
    for (number, key) in (0..).zip(&keys) {
        set_time(&entry_of(&root, key), after(TEN_YEARS + number * DAY));
    }
    // Else whatever is used from now on would be evicted before what nobody uses any more.
    gc(&root, Some(u64::MAX));
    for key in &keys {
        let modified = fs::metadata(entry_of(&root, key)).unwrap().modified().unwrap();
        assert!(modified <= SystemTime::now(), "{modified:?}");
    }
    try_ask(&open(&root), &numbered(0), || unreachable!()).unwrap();
    let report = gc(&root, Some(gc(&root, None).bytes_after - 1));
    assert_eq!(report.evicted[0].key, keys[1]);
}

#[test]
fn an_entry_of_another_decade_is_a_hit_and_good() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let entry = entry_folder(&root);
    for time in [before(TEN_YEARS), after(TEN_YEARS), SystemTime::UNIX_EPOCH] {
        for item in fs::read_dir(&entry).unwrap() {
            set_time(&item.unwrap().path(), time);
        }
        for path in entry.ancestors().take(5) {
            set_time(path, time);
        }
        let outcome = ask(&open(&root));
        assert_eq!(outcome.origin, Origin::Cache);
        assert_eq!(outcome.warnings, [""; 0]);
        let report = DiskStore::open(&root).unwrap().verify(&VerifyOptions::default()).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}

#[test]
#[ignore = "run by other tests as a process of its own, which is compiling for a long time"]
fn compiling() {
    let Some(root) = childs_path(ROOT) else { return };
    ask_or(&open(&root), || {
        fs::write(root.with_extension("compiling"), "").unwrap();
        thread::sleep(Duration::from_mins(2));
        artifact()
    });
}

#[test]
fn who_lives_is_not_taken_for_dead_whatever_the_files_times() {
    let (_folder, root) = new_root();
    let mut child = this_program("compiling").env(ROOT, &root).spawn().unwrap();
    wait_until("a child compiles", || root.with_extension("compiling").exists());
    let lease = names_in(&root, "leases").remove(0);
    let draft = root.join("v2/tmp").join(format!("{lease}.1"));
    fs::create_dir(&draft).unwrap();
    fs::write(draft.join("model.bin"), b"half").unwrap();
    let asked: Vec<Outcome> = [before(TEN_YEARS), after(TEN_YEARS)]
        .into_iter()
        .map(|time| {
            set_time(&root.join("v2/leases").join(&lease), time);
            set_time(&root.join("v2/locks").join(format!("{}.lock", fields().key())), time);
            set_time(&draft, time);
            gc(&root, Some(0));
            let max_wait = Duration::from_millis(300);
            ask(&open_with(CacheOptions { max_wait, ..options(&root) }))
        })
        .collect();
    let found = (draft.exists(), names_in(&root, "leases"), names_in(&root, "locks"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.0, "the draft of a living process is gone");
    assert_eq!(found.1, [lease]);
    assert_eq!(found.2.len(), 1);
    // Both waited for as long as they were told to, and no longer. (What the first one compiled was
    // evicted before the second one asked.)
    for outcome in asked {
        assert_eq!(outcome.origin, Origin::Compiled);
        assert!(outcome.elapsed >= Duration::from_millis(300));
        assert!(outcome.warnings[0].contains("gave up waiting"), "{:?}", outcome.warnings);
    }
    // Dead, it is nothing any more.
    gc(&root, None);
    assert!(!draft.exists());
    assert_eq!(names_in(&root, "leases"), [""; 0]);
}

#[test]
fn temporary_things_of_nobody_known_are_removed_when_they_are_old() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let tmp = root.join("v2/tmp");
    let kinds = [("old", before(DAY)), ("new", SystemTime::now()), ("future", after(TEN_YEARS))];
    for (name, time) in kinds {
        fs::create_dir(tmp.join(name)).unwrap();
        fs::write(tmp.join(name).join("model.bin"), b"half").unwrap();
        set_time(&tmp.join(name), time);
    }
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
    gc(&root, None);
    assert_eq!(names_in(&root, "tmp"), ["future", "new"]);
}

#[test]
fn the_quarantine_is_kept_for_a_month_and_a_wrong_clock_does_not_shorten_that() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let names = ["now", "future", "old"];
    for name in names {
        try_ask(&cache, &KeyFields::new().text("name", name), || single(b"bad")).unwrap();
        cache.quarantine(&KeyFields::new().text("name", name).key(), "for a test").unwrap();
    }
    let thing = |name: &str| {
        let key = KeyFields::new().text("name", name).key();
        root.join(format!("v2/quarantine/{key}.0"))
    };
    for (name, time) in [("future", after(TEN_YEARS)), ("old", before(TEN_YEARS))] {
        let reason = format!("{}.reason.txt", thing(name).display());
        for path in [&thing(name), Path::new(&reason)] {
            set_time(path, time);
        }
    }
    gc(&root, None);
    assert_eq!(names.map(|name| thing(name).exists()), [true, true, false]);
    assert_eq!(names_in(&root, "quarantine").len(), 4);
}

#[test]
fn starts_that_failed_count_whatever_time_it_was() {
    for time in [after(TEN_YEARS), before(DAY)] {
        let (_folder, root) = new_root();
        let cache = open(&root);
        let key = ask(&cache).key;
        for _ in 0..3 {
            cache.begin_start(&[key]).failed();
        }
        for folder in names_in(&root, "starts") {
            for name in names_in(&root, &format!("starts/{folder}")) {
                set_time(&root.join("v2/starts").join(&folder).join(name), time);
            }
        }
        gc(&root, None);
        cache.begin_start(&[key]).ready();
        assert_eq!(cache.stats().snapshot().crash_loops, 1);
        assert_eq!(ask(&cache).origin, Origin::Compiled);
    }
}

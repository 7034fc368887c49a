//! Tests of files that beat.

use super::testing::{NO_LOCKS, QUICK};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn head_at(path: &Path) -> String {
    String::from_utf8(head_of(&open_to_read(path).unwrap())).unwrap()
}

#[test]
fn a_text_that_changes_is_never_stale_and_one_that_stands_still_is_after_ten_seconds() {
    let start = Instant::now();
    let mut watch = Watch::new(10 * SECOND);
    for second in 0..100_u32 {
        let now = start + second * SECOND;
        assert!(!watch.is_stale(second.to_string().as_bytes(), now));
    }
    for second in 100..110 {
        assert!(!watch.is_stale(b"still", start + second * SECOND), "{second}");
    }
    assert!(watch.is_stale(b"still", start + 110 * SECOND));
    assert!(!watch.is_stale(b"again", start + 111 * SECOND));
}

#[test]
fn an_observer_that_was_stopped_itself_begins_anew() {
    let start = Instant::now();
    let mut watch = Watch::new(10 * SECOND);
    assert!(!watch.is_stale(b"still", start));
    assert!(!watch.is_stale(b"still", start + 3600 * SECOND));
    for second in (3602..3610).step_by(2) {
        assert!(!watch.is_stale(b"still", start + second * SECOND));
    }
    assert!(watch.is_stale(b"still", start + 3610 * SECOND));
}

#[test]
fn a_beat_changes_its_line_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for conditions in [QUICK, NO_LOCKS] {
        let file = BeatFile::create_in(folder.path(), &conditions).unwrap();
        let end = file.write_text("a note\n").unwrap();
        let first = head_at(file.path());
        assert!(first.starts_with("beat 000000000001\nprocess "), "{first}");
        assert_eq!(file.write_at("more\n", end).unwrap(), first.len() as u64 + 5);
        file.beat(1_000_000);
        let beaten = first.replace("000000000001", "000001000000") + "more\n";
        assert_eq!(head_at(file.path()), beaten);
        file.remove();
        file.beat(5);
        assert!(!file.path().exists());
    }
}

#[test]
fn a_beat_goes_to_the_own_file_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = BeatFile::create_in(folder.path(), &QUICK).unwrap();
    file.write_text("").unwrap();
    fs::remove_file(file.path()).unwrap();
    fs::write(file.path(), "somebody else's").unwrap();
    file.beat(7);
    assert!(!file.is_in_place());
    file.remove();
    assert_eq!(head_at(file.path()), "somebody else's");
}

#[test]
fn a_heart_beats_until_it_is_dropped_and_never_after() {
    let (beats, beaten) = mpsc::channel();
    let heart = Heart::start(Duration::from_millis(1), move |count| {
        let _ = beats.send(count);
    });
    assert_eq!(beaten.recv(), Ok(2));
    assert_eq!(beaten.recv(), Ok(3));
    drop(heart);
    let _ = beaten.try_iter().count();
    assert_eq!(beaten.recv(), Err(mpsc::RecvError), "the thread is gone");
}

#[test]
fn a_heart_that_beats_every_hour_ends_at_once() {
    let started = Instant::now();
    drop(Heart::start(Duration::from_hours(1), |_| {}).unwrap());
    assert!(started.elapsed() < Duration::from_mins(1));
}

#[test]
fn the_owner_is_described_by_what_it_wrote_and_for_as_long_as_it_beat() {
    let text = "beat 000000000313\nprocess 12 on host a, since 1763849000.123\ndecode, 8\n";
    let real = &Conditions::REAL;
    let expected = "process 12 on host a (decode, 8, for 312 s)";
    assert_eq!(describe_owner(text.as_bytes(), real), expected);
    let text = text.replace("decode, 8\n", "");
    assert_eq!(describe_owner(text.as_bytes(), real), "process 12 on host a (for 312 s)");
    for bad in ["", "\n\n\n", "beat \n", "beat 1\n", "beat -1\nx", "\u{0}\u{1}", "beat 1\n\r\t"] {
        assert_eq!(describe_owner(bad.as_bytes(), real), "an unknown process", "{bad:?}");
    }
    let hostile = [&b"beat 9\n\x1b[31m"[..], &[0xff; 900]].concat();
    let described = describe_owner(&hostile, real);
    assert!(described.starts_with("[31m\u{fffd}") && described.len() < 700, "{described}");
}

#[test]
fn names_are_unlike_each_other_and_plain() {
    let (one, other) = (unique_name(), unique_name());
    assert_ne!(one, other);
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    assert!(one.bytes().all(is_plain), "{one}");
}

#[test]
fn a_sweep_takes_the_files_of_the_dead_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let alive = BeatFile::create_in(folder.path(), &QUICK).unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("dead"), "beat 1\n").unwrap();
    fs::create_dir(path("folder")).unwrap();
    std::os::unix::fs::symlink(path("dead"), path("link")).unwrap();
    crate::testing::make_fifo(&path("fifo"));
    assert_eq!(sweep(folder.path(), &QUICK, SystemTime::now()), 1);
    assert!(!path("dead").exists() && alive.is_in_place());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    assert_eq!(sweep(&path("missing"), &QUICK, SystemTime::now()), 0);
}

#[test]
fn without_locks_a_sweep_takes_what_was_not_written_to_for_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let file = BeatFile::create_in(folder.path(), &NO_LOCKS).unwrap();
    let now = SystemTime::now();
    for wrong_clock in [now, now - 365 * 24 * SWEEP_AFTER, now + SWEEP_AFTER - 10 * SECOND] {
        assert_eq!(sweep(folder.path(), &NO_LOCKS, wrong_clock), 0);
    }
    assert_eq!(sweep(folder.path(), &NO_LOCKS, now + SWEEP_AFTER + 10 * SECOND), 1);
    assert!(!file.is_in_place());
}

#[test]
fn files_can_be_created_while_others_sweep_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let files: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                sweep(folder.path(), &QUICK, SystemTime::now());
            }
        });
        let create = |_| BeatFile::create_in(folder.path(), &QUICK).unwrap();
        let files = (0..200).map(create).collect();
        is_done.store(true, Ordering::SeqCst);
        files
    });
    assert!(files.iter().all(BeatFile::is_in_place));
    assert_eq!(files_in(folder.path()).count(), 200);
}

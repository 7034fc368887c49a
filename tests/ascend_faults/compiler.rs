//! `atc`, failing in every way, and the program being ended while `atc` runs.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::deployment::skip;
use crate::place::{NUM_GRAPHS, Place, error_of, for_each_case};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// Processes whose command line or environment speaks of a place: what was started for it.
fn processes_of(place: &Place) -> Vec<String> {
    let folders = [place.toolkit.home(), place.deployment.path("cache")];
    let is_of_place = |text: &str| folders.iter().any(|f| text.contains(f.to_str().unwrap()));
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name| {
            let bytes = fs::read(process.path().join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let command = read("cmdline");
        // A process that has ended, but was not waited for, has neither.
        if is_of_place(&command) || is_of_place(&read("environ")) {
            found.push(format!("{}: {command}", process.file_name().display()));
        }
    }
    found
}

/// Files that compiles made for themselves: nothing after a compile, however it ended.
fn scratch_folders(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.deployment.path("cache/atc")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    // Kernels are kept on purpose.
    names.filter(|name| name != "kernels").collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn assert_nothing_left(place: &Place) {
    assert_eq!(processes_of(place), [""; 0]);
    assert_eq!(scratch_folders(place), [""; 0]);
}

/// A compiler's misdeed and what the error says of it.
type Case = (&'static str, &'static [&'static str]);

const STARTED: &str = "its output ends with:\n  ATC start working now";
const CASES: [Case; 9] = [
    ("fail", &["atc failed: exit status: 255 (EZ9999)", STARTED, "EZ9999: ", "\nhint: "]),
    ("fail:E10001", &["(E10001)", STARTED, "E10001: ", "\nhint: a value of an option"]),
    ("fail:E40021", &["(E40021)", STARTED, "E40021: ", "\nhint: an operator could not"]),
    ("fail:EZ3003", &["(EZ3003)", STARTED, "\nhint: no kernel was found"]),
    ("crash", &["atc failed: signal: 11 (SIGSEGV)", STARTED]),
    ("garbage", &["atc succeeded, but the offline model's magic is 0x", STARTED]),
    ("truncate", &["atc succeeded, but the offline model says that ", STARTED]),
    (
        "dynamic",
        &["atc succeeded, but graph became dynamic", STARTED, "\nhint: use a CANN toolkit"],
    ),
    ("silent", &["atc succeeded, but wrote no offline model", STARTED]),
];

#[test]
fn a_compiler_that_fails_is_told_with_its_codes_its_last_words_and_a_remedy() {
    for_each_case(Place::new, &CASES, |place, (mischief, words)| {
        let ended = place.warmup(&[("CANN_SIM_ATC", mischief)]);
        let told = |what: &str| Err(format!("{mischief}: {what}: {ended:#?}"));
        let error = error_of(&ended);
        if (ended.code, ended.stdout.as_str()) != (1, "") {
            return told("it does not fail");
        }
        if !error.starts_with("error: compiling graph `") {
            return told("it does not name the graph");
        }
        if let Some(word) = words.iter().find(|word| error.matches(**word).count() != 1) {
            return told(&format!("`{word}` is not said once"));
        }
        if !place.entries().is_empty() {
            return told("the cache has an entry");
        }
        assert_nothing_left(place);
        let next = place.warmup(&[]);
        if next.code != 0 || next.graphs() != [NUM_GRAPHS, 0] {
            return told(&format!("the next warm-up fails: {next:?}"));
        }
        fs::remove_dir_all(place.deployment.path("cache/graphs")).unwrap();
        Ok(())
    });
}

#[test]
fn a_compiler_that_is_slow_or_talks_much_is_waited_for() {
    for mischief in ["slow:0.3", "spam"] {
        let place = Place::new();
        let ended = place.warmup(&[("CANN_SIM_ATC", mischief)]);
        assert_eq!((ended.code, ended.graphs()), (0, [NUM_GRAPHS, 0]), "{ended:?}");
        assert_nothing_left(&place);
    }
}

#[test]
fn a_compiler_that_hangs_is_ended_with_everything_that_it_started() {
    let place = Place::new();
    let run = place.run("warmup", &["--compile-timeout", "2"], &[("CANN_SIM_ATC", "hang")]);
    let error = run.error();
    assert_eq!(run.ended.code, 1, "{run:?}");
    for words in ["atc did not finish within 2 s", STARTED, "\nhint: ", "`--compile-timeout`"] {
        assert_eq!(error.matches(words).count(), 1, "{words}: {error}");
    }
    assert_nothing_left(&place);
    assert!(place.entries().is_empty());
    assert_eq!(place.warmup(&[]).graphs(), [NUM_GRAPHS, 0]);
}

#[test]
fn of_several_graphs_those_that_were_compiled_stay() {
    for failing in 1..=NUM_GRAPHS {
        let place = Place::new();
        let count = place.toolkit.file("atc.count");
        let mischief = format!("fail:E40021@{failing}");
        let ended = place.run(
            "warmup",
            &["--compile-jobs", "1"],
            &[("CANN_SIM_ATC", &mischief), ("CANN_SIM_ATC_COUNT", count.to_str().unwrap())],
        );
        assert_eq!(ended.ended.code, 1, "{ended:?}");
        assert_eq!(place.entries().len(), failing - 1);
        let next = place.warmup(&[]);
        assert_eq!(next.graphs(), [NUM_GRAPHS - failing + 1, failing - 1], "{next:?}");
        assert_nothing_left(&place);
    }
}

/// A program that ends with its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Mostly it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command on an empty cache and waits until its compiler hangs.
fn with_hanging_compiler(place: &Place, command: &str) -> Program {
    let args = [command, "model", "--backend", "ascend", "--soc", "Ascend910B3"];
    let args = [&args[..], &crate::place::SMALL].concat();
    let mut command = place.deployment.process(&args);
    command.env("CANN_SIM_ATC", "hang").stdout(Stdio::null()).stderr(Stdio::null());
    let program = Program(command.spawn().unwrap());
    let hangs = || processes_of(place).iter().filter(|process| process.contains("sleep")).count();
    wait_until("the compiler does not start", || hangs() > 0);
    assert_ne!(scratch_folders(place), [""; 0]);
    program
}

#[test]
fn whatever_ends_the_program_ends_its_compiler() {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("KILL", 9)] {
        if is_ignored(number) {
            let why = format!("SIG{signal} is ignored here");
            skip("whatever_ends_the_program_ends_its_compiler", &why);
            continue;
        }
        let place = Place::new();
        let mut program = with_hanging_compiler(&place, "warmup");
        send(signal, &program.0);
        let mut status = None;
        wait_until("it does not end", || {
            status = program.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(!status.unwrap().success());
        wait_until("the compiler outlives it", || processes_of(&place).is_empty());
        wait_until("its folder stays", || scratch_folders(&place).is_empty());
        assert!(place.entries().is_empty());
        // No lock and no folder is in the way of the next one.
        assert_eq!(place.warmup(&[]).graphs(), [NUM_GRAPHS, 0]);
    }
}

/// Programs start with the signals ignored that this one ignores, as under `nohup`.
fn is_ignored(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

fn send(signal: &str, child: &Child) {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
}

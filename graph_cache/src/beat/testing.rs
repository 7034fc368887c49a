//! Processes that can be killed and stopped: this test program, started again for one test.

use std::env;
use std::process::{Child, Command, Stdio};

use super::*;

const PATH: &str = "CAIRN_TEST_BEAT_PATH";

/// Times that a test can wait for.
pub(crate) const QUICK: Conditions = Conditions {
    beat_every: Duration::from_millis(20),
    stale_after: Duration::from_secs(1),
    has_locks: true,
};
pub(crate) const NO_LOCKS: Conditions = Conditions { has_locks: false, ..QUICK };

/// Starts the ignored test `name` as a process that works at `path`.
pub(crate) fn start_child(name: &str, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored"])
        .env(PATH, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Where the child is to work; `None` in a test program that was started by a person.
pub(crate) fn path_of_child() -> Option<PathBuf> {
    env::var_os(PATH).map(PathBuf::from)
}

pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

pub(crate) fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_mins(1), "not so: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

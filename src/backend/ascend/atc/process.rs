//! Runs a program to its end, or for as long as it may take, and keeps the last of what it prints.
//!
//! ```text
//! child's stdout --thread--\
//!                           > Tail: the last 64 KiB of both, in the order in which they came
//! child's stderr --thread--/
//! ```
//!
//! Both are read all the time, so that a child that prints much neither waits for us nor fills our
//! memory.
//!
//! What this module deliberately does not do: it does not judge how the program ended.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::group::Group;

/// Bytes kept of what a program prints.
pub const TAIL_BYTES: usize = 64 << 10;
/// A process that left the group on purpose may hold the pipes for ever.
const PIPE_PATIENCE: Duration = Duration::from_secs(2);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// `None`: it took too long and was ended.
    pub status: Option<ExitStatus>,
    /// The last [`TAIL_BYTES`] of what it printed. What is not UTF-8 in it is replaced.
    pub tail: String,
}

/// Runs a program with nothing to read from, in a process group of its own, of which nobody is left
/// when this returns. After `timeout` it is asked to end, and after `patience` killed. Should this
/// process end first, the group is killed and `folder`, which holds nothing else, removed.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    command: &mut Command,
    timeout: Duration,
    patience: Duration,
    folder: Option<&Path>,
) -> io::Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command, folder)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let (sender, ends) = mpsc::channel();
    let num_pipes = [
        read(group.child.stdout.take(), &tail, &sender)?,
        read(group.child.stderr.take(), &tail, &sender)?,
    ]
    .iter()
    .filter(|is_read| **is_read)
    .count();
    drop(sender);

    let status = group.wait_until(Instant::now().checked_add(timeout))?;
    if status.is_none() {
        group.end(patience);
    }
    wait_for(&ends, num_pipes);
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Finished { status, tail: tail.take() })
}

/// Reads a pipe to its end on a thread of its own, which says so when it is there.
fn read(
    pipe: Option<impl Read + Send + 'static>,
    tail: &Arc<Mutex<Tail>>,
    sender: &Sender<()>,
) -> io::Result<bool> {
    let Some(mut pipe) = pipe else { return Ok(false) };
    let (tail, sender) = (Arc::clone(tail), sender.clone());
    let body = move || {
        let mut buffer = [0; 8192];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                    tail.push(&buffer[..len]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Nobody may be waiting any more.
        let _ = sender.send(());
    };
    thread::Builder::new().name("child-output".to_owned()).spawn(body)?;
    Ok(true)
}

/// Waits for the ends of all pipes, but not for ever: the threads end when somebody closes them.
fn wait_for(ends: &Receiver<()>, num_pipes: usize) {
    for _ in 0..num_pipes {
        if ends.recv_timeout(PIPE_PATIENCE).is_err() {
            break;
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    fn take(&mut self) -> String {
        let bytes: Vec<u8> = std::mem::take(&mut self.bytes).into();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> (Finished, Duration) {
        let started = Instant::now();
        let mut command = Command::new("/bin/sh");
        let patience = Duration::from_millis(300);
        let finished = run(command.args(["-c", script]), timeout, patience, None).unwrap();
        (finished, started.elapsed())
    }

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn both_streams_are_kept_and_the_status_is_told() {
        let (finished, _) = shell("echo one; echo two >&2; exit 3", LONG);
        assert_eq!(finished.status.unwrap().code(), Some(3));
        assert!(finished.tail.contains("one\n") && finished.tail.contains("two\n"));
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let script = "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo the end";
        let (finished, _) = shell(script, LONG);
        assert!(finished.status.unwrap().success());
        assert_eq!(finished.tail.len(), TAIL_BYTES);
        assert!(finished.tail.ends_with("x\nthe end\n"));
    }

    #[test]
    fn a_child_that_takes_too_long_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let (pids, cry) = (folder.path().join("pids"), folder.path().join("cry"));
        // The grandchild does not listen to TERM.
        let script = format!(
            "trap '' TERM; sh -c 'echo $$ >> {pids}; sleep 100; echo alive > {cry}' & \
             echo $$ >> {pids}; sleep 100; sleep 100",
            pids = pids.display(),
            cry = cry.display()
        );
        let (finished, took) = shell(&script, SHORT);
        assert_eq!(finished.status, None);
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert_gone(&std::fs::read_to_string(pids).unwrap());
    }

    #[test]
    fn what_a_child_leaves_behind_is_killed() {
        let (finished, took) = shell("sleep 100 & echo $!", LONG);
        assert!(finished.status.unwrap().success());
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert_gone(&finished.tail);
    }

    #[test]
    fn a_process_that_left_the_group_does_not_hold_us() {
        let (finished, took) = shell("setsid sleep 8 & echo started", LONG);
        assert!(finished.tail.contains("started"));
        assert!(took < Duration::from_secs(7), "{took:?}");
    }

    #[test]
    fn a_panic_leaves_no_child_behind() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 100 & sleep 100"]);
        let mut pid = 0;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let group = Group::spawn(&mut command, None).unwrap();
            pid = group.child.id();
            panic!("in the middle");
        }));
        assert!(result.is_err());
        assert_gone(&pid.to_string());
    }

    /// None of these processes runs any more. Who has ended, but was not waited for by whoever
    /// adopted it, counts as gone.
    fn assert_gone(pids: &str) {
        for pid in pids.split_whitespace() {
            let is_running = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
                state.is_some_and(|state| state != 'Z')
            };
            let patience = Instant::now() + Duration::from_secs(5);
            while is_running() {
                assert!(Instant::now() < patience, "process {pid} is still there");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

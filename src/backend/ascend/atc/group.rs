//! A child process with a process group of its own, so that it can be ended together with every
//! process that it has started.
//!
//! ```text
//! spawn --> the child leads the group --> try_wait: it has ended --> what it left behind is killed
//!                    |-- end, or drop: TERM to the group, after a while KILL
//!                    `-- this process ends, however: a watcher outlives it and kills the group
//! ```
//!
//! The watcher is a shell that reads a pipe of ours. Nobody ever writes to it, and the system closes
//! it when this process ends: by Ctrl-C, by SIGKILL, for lack of memory, by a fault. So nothing has
//! to catch signals, and what caught none is covered as well.
//!
//! What this module deliberately does not do: it cannot reach a process that has left the group on
//! purpose.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// How often to look whether a process has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// A process that was killed is gone at once, unless a device or a network file system holds it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What the watcher runs: waits for the end of its input, kills the group `$0`, and removes the folder
/// `$1`, to which a process that is being killed may still be writing.
const WATCH: &str = r#"read -r _
kill -s KILL -- "-$0"
[ -n "$1" ] || exit
for _ in 1 2 3; do rm -rf -- "$1" && exit; sleep 1; done"#;

/// A child and everything in its group. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) child: Child,
    is_reaped: bool,
    _watcher: Option<Watcher>,
}

impl Group {
    /// Starts the program in a new group. Should this process end before the group, the group is
    /// killed and `folder` removed.
    pub(super) fn spawn(command: &mut Command, folder: Option<&Path>) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let watcher = Watcher::spawn(child.id(), folder);
        let watcher = watcher.inspect_err(|error| {
            tracing::debug!(%error, "atc would outlive this process");
        });
        Ok(Self { child, is_reaped: false, _watcher: watcher.ok() })
    }

    /// How the child ended, if it has. What it left behind of its group is killed then.
    pub(super) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() && !self.is_reaped {
            // The number of the group stays taken as long as somebody is in it; if nobody is, it
            // is too fresh to belong to anybody else.
            self.is_reaped = true;
            self.signal(Signal::KILL);
        }
        Ok(status)
    }

    /// Waits until the child ends or the time is over.
    pub(super) fn wait_until(
        &mut self,
        deadline: Option<Instant>,
    ) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Ends the group: asks it to, and after `patience` does not ask any more.
    pub(super) fn end(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        let after = |patience| Instant::now().checked_add(patience);
        if !matches!(self.wait_until(after(patience)), Ok(Some(_))) {
            self.kill();
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        // In case the group could not be reached.
        let _ = self.child.kill();
        let _ = self.wait_until(Instant::now().checked_add(KILL_PATIENCE));
    }

    /// Sends a signal to every process of the group. Nobody being there any more is no failure.
    fn signal(&self, signal: Signal) {
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        match kill_process_group(group, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot end the processes that atc has started");
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
        }
    }
}

/// Somebody who outlives this process if need be. Dropping it calls it off.
#[derive(Debug)]
struct Watcher {
    /// With a standard input that ends with this process.
    child: Child,
}

impl Watcher {
    fn spawn(group: u32, folder: Option<&Path>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH]).arg(group.to_string()).arg(folder.unwrap_or(Path::new("")));
        // Commands of the system's own folders, in a folder that nobody wants to remove.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: what is sent to ours by a terminal does not reach it.
        Ok(Self { child: command.process_group(0).spawn()? })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Before its input ends, so that it does nothing more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

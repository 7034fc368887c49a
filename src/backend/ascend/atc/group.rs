//! A child process with a process group of its own, so that it can be ended together with every
//! process that it has started.
//!
//! ```text
//! spawn --> the child leads the group --> try_wait: it has ended --> what it left behind is killed
//!                    `-- end, or drop: TERM to the group, after a while KILL
//! ```
//!
//! What this module deliberately does not do: it cannot reach a process that has left the group on
//! purpose, nor end the group when this process itself is killed.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// How often to look whether a process has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// A process that was killed is gone at once, unless a device or a network file system holds it.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// A child and everything in its group. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) child: Child,
    is_reaped: bool,
}

impl Group {
    /// Starts the program in a new group.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        Ok(Self { child, is_reaped: false })
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

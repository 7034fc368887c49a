//! What access does beside requests: following the key file, and writing usage.
//!
//! | When | What |
//! | --- | --- |
//! | every second | looks whether the key file is another one |
//! | SIGHUP | reads the key file at once |
//! | every other second | writes usage, if there is any news |
//!
//! What this module deliberately does not do: the last writing at the end is for whoever ends this;
//! see [`Access::flush`].

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::registry::Access;

const TICK: Duration = Duration::from_secs(1);
const TICKS_PER_WRITE: u64 = 2;

impl Access {
    /// Runs until it is dropped.
    pub async fn run(self) {
        if self.is_open() {
            return;
        }
        let mut hangup = hangup(&self);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut num_ticks = 0_u64;
        loop {
            let is_told = tokio::select! {
                _ = ticks.tick() => false,
                () = next(&mut hangup) => true,
            };
            num_ticks = num_ticks.wrapping_add(1);
            let access = self.clone();
            let work = tokio::task::spawn_blocking(move || {
                if is_told {
                    // What went wrong has been told.
                    let _ = access.reload();
                } else {
                    access.poll();
                }
                if num_ticks.is_multiple_of(TICKS_PER_WRITE) {
                    access.flush();
                }
            });
            if let Err(error) = work.await {
                tracing::error!(%error, "following the key file failed");
            }
        }
    }
}

/// SIGHUP, where there is a file that it could be about.
fn hangup(access: &Access) -> Option<Signal> {
    access.options().keys_file.as_ref()?;
    let warn = |error: &io::Error| tracing::warn!(%error, "SIGHUP is not listened to");
    signal(SignalKind::hangup()).inspect_err(warn).ok()
}

async fn next(hangup: &mut Option<Signal>) {
    if let Some(signal) = hangup
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

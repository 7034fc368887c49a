//! Events: marks in streams that other streams and the host wait for.
//!
//! ```text
//!  aclrtRecordEvent: issue() = 4    ... the stream gets there: finish(4) ...
//!  waiting for the 4th record       <----------------------------'
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::context::Context;
use super::error::Fail;

/// `ACL_EVENT_SYNC`: other streams may wait for it.
pub(super) const FLAG_SYNC: u32 = 1;
/// `ACL_EVENT_TIME_LINE`: it knows when it happened.
pub(super) const FLAG_TIME_LINE: u32 = 8;
/// All flags of the headers.
pub(super) const FLAGS: u32 = 0x7b;

/// How often a wait looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(5);

/// An event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) flags: u32,
    pub(super) context: Arc<Context>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    issued: u64,
    finished: u64,
    failed: Option<(u64, Fail)>,
    is_reset: bool,
    happened: Option<Instant>,
}

/// How a wait ended.
#[derive(Debug)]
pub(super) enum Waited {
    Done,
    Failed(Fail),
    TimedOut,
    /// It is not wanted any more.
    GivenUp,
}

impl Event {
    pub(super) fn new(flags: u32, context: Arc<Context>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { flags, context, state, changed })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record that was added to a stream.
    pub(super) fn issue(&self) -> u64 {
        let mut state = self.lock();
        state.issued += 1;
        state.issued
    }

    /// The last record; `None` when there was none.
    pub(super) fn last(&self) -> Option<u64> {
        Some(self.lock().issued).filter(|issued| *issued > 0)
    }

    /// The stream has got to that record.
    pub(super) fn finish(&self, record: u64) {
        let mut state = self.lock();
        state.finished = state.finished.max(record);
        state.is_reset = false;
        state.happened = Some(Instant::now());
        self.changed.notify_all();
    }

    /// The stream will not get to that record.
    pub(super) fn fail(&self, record: u64, fail: Fail) {
        self.lock().failed = Some((record, fail));
        self.changed.notify_all();
    }

    /// The stream has got to a reset.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.is_reset = true;
        state.happened = None;
    }

    /// Whether everything before the last record has been done.
    ///
    /// # Errors
    /// When the stream failed before it.
    pub(super) fn is_complete(&self) -> Result<bool, Fail> {
        let state = self.lock();
        match &state.failed {
            Some((record, fail)) if *record == state.issued => Err(fail.clone()),
            _ => Ok(state.issued > 0 && state.finished >= state.issued && !state.is_reset),
        }
    }

    /// When the last record happened.
    pub(super) fn happened(&self) -> Option<Instant> {
        let state = self.lock();
        state.happened.filter(|_| state.finished >= state.issued)
    }

    /// Waits until the stream has got to that record, or `timeout`, or `is_wanted` says no.
    pub(super) fn wait(
        &self,
        record: u64,
        timeout: Option<Duration>,
        is_wanted: impl Fn() -> bool,
    ) -> Waited {
        let start = Instant::now();
        let mut state = self.lock();
        loop {
            if state.finished >= record {
                return Waited::Done;
            }
            if let Some((failed, fail)) = &state.failed
                && *failed >= record
            {
                return Waited::Failed(fail.clone());
            }
            let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Waited::TimedOut;
            }
            drop(state);
            if !is_wanted() {
                return Waited::GivenUp;
            }
            state = self.lock();
            if state.finished < record {
                let slice = left.map_or(SLICE, |left| left.min(SLICE));
                let waited = self.changed.wait_timeout(state, slice);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

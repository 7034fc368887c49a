//! Streams: queues of tasks with a thread each.
//!
//! ```text
//!  submit -> [task][task][task] -> delay -> run -> finished += 1, or failure
//!                                   ^ random, so streams overtake each other
//! ```
//!
//! A failure is kept until someone synchronises or asks. After an exception, and with
//! `ACL_STOP_ON_FAILURE` after any failure, later tasks are discarded and every wait fails.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::config::Config;
use super::context::Context;
use super::error::{Fail, code};
use super::plog;
use super::state;
use super::task::Task;

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) context: Arc<Context>,
    queue: Mutex<Queue>,
    changed: Condvar,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    is_busy: bool,
    submitted: u64,
    finished: u64,
    failure: Option<Failure>,
    stops_on_failure: bool,
    is_closing: bool,
    /// How often the tasks were aborted.
    aborts: u64,
}

#[derive(Debug)]
struct Failure {
    fail: Fail,
    /// It stays, and nothing runs any more.
    is_final: bool,
}

impl Stream {
    /// A stream and its thread.
    ///
    /// # Errors
    /// When the process has no room for a thread.
    pub(super) fn start(
        id: u32,
        context: Arc<Context>,
        config: &Config,
    ) -> Result<Arc<Self>, Fail> {
        let stream = Arc::new(Self {
            id,
            context,
            queue: Mutex::default(),
            changed: Condvar::new(),
            worker: Mutex::new(None),
        });
        let delays = Delays::new(config, id);
        let worker = thread::Builder::new().name(format!("sim-stream-{id}"));
        let own = Arc::clone(&stream);
        let worker = worker
            .spawn(move || own.work(delays))
            .map_err(|error| Fail::new(code::RT_NO_STREAM_RESOURCE, error.to_string()))?;
        *stream.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
        Ok(stream)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task.
    pub(super) fn submit(&self, task: Task) {
        let mut queue = self.lock();
        queue.submitted += 1;
        queue.tasks.push_back(task);
        self.changed.notify_all();
    }

    /// Whether later tasks are discarded after any failure.
    pub(super) fn set_stops_on_failure(&self, stops: bool) {
        self.lock().stops_on_failure = stops;
    }

    /// Whether everything added so far is done.
    ///
    /// # Errors
    /// A failure that nobody was told of, or that stays.
    pub(super) fn is_complete(&self) -> Result<bool, Fail> {
        let mut queue = self.lock();
        queue.report()?;
        Ok(queue.finished >= queue.submitted)
    }

    /// Whether nothing is running or waiting.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.lock();
        queue.tasks.is_empty() && !queue.is_busy
    }

    /// Waits until everything that was added so far is done. `Ok(false)` is a time-out.
    ///
    /// # Errors
    /// A failure that nobody was told of, or that stays.
    pub(super) fn synchronize(&self, timeout: Option<Duration>) -> Result<bool, Fail> {
        let start = Instant::now();
        let mut queue = self.lock();
        let target = queue.submitted;
        while queue.finished < target {
            queue = match timeout {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.saturating_sub(start.elapsed());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    let waited = self.changed.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        queue.report().map(|()| true)
    }

    /// Discards what has not been done; if there was anything, the stream has failed with `why`.
    pub(super) fn abort(&self, why: &Fail) {
        let discarded = {
            let mut queue = self.lock();
            queue.aborts += 1;
            let discarded = std::mem::take(&mut queue.tasks);
            queue.finished += discarded.len() as u64;
            if !discarded.is_empty() || queue.is_busy {
                queue.failure = Some(Failure { fail: why.clone(), is_final: false });
            }
            self.changed.notify_all();
            discarded
        };
        for task in discarded {
            task.discard(why);
        }
    }

    /// Ends the stream; what has not been done is discarded, what runs is waited for.
    ///
    /// The caller holds no lock: the tasks take them.
    pub(super) fn close(&self) {
        self.abort(&Fail::new(code::RT_STREAM_ABORT, "the stream was destroyed"));
        self.lock().is_closing = true;
        self.changed.notify_all();
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A stream that is destroyed in a callback of its own does not wait for itself.
        if let Some(worker) = worker.filter(|worker| worker.thread().id() != thread::current().id())
        {
            let _ = worker.join();
        }
    }

    fn work(&self, mut delays: Delays) {
        while let Some((task, number, aborts)) = self.next() {
            let is_wanted = || {
                let queue = self.lock();
                !queue.is_closing && queue.aborts == aborts
            };
            let running = task.begin(self.id);
            let is_hanging = matches!(task, Task::Hang);
            self.pause((!is_hanging).then(|| delays.draw()), aborts);
            let refusal = self.refusal(aborts);
            let result = if refusal.is_some() {
                Ok(())
            } else {
                // The interpreter must not take the stream with it, whatever the model.
                let run = AssertUnwindSafe(|| task.run(running.as_ref(), is_wanted));
                catch_unwind(run).unwrap_or_else(|_| Err(panicked(&task)))
            };
            drop(running);
            if let Err(fail) = &result {
                plog::error(task.name(), fail.code, &fail.message);
                if fail.is_device_exception() {
                    state::tell_of_exception(self, number, fail.code);
                }
            }
            match &refusal {
                Some(why) => task.discard(why),
                None => drop(task),
            }
            self.finish(result);
        }
    }

    fn next(&self) -> Option<(Task, u32, u64)> {
        let mut queue = self.lock();
        loop {
            if queue.is_closing {
                return None;
            }
            if let Some(task) = queue.tasks.pop_front() {
                queue.is_busy = true;
                return Some((task, queue.finished as u32, queue.aborts));
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits that long, or for ever, but not past an abort.
    fn pause(&self, delay: Option<Duration>, aborts: u64) {
        let start = Instant::now();
        let mut queue = self.lock();
        while !queue.is_closing && queue.aborts == aborts {
            queue = match delay {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(delay) => {
                    let left = delay.saturating_sub(start.elapsed());
                    if left.is_zero() {
                        return;
                    }
                    let waited = self.changed.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Why the task that is next must not run.
    fn refusal(&self, aborts: u64) -> Option<Fail> {
        let queue = self.lock();
        if queue.is_closing || queue.aborts != aborts {
            return Some(Fail::new(code::RT_STREAM_ABORT, "the task was aborted"));
        }
        queue
            .failure
            .as_ref()
            .filter(|failure| failure.is_final)
            .map(|failure| failure.fail.clone())
    }

    fn finish(&self, result: Result<(), Fail>) {
        let mut queue = self.lock();
        queue.is_busy = false;
        queue.finished += 1;
        if let Err(fail) = result
            && queue.failure.as_ref().is_none_or(|failure| !failure.is_final)
        {
            let is_final = queue.stops_on_failure || fail.is_device_exception();
            queue.failure = Some(Failure { fail, is_final });
        }
        self.changed.notify_all();
    }
}

impl Queue {
    /// The failure, which is thereby told.
    fn report(&mut self) -> Result<(), Fail> {
        match &self.failure {
            None => Ok(()),
            Some(failure) if failure.is_final => Err(failure.fail.clone()),
            Some(_) => self.failure.take().map_or(Ok(()), |failure| Err(failure.fail)),
        }
    }
}

fn panicked(task: &Task) -> Fail {
    let text = format!("the simulator itself panicked in a {}", task.name());
    Fail::new(code::RT_AICORE_EXCEPTION, text)
}

/// Random delays, the same for the same seed and stream.
#[derive(Debug)]
struct Delays {
    state: u64,
    longest: u64,
}

impl Delays {
    fn new(config: &Config, stream: u32) -> Self {
        let state = config.seed ^ u64::from(stream).wrapping_mul(0xd134_2543_de82_ef95);
        Self { state, longest: config.delay.as_micros() as u64 }
    }

    fn draw(&mut self) -> Duration {
        let scale = if self.random().is_multiple_of(16) { 8 } else { 1 };
        let micros = self.random() % (self.longest.saturating_mul(scale) + 1);
        Duration::from_micros(micros)
    }

    /// `SplitMix64`: Steele, Lea and Flood, 2014.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

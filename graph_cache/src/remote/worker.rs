//! The thread on which requests are made, so that everybody else may simply wait.
//!
//! ```text
//! any thread --future--> queue --> the store's thread: one small runtime, many futures at a time
//!            <--answer-- channel <--'
//! ```
//!
//! A caller waits on a channel of the standard library, not on a runtime: it may be a plain thread
//! or one that itself runs futures, as long as it may block.
//!
//! What this module deliberately does not do: it knows no requests, and sets no time limits.

use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread that runs futures; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: UnboundedSender<Job>,
}

impl Worker {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = unbounded_channel();
        let (report, started) = mpsc::sync_channel(1);
        // The runtime is made and dropped on its thread: both are forbidden inside another one.
        thread::Builder::new().name("cairn-remote".to_owned()).spawn(move || {
            match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    runtime.block_on(run_all(queue));
                    // Whatever still looks up a name is not waited for.
                    runtime.shutdown_background();
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended")))?;
        Ok(Self { jobs })
    }

    /// Waits for what a future returns; `None` when it panicked.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = mpsc::sync_channel(1);
        let job: Job = Box::pin(async move {
            // Nobody can have stopped waiting.
            let _ = sender.send(future.await);
        });
        self.jobs.send(job).ok()?;
        answer.recv().ok()
    }
}

async fn run_all(mut queue: UnboundedReceiver<Job>) {
    while let Some(job) = queue.recv().await {
        tokio::spawn(job);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn futures_run_side_by_side_and_a_panic_is_no_answer() {
        let worker = Worker::start().unwrap();
        thread::scope(|scope| {
            for number in 0..8 {
                let worker = &worker;
                scope.spawn(move || {
                    let sleep = async move {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        number
                    };
                    assert_eq!(worker.wait_for(sleep), Some(number));
                });
            }
        });
        assert_eq!(worker.wait_for::<()>(async { panic!("on purpose") }), None);
        assert_eq!(worker.wait_for(async { 1 }), Some(1));
    }

    #[test]
    fn it_may_be_used_and_dropped_inside_another_runtime() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let worker = Worker::start().unwrap();
            assert_eq!(worker.wait_for(async { 2 }), Some(2));
        });
    }
}

//! Answers the lines of a batch, several at a time, and writes the results as they are ready.
//!
//! ```text
//! queue --entry--> at most max_in_flight tasks, each: answer, again while the engine is full
//!                        `--result--> journal --> progress
//! ```
//!
//! | What happens | What is done |
//! | --- | --- |
//! | the engine is full | the task waits and asks again; that is no result |
//! | the engine ends | the work ends with it; lines in work have no result and are answered by the next run |
//! | Ctrl-C or SIGTERM | no more lines are taken, those in work are finished |
//! | a second one | those in work are dropped |
//!
//! What this module deliberately does not do: it opens nothing.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::journal::Journals;
use super::line::{Ask, Refused, ResultLine};
use super::queue::Entry;
use super::source::LineId;
use super::summary::Counts;
use crate::cli::failure::Outcome;
use crate::cli::output;
use crate::cli::progress::Task;
use crate::engine::EngineHandle;
use crate::server::{self, NoAnswer, ServerState};

/// The first and the longest wait for room in the engine's queue.
const WAITS: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// So often an engine that does nothing may say that it is full.
const MAX_IDLE_REFUSALS: u32 = 5;

/// What the work needs.
pub(super) struct Work<'a> {
    pub(super) state: ServerState,
    pub(super) engine: EngineHandle,
    pub(super) max_in_flight: usize,
    pub(super) entries: mpsc::Receiver<anyhow::Result<Entry>>,
    pub(super) journals: &'a mut Journals,
    pub(super) counts: &'a mut Counts,
    pub(super) progress: &'a dyn Task,
}

/// Why a line has no result.
type Answer = Result<ResultLine, NoAnswer>;

impl Work<'_> {
    /// Works until all is done, or somebody wants an end.
    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        let mut signals = Signals::new().context("listening for signals")?;
        let mut tasks: JoinSet<Answer> = JoinSet::new();
        let mut outcome = Outcome::Done;
        let mut has_more = true;
        while has_more || !tasks.is_empty() {
            tokio::select! {
                () = signals.next() => {
                    if outcome == Outcome::Interrupted {
                        break;
                    }
                    outcome = Outcome::Interrupted;
                    has_more = false;
                    output::say(format_args!(
                        "stopping: {} lines in work are finished; Ctrl-C drops them", tasks.len()
                    ));
                }
                entry = self.entries.recv(), if has_more && tasks.len() < self.max_in_flight => {
                    match entry.transpose()? {
                        Some(Entry::Ask(line, ask)) => {
                            tasks.spawn(answer(self.state.clone(), self.engine.clone(), line, ask));
                        }
                        Some(Entry::Refused(line, refused)) => {
                            self.write(&ResultLine::refused(line, refused))?;
                        }
                        None => has_more = false,
                    }
                }
                Some(answer) = tasks.join_next(), if !tasks.is_empty() => {
                    let answer = answer.context("answering a line")?;
                    self.write(&answer.context("answering a line")?)?;
                }
            }
        }
        drop(tasks);
        self.journals.sync()?;
        Ok(outcome)
    }

    fn write(&mut self, result: &ResultLine) -> anyhow::Result<()> {
        self.journals.write(result)?;
        self.counts.add(result);
        self.progress.advance_to(self.counts.num_done());
        Ok(())
    }
}

/// The result of one line.
async fn answer(state: ServerState, engine: EngineHandle, line: LineId, ask: Ask) -> Answer {
    let [mut wait, longest] = WAITS;
    let (id, mut num_idle_refusals) = (line.result_id(), 0);
    loop {
        match server::answer(&state, &ask.url, &id, ask.body.clone()).await {
            Ok(answered) => return Ok(ResultLine::answered(line, &ask.custom_id, &answered)),
            Err(NoAnswer::Overloaded(message)) => {
                if engine.num_unfinished() == 0 {
                    num_idle_refusals += 1;
                }
                if num_idle_refusals > MAX_IDLE_REFUSALS {
                    return Ok(ResultLine::refused(line, too_large(ask, message)));
                }
                tokio::time::sleep(wait).await;
                wait = longest.min(wait * 2);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the engine's queue does not take even when it is empty.
fn too_large(ask: Ask, message: String) -> Refused {
    Refused { custom_id: Some(ask.custom_id), code: "rate_limit_exceeded", message }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on they do not end the process.
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

//! Answers the lines of a batch, several at a time, and writes the results as they are ready.
//!
//! ```text
//! queue --entry--> at most max_in_flight tasks, each: answer, again while there is no room
//!                        `--result--> journal --> whoever counts
//! ```
//!
//! | What happens | What is done |
//! | --- | --- |
//! | there is no room | the task waits and asks again; that is no result |
//! | whoever answers ends | the work ends with it; lines in work have no result and are answered by the next run |
//! | [`Stop::Finish`] | no more lines are taken, those in work are finished |
//! | [`Stop::Drop`] | those in work are dropped |
//!
//! What this module deliberately does not do: it opens nothing.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::journal::Journals;
use super::line::{Ask, Refused, ResultLine};
use super::queue::Entry;
use super::source::LineId;
use super::{Answers, NoAnswer};

/// The first and the longest wait for room.
const WAITS: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// So often somebody who does nothing may say that there is no room.
const MAX_IDLE_REFUSALS: u32 = 5;

/// Whether somebody wants an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Nobody does.
    No,
    /// After the lines that are in work.
    Finish,
    /// At once.
    Drop,
}

/// What the work needs.
pub(crate) struct Work<'a, A> {
    pub(crate) answers: A,
    pub(crate) max_in_flight: usize,
    pub(crate) entries: mpsc::Receiver<anyhow::Result<Entry>>,
    pub(crate) journals: &'a mut Journals,
    /// Lines in work, when they change.
    pub(crate) stop: watch::Receiver<Stop>,
    /// Told of each result once it is written.
    pub(crate) on_result: &'a mut (dyn FnMut(&ResultLine) + Send),
}

/// Why a line has no result.
type Answer = Result<ResultLine, NoAnswer>;

impl<A: Answers> Work<'_, A> {
    /// Works until all is done, or somebody wants an end; whether all is done.
    ///
    /// # Errors
    /// When lines cannot be read, results cannot be written, or nobody answers any more.
    pub(crate) async fn run(mut self) -> anyhow::Result<bool> {
        let mut tasks: JoinSet<Answer> = JoinSet::new();
        let mut is_whole = true;
        let mut has_more = true;
        while has_more || !tasks.is_empty() {
            tokio::select! {
                // Whoever could want an end is gone: nobody will.
                Ok(()) = self.stop.changed() => {
                    is_whole = false;
                    has_more = false;
                    if *self.stop.borrow() == Stop::Drop {
                        break;
                    }
                }
                entry = self.entries.recv(), if has_more && tasks.len() < self.max_in_flight => {
                    match entry.transpose()? {
                        Some(Entry::Ask(line, ask)) => {
                            tasks.spawn(answer(self.answers.clone(), line, ask));
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
        Ok(is_whole)
    }

    fn write(&mut self, result: &ResultLine) -> anyhow::Result<()> {
        self.journals.write(result)?;
        (self.on_result)(result);
        Ok(())
    }
}

/// The result of one line.
async fn answer(answers: impl Answers, line: LineId, ask: Ask) -> Answer {
    let [mut wait, longest] = WAITS;
    let (id, mut num_idle_refusals) = (line.result_id(), 0);
    loop {
        match answers.answer(&ask.url, &id, ask.body.clone()).await {
            Ok(answered) => return Ok(ResultLine::answered(line, &ask.custom_id, &answered)),
            Err(NoAnswer::Overloaded(message)) => {
                if answers.is_idle() {
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

/// What there is no room for even when nothing else is in work.
fn too_large(ask: Ask, message: String) -> Refused {
    Refused { custom_id: Some(ask.custom_id), code: "rate_limit_exceeded", message }
}

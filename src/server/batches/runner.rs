//! Runs batches, one after the other, oldest first.
//!
//! ```text
//! validating --lines looked at--> in_progress --all lines--> finalizing --results are files--> completed
//!     `-- no file, no line --> failed    |--- cancel ---> cancelling --lines in work end------> cancelled
//!                                        `--- 24 hours --------------------------------------> expired
//! ```
//!
//! A server that ends in the middle leaves a batch where it is: the next one goes on from the results.
//! Lines go through the same door as requests over HTTP, a few at a time, so that those still find
//! room. Its lines are paid for by the key that began it, but no limit of that key holds them up.
//!
//! What this module deliberately does not do: a batch that another server on the same folder works on
//! is left to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Batches;
use super::object::{BatchObject, BatchStatus, RequestCounts, now};
use super::store::Owner;
use crate::batch::journal::Journals;
use crate::batch::line::ResultLine;
use crate::batch::queue;
use crate::batch::source::Source;
use crate::batch::work::{Stop, Work};
use crate::batch::{Answered, Answers, NoAnswer};
use crate::server::ServerState;
use crate::server::access::{Grant, grant_of};
use crate::server::error::ApiError;
use crate::server::openai::answer_for;

/// Most lines of one batch, as `OpenAI` has it.
const MAX_LINES: u64 = 50_000;
/// After a failure that may pass, such as a batch that another server works on.
const PAUSE: Duration = Duration::from_secs(30);

/// Works for as long as the server lives.
pub(super) async fn run(batches: Arc<Batches>, state: ServerState) {
    loop {
        let woken = batches.wakes.notified();
        let Some((batch, owner)) = batches.store.next_batch() else {
            woken.await;
            continue;
        };
        let id = batch.id.clone();
        if let Err(error) = work_on(&batches, &state, batch, owner).await {
            tracing::warn!(batch = id, error = format!("{error:#}"), "a batch is interrupted");
            if state.is_draining() || !state.engine().is_healthy() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn work_on(
    batches: &Arc<Batches>,
    state: &ServerState,
    batch: BatchObject,
    owner: Owner,
) -> anyhow::Result<()> {
    let id = batch.id.clone();
    // What was left to do when the last server ended.
    match batch.status {
        BatchStatus::Finalizing => return finish(batches, &id, owner, true).await,
        BatchStatus::Cancelling => return finish(batches, &id, owner, false).await,
        _ => {}
    }
    let opened = {
        let (batches, batch) = (Arc::clone(batches), batch.clone());
        let max_line_bytes = state.options().max_body_bytes;
        tokio::task::spawn_blocking(move || open(&batches, &batch, max_line_bytes)).await?
    };
    let (mut journals, entries, counts) = match opened? {
        Opened::Ready(journals, entries, counts) => (journals, entries, counts),
        Opened::Failed(code, message) => {
            batches.update(&id, |batch| batch.fail(code, message)).await?;
            return Ok(());
        }
    };
    // From here on a cancellation stops the work; one that came before is seen in the status.
    let (stop, stopped) = batches.begin(&id);
    let begun = batches
        .update(&id, move |batch| {
            batch.request_counts = counts;
            if batch.status == BatchStatus::Validating {
                batch.enter(BatchStatus::InProgress);
            }
        })
        .await?;
    if begun.is_some_and(|batch| batch.status == BatchStatus::Cancelling) {
        batches.stop(&id);
    }
    let expiry = expire(stop, batch.expires_at);
    let mut on_result = |result: &ResultLine| batches.count(&id, result.is_failed);
    let work = Work {
        answers: OfEndpoint {
            state: state.clone(),
            owner: owner.clone(),
            endpoint: batch.endpoint.clone(),
        },
        max_in_flight: state.engine().max_num_seqs().div_ceil(2),
        entries,
        journals: &mut journals,
        stop: stopped,
        on_result: &mut on_result,
    };
    let ended = tokio::select! {
        ended = work.run() => ended,
        never = expiry => match never {},
    };
    batches.end(&id);
    // The files are closed before they are moved.
    drop(journals);
    let is_whole = ended?;
    finish(batches, &id, owner, is_whole).await
}

/// What there is to be done.
enum Opened {
    Ready(Journals, Entries, RequestCounts),
    /// Nothing: the batch is no good, with code and message.
    Failed(&'static str, String),
}

type Entries = tokio::sync::mpsc::Receiver<anyhow::Result<queue::Entry>>;

fn open(batches: &Batches, batch: &BatchObject, max_line_bytes: usize) -> anyhow::Result<Opened> {
    let store = &batches.store;
    let input = store.content_path(&batch.input_file_id);
    if !input.is_file() {
        let message = format!("the file `{}` is gone", batch.input_file_id);
        return Ok(Opened::Failed("missing_file", message));
    }
    let source = Source::Files(vec![input]);
    let [output, errors] = ["output", "errors"].map(|kind| store.results_path(&batch.id, kind));
    let (journals, done) = Journals::open(&output, Some(&errors), false)?;
    let num_lines = queue::check(&source, max_line_bytes, &done)?;
    if num_lines == 0 {
        return Ok(Opened::Failed("empty_file", "the input file has no lines".to_owned()));
    }
    if num_lines > MAX_LINES {
        let message =
            format!("the input file has {num_lines} lines, at most {MAX_LINES} are taken");
        return Ok(Opened::Failed("too_many_tasks", message));
    }
    let failed = done.num_failed;
    let completed = done.len().saturating_sub(failed);
    let counts = RequestCounts { total: num_lines, completed, failed };
    let entries = queue::start(&source, max_line_bytes, done)?;
    Ok(Opened::Ready(journals, entries, counts))
}

/// Ends the work when the batch has had its time.
async fn expire(stop: watch::Sender<Stop>, expires_at: Option<u64>) -> std::convert::Infallible {
    if let Some(expires_at) = expires_at {
        tokio::time::sleep(Duration::from_secs(expires_at.saturating_sub(now()))).await;
        stop.send_if_modified(|stop| std::mem::replace(stop, Stop::Finish) == Stop::No);
    }
    std::future::pending().await
}

/// Makes files of the results, and says how it ended.
async fn finish(
    batches: &Arc<Batches>,
    id: &str,
    owner: Owner,
    is_whole: bool,
) -> anyhow::Result<()> {
    let before = batches
        .update(id, |batch| {
            if batch.status == BatchStatus::InProgress {
                batch.enter(BatchStatus::Finalizing);
            }
        })
        .await?;
    let Some(batch) = before else { return Ok(()) };
    let (kept, store) = (batch.clone(), Arc::clone(batches));
    let files = tokio::task::spawn_blocking(move || -> io::Result<_> {
        let output = store.store.keep_results(&kept, "output", owner.clone())?;
        let errors = store.store.keep_results(&kept, "errors", owner)?;
        Ok((output, errors))
    });
    let (output, errors) = files.await??;
    let status = match batch.status {
        BatchStatus::Cancelling if !is_whole => BatchStatus::Cancelled,
        _ if is_whole => BatchStatus::Completed,
        _ => BatchStatus::Expired,
    };
    batches
        .update(id, move |batch| {
            (batch.output_file_id, batch.error_file_id) = (output, errors);
            batch.enter(status);
        })
        .await?;
    tracing::info!(batch = id, ?status, "a batch has ended");
    Ok(())
}

/// The server, for lines that name one endpoint.
#[derive(Clone)]
struct OfEndpoint {
    state: ServerState,
    /// Who pays.
    owner: Owner,
    endpoint: String,
}

impl Answers for OfEndpoint {
    async fn answer(&self, path: &str, id: &str, body: Arc<[u8]>) -> Result<Answered, NoAnswer> {
        if path != self.endpoint {
            let message =
                format!("invalid url: the batch is for `{}`, got `{path}`", self.endpoint);
            let body = ApiError::invalid("url", message).body().to_json();
            return Ok(Answered { status: 400, body });
        }
        let grant = match &self.owner {
            None => Some(Grant::default()),
            Some(name) => grant_of(self.state.access(), name),
        };
        // A key that was taken away takes what is left of its batches with it.
        let Some(grant) = grant else {
            let message =
                "the key that the batch was begun with is gone or not valid now".to_owned();
            let body = ApiError::Forbidden { code: "key_not_valid", message }.body().to_json();
            return Ok(Answered { status: 403, body });
        };
        if let Err(error) = grant.check_endpoint(path) {
            return Ok(Answered { status: 403, body: error.body().to_json() });
        }
        answer_for(&self.state, &grant, path, id, body).await
    }

    fn is_idle(&self) -> bool {
        self.state.is_idle()
    }
}

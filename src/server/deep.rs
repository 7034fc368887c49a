//! `GET /health/deep`: one real token, within a deadline.
//!
//! ```text
//! probes --+--> one generation at a time, whoever asks --> result, good for a second
//!          '--> each waits at most its own `?timeout=SECONDS` (10 unless told, up to 60)
//! ```
//!
//! | Answer | When |
//! | --- | --- |
//! | 200 `ok`, with the seconds | the token came in time |
//! | 503 `late` | it did not |
//! | 503 `overloaded` | the queue is full: the engine is busy, which is no reason to restart it |
//! | 503 `failed` | the engine refused or failed it |
//!
//! The first probe that fails after one that did not is an alarm in the event log, and so is the way
//! back. A probe's tokens are in no metric of users' requests.
//!
//! What this module deliberately does not do: it restarts nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::ApiError;
use super::{ServerState, query};
use crate::engine::{self, Output, SamplingParams, SubmitError};
use crate::telemetry::events::{Event, EventKind};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a result is good for.
const FRESH: Duration = Duration::from_secs(1);

/// What came of one generation.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// After so long.
    Answered(Duration),
    Overloaded,
    Failed(String),
}

/// A generation that runs or has run.
#[derive(Clone, Debug)]
struct Flight(watch::Receiver<Option<(Instant, Outcome)>>);

/// The probes of one server.
#[derive(Debug, Default)]
pub(super) struct DeepHealth {
    flight: Mutex<Option<Flight>>,
    is_alarming: AtomicBool,
    num_answered: AtomicU64,
    num_failed: AtomicU64,
    /// Of the last one that was answered.
    last_micros: AtomicU64,
    /// What was told of the engine's counters last.
    told_prompt_tokens: AtomicU64,
    told_generation_tokens: AtomicU64,
}

impl DeepHealth {
    /// Generations that gave a token; each took one token of prompt and gave one.
    pub(super) fn num_answered(&self) -> u64 {
        self.num_answered.load(Ordering::Relaxed)
    }

    /// Generations that gave none.
    pub(super) fn num_failed(&self) -> u64 {
        self.num_failed.load(Ordering::Relaxed)
    }

    /// The engine's counters without the tokens of probes: of prompts, and generated. What is told
    /// never goes down.
    pub(super) fn without(&self, prompt: u64, generated: u64) -> (u64, u64) {
        let probes = self.num_answered();
        let told = |last: &AtomicU64, count: u64| {
            let count = count.saturating_sub(probes);
            last.fetch_max(count, Ordering::Relaxed).max(count)
        };
        (told(&self.told_prompt_tokens, prompt), told(&self.told_generation_tokens, generated))
    }

    /// Seconds that the last token took.
    pub(super) fn last_seconds(&self) -> f64 {
        self.last_micros.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// The generation that runs or is fresh, or a new one.
    fn join(&self, state: &ServerState) -> Flight {
        let mut slot = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = slot.as_ref().filter(|flight| flight.is_good()) {
            return flight.clone();
        }
        let (sender, receiver) = watch::channel(None);
        let state = state.clone();
        tokio::spawn(async move {
            let outcome = match timeout(MAX_TIMEOUT, generate(&state)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Failed(format!("no token within {MAX_TIMEOUT:?}")),
            };
            state.deep_health().note(&state, &outcome);
            sender.send_replace(Some((Instant::now(), outcome)));
        });
        slot.insert(Flight(receiver)).clone()
    }

    fn note(&self, state: &ServerState, outcome: &Outcome) {
        let problem = match outcome {
            Outcome::Answered(took) => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.last_micros.store(micros, Ordering::Relaxed);
                self.num_answered.fetch_add(1, Ordering::Relaxed);
                None
            }
            Outcome::Overloaded => Some("the queue is full"),
            Outcome::Failed(what) => Some(what.as_str()),
        };
        self.num_failed.fetch_add(u64::from(problem.is_some()), Ordering::Relaxed);
        self.alarm(state, problem);
    }

    /// Tells when things change, not each time.
    fn alarm(&self, state: &ServerState, problem: Option<&str>) {
        if self.is_alarming.swap(problem.is_some(), Ordering::SeqCst) == problem.is_some() {
            return;
        }
        state.events().emit(match problem {
            Some(problem) => {
                let message = format!("a probe got no token: {problem}");
                Event::new(EventKind::Alarm, message)
                    .remedy(
                        "look at the engine's queue (`/metrics`) and its log; a device that \
                             hangs needs a restart of the process",
                    )
                    .field("alarm", "deep_health")
            }
            None => Event::new(EventKind::AlarmCleared, "a probe got its token again")
                .field("alarm", "deep_health"),
        });
    }
}

impl Flight {
    /// Whether who asks now may have its result.
    fn is_good(&self) -> bool {
        match &*self.0.borrow() {
            // One whose task is gone never ends.
            None => self.0.has_changed().is_ok(),
            Some((ended_at, _)) => ended_at.elapsed() < FRESH,
        }
    }

    async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((_, outcome))) => outcome.clone(),
            _ => Outcome::Failed("the probe was given up".to_owned()),
        }
    }
}

async fn generate(state: &ServerState) -> Outcome {
    let params = SamplingParams {
        max_tokens: Some(1),
        temperature: 0.0,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let request = engine::Request {
        // Before everything else, where priorities count.
        priority: i32::MIN,
        ..engine::Request::new(vec![0], params)
    };
    let start = Instant::now();
    let mut stream = match state.engine().submit(request) {
        Ok(stream) => stream,
        Err(SubmitError::Overloaded { .. }) => return Outcome::Overloaded,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    loop {
        match stream.recv().await {
            Some(Output::Finished(_)) => return Outcome::Answered(start.elapsed()),
            Some(Output::Failed(error)) => return Outcome::Failed(error.to_string()),
            Some(_) => {}
            None => return Outcome::Failed("the engine gave no answer".to_owned()),
        }
    }
}

/// Answers a probe.
pub(super) async fn deep(
    State(state): State<ServerState>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let patience = patience(query.as_deref())?;
    let flight = state.deep_health().join(&state);
    let outcome = timeout(patience, flight.outcome()).await;
    let (code, status, seconds) = match &outcome {
        // It may have begun before this probe asked, and then be there at once: what counts is how
        // long it took.
        Ok(Outcome::Answered(took)) if *took <= patience => {
            (StatusCode::OK, "ok", Some(took.as_secs_f64()))
        }
        Ok(Outcome::Overloaded) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", None),
        Ok(Outcome::Failed(_)) => (StatusCode::SERVICE_UNAVAILABLE, "failed", None),
        Ok(Outcome::Answered(_)) | Err(_) => {
            let late = format!("it did not come within {} s", patience.as_secs_f64());
            state.deep_health().alarm(&state, Some(&late));
            (StatusCode::SERVICE_UNAVAILABLE, "late", None)
        }
    };
    let body = json!({
        "status": status,
        "seconds": seconds,
        "timeout_seconds": patience.as_secs_f64(),
    });
    Ok((code, Json(body)).into_response())
}

fn patience(query: Option<&str>) -> Result<Duration, ApiError> {
    let mut patience = DEFAULT_TIMEOUT;
    for (name, value) in query::pairs(query)? {
        if name != "timeout" {
            let message = format!("unknown parameter `{name}`; known: timeout");
            return Err(ApiError::invalid(&name, message));
        }
        let seconds = value.parse::<f64>().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        patience = seconds.filter(|time| *time <= MAX_TIMEOUT).ok_or_else(|| {
            let most = MAX_TIMEOUT.as_secs();
            let message =
                format!("invalid `timeout`: expected seconds from 0 to {most}, got `{value}`");
            ApiError::invalid("timeout", message)
        })?;
    }
    Ok(patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_seconds_up_to_a_minute() {
        assert_eq!(patience(None), Ok(DEFAULT_TIMEOUT));
        assert_eq!(patience(Some("timeout=0.5")), Ok(Duration::from_millis(500)));
        for query in ["timeout=-1", "timeout=61", "timeout=nan", "timeout=", "within=1"] {
            assert!(patience(Some(query)).is_err(), "{query}");
        }
    }
}

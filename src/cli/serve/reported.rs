//! Progress of a start, for whoever asks the server meanwhile and for the event log.
//!
//! ```text
//! boot --begin, advance_to--> Reported --> what a person sees (progress)
//!                                     |--> /health/ready (the entrance)
//!                                     '--> an event now and then while graphs are compiled
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::boot::{Amount, Progress, Task};
use crate::server::Entrance;
use crate::telemetry::events::{Event, EventKind, EventLog};

/// Graphs that are there by now are an event this often.
const EVENT_INTERVAL: Duration = Duration::from_secs(10);

/// Passes progress on, and tells it to the entrance and the event log.
#[derive(Debug)]
pub(super) struct Reported {
    shown: Arc<dyn Progress>,
    entrance: Entrance,
    events: EventLog,
}

impl Reported {
    pub(super) fn new(shown: Arc<dyn Progress>, entrance: Entrance, events: EventLog) -> Self {
        Self { shown, entrance, events }
    }
}

impl Progress for Reported {
    fn begin(&self, what: &str, amount: Amount) -> Box<dyn Task> {
        let (total, num_graphs) = match amount {
            Amount::Unknown => (None, None),
            Amount::Items(items) => (Some(items), Some(items)),
            Amount::Bytes(bytes) => (Some(bytes), None),
        };
        self.entrance.begin(what, total);
        Box::new(ReportedTask {
            shown: self.shown.begin(what, amount),
            entrance: self.entrance.clone(),
            events: self.events.clone(),
            what: what.to_owned(),
            num_graphs,
            last_event_at: Mutex::new(Instant::now()),
        })
    }

    fn events(&self) -> Option<&EventLog> {
        Some(&self.events)
    }
}

struct ReportedTask {
    shown: Box<dyn Task>,
    entrance: Entrance,
    events: EventLog,
    what: String,
    /// Where things are counted: how many.
    num_graphs: Option<u64>,
    last_event_at: Mutex<Instant>,
}

impl Task for ReportedTask {
    fn advance_to(&self, done: u64) {
        self.shown.advance_to(done);
        self.entrance.advance(done);
        let Some(num_graphs) = self.num_graphs.filter(|_| self.is_time_for_an_event()) else {
            return;
        };
        let message = format!("{}: {done} of {num_graphs}", self.what);
        let event = Event::new(EventKind::GraphCompileProgress, message);
        self.events.emit(event.field("done", done).field("num_graphs", num_graphs));
    }
}

impl ReportedTask {
    fn is_time_for_an_event(&self) -> bool {
        let mut last = self.last_event_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.elapsed() >= EVENT_INTERVAL;
        if is_time {
            *last = Instant::now();
        }
        is_time
    }
}

//! Where events go: the log's line, memory, the journal.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::watch;

use super::journal::{History, Journal};
use super::{Event, EventFilter, EventKind, EventLevel, EventPage, Record, format_time};

/// Events that are kept in memory, the newest.
const MAX_IN_MEMORY: usize = 8192;

/// The log of a service's life; cheap to clone.
#[derive(Clone)]
pub struct EventLog(Arc<Inner>);

struct Inner {
    boot: String,
    /// Held while an event is numbered and written, so that files have the order of the numbers.
    /// Readers do not take it, and so never wait for a disk.
    journal: Mutex<Option<Writer>>,
    memory: Mutex<Memory>,
    /// The newest event's number.
    newest: watch::Sender<u64>,
}

struct Writer {
    journal: Journal,
    has_warned: bool,
}

#[derive(Default)]
struct Memory {
    records: VecDeque<Arc<Record>>,
    /// Of this start, by the kind's place in [`EventKind::ALL`].
    counts: Vec<u64>,
    num_damaged: u64,
    num_unwritten: u64,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("boot", &self.0.boot).finish_non_exhaustive()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl EventLog {
    /// A log that ends with the process.
    pub fn in_memory() -> Self {
        Self::new(None, History::default())
    }

    /// The log of a server, in its folder below `events`. Tells of a start before this one that did
    /// not end in good order. Where the folder cannot be used, that is a warning, and events are kept
    /// in memory.
    pub fn open(events: &Path, instance: &str) -> Self {
        let (journal, history) = match Journal::open(events, instance) {
            Ok(opened) => opened,
            Err(error) => {
                let folder = events.display();
                tracing::warn!(%error, "events are not kept in `{folder}`, but in memory only");
                return Self::in_memory();
            }
        };
        if history.num_damaged > 0 {
            let (folder, count) = (journal.folder().display(), history.num_damaged);
            tracing::warn!("{count} damaged lines were skipped in the event log in `{folder}`");
        }
        let crash = crash(&history.records, SystemTime::now());
        let log = Self::new(Some(journal), history);
        if let Some(event) = crash {
            log.emit(event);
        }
        log
    }

    fn new(journal: Option<Journal>, history: History) -> Self {
        let newest = history.records.last().map_or(0, |record| record.seq);
        let surplus = history.records.len().saturating_sub(MAX_IN_MEMORY);
        let records = history.records.into_iter().skip(surplus).map(Arc::new).collect();
        let memory = Memory {
            records,
            counts: vec![0; EventKind::ALL.len()],
            num_damaged: history.num_damaged,
            num_unwritten: 0,
        };
        Self(Arc::new(Inner {
            boot: format!("{:016x}", RandomState::new().hash_one(SystemTime::now())),
            journal: Mutex::new(journal.map(|journal| Writer { journal, has_warned: false })),
            memory: Mutex::new(memory),
            newest: watch::Sender::new(newest),
        }))
    }

    /// Which start of the process this is.
    pub fn boot(&self) -> &str {
        &self.0.boot
    }

    /// Takes note of an event. Never fails: what cannot be written stays in memory.
    pub fn emit(&self, event: Event) {
        let is_logged = event.is_logged;
        let mut writer = self.0.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = self.0.newest.borrow().saturating_add(1);
        let record = Arc::new(Record::new(seq, SystemTime::now(), &self.0.boot, event));
        if is_logged {
            log_line(&record);
        }
        let is_written = writer.as_mut().is_none_or(|writer| writer.write(&record));
        self.memory().push(Arc::clone(&record), is_written);
        self.0.newest.send_replace(seq);
    }

    /// The events that are wanted.
    pub fn page(&self, filter: &EventFilter) -> EventPage {
        filter.page(self.memory().records.iter())
    }

    /// Tells of new events by the newest one's number.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    /// How often each kind happened since the process started.
    pub fn counts(&self) -> Vec<(EventKind, u64)> {
        EventKind::ALL.iter().copied().zip(self.memory().counts.iter().copied()).collect()
    }

    /// Lines of the files that could not be read at the start.
    pub fn num_damaged(&self) -> u64 {
        self.memory().num_damaged
    }

    /// Events that could not be written to the files.
    pub fn num_unwritten(&self) -> u64 {
        self.memory().num_unwritten
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn push(&mut self, record: Arc<Record>, is_written: bool) {
        if let Some(idx) = EventKind::ALL.iter().position(|kind| *kind == record.kind) {
            self.counts[idx] += 1;
        }
        self.num_unwritten += u64::from(!is_written);
        if self.records.len() >= MAX_IN_MEMORY {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }
}

impl Writer {
    /// Whether it was written. The first time that it is not, a warning says so.
    fn write(&mut self, record: &Record) -> bool {
        // What tells a crash from an orderly end outlives the machine's crash, too.
        let is_urgent = Life::of(record.kind).is_some();
        let written = self.journal.append(record, is_urgent);
        if let Err(error) = &written
            && !std::mem::replace(&mut self.has_warned, true)
        {
            let folder = self.journal.folder().display();
            tracing::warn!(%error, "an event was not written to `{folder}`; it stays in memory");
        }
        written.is_ok()
    }
}

fn log_line(record: &Record) {
    let Record { seq, level, kind, message, remedy, fields, .. } = record;
    let (event, remedy) = (kind.as_str(), remedy.as_deref());
    let fields = (!fields.is_empty()).then(|| Value::Object(fields.clone()).to_string());
    match level {
        EventLevel::Normal => {
            tracing::info!(target: "cairn::events", event, seq, remedy, fields, "{message}");
        }
        EventLevel::Abnormal => {
            tracing::warn!(target: "cairn::events", event, seq, remedy, fields, "{message}");
        }
    }
}

/// Where a start of the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Serving,
    Over,
}

impl Life {
    /// What begins with an event of that kind.
    const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Deploying => Some(Self::Starting),
            EventKind::Ready => Some(Self::Serving),
            EventKind::Stopped => Some(Self::Over),
            _ => None,
        }
    }
}

/// What is to be told of the start before this one, if it did not end in good order.
fn crash(history: &[Record], now: SystemTime) -> Option<Event> {
    let last = history.last()?;
    let life = history.iter().rev().find_map(|record| Life::of(record.kind));
    let doing = match life? {
        Life::Starting => "starting",
        Life::Serving => "serving",
        Life::Over => return None,
    };
    // The clock may have been set back.
    let ago = now.duration_since(last.time).unwrap_or(Duration::ZERO);
    let message = format!(
        "the process before this one ended without a word while {doing}; its last event was at {}, \
         {} ago",
        format_time(last.time),
        humantime::format_duration(Duration::from_secs(ago.as_secs()))
    );
    let event = Event::new(EventKind::CrashRecovered, message)
        .remedy(
            "look at what the process before this one logged last, and for `out of memory` in the \
             kernel's log",
        )
        .field("while", doing)
        .field("last_event_time", format_time(last.time))
        .field("last_event_kind", last.kind.as_str())
        .field("last_event_seq", last.seq)
        .field("crashed_boot", last.boot.clone())
        .field("seconds_ago", ago.as_secs());
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::super::EventOrder;
    use super::*;

    fn all() -> EventFilter {
        EventFilter { limit: 100, ..EventFilter::default() }
    }

    fn kinds(log: &EventLog) -> Vec<EventKind> {
        log.page(&all()).events.iter().map(|record| record.kind).collect()
    }

    fn emit(log: &EventLog, kinds: &[EventKind]) {
        for kind in kinds {
            log.emit(Event::new(*kind, "it happened"));
        }
    }

    #[test]
    fn a_start_after_an_orderly_end_tells_of_no_crash_and_goes_on_counting() {
        let place = tempfile::tempdir().unwrap();
        let log = EventLog::open(place.path(), "a");
        emit(&log, &[EventKind::Deploying, EventKind::Ready, EventKind::Stopped]);
        let boot = log.boot().to_owned();
        drop(log);
        let log = EventLog::open(place.path(), "a");
        emit(&log, &[EventKind::Deploying]);
        let page = log.page(&all());
        let numbers: Vec<u64> = page.events.iter().map(|record| record.seq).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_ne!(page.events[3].boot, boot);
        assert_eq!(log.counts().iter().map(|(_, count)| count).sum::<u64>(), 1, "of this start");
    }

    #[test]
    fn a_start_after_a_crash_says_when_and_while_what() {
        for (before, doing) in [
            (&[EventKind::Deploying, EventKind::Ready, EventKind::Alarm][..], "serving"),
            (&[EventKind::Deploying, EventKind::ModelLoading][..], "starting"),
        ] {
            let place = tempfile::tempdir().unwrap();
            emit(&EventLog::open(place.path(), "a"), before);
            let log = EventLog::open(place.path(), "a");
            let page = log.page(&all());
            let [.., last, crash] = &page.events[..] else { panic!("{page:?}") };
            assert_eq!(
                (crash.kind, crash.level),
                (EventKind::CrashRecovered, EventLevel::Abnormal)
            );
            assert_eq!(crash.fields["while"], doing);
            assert_eq!(crash.fields["last_event_time"], format_time(last.time));
            assert_eq!(crash.fields["crashed_boot"], last.boot.as_str());
            assert!(crash.remedy.is_some());
        }
    }

    #[test]
    fn a_crash_told_after_the_clock_was_set_back_is_no_time_ago() {
        let future = SystemTime::now() + Duration::from_hours(1);
        let record = Record::new(1, future, "b", Event::new(EventKind::Ready, "x"));
        let event = crash(&[record], SystemTime::now()).unwrap();
        assert_eq!(event.fields["seconds_ago"], 0);
    }

    #[test]
    fn a_folder_of_no_use_leaves_the_log_in_memory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let log = EventLog::open(&file, "a");
        emit(&log, &[EventKind::Deploying, EventKind::Ready]);
        assert_eq!(kinds(&log), [EventKind::Deploying, EventKind::Ready]);
    }

    #[test]
    fn pages_follow_each_other_both_ways() {
        let log = EventLog::in_memory();
        for idx in 0..7 {
            let kind = if idx % 2 == 0 { EventKind::Alarm } else { EventKind::Draining };
            log.emit(Event::new(kind, format!("{idx}")));
        }
        for (order, expected) in
            [(EventOrder::Ascending, vec![1, 3, 5, 7]), (EventOrder::Descending, vec![7, 5, 3, 1])]
        {
            let kinds = vec![EventKind::Alarm];
            let mut filter = EventFilter { kinds, limit: 3, order, ..EventFilter::default() };
            let mut numbers = Vec::new();
            loop {
                let page = log.page(&filter);
                numbers.extend(page.events.iter().map(|record| record.seq));
                filter.after = page.next;
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(numbers, expected);
            assert_eq!(log.page(&filter).next, expected.last().copied(), "an empty page goes on");
        }
        let abnormal = EventFilter { level: Some(EventLevel::Normal), ..all() };
        assert_eq!(log.page(&abnormal).events.len(), 3);
        let until = Some(SystemTime::now() - Duration::from_mins(1));
        assert!(log.page(&EventFilter { until, ..all() }).events.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let log = EventLog::in_memory();
        for _ in 0..MAX_IN_MEMORY + 5 {
            log.emit(Event::new(EventKind::Alarm, "x").logged_elsewhere());
        }
        assert_eq!(log.memory().records.len(), MAX_IN_MEMORY);
        assert_eq!(log.page(&all()).events[0].seq, 6);
        assert_eq!(*log.subscribe().borrow(), MAX_IN_MEMORY as u64 + 5);
    }
}

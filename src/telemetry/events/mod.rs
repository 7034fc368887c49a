//! The log of a service's life: typed, kept on disk, the same after a restart.
//!
//! ```text
//! boot, server, cli --emit(Event)--> EventLog --> a line of the log (stderr)
//!                                       |-------> memory: the newest, for who asks or follows
//!                                       '-------> journal: events/NAME-PORT/events.jsonl
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`EventKind`] | what happened, one of a fixed set |
//! | [`EventLevel`] | whether somebody should look at it |
//! | [`Event`] | what happened, as who saw it tells it |
//! | [`Record`] | the same with its time and number, as it is kept |
//! | [`EventLog`] | where events go; cheap to clone |
//! | [`EventFilter`], [`EventPage`] | what somebody asks for, and gets |
//! | boot id | one start of the process; events of one start share it |
//!
//! Numbers go on over restarts. A start that finds that the one before it did not end in good order
//! tells so: [`EventKind::CrashRecovered`].
//!
//! What this module deliberately does not do: it decides nothing by what happened, and it never fails
//! who tells it something: what cannot be written stays in memory, with one warning.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod journal;
mod log;
mod query;

pub use log::EventLog;
pub use query::{EventFilter, EventOrder, EventPage, MAX_EVENTS_IN_PAGE};

/// Longest message or remedy, in bytes.
const MAX_TEXT_BYTES: usize = 2048;
/// Most bytes of an event's fields, as JSON.
const MAX_FIELDS_BYTES: usize = 8192;
/// The end of the year 9999, in seconds: what the format of times holds.
const MAX_UNIX_SECONDS: u64 = 253_402_300_799;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $level:ident;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)*
            /// What another version of the program told.
            #[serde(other, rename = "other")]
            Other,
        }

        impl EventKind {
            /// Every kind, in the order of a service's life.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)* Self::Other];

            /// Its name in files, metrics and answers.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                    Self::Other => "other",
                }
            }

            const fn level(self) -> EventLevel {
                match self {
                    $(Self::$kind => EventLevel::$level,)*
                    Self::Other => EventLevel::Normal,
                }
            }
        }
    };
}

kinds! {
    /// The process begins to start.
    Deploying = "deploying", Normal;
    /// The start before this one did not end in good order.
    CrashRecovered = "crash_recovered", Abnormal;
    /// The model is being read.
    ModelLoading = "model_loading", Normal;
    /// Weights and KV cache are in place.
    ModelLoaded = "model_loaded", Normal;
    /// A graph was not in the cache and is being compiled.
    GraphCompileStarted = "graph_compile_started", Normal;
    /// Compiling goes on, or waits for another process.
    GraphCompileProgress = "graph_compile_progress", Normal;
    /// A graph was compiled.
    GraphCompileFinished = "graph_compile_finished", Normal;
    /// What came from the cache of compiled graphs, and what did not and why.
    CacheSummary = "cache_summary", Normal;
    /// An entry of the cache was bad and was moved away.
    Quarantine = "quarantine", Abnormal;
    /// Requests are answered.
    Ready = "ready", Normal;
    /// Something is not as it should be.
    Alarm = "alarm", Abnormal;
    /// What was alarming is over.
    AlarmCleared = "alarm_cleared", Normal;
    /// A limit was changed while running.
    LimitChanged = "limit_changed", Normal;
    /// The keys of clients were read again.
    KeysReloaded = "keys_reloaded", Normal;
    /// Certificate and key were read again.
    TlsReloaded = "tls_reloaded", Normal;
    /// No new requests are taken; running ones go on.
    Draining = "draining", Normal;
    /// The engine cannot go on.
    EngineDied = "engine_died", Abnormal;
    /// The process ends, having said so.
    Stopped = "stopped", Normal;
}

impl FromStr for EventKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().find(|kind| kind.as_str() == text).copied().ok_or(())
    }
}

/// Whether somebody should look at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLevel {
    /// As things go.
    Normal,
    /// Somebody should look at it.
    Abnormal,
}

impl EventLevel {
    /// Both levels.
    pub const ALL: [Self; 2] = [Self::Normal, Self::Abnormal];

    /// Its name in files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Abnormal => "abnormal",
        }
    }
}

/// What happened, as who saw it tells it. Holds nothing of prompts, outputs and keys.
#[derive(Clone, Debug)]
pub struct Event {
    kind: EventKind,
    level: EventLevel,
    message: String,
    remedy: Option<String>,
    fields: Map<String, Value>,
    is_logged: bool,
}

impl Event {
    /// An event of that kind, with its usual level. The message is lower case without a full stop.
    pub fn new(kind: EventKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            level: kind.level(),
            message: shortened(message.into()),
            remedy: None,
            fields: Map::new(),
            is_logged: true,
        }
    }

    /// Somebody should look at it, though one need not look at others of its kind.
    #[must_use]
    pub fn abnormal(self) -> Self {
        Self { level: EventLevel::Abnormal, ..self }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(shortened(remedy.into())), ..self }
    }

    /// A detail for programs; the name is in snake case, with its unit.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Has no line in the log: who saw it first has logged it.
    #[must_use]
    pub fn logged_elsewhere(self) -> Self {
        Self { is_logged: false, ..self }
    }

    /// What happened.
    pub fn kind(&self) -> EventKind {
        self.kind
    }
}

/// An event as it is kept: one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counts events over all starts, from 1.
    pub seq: u64,
    /// When, in UTC; RFC 3339 with milliseconds.
    #[serde(with = "rfc3339")]
    pub time: SystemTime,
    /// Which start of the process.
    pub boot: String,
    /// Whether somebody should look at it.
    pub level: EventLevel,
    /// What happened.
    pub kind: EventKind,
    /// The same for people.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Details for programs.
    #[serde(default)]
    pub fields: Map<String, Value>,
}

impl Record {
    fn new(seq: u64, time: SystemTime, boot: &str, event: Event) -> Self {
        let Event { kind, level, message, remedy, mut fields, .. } = event;
        if serde_json::to_vec(&fields).map_or(true, |json| json.len() > MAX_FIELDS_BYTES) {
            fields = Map::from_iter([("is_truncated".to_owned(), Value::Bool(true))]);
        }
        let time = whole_millis(time);
        Self { seq, time, boot: boot.to_owned(), level, kind, message, remedy, fields }
    }
}

/// Cut at a character's end where it is too long.
fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push_str("...");
    }
    text
}

/// What the format of times can tell of a time, whatever the clock says.
fn whole_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = since.as_millis().min(u128::from(MAX_UNIX_SECONDS) * 1000);
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// As in `2026-01-31T23:59:59.123Z`.
pub fn format_time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(whole_millis(time)).to_string()
}

/// Reads a time in UTC, as in `2026-01-31T23:59:59Z` or in seconds since 1970.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    match text.parse::<f64>() {
        Ok(seconds) => {
            let since = Duration::try_from_secs_f64(seconds).ok()?;
            (since.as_secs() <= MAX_UNIX_SECONDS).then(|| UNIX_EPOCH + since)
        }
        Err(_) => humantime::parse_rfc3339(text).ok(),
    }
}

mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format_time(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_json_and_comes_back() {
        let event = Event::new(EventKind::Stopped, "the end\nof it")
            .abnormal()
            .remedy("start it again")
            .field("seconds", 1.5);
        let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let record = Record::new(7, time, "b0", event);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(
            line,
            r#"{"seq":7,"time":"2023-11-14T22:13:20.123Z","boot":"b0","level":"abnormal","kind":"stopped","message":"the end\nof it","remedy":"start it again","fields":{"seconds":1.5}}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }

    #[test]
    fn every_kind_has_its_name_and_what_another_version_told_is_kept() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        let kind: EventKind = serde_json::from_str("\"teleported\"").unwrap();
        assert_eq!(kind, EventKind::Other);
    }

    #[test]
    fn any_clock_can_be_written_down() {
        assert_eq!(format_time(UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01T00:00:00.000Z");
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(format_time(far), "9999-12-31T23:59:59.000Z");
        assert_eq!(parse_time("1700000000.5"), parse_time("2023-11-14T22:13:20.500Z"));
        for text in ["", "-1", "nan", "inf", "1e300", "yesterday", "2023-11-14"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let event = Event::new(EventKind::Alarm, "ü".repeat(MAX_TEXT_BYTES))
            .field("all", "x".repeat(MAX_FIELDS_BYTES));
        let record = Record::new(1, UNIX_EPOCH, "b", event);
        assert!(record.message.len() <= MAX_TEXT_BYTES + 3 && record.message.ends_with("ü..."));
        assert_eq!(record.fields["is_truncated"], true);
    }
}

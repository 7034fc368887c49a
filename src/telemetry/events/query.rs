//! What somebody asks of the log, and gets.

use std::sync::Arc;
use std::time::SystemTime;

use super::{EventKind, EventLevel, Record};

/// Most events in one page.
pub const MAX_EVENTS_IN_PAGE: usize = 1000;

/// Which way pages go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventOrder {
    /// From the oldest on.
    #[default]
    Ascending,
    /// From the newest on.
    Descending,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Of this level.
    pub level: Option<EventLevel>,
    /// Of one of these kinds; none: of any.
    pub kinds: Vec<EventKind>,
    /// Not before this.
    pub since: Option<SystemTime>,
    /// Not after this.
    pub until: Option<SystemTime>,
    /// Beyond this number, in the order asked for: where the page before ended.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// Which come first.
    pub order: EventOrder,
}

/// A part of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventPage {
    /// The events, in the order asked for.
    pub events: Vec<Arc<Record>>,
    /// The `after` of the next page, also of one that is empty for now.
    pub next: Option<u64>,
    /// Whether the next page has something already.
    pub has_more: bool,
}

impl EventFilter {
    /// Whether an event is wanted, wherever the pages are.
    pub fn matches(&self, record: &Record) -> bool {
        self.level.is_none_or(|level| level == record.level)
            && (self.kinds.is_empty() || self.kinds.contains(&record.kind))
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
    }

    /// A page of the records, which are in the order of their numbers.
    pub(super) fn page<'a>(
        &self,
        records: impl DoubleEndedIterator<Item = &'a Arc<Record>>,
    ) -> EventPage {
        match self.order {
            EventOrder::Ascending => {
                self.take(records.filter(|record| self.after.is_none_or(|seq| record.seq > seq)))
            }
            EventOrder::Descending => self
                .take(records.rev().filter(|record| self.after.is_none_or(|seq| record.seq < seq))),
        }
    }

    fn take<'a>(&self, records: impl Iterator<Item = &'a Arc<Record>>) -> EventPage {
        let limit = self.limit.min(MAX_EVENTS_IN_PAGE);
        let mut wanted = records.filter(|record| self.matches(record));
        let events: Vec<Arc<Record>> = wanted.by_ref().take(limit).cloned().collect();
        let next = events.last().map(|record| record.seq).or(self.after);
        EventPage { next, has_more: wanted.next().is_some(), events }
    }
}

//! `GET /admin/events`: the log of the service's life, in pages or as it goes on.
//!
//! | Parameter | Meaning |
//! | --- | --- |
//! | `level` | `normal` or `abnormal` |
//! | `kind` | one kind, or several with commas |
//! | `since`, `until` | UTC as in `2026-01-31T23:59:59Z`, or seconds since 1970 |
//! | `order` | `asc` (the oldest first, as without it) or `desc` |
//! | `after` | the `next` of the page before |
//! | `limit` | at most so many, 100 unless told, up to 1000 |
//! | `follow` | `true`: what is there, then what happens, as server-sent events |
//!
//! ```text
//! {"object":"list","data":[{"seq":7,"time":"...","boot":"...","level":"normal","kind":"ready",
//!   "message":"...","remedy":null,"fields":{...}}],"next":7,"has_more":false}
//! ```
//!
//! A follower's stream ends when the server drains: the end of that is for the next one to tell.
//!
//! What this module deliberately does not do: it does not decide who may ask.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use super::sse::{self, EventText, Events};
use super::{ServerState, query};
use crate::telemetry::events::{
    EventFilter, EventKind, EventLevel, EventLog, EventOrder, MAX_EVENTS_IN_PAGE, Record,
    parse_time,
};

const DEFAULT_LIMIT: usize = 100;

/// What was asked for.
#[derive(Debug, PartialEq)]
struct Asked {
    filter: EventFilter,
    is_follow: bool,
}

/// Answers a page, or a stream of events.
pub(super) async fn list(
    State(state): State<ServerState>,
    RawQuery(text): RawQuery,
) -> Result<Response, ApiError> {
    let Asked { filter, is_follow } = parse(text.as_deref())?;
    let log = state.events().clone();
    if is_follow {
        let keep_alive = state.options().keep_alive_interval;
        let mut panicked = EventText::default();
        panicked.json(&ApiError::Internal.body());
        return Ok(sse::respond(keep_alive, None, panicked, |events| follow(log, filter, events)));
    }
    let page = log.page(&filter);
    let data: Vec<&Record> = page.events.iter().map(|record| &**record).collect();
    let (next, has_more) = (page.next, page.has_more);
    let body = json!({ "object": "list", "data": data, "next": next, "has_more": has_more });
    Ok(Json(body).into_response())
}

fn parse(query: Option<&str>) -> Result<Asked, ApiError> {
    let filter = EventFilter { limit: DEFAULT_LIMIT, ..EventFilter::default() };
    let mut asked = Asked { filter, is_follow: false };
    for (name, value) in query::pairs(query)? {
        asked.set(&name, &value)?;
    }
    if asked.is_follow && asked.filter.order == EventOrder::Descending {
        return Err(ApiError::invalid("order", "`order=desc` cannot be followed"));
    }
    Ok(asked)
}

impl Asked {
    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        let expected = |what: &str| {
            ApiError::invalid(name, format!("invalid `{name}`: expected {what}, got `{value}`"))
        };
        let filter = &mut self.filter;
        match name {
            "level" => {
                let level = EventLevel::ALL.into_iter().find(|level| level.as_str() == value);
                filter.level = Some(level.ok_or_else(|| expected("`normal` or `abnormal`"))?);
            }
            "kind" => {
                let kinds = value.split(',').map(str::parse::<EventKind>);
                filter.kinds = kinds.collect::<Result<_, _>>().map_err(|()| {
                    let all: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
                    expected(&all.join(", "))
                })?;
            }
            "since" | "until" => {
                let time = parse_time(value).ok_or_else(|| {
                    expected("a time in UTC as in `2026-01-31T23:59:59Z`, or seconds since 1970")
                })?;
                let slot = if name == "since" { &mut filter.since } else { &mut filter.until };
                *slot = Some(time);
            }
            "after" => {
                let after = value.parse().map_err(|_| expected("the `next` of a page"))?;
                filter.after = Some(after);
            }
            "limit" => {
                let limit =
                    value.parse().ok().filter(|limit| (1..=MAX_EVENTS_IN_PAGE).contains(limit));
                filter.limit = limit
                    .ok_or_else(|| expected(&format!("a number from 1 to {MAX_EVENTS_IN_PAGE}")))?;
            }
            "order" => {
                filter.order = match value {
                    "asc" => EventOrder::Ascending,
                    "desc" => EventOrder::Descending,
                    _ => return Err(expected("`asc` or `desc`")),
                };
            }
            "follow" => {
                self.is_follow = match value {
                    "true" | "1" | "" => true,
                    "false" | "0" => false,
                    _ => return Err(expected("`true` or `false`")),
                };
            }
            _ => {
                let message = format!(
                    "unknown parameter `{name}`; known: level, kind, since, until, after, limit, \
                     order, follow"
                );
                return Err(ApiError::invalid(name, message));
            }
        }
        Ok(())
    }
}

/// Sends what is wanted, then what comes, until the server drains.
async fn follow(log: EventLog, mut filter: EventFilter, events: Events) {
    let mut newest = log.subscribe();
    // Whether it drains is seen whatever is wanted.
    let wanted = filter.clone();
    let after = filter.after;
    filter = EventFilter { after, limit: DEFAULT_LIMIT, ..EventFilter::default() };
    let mut out = EventText::default();
    loop {
        // Before the page is read: what happens meanwhile is a change.
        newest.borrow_and_update();
        let page = log.page(&filter);
        for record in &page.events {
            if wanted.matches(record) {
                out.json(&**record);
                events.send(&mut out).await;
            }
            if record.kind == EventKind::Draining && record.boot == log.boot() {
                return;
            }
        }
        filter.after = page.next;
        if !page.has_more && newest.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_read() {
        let asked = parse(Some(
            "level=abnormal&kind=ready,alarm&since=2026-01-31T00:00:00Z&until=1800000000&after=7\
             &limit=5&order=desc",
        ))
        .unwrap();
        let filter = EventFilter {
            level: Some(EventLevel::Abnormal),
            kinds: vec![EventKind::Ready, EventKind::Alarm],
            since: parse_time("2026-01-31T00:00:00Z"),
            until: parse_time("1800000000"),
            after: Some(7),
            limit: 5,
            order: EventOrder::Descending,
        };
        assert_eq!(asked, Asked { filter, is_follow: false });
        assert!(parse(Some("follow=true")).unwrap().is_follow);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (query, param) in [
            ("level=bad", "level"),
            ("kind=ready,never", "kind"),
            ("since=tomorrow", "since"),
            ("until=", "until"),
            ("after=-1", "after"),
            ("limit=0", "limit"),
            ("limit=1001", "limit"),
            ("order=up", "order"),
            ("follow=perhaps", "follow"),
            ("follow=true&order=desc", "order"),
            ("page=2", "page"),
        ] {
            let error = parse(Some(query)).unwrap_err();
            assert!(
                matches!(&error, ApiError::Invalid { param: Some(got), .. } if got == param),
                "{query}: {error:?}"
            );
        }
    }
}

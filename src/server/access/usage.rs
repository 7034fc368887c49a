//! What a key used, per UTC day: the numbers, and the JSON that keeps them.
//!
//! ```json
//! {"version": 1, "keys": {"alice": {"2026-11-23": {"requests": 3, "prompt_tokens": 120,
//!   "cached_tokens": 64, "completion_tokens": 48, "refused": {"tokens_per_day": 1}}}}}
//! ```
//!
//! Days are kept by their number, the newest [`MAX_DAYS`] of a key; a clock that jumps leaves an odd
//! day behind and drops nothing that is younger.
//!
//! What this module deliberately does not do: no money, no names of people, no content.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::clock::{date, parse_date};

/// Most days that are kept of one key.
pub(crate) const MAX_DAYS: usize = 92;
/// Most names in a file; names that no key has any more are the first to go.
pub(crate) const MAX_NAMES: usize = 20_000;
const VERSION: u64 = 1;

/// Why a request with a good key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    Disabled,
    NotYetValid,
    Expired,
    Model,
    Endpoint,
    Admin,
    RequestsPerSecond,
    MaxConcurrentRequests,
    TokensPerMinute,
    TokensPerDay,
}

impl Refusal {
    pub(crate) const ALL: [Self; 10] = [
        Self::Disabled,
        Self::NotYetValid,
        Self::Expired,
        Self::Model,
        Self::Endpoint,
        Self::Admin,
        Self::RequestsPerSecond,
        Self::MaxConcurrentRequests,
        Self::TokensPerMinute,
        Self::TokensPerDay,
    ];

    /// The word for it in JSON and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Model => "model",
            Self::Endpoint => "endpoint",
            Self::Admin => "admin",
            Self::RequestsPerSecond => "requests_per_second",
            Self::MaxConcurrentRequests => "max_concurrent_requests",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensPerDay => "tokens_per_day",
        }
    }

    /// Whether another time helps, rather than another key.
    pub(crate) fn is_limit(self) -> bool {
        self >= Self::RequestsPerSecond
    }
}

/// What was used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// That were let in.
    pub(crate) requests: u64,
    pub(crate) prompt_tokens: u64,
    /// Of the prompt's, those that were not computed again.
    pub(crate) cached_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) refused: BTreeMap<Refusal, u64>,
}

impl Usage {
    /// Prompt and completion together.
    pub(crate) fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    pub(crate) fn refused(&mut self, refusal: Refusal) {
        let count = self.refused.entry(refusal).or_default();
        *count = count.saturating_add(1);
    }

    /// How many were refused by limits, or by anything else.
    pub(crate) fn num_refused(&self, by_limit: bool) -> u64 {
        let counts = self.refused.iter().filter(|(refusal, _)| refusal.is_limit() == by_limit);
        counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let add = |to: &mut u64, count: u64| *to = to.saturating_add(count);
        add(&mut self.requests, other.requests);
        add(&mut self.prompt_tokens, other.prompt_tokens);
        add(&mut self.cached_tokens, other.cached_tokens);
        add(&mut self.completion_tokens, other.completion_tokens);
        for (refusal, count) in &other.refused {
            add(self.refused.entry(*refusal).or_default(), *count);
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let refused = self.refused.iter();
        let refused: Map<String, Value> =
            refused.map(|(why, count)| (why.as_str().to_owned(), (*count).into())).collect();
        json!({
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "refused": refused,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let count = |name: &str| value.get(name)?.as_u64();
        let mut refused = BTreeMap::new();
        for (why, count) in value.get("refused")?.as_object()? {
            // A word of another version is left out.
            if let Some(refusal) = Refusal::ALL.into_iter().find(|known| known.as_str() == why) {
                refused.insert(refusal, count.as_u64()?);
            }
        }
        Some(Self {
            requests: count("requests")?,
            prompt_tokens: count("prompt_tokens")?,
            cached_tokens: count("cached_tokens")?,
            completion_tokens: count("completion_tokens")?,
            refused,
        })
    }
}

/// By day since 1970.
pub(crate) type Days = BTreeMap<u64, Usage>;

/// Drops the oldest days beyond [`MAX_DAYS`], but not this one.
pub(crate) fn trim(days: &mut Days, today: u64) {
    while days.len() > MAX_DAYS {
        let Some(oldest) = days.keys().copied().find(|day| *day != today) else { return };
        days.remove(&oldest);
    }
}

/// The file's text.
pub(crate) fn to_text(keys: &BTreeMap<String, Days>) -> Vec<u8> {
    let days = |days: &Days| -> Value {
        days.iter().map(|(day, usage)| (date(*day), usage.to_json())).collect::<Map<_, _>>().into()
    };
    let keys: Map<String, Value> =
        keys.iter().map(|(name, of_key)| (name.clone(), days(of_key))).collect();
    json!({ "version": VERSION, "keys": keys }).to_string().into_bytes()
}

/// Reads a file's text; `None` when it is damaged, or not of this version.
pub(crate) fn from_text(text: &[u8]) -> Option<BTreeMap<String, Days>> {
    let file: Value = serde_json::from_slice(text).ok()?;
    let days = |value: &Value| -> Option<Days> {
        let days = value.as_object()?.iter();
        let mut days: Days = days
            .map(|(date, usage)| Some((parse_date(date)?, Usage::from_json(usage)?)))
            .collect::<Option<_>>()?;
        trim(&mut days, u64::MAX);
        Some(days)
    };
    (file.get("version")?.as_u64()? == VERSION).then_some(())?;
    let keys = file.get("keys")?.as_object()?.iter().take(MAX_NAMES);
    keys.map(|(name, of_key)| Some((name.clone(), days(of_key)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(n: u64) -> Usage {
        let refused = BTreeMap::from([(Refusal::TokensPerDay, n), (Refusal::Expired, 2)]);
        let (prompt_tokens, cached_tokens, completion_tokens) = (n + 1, n, n + 2);
        Usage { requests: n, prompt_tokens, cached_tokens, completion_tokens, refused }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let days = Days::from([(20_780, usage(3)), (20_781, usage(u64::MAX - 2))]);
        let keys = BTreeMap::from([("a".to_owned(), days), ("b".to_owned(), Days::new())]);
        assert_eq!(from_text(&to_text(&keys)), Some(keys));
    }

    #[test]
    fn what_is_damaged_is_not_read() {
        let good = to_text(&BTreeMap::from([("a".to_owned(), Days::from([(1, usage(1))]))]));
        let good = String::from_utf8(good).unwrap();
        for length in 0..good.len() {
            assert_eq!(from_text(&good.as_bytes()[..length]), None);
        }
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("1970-01-02", "1970-02-30"),
            ("\"requests\":1", "\"requests\":-1"),
            ("\"requests\"", "\"request\""),
            ("{\"1970", "{\"x\":1,\"1970"),
        ] {
            assert!(good.contains(from), "{good}");
            assert_eq!(from_text(good.replace(from, to).as_bytes()), None, "{from}");
        }
        // What another version refuses for is no damage.
        let other = good.replace("\"expired\"", "\"mood\"");
        assert_eq!(from_text(other.as_bytes()).unwrap()["a"][&1].refused.len(), 1);
    }

    #[test]
    fn the_newest_days_are_kept_and_today_in_any_case() {
        let mut days: Days = (100..300).map(|day| (day, Usage::default())).collect();
        days.insert(5, Usage::default());
        trim(&mut days, 5);
        assert_eq!((days.len(), days.first_key_value().unwrap().0), (MAX_DAYS, &5));
        assert_eq!(days.keys().nth(1), Some(&(300 - MAX_DAYS as u64 + 1)));
    }

    #[test]
    fn sums_saturate_and_refusals_are_told_apart() {
        let mut sum = usage(u64::MAX - 2);
        sum.add(&usage(7));
        assert_eq!((sum.requests, sum.tokens()), (u64::MAX, u64::MAX));
        assert_eq!((sum.num_refused(false), sum.num_refused(true)), (4, u64::MAX));
    }
}

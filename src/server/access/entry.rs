//! One key's entry: who it is for, what it may do, and how much of it.
//!
//! ```text
//! key file (TOML) --.                                        .--> key file
//!                    >-- table of fields --> KeyEntry -- table
//! admin API (JSON) -'                                        '--> admin API, without the hash
//! ```
//!
//! | Field | Value | Without it |
//! | --- | --- | --- |
//! | `name` | letters, digits, `-`, `_`, `.`, at most 64; begins with a letter or digit | an error |
//! | `hash` | `sha256:` and 64 hex digits | an error |
//! | `models`, `endpoints` | names, `*` for any letters | all |
//! | `requests_per_second`, `burst` | above 0; at most this many at once | no limit; rounded up |
//! | `max_concurrent_requests` | at least 1 | no limit |
//! | `tokens_per_minute`, `tokens_per_day` | at least 1, prompt and output together | no limit |
//! | `not_before`, `expires` | RFC 3339 | always valid |
//! | `priority` | 32 bits, lower is more urgent | what requests ask for |
//! | `disabled`, `admin` | true or false | false |
//!
//! What this module deliberately does not do: it counts nothing; see [`ledger`](super::ledger).

use toml::{Table, Value};

use super::bucket::Rate;
use super::clock::{parse_rfc3339, rfc3339};
use super::digest::Digest;
use super::pattern;

/// Every field, in the order in which they are written.
pub(crate) const FIELDS: &[&str] = &[
    "name",
    "hash",
    "models",
    "endpoints",
    "requests_per_second",
    "burst",
    "max_concurrent_requests",
    "tokens_per_minute",
    "tokens_per_day",
    "not_before",
    "expires",
    "priority",
    "disabled",
    "admin",
];
/// The largest count; more than anyone needs, and far from where arithmetic ends.
const MAX_COUNT: i64 = 1_000_000_000_000;
const MAX_PER_SECOND: f64 = 1e6;
const MIN_PER_SECOND: f64 = 1e-6;
const MAX_NAME_BYTES: usize = 64;
const MAX_PATTERNS: usize = 1000;
const MAX_PATTERN_BYTES: usize = 500;

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// There is no such field.
    #[error("unknown field `{field}`{}", hint(*.nearest))]
    Unknown {
        /// What was written.
        field: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// The field must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The field has a wrong value.
    #[error("invalid {field}: expected {expected}, got {got}")]
    Invalid {
        /// Which field.
        field: String,
        /// What it must be.
        expected: &'static str,
        /// What it is; never a hash.
        got: String,
    },
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl FieldError {
    /// Which field it is about.
    pub fn field(&self) -> &str {
        match self {
            Self::Unknown { field, .. } | Self::Invalid { field, .. } => field,
            Self::Missing(field) => field,
        }
    }
}

/// The known name that looks most like this one, if any does.
pub(crate) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let by_distance = |known: &&'static str| (strsim::damerau_levenshtein(name, known), *known);
    let (distance, found) = known.iter().map(by_distance).min()?;
    (distance <= (found.len() / 3).max(1)).then_some(found)
}

/// Who a key is for, what it may do, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyEntry {
    pub(crate) name: String,
    pub(crate) hash: Digest,
    pub(crate) models: Option<Vec<String>>,
    pub(crate) endpoints: Option<Vec<String>>,
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) burst: Option<u64>,
    pub(crate) max_concurrent_requests: Option<u64>,
    pub(crate) tokens_per_minute: Option<u64>,
    pub(crate) tokens_per_day: Option<u64>,
    /// Seconds since 1970, as is the next.
    pub(crate) not_before: Option<u64>,
    pub(crate) expires: Option<u64>,
    pub(crate) priority: Option<i32>,
    pub(crate) is_disabled: bool,
    pub(crate) is_admin: bool,
}

impl KeyEntry {
    /// A key that may do everything that is not for admins, without limits.
    pub fn new(name: impl Into<String>, hash: Digest) -> Self {
        Self {
            name: name.into(),
            hash,
            models: None,
            endpoints: None,
            requests_per_second: None,
            burst: None,
            max_concurrent_requests: None,
            tokens_per_minute: None,
            tokens_per_day: None,
            not_before: None,
            expires: None,
            priority: None,
            is_disabled: false,
            is_admin: false,
        }
    }

    /// The same key, which may administer or not.
    pub fn with_admin(self, is_admin: bool) -> Self {
        Self { is_admin, ..self }
    }

    /// The same entry.
    ///
    /// # Errors
    /// It is none that a key file may hold.
    pub fn checked(self) -> Result<Self, FieldError> {
        let fields = self.fields().into_iter();
        Self::from_table(&fields.map(|(field, value)| (field.to_owned(), value)).collect())
    }

    /// Reads the fields of a table.
    ///
    /// # Errors
    /// The first field that is unknown, missing or wrong.
    pub(crate) fn from_table(table: &Table) -> Result<Self, FieldError> {
        let required = |field| table.get(field).ok_or(FieldError::Missing(field));
        let mut entry = Self::new(name(required("name")?)?, hash(required("hash")?)?);
        for (field, value) in table {
            entry.set(field, value)?;
        }
        entry.check()?;
        Ok(entry)
    }

    fn set(&mut self, field: &str, value: &Value) -> Result<(), FieldError> {
        match field {
            // Read before everything else.
            "name" | "hash" => {}
            "models" => self.models = Some(patterns(field, value)?),
            "endpoints" => self.endpoints = Some(patterns(field, value)?),
            "requests_per_second" => self.requests_per_second = Some(rate(field, value)?),
            "burst" => self.burst = Some(count(field, value)?),
            "max_concurrent_requests" => self.max_concurrent_requests = Some(count(field, value)?),
            "tokens_per_minute" => self.tokens_per_minute = Some(count(field, value)?),
            "tokens_per_day" => self.tokens_per_day = Some(count(field, value)?),
            "not_before" => self.not_before = Some(time(field, value)?),
            "expires" => self.expires = Some(time(field, value)?),
            "priority" => self.priority = Some(priority(field, value)?),
            "disabled" => self.is_disabled = switch(field, value)?,
            "admin" => self.is_admin = switch(field, value)?,
            _ => {
                let nearest = nearest(field, FIELDS);
                return Err(FieldError::Unknown { field: field.to_owned(), nearest });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), FieldError> {
        if self.burst.is_some() && self.requests_per_second.is_none() {
            return Err(FieldError::Missing("requests_per_second"));
        }
        match (self.not_before, self.expires) {
            (Some(from), Some(until)) if from >= until => Err(FieldError::Invalid {
                field: "expires".to_owned(),
                expected: "a time after `not_before`",
                got: format!("{}, not after {}", rfc3339(until), rfc3339(from)),
            }),
            _ => Ok(()),
        }
    }

    /// The fields that say something, in their order.
    pub(crate) fn fields(&self) -> Vec<(&'static str, Value)> {
        let number = |count: u64| Value::Integer(count.try_into().unwrap_or(i64::MAX));
        let list =
            |all: &Vec<String>| Value::Array(all.iter().cloned().map(Value::String).collect());
        let moment = |unix| Value::String(rfc3339(unix));
        let yes = |is: bool| is.then_some(Value::Boolean(true));
        let values = [
            Some(Value::String(self.name.clone())),
            Some(Value::String(self.hash.to_string())),
            self.models.as_ref().map(list),
            self.endpoints.as_ref().map(list),
            self.requests_per_second.map(Value::Float),
            self.burst.map(number),
            self.max_concurrent_requests.map(number),
            self.tokens_per_minute.map(number),
            self.tokens_per_day.map(number),
            self.not_before.map(moment),
            self.expires.map(moment),
            self.priority.map(|priority| Value::Integer(priority.into())),
            yes(self.is_disabled),
            yes(self.is_admin),
        ];
        let named = FIELDS.iter().zip(values);
        named.filter_map(|(field, value)| Some((*field, value?))).collect()
    }

    /// How fast requests may come.
    pub(crate) fn request_rate(&self) -> Option<Rate> {
        let rate = self.requests_per_second?;
        // At most MAX_PER_SECOND.
        Some(Rate::per_second(rate, self.burst.unwrap_or(rate.ceil() as u64)))
    }

    /// How fast tokens may be used.
    pub(crate) fn token_rate(&self) -> Option<Rate> {
        self.tokens_per_minute.map(Rate::per_minute)
    }

    pub(crate) fn allows_model(&self, model: &str) -> bool {
        allows(self.models.as_deref(), model)
    }

    pub(crate) fn allows_endpoint(&self, path: &str) -> bool {
        allows(self.endpoints.as_deref(), path)
    }
}

fn allows(patterns: Option<&[String]>, name: &str) -> bool {
    patterns.is_none_or(|all| all.iter().any(|pattern| pattern::matches(pattern, name)))
}

fn invalid(field: &str, expected: &'static str, value: &Value) -> FieldError {
    let got = match value {
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.to_string()
        }
        // It may be a secret in the wrong place.
        Value::String(_) => "other text".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    };
    FieldError::Invalid { field: field.to_owned(), expected, got }
}

fn name(value: &Value) -> Result<String, FieldError> {
    let is_plain = |name: &&str| {
        name.len() <= MAX_NAME_BYTES
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let expected = "1 to 64 letters, digits, `-`, `_` and `.`, a letter or digit first";
    let name = value.as_str().filter(is_plain);
    Ok(name.ok_or_else(|| invalid("name", expected, value))?.to_owned())
}

fn hash(value: &Value) -> Result<Digest, FieldError> {
    let expected = "`sha256:` and 64 hex digits, as `cairn keys hash` prints them for a key";
    value.as_str().and_then(Digest::parse).ok_or_else(|| invalid("hash", expected, value))
}

fn patterns(field: &str, value: &Value) -> Result<Vec<String>, FieldError> {
    let text = |value: &Value| {
        value.as_str().filter(|text| text.len() <= MAX_PATTERN_BYTES).map(str::to_owned)
    };
    let all = value.as_array().filter(|all| all.len() <= MAX_PATTERNS);
    all.and_then(|all| all.iter().map(text).collect())
        .ok_or_else(|| invalid(field, "an array of at most 1000 short texts", value))
}

fn rate(field: &str, value: &Value) -> Result<f64, FieldError> {
    let number = match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    // False for what is no number, which is the point.
    number
        .filter(|rate| (MIN_PER_SECOND..=MAX_PER_SECOND).contains(rate))
        .ok_or_else(|| invalid(field, "a number from 0.000001 to 1000000", value))
}

fn count(field: &str, value: &Value) -> Result<u64, FieldError> {
    let number = value.as_integer().filter(|count| (1..=MAX_COUNT).contains(count));
    number
        .and_then(|count| u64::try_from(count).ok())
        .ok_or_else(|| invalid(field, "a whole number from 1 to 1000000000000", value))
}

fn priority(field: &str, value: &Value) -> Result<i32, FieldError> {
    let number = value.as_integer().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| invalid(field, "a whole number from -2147483648 to 2147483647", value))
}

fn switch(field: &str, value: &Value) -> Result<bool, FieldError> {
    value.as_bool().ok_or_else(|| invalid(field, "true or false", value))
}

/// Text, or TOML's own kind of time.
fn time(field: &str, value: &Value) -> Result<u64, FieldError> {
    let time = match value {
        Value::String(text) => parse_rfc3339(text),
        Value::Datetime(time) => parse_rfc3339(&time.to_string()),
        _ => None,
    };
    let expected = "a time with its offset, as in \"2027-01-31T00:00:00Z\"";
    time.ok_or_else(|| invalid(field, expected, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn entry(fields: &str) -> Result<KeyEntry, FieldError> {
        let table = format!("name = 'a'\nhash = '{HASH}'\n{fields}");
        KeyEntry::from_table(&table.parse().unwrap())
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let full = entry(
            "models = ['a', 'b*']\nendpoints = []\nrequests_per_second = 2.5\nburst = 7\n\
             max_concurrent_requests = 3\ntokens_per_minute = 1000\ntokens_per_day = 99\n\
             not_before = 2026-01-01T00:00:00+01:00\nexpires = '2027-01-01T00:00:00Z'\n\
             priority = -2\ndisabled = true\nadmin = true",
        )
        .unwrap();
        assert_eq!(full.fields().len(), FIELDS.len());
        for entry in [full, entry("").unwrap()] {
            let table = entry.fields().into_iter().map(|(name, value)| (name.to_owned(), value));
            assert_eq!(KeyEntry::from_table(&table.collect()).unwrap(), entry);
        }
    }

    #[test]
    fn a_whole_rate_is_a_rate_and_its_burst_is_rounded_up() {
        let rate = |fields| entry(fields).unwrap().request_rate().unwrap().burst();
        assert_eq!(rate("requests_per_second = 3"), 3);
        assert_eq!(rate("requests_per_second = 0.2"), 1);
        assert_eq!(rate("requests_per_second = 0.2\nburst = 9"), 9);
    }

    #[test]
    fn no_list_allows_everything_and_an_empty_one_nothing() {
        assert!(entry("").unwrap().allows_model("any"));
        let none = entry("models = []\nendpoints = ['/v1/chat/*']").unwrap();
        assert!(!none.allows_model("any") && !none.allows_endpoint("/v1/completions"));
        assert!(none.allows_endpoint("/v1/chat/completions"));
    }

    #[test]
    fn every_bad_field_is_named() {
        for (fields, message) in [
            (
                "token_per_minute = 1",
                "unknown field `token_per_minute`; did you mean `tokens_per_minute`?",
            ),
            ("Admin = true", "unknown field `Admin`; did you mean `admin`?"),
            ("colour = 1", "unknown field `colour`"),
            (
                "models = 'a'",
                "invalid models: expected an array of at most 1000 short texts, got other text",
            ),
            ("models = [1]", "invalid models"),
            ("endpoints = {}", "invalid endpoints"),
            (
                "requests_per_second = 0",
                "invalid requests_per_second: expected a number from 0.000001 to 1000000, got 0",
            ),
            ("requests_per_second = -1.5", "invalid requests_per_second"),
            ("requests_per_second = nan", "invalid requests_per_second"),
            ("requests_per_second = inf", "invalid requests_per_second"),
            ("requests_per_second = '2'", "invalid requests_per_second"),
            ("burst = 2", "`requests_per_second` is missing"),
            ("requests_per_second = 1\nburst = 0", "invalid burst"),
            ("requests_per_second = 1\nburst = 1.5", "invalid burst"),
            ("max_concurrent_requests = 0", "invalid max_concurrent_requests"),
            ("tokens_per_minute = 9223372036854775807", "invalid tokens_per_minute"),
            ("tokens_per_day = -1", "invalid tokens_per_day"),
            ("not_before = '2027-01-01'", "invalid not_before: expected a time with its offset"),
            ("expires = 2027-01-01", "invalid expires"),
            ("expires = 2027-01-01T00:00:00", "invalid expires"),
            ("expires = 5", "invalid expires"),
            (
                "not_before = '2027-01-01T00:00:00Z'\nexpires = '2026-01-01T00:00:00Z'",
                "invalid expires: expected a time after `not_before`",
            ),
            ("priority = 2147483648", "invalid priority"),
            ("disabled = 1", "invalid disabled"),
            ("admin = 'yes'", "invalid admin: expected true or false, got other text"),
        ] {
            let error = entry(fields).unwrap_err().to_string();
            assert!(error.starts_with(message), "{fields}: {error}");
        }
        for (table, message) in [
            ("", "`name` is missing"),
            ("name = 'a'", "`hash` is missing"),
            ("name = ''", "invalid name"),
            ("name = 'a b'\nhash = 1", "invalid name"),
            ("name = '-a'\nhash = 1", "invalid name"),
            ("name = 7\nhash = 1", "invalid name"),
            ("name = 'a'\nhash = 1", "invalid hash"),
            ("name = 'a'\nhash = 'sk-secret'", "invalid hash: expected `sha256:`"),
        ] {
            let error = KeyEntry::from_table(&table.parse().unwrap()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{table}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

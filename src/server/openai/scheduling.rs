//! Wire fields to an engine request: when it runs, how long it may take, and whose cache it shares.
//!
//! | Field | Range |
//! | --- | --- |
//! | `priority` | 32 bits; lower runs sooner, where the server schedules by priority, and else nothing |
//! | `deadline`, `timeout` | seconds, above 0 and at most a day |
//! | `cache_salt` | text that is not empty |
//!
//! What this module deliberately does not do: what is sampled is `sampling`'s.

use std::time::Duration;

use super::requests::SamplingFields;
use crate::engine::{Request, SamplingParams};
use crate::server::error::ApiError;
use crate::text::grammar::Grammar;

/// No request may ask for more time.
pub(super) const MAX_SECONDS: f64 = 86_400.0;

/// A request for each prompt, whose answers follow a grammar, if there is one.
pub(super) fn requests(
    fields: &SamplingFields,
    prompts: Vec<Vec<u32>>,
    params: SamplingParams,
    grammar: Option<Grammar>,
) -> Result<Vec<Request>, ApiError> {
    let salt = fields.cache_salt.as_deref();
    let like = like(fields.priority, fields.deadline, fields.timeout, salt)?;
    let like = Request { params, grammar, ..like };
    let request = |prompt_token_ids| Request { prompt_token_ids, ..like.clone() };
    Ok(prompts.into_iter().map(request).collect())
}

/// A request with those fields and nothing else.
pub(super) fn like(
    priority: Option<i64>,
    deadline: Option<f64>,
    timeout: Option<f64>,
    cache_salt: Option<&str>,
) -> Result<Request, ApiError> {
    if cache_salt.is_some_and(str::is_empty) {
        let message = "invalid cache_salt: expected text, got an empty string";
        return Err(ApiError::invalid("cache_salt", message));
    }
    Ok(Request {
        priority: self::priority(priority)?,
        deadline: seconds("deadline", deadline)?,
        timeout: seconds("timeout", timeout)?,
        cache_salt: cache_salt.map(str::to_owned),
        ..Request::default()
    })
}

fn priority(priority: Option<i64>) -> Result<i32, ApiError> {
    let priority = priority.unwrap_or_default();
    i32::try_from(priority).map_err(|_| {
        let (min, max) = (i32::MIN, i32::MAX);
        let message = format!("invalid priority: expected {min} to {max}, got {priority}");
        ApiError::invalid("priority", message)
    })
}

fn seconds(param: &'static str, seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    let Some(seconds) = seconds else { return Ok(None) };
    // False for what is no number, which is the point.
    let is_in_range = seconds > 0.0 && seconds <= MAX_SECONDS;
    let span = is_in_range.then(|| Duration::from_secs_f64(seconds));
    // Less than a nanosecond is nothing.
    if let Some(span) = span.filter(|span| !span.is_zero()) {
        return Ok(Some(span));
    }
    let expected = format!("expected seconds above 0 and at most {MAX_SECONDS}, got {seconds}");
    Err(ApiError::invalid(param, format!("invalid {param}: {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::openai::json::parse;

    fn read(body: &str) -> Result<Request, String> {
        let fields: SamplingFields = parse(body.as_bytes(), &[]).unwrap();
        let requests = requests(&fields, vec![vec![7]], SamplingParams::default(), None);
        requests.map(|mut all| all.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_field_arrives() {
        let got = read(r#"{"priority": -3, "deadline": 2, "timeout": 0.5, "cache_salt": "s"}"#);
        let got = got.unwrap();
        assert_eq!((got.prompt_token_ids, got.priority), (vec![7], -3));
        assert_eq!(got.deadline, Some(Duration::from_secs(2)));
        assert_eq!(got.timeout, Some(Duration::from_millis(500)));
        assert_eq!(got.cache_salt.as_deref(), Some("s"));
        let plain = read("{}").unwrap();
        assert_eq!((plain.priority, plain.timeout, plain.cache_salt), (0, None, None));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        for (body, message) in [
            (r#"{"priority": 2147483648}"#, "invalid priority"),
            (r#"{"timeout": 0}"#, "invalid timeout"),
            (r#"{"timeout": -1}"#, "invalid timeout"),
            (r#"{"timeout": 5e-324}"#, "invalid timeout"),
            (r#"{"deadline": 1e300}"#, "invalid deadline"),
            (r#"{"cache_salt": ""}"#, "invalid cache_salt"),
        ] {
            let got = read(body).unwrap_err();
            assert!(got.starts_with(message), "{body}: {got}");
        }
    }
}

//! The time, read once per request and handed down as a value.
//!
//! | Clock | Used for | When it jumps |
//! | --- | --- | --- |
//! | monotonic | rates, and how often a day may begin | it does not |
//! | wall, UTC | days, validity of keys | see [`quota`](super::quota) |
//!
//! What this module deliberately does not do: no timers; whoever waits sleeps elsewhere.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds of a UTC day; leap seconds do not exist in this count.
pub(crate) const DAY_SECONDS: u64 = 86_400;
/// The last second that a date of four digits has: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Time since the server's start, which never goes back.
    pub(crate) since_start: Duration,
    /// Seconds since 1970 by the wall clock, which may be wrong and may be set.
    pub(crate) unix: u64,
}

impl Now {
    /// What the clocks say, of a server that started at `origin`.
    pub(crate) fn read(origin: Instant) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            since_start: origin.elapsed(),
            unix: unix.map_or(0, |since| since.as_secs()).min(LAST_SECOND),
        }
    }

    /// Days since 1970, in UTC.
    pub(crate) fn day(self) -> u64 {
        self.unix / DAY_SECONDS
    }

    /// Until the next UTC day begins.
    pub(crate) fn until_tomorrow(self) -> Duration {
        Duration::from_secs(DAY_SECONDS - self.unix % DAY_SECONDS)
    }
}

/// A time as in `2026-11-23T04:30:15Z`.
pub(crate) fn rfc3339(unix: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Seconds since 1970 of an RFC 3339 time with `Z` or an offset; fractions are cut.
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.trim();
    let seconds = |utc: &str| -> Option<i64> {
        let time = humantime::parse_rfc3339(utc).ok()?;
        i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
    };
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return u64::try_from(seconds(&format!("{local}Z"))?).ok();
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let east = match offset.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let number = |digits: &str, below: i64| {
        let is_plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|number| is_plain && *number < below)
    };
    let offset = east * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60);
    u64::try_from(seconds(&format!("{local}Z"))?.checked_sub(offset)?).ok()
}

/// A day as in `2026-11-23`.
pub(crate) fn date(day: u64) -> String {
    let mut text = rfc3339(day.saturating_mul(DAY_SECONDS));
    text.truncate("2026-11-23".len());
    text
}

/// Days since 1970 of such a date.
pub(crate) fn parse_date(text: &str) -> Option<u64> {
    Some(parse_rfc3339(&format!("{text}T00:00:00Z"))? / DAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_any_offset() {
        assert_eq!(parse_rfc3339("1970-01-02T00:00:00Z"), Some(86_400));
        assert_eq!(parse_rfc3339("1970-01-02T02:00:00+02:00"), Some(86_400));
        assert_eq!(parse_rfc3339("1970-01-01T18:30:00.75-05:30"), Some(86_400));
        for bad in [
            "",
            "Z",
            "2027",
            "2027-01-01",
            "2027-01-01T00:00:00",
            "2027-13-01T00:00:00Z",
            "2027-01-01T00:00:00+2:00",
            "2027-01-01T00:00:00+24:00",
            "2027-01-01T00:00:00+-1:00",
            "1970-01-01T00:00:00+01:00",
            "1969-01-01T00:00:00Z",
            "häppy-häppy",
            "aé:00:0",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_and_times_are_written_as_they_are_read() {
        for text in ["1970-01-01", "2026-11-23", "2028-02-29", "9999-12-31"] {
            assert_eq!(date(parse_date(text).unwrap()), text);
        }
        assert_eq!(date(u64::MAX), "9999-12-31");
        assert_eq!(parse_rfc3339(&rfc3339(1_795_408_215)), Some(1_795_408_215));
    }
}

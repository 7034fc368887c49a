//! Values of flags: ranges that are checked while parsing, sizes with units, and their way back to
//! text.
//!
//! A parser says what it expects; the command line adds the flag and what it got:
//!
//! ```text
//! error: invalid value '-1' for '--max-tokens <N>': expected a whole number of at least 1
//! ```
//!
//! | Unit | Bytes |
//! | --- | --- |
//! | `B` or none | 1 |
//! | `kB` `MB` `GB` `TB` | 1000, 1000^2, 1000^3, 1000^4 |
//! | `KiB` `MiB` `GiB` `TiB` | 1024, 1024^2, 1024^3, 1024^4 |
//!
//! Letters may be of either case. A lone `K`, `M` or `G` is refused: half of its users mean the
//! other one.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::FalseyValueParser;

pub(crate) use crate::boot::display_bytes;

/// Parser of a switch's variable: anything but nothing, `0`, `false`, `no` and `off` is on.
pub(crate) fn switch() -> FalseyValueParser {
    FalseyValueParser::new()
}

/// Parser of a whole number within bounds.
pub(crate) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let (min, max) = (range.start(), range.end());
            if *max == u64::MAX {
                format!("expected a whole number of at least {min}")
            } else {
                format!("expected a whole number from {min} to {max}")
            }
        })
    }
}

/// Parser of a finite number within bounds.
pub(crate) fn real(
    range: RangeInclusive<f32>,
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync + 'static {
    move |text| {
        // `contains` is false for NaN, which is the point.
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
    }
}

/// Parser of a share above 0 and at most 1.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}

/// How many candidates to keep: `None` keeps all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopK(pub(crate) Option<u32>);

/// Parser of a count of candidates, where -1 means all.
pub(crate) fn top_k(text: &str) -> Result<TopK, String> {
    if text == "-1" {
        return Ok(TopK(None));
    }
    let number = text.parse().ok().filter(|number| *number >= 1);
    let number = number.ok_or("expected a whole number of at least 1, or -1 for all")?;
    Ok(TopK(Some(number)))
}

/// Parser of a span of time in seconds, fractions allowed.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const MAX_SECONDS: f64 = 86_400.0;
    let number = text.parse().ok().filter(|number| (0.0..=MAX_SECONDS).contains(number));
    let number = number.ok_or_else(|| {
        format!("expected a number of seconds from 0 to {MAX_SECONDS}, without a unit")
    })?;
    Ok(Duration::from_secs_f64(number))
}

/// Parser of a span of time that is not nothing.
pub(crate) fn positive_seconds(text: &str) -> Result<Duration, String> {
    let span = seconds(text)?;
    if span.is_zero() { Err("expected more than 0 seconds".to_owned()) } else { Ok(span) }
}

/// Parser of a size in bytes, at least one, with an optional unit.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let size =
        unit_bytes(unit.trim()).and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    size.filter(|size| *size > 0).ok_or_else(|| {
        "expected a whole number of bytes of at least 1, with or without a unit: kB, MB, GB, TB, \
         KiB, MiB, GiB or TiB"
            .to_owned()
    })
}

fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_within_bounds() {
        let parse = whole::<usize>(1..=100);
        assert_eq!(parse("100"), Ok(100));
        for text in ["0", "-1", "101", "1.5", "", "1e2", "99999999999999999999", "nan", " 1"] {
            assert_eq!(parse(text), Err("expected a whole number from 1 to 100".into()), "{text}");
        }
        let parse = whole::<u64>(1..=u64::MAX);
        assert_eq!(parse("0"), Err("expected a whole number of at least 1".into()));
    }

    #[test]
    fn what_is_not_a_number_is_no_number() {
        let parse = real(0.0..=100.0);
        assert_eq!(parse("0"), Ok(0.0));
        for text in ["NaN", "-nan", "inf", "-inf", "-0.1", "1e30", "warm", ""] {
            assert_eq!(parse(text), Err("expected a number from 0 to 100".into()), "{text}");
        }
        assert_eq!(share("1"), Ok(1.0));
        for text in ["0", "-1", "1.5", "NaN", "all"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn minus_one_keeps_all_candidates() {
        assert_eq!(top_k("-1"), Ok(TopK(None)));
        assert_eq!(top_k("40"), Ok(TopK(Some(40))));
        for text in ["0", "-7", "4294967296", "x"] {
            assert!(top_k(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("2 gb"), Ok(2_000_000_000));
        assert_eq!(bytes("1048576"), Ok(1 << 20));
        for text in ["", "0", "MiB", "-1MiB", "1.5GiB", "4G", "1 parsec", "99999999TiB", "1é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn spans_of_time_are_finite() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["-1", "NaN", "inf", "1e30", "30s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!((seconds("0"), positive_seconds("1")), (Ok(Duration::ZERO), seconds("1")));
        assert!(positive_seconds("0").is_err());
    }
}

//! Python's methods of strings and dicts, which chat templates call.
//!
//! The engine's compatibility crate has most of them. Here are those that it lacks or that differ
//! from Python in what templates meet: what counts as white space, and where lines end. Methods
//! whose result can be much longer than what they are given pay for it first, because the engine
//! charges only once the result exists.

use minijinja::value::{Kwargs, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Bytes that the engine's budget counts as one instruction.
const BYTES_PER_FUEL: usize = 64;
/// `"{:>9999999999}".format(x)` asks for that many bytes; no template formats more.
const MAX_FORMAT_DIGITS: usize = 4;

/// Called by the engine for methods that it does not know.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = call_str(state, text, method, args)?
    {
        return Ok(result);
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// `None` where the compatibility crate's own will do.
fn call_str(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" => strip(text, args, true, true)?,
        "lstrip" => strip(text, args, true, false)?,
        "rstrip" => strip(text, args, false, true)?,
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => splitlines(text, args)?,
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = non_empty(separator).map(|separator| text.split_once(separator))?;
            match parts {
                Some((before, after)) => Value::from_iter([before, separator, after]),
                None => Value::from_iter([text, "", ""]),
            }
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = non_empty(separator).map(|separator| text.rsplit_once(separator))?;
            match parts {
                Some((before, after)) => Value::from_iter([before, separator, after]),
                None => Value::from_iter(["", "", text]),
            }
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "replace" => replace(state, text, args)?,
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            charge(state, items.len().unwrap_or(0).saturating_mul(text.len()))?;
            return Ok(None);
        }
        "format" => {
            if longest_digit_run(text) > MAX_FORMAT_DIGITS {
                return Err(Error::from(ErrorKind::OutOfFuel));
            }
            let (given,): (Rest<Value>,) = from_args(args)?;
            let longest = given.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
            charge(state, longest.saturating_mul(text.matches('{').count()))?;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

/// The `trim` filter: `strip` of what the value prints as, which is nothing for one that is not
/// there.
pub(super) fn trim_filter(value: &Value, characters: Option<&str>) -> String {
    match value.as_str() {
        Some(text) => stripped(text, characters, true, true).to_owned(),
        None => stripped(&value.to_string(), characters, true, true).to_owned(),
    }
}

/// `strip` without arguments.
pub(super) fn trim(text: &str) -> &str {
    stripped(text, None, true, true)
}

/// `rstrip` without arguments.
pub(super) fn trim_end(text: &str) -> &str {
    stripped(text, None, false, true)
}

/// Python's white space is Unicode's and four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64)
}

fn non_empty(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(separator)
}

fn strip(text: &str, args: &[Value], start: bool, end: bool) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    Ok(Value::from(stripped(text, characters, start, end)))
}

fn stripped<'a>(mut text: &'a str, characters: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes =
        |character: char| characters.map_or(is_space(character), |set| set.contains(character));
    if start {
        text = text.trim_start_matches(goes);
    }
    if end {
        text = text.trim_end_matches(goes);
    }
    text
}

fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let limit = limit.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    // A negative limit is none.
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
    let mut parts: Vec<&str> = match (separator, from_end) {
        (Some(separator), false) => text.splitn(limit, non_empty(separator)?).collect(),
        (Some(separator), true) => text.rsplitn(limit, non_empty(separator)?).collect(),
        (None, _) => split_space(text, limit, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

/// Words between runs of white space, in the order in which they are found.
fn split_space(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = stripped(text, None, !from_end, from_end);
    while !rest.is_empty() {
        let gap = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(gap) = gap.filter(|_| parts.len() + 1 < limit) else {
            // The last part keeps its inner space but not that at the far end.
            parts.push(stripped(rest, None, from_end, !from_end && parts.len() + 1 < limit));
            break;
        };
        let after = gap + rest[gap..].chars().next().map_or(0, char::len_utf8);
        let (part, others) =
            if from_end { (&rest[after..], &rest[..gap]) } else { (&rest[..gap], &rest[after..]) };
        parts.push(part);
        rest = stripped(others, None, !from_end, from_end);
    }
    parts
}

fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
    let keep_ends = keep_ends.or(kwargs.get("keepends")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let ends_line = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(ends_line) {
        let is_pair = rest[end..].starts_with("\r\n");
        let end_len =
            if is_pair { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { end + end_len } else { end }]);
        rest = &rest[end + end_len..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Ok(Value::from_iter(lines))
}

fn replace(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
    let count = count.or(kwargs.get("count")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let num_matches = text.matches(old).count().min(count);
    charge(state, num_matches.saturating_mul(new.len()))?;
    Ok(Value::from(text.replacen(old, new, count)))
}

/// A letter is upper case exactly when no letter is before it.
fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut is_inside = false;
    for character in text.chars() {
        if is_inside {
            result.extend(character.to_lowercase());
        } else {
            result.extend(character.to_uppercase());
        }
        is_inside = character.is_alphabetic();
    }
    result
}

fn longest_digit_run(text: &str) -> usize {
    let runs = text.split(|c: char| !c.is_ascii_digit());
    runs.map(str::len).max().unwrap_or(0)
}

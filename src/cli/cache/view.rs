//! Keys, ages and texts of strangers, for people; and tables of them.
//!
//! What an entry says of itself was written by whoever made it. Shown on a terminal, it must not be
//! able to move the cursor.
//!
//! What this module deliberately does not do: JSON shows everything as it is.

use std::time::{Duration, SystemTime};

use cairn_graph_cache::{CacheKey, ClearValue};

use crate::cli::output::Table;

/// Characters of a key that tell entries apart for people.
const SHORT_KEY_CHARS: usize = 12;
/// Characters of a text that are shown in a table.
const MAX_TEXT_CHARS: usize = 80;

/// The beginning of a key: enough to name it.
pub(super) fn short(key: &CacheKey) -> String {
    key.to_string().chars().take(SHORT_KEY_CHARS).collect()
}

/// A line for each key: what scripts read.
pub(super) fn key_lines<'a>(keys: impl IntoIterator<Item = &'a CacheKey>) -> String {
    keys.into_iter().map(|key| key.to_string() + "\n").collect()
}

/// The text without anything that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |c: &char| !c.is_control();
    text.chars().map(|c| if is_plain(&c) { c } else { '\u{fffd}' }).collect()
}

/// The same, on one line that fits into a table.
pub(super) fn cell(text: &str) -> String {
    let mut text = plain(text);
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A field's value as a person compares it: of one that is kept as its digest only, that and its size.
pub(super) fn value(value: &ClearValue) -> String {
    match value {
        ClearValue::Text { text } => plain(text),
        ClearValue::Bytes { sha256, bytes }
        | ClearValue::LongText { text_sha256: sha256, bytes } => {
            format!("sha256 {sha256}, {bytes} bytes")
        }
    }
}

/// How long ago: `12 s`, `3 min`, `5 h`, `8 d`; a question mark where nobody knows.
pub(super) fn age(then: Option<SystemTime>, now: SystemTime) -> String {
    // A time in the future is a clock that was wrong.
    let age = then.map(|then| now.duration_since(then).unwrap_or(Duration::ZERO).as_secs());
    match age {
        None => "?".to_owned(),
        Some(seconds @ 0..60) => format!("{seconds} s"),
        Some(seconds @ 60..3600) => format!("{} min", seconds / 60),
        Some(seconds @ 3600..172_800) => format!("{} h", seconds / 3600),
        Some(seconds) => format!("{} d", seconds / 86_400),
    }
}

/// Seconds since 1970, for scripts.
pub(super) fn unix_seconds(time: Option<SystemTime>) -> Option<u64> {
    let since = time?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// A count and its noun: `1 entry`, `2 entries`.
pub(super) fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// A count and a noun that only gets an `s`: `1 file`, `2 files`.
pub(super) fn count(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A table whose last column begins at its left edge and ends where its text does.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = rows.iter().filter_map(|row| Some(row.last()?.chars().count())).max().unwrap_or(0);
    let mut table = Table::default();
    for row in rows {
        let mut cells = row.each_ref().map(String::as_str);
        let last = row.last().map(|last| format!("{last:<width$}")).unwrap_or_default();
        if let Some(cell) = cells.last_mut() {
            *cell = &last;
        }
        table.row(cells);
    }
    let table = table.to_string();
    table.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_strangers_do_not_reach_the_terminal_as_they_are() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{7}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        assert_eq!(cell(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        assert_eq!(cell("decode 8"), "decode 8");
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365);
        let ago = |seconds| age(now.checked_sub(Duration::from_secs(seconds)), now);
        assert_eq!(ago(0), "0 s");
        assert_eq!(ago(3599), "59 min");
        assert_eq!(ago(100_000), "27 h");
        assert_eq!(ago(172_800), "2 d");
        assert_eq!(age(Some(now + Duration::from_secs(9)), now), "0 s");
        assert_eq!(age(None, now), "?");
    }

    #[test]
    fn the_last_column_is_ragged() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let rows = [row(["key", "size", "note"]), row(["3f9a", "1.2 MB", "decode, 8 sequences"])];
        assert_eq!(table(&rows), "key     size  note\n3f9a  1.2 MB  decode, 8 sequences\n");
    }
}

//! The lines that are still to be answered, read on a thread of its own, no further ahead than the
//! work needs.
//!
//! ```text
//! source --line--> answered before? --yes--> passed over
//!                     `-no--> read it --+--> Entry::Ask      --bounded channel--> work
//!                                       `--> Entry::Refused
//! ```
//!
//! What is kept of every line is its number and 128 bits of a digest of its `custom_id`, so that a
//! second line with the same one is refused: its result could not be told from the first one's.
//!
//! What this module deliberately does not do: it answers nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::thread;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::journal::{Done, other_input};
use super::line::{self, Ask, Refused};
use super::source::{Line, LineId, Source};

/// Lines that were read and that nobody works on yet.
const READ_AHEAD: usize = 4;

/// A line to be answered.
#[derive(Debug)]
pub(crate) enum Entry {
    /// By an endpoint.
    Ask(LineId, Ask),
    /// By saying what is wrong with it.
    Refused(LineId, Refused),
}

/// Starts reading. The last entry is an error when there was one; the thread ends when nobody
/// receives any more.
pub(crate) fn start(
    source: &Source,
    max_line_bytes: usize,
    done: Done,
) -> anyhow::Result<mpsc::Receiver<anyhow::Result<Entry>>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let (lines, mut queue) = (source.lines(max_line_bytes), Queue::new(max_line_bytes, done));
    thread::Builder::new()
        .name("batch-reader".into())
        .spawn(move || {
            let entries =
                lines.filter_map(|line| line.and_then(|line| queue.entry(line)).transpose());
            for entry in entries {
                let is_last = entry.is_err();
                if sender.blocking_send(entry).is_err() || is_last {
                    return;
                }
            }
            if let Err(error) = queue.check_end() {
                // Nobody receives: nobody asks.
                let _ = sender.blocking_send(Err(error));
            }
        })
        .context("starting to read")?;
    Ok(receiver)
}

/// Looks at all lines without answering any, and returns how many there are.
///
/// # Errors
/// When they are not those of the results, or cannot be read.
pub(crate) fn check(source: &Source, max_line_bytes: usize, done: &Done) -> anyhow::Result<u64> {
    let (mut num_lines, mut num_done) = (0, 0);
    for line in source.lines(max_line_bytes) {
        num_lines += 1;
        num_done += u64::from(done.has(line?.id)?);
    }
    check_all_found(num_done, done)?;
    Ok(num_lines)
}

fn check_all_found(num_found: u64, done: &Done) -> anyhow::Result<()> {
    if num_found < done.len() {
        return Err(other_input(&format!("it has {} lines more", done.len() - num_found)));
    }
    Ok(())
}

/// What is known of the lines so far.
struct Queue {
    max_line_bytes: usize,
    done: Done,
    num_done: u64,
    /// Numbers of lines by their custom ids' digests.
    custom_ids: HashMap<[u8; 16], u64>,
}

impl Queue {
    fn new(max_line_bytes: usize, done: Done) -> Self {
        Self { max_line_bytes, done, num_done: 0, custom_ids: HashMap::new() }
    }

    /// The entry of a line; none when it was answered before.
    fn entry(&mut self, line: Line) -> anyhow::Result<Option<Entry>> {
        let Line { id, text } = line;
        let read = match text {
            Some(text) => line::read(&text).and_then(|ask| self.only_once(id, ask)),
            None => Err(Refused {
                custom_id: None,
                code: "line_too_long",
                message: format!("the line is longer than {} bytes", self.max_line_bytes),
            }),
        };
        if self.done.has(id)? {
            self.num_done += 1;
            return Ok(None);
        }
        Ok(Some(read.map_or_else(|refused| Entry::Refused(id, refused), |ask| Entry::Ask(id, ask))))
    }

    /// Refuses a line whose custom id another one had.
    fn only_once(&mut self, line: LineId, ask: Ask) -> Result<Ask, Refused> {
        let digest = Sha256::digest(ask.custom_id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        match self.custom_ids.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert(line.number);
                Ok(ask)
            }
            Slot::Occupied(slot) => Err(Refused {
                message: format!("line {} has the same `custom_id`", slot.get()),
                custom_id: Some(ask.custom_id),
                code: "duplicate_custom_id",
            }),
        }
    }

    /// All lines that were answered must have been there.
    fn check_end(&self) -> anyhow::Result<()> {
        check_all_found(self.num_done, &self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64, custom_id: &str) -> Line {
        let text = format!(
            r#"{{"custom_id": "{custom_id}", "method": "POST", "url": "/", "body": {{}}}}"#
        );
        Line { id: LineId { number, digest: 0 }, text: Some(text.into_bytes()) }
    }

    #[test]
    fn the_second_line_with_a_custom_id_is_refused() {
        let mut queue = Queue::new(10, Done::default());
        let mut entry = |number, custom_id| queue.entry(line(number, custom_id)).unwrap().unwrap();
        assert!(matches!(entry(1, "a"), Entry::Ask(..)));
        assert!(matches!(entry(2, "b"), Entry::Ask(..)));
        for number in [3, 4] {
            let Entry::Refused(_, refused) = entry(number, "a") else { panic!("it was taken") };
            assert_eq!(refused.code, "duplicate_custom_id");
            assert!(refused.message.contains("line 1 has"), "{}", refused.message);
        }
    }

    #[test]
    fn a_long_line_is_refused() {
        let mut queue = Queue::new(10, Done::default());
        let long = Line { id: LineId { number: 1, digest: 0 }, text: None };
        let entry = queue.entry(long).unwrap().unwrap();
        assert!(matches!(entry, Entry::Refused(_, Refused { code: "line_too_long", .. })));
    }
}

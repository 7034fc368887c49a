//! The machine that cuts text into tokens, behind guards.
//!
//! It is a library that trusts its input: it panics on some files and texts, fills memory when a
//! normaliser expands, and stops splitting, without a word, when a regular expression overflows.
//! This is the only file that runs it; sizes are checked before, panics are caught.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{AddedToken, Tokenizer as Machine};

use super::error::TextError;

/// A million tokens of English, four times the longest common context.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// The normalised text is held with the origin of every byte: about 40 bytes per byte.
const MAX_NORMALISED_BYTES: u64 = 64 << 20;
/// The regular expressions look ahead after white space, remembering every character of the run:
/// beyond a million, the matcher gives up and leaves the rest of the text in one piece.
const MAX_WHITESPACE_RUN: usize = 900_000;

/// Words whose tokens each thread remembers. A thread forgets none of them as long as it lives, and
/// of one of 255 bytes it keeps 8 kB: with the library's own 10,000, random words made a server grow by
/// 80 MB for each of its threads. Ordinary text is cut no slower by what one could see.
const MAX_REMEMBERED_WORDS: usize = 512;

/// Cuts text into tokens.
pub(super) struct Segmenter {
    machine: Machine,
    max_text_bytes: usize,
}

impl Segmenter {
    /// Guards a machine that lengthens text by `growth` at most.
    pub(super) fn new(mut machine: Machine, growth: u64) -> Self {
        // The library lends its model to be read only, so a copy takes its place.
        let mut model = machine.get_model().clone();
        model.resize_cache(MAX_REMEMBERED_WORDS);
        machine.with_model(model);
        let max = usize::try_from(MAX_NORMALISED_BYTES / growth.max(1)).unwrap_or(usize::MAX);
        Self { machine, max_text_bytes: max.min(MAX_TEXT_BYTES) }
    }

    /// The ids of a text, with those that the machine itself adds around it if asked to.
    pub(super) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, TextError> {
        if text.len() > self.max_text_bytes {
            return Err(TextError::TextTooLong { bytes: text.len(), max: self.max_text_bytes });
        }
        if longest_whitespace_run(text) > MAX_WHITESPACE_RUN {
            return Err(TextError::Encode(format!(
                "more than {MAX_WHITESPACE_RUN} white-space characters in a row"
            )));
        }
        let encoding = guarded(|| self.machine.encode_fast(text, add_special_tokens));
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(TextError::Encode)
    }

    pub(super) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.machine.token_to_id(token)
    }

    pub(super) fn id_to_token(&self, id: u32) -> Option<String> {
        self.machine.id_to_token(id)
    }

    /// Every token and its id, in no order.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (String, u32)> {
        self.machine.get_vocab(true).into_iter()
    }

    /// Tokens that were added to the vocabulary, with their ids, in no order.
    pub(super) fn added_tokens(&self) -> impl Iterator<Item = (u32, AddedToken)> {
        self.machine.get_added_tokens_decoder().into_iter()
    }
}

/// Runs code of the machine: its errors and its panics both become a message.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    // Unwind safety: a machine is dropped after a panic while it is built, and shares no state that
    // encoding changes.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(message.unwrap_or("it panicked").to_owned())
        }
    }
}

fn longest_whitespace_run(text: &str) -> usize {
    let (mut run, mut longest) = (0, 0);
    for character in text.chars() {
        run = if character.is_whitespace() { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_messages() {
        assert_eq!(guarded(|| Ok(1)), Ok(1));
        assert_eq!(guarded::<()>(|| Err("broken".into())), Err("broken".to_owned()));
        assert_eq!(guarded::<()>(|| panic!("at {}", 3)), Err("at 3".to_owned()));
    }
}

//! Tokens to text, one token at a time.
//!
//! ```text
//! token      ▁He   llo   <0xE4> <0xBD> <0xA0>   ！
//! push       "He"  "llo"   ""     ""    "你"    "！"
//! pending     -     -      E4   E4 BD    -       -
//! ```
//!
//! Text comes out as soon as its characters are whole: at most three bytes wait, and a token costs
//! its own bytes, however long the stream. [`Tokenizer::decode`](super::Tokenizer::decode) is this
//! very machine run over all tokens, so the pieces of a stream always join to the whole.
//!
//! Where the bytes of a run of byte-fallback tokens are not UTF-8, the reference discards the whole
//! run; a stream has sent its good part already, so here only the bad bytes become U+FFFD.

use std::sync::Arc;

use super::decoder::Decoder;
use super::error::TextError;
use super::tokenizer::Inner;

/// Turns a stream of tokens into text, whole characters only.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Inner>,
    skip_special_tokens: bool,
    /// Whether no token has been decoded yet.
    is_first: bool,
    tail: Tail,
}

/// The end of the text so far.
#[derive(Clone, Debug)]
struct Tail {
    /// How many characters may still be dropped from the start of the text.
    num_to_strip: usize,
    /// The start of a character whose other bytes have not come yet, and room for the last of them.
    pending: [u8; 4],
    num_pending: usize,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Inner>, skip_special_tokens: bool) -> Self {
        let num_to_strip = tokenizer.decoder.strip_start.map_or(0, |(_, count)| count);
        Self {
            tokenizer,
            skip_special_tokens,
            is_first: true,
            tail: Tail { num_to_strip, pending: [0; 4], num_pending: 0 },
        }
    }

    /// The text that the token completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`]; the stream is as before and can go on.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        let mut text = String::new();
        self.push_into(id, &mut text)?;
        Ok(text)
    }

    /// [`push`](Self::push), appending to `text`.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_into(&mut self, id: u32, text: &mut String) -> Result<(), TextError> {
        let Inner { vocabulary, decoder, segmenter, .. } = &*self.tokenizer;
        let token = vocabulary.token(id)?;
        if token.is_special && self.skip_special_tokens {
            return Ok(());
        }
        if self.is_first && decoder.treats_first_token_apart() {
            let spelling = segmenter.id_to_token(id).unwrap_or_default();
            self.tail.push(&decoder.bytes_of(&spelling, true), decoder, text);
        } else {
            self.tail.push(token.bytes, decoder, text);
        }
        self.is_first = false;
        Ok(())
    }

    /// The end of the stream: what is left of an incomplete character, as U+FFFD.
    pub fn finish(mut self) -> String {
        let mut text = String::new();
        self.finish_into(&mut text);
        text
    }

    /// [`finish`](Self::finish), appending to `text`.
    pub(super) fn finish_into(&mut self, text: &mut String) {
        self.tail.break_off(&self.tokenizer.decoder, text);
    }
}

impl Tail {
    fn push(&mut self, mut bytes: &[u8], decoder: &Decoder, text: &mut String) {
        while self.num_pending > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            let mut pending = self.pending;
            pending[self.num_pending] = byte;
            match std::str::from_utf8(&pending[..=self.num_pending]) {
                Ok(character) => {
                    self.num_pending = 0;
                    self.push_str(character, decoder, text);
                }
                Err(error) if error.error_len().is_none() => {
                    self.pending = pending;
                    self.num_pending += 1;
                }
                Err(_) => {
                    // The byte belongs to what comes next.
                    self.break_off(decoder, text);
                    continue;
                }
            }
            bytes = rest;
        }
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push_str(chunk.valid(), decoder, text);
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(invalid) {
                self.pending[..invalid.len()].copy_from_slice(invalid);
                self.num_pending = invalid.len();
            } else {
                self.push_broken(invalid.len(), decoder, text);
            }
        }
    }

    /// Gives up on the character that is incomplete.
    fn break_off(&mut self, decoder: &Decoder, text: &mut String) {
        let num_bytes = std::mem::take(&mut self.num_pending);
        self.push_broken(num_bytes, decoder, text);
    }

    fn push_broken(&mut self, num_bytes: usize, decoder: &Decoder, text: &mut String) {
        let count = if decoder.replaces_each_byte() { num_bytes } else { num_bytes.min(1) };
        for _ in 0..count {
            self.push_str("\u{fffd}", decoder, text);
        }
    }

    fn push_str(&mut self, mut valid: &str, decoder: &Decoder, text: &mut String) {
        while self.num_to_strip > 0 && !valid.is_empty() {
            let content = decoder.strip_start.map(|(content, _)| content);
            match content.and_then(|content| valid.strip_prefix(content)) {
                Some(rest) => {
                    valid = rest;
                    self.num_to_strip -= 1;
                }
                None => self.num_to_strip = 0,
            }
        }
        text.push_str(valid);
    }
}

/// Whether more bytes could make these a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

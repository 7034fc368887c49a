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

use super::error::TextError;
use super::tokenizer::Inner;

/// Turns a stream of tokens into text, whole characters only.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Inner>,
    skip_special_tokens: bool,
    /// Whether no token has been decoded yet.
    is_first: bool,
    /// How many characters may still be dropped from the start of the text.
    num_to_strip: usize,
    /// The start of a character whose other bytes have not come yet.
    pending: Vec<u8>,
}

impl Detokenizer {
    pub(super) fn new(tokenizer: Arc<Inner>, skip_special_tokens: bool) -> Self {
        Self {
            num_to_strip: tokenizer.decoder.strip_start.map_or(0, |(_, count)| count),
            tokenizer,
            skip_special_tokens,
            is_first: true,
            pending: Vec::new(),
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
        let tokenizer = Arc::clone(&self.tokenizer);
        let token = tokenizer.vocabulary.token(id)?;
        if token.is_special && self.skip_special_tokens {
            return Ok(());
        }
        if self.is_first && tokenizer.decoder.treats_first_token_apart() {
            let spelling = tokenizer.segmenter.id_to_token(id).unwrap_or_default();
            self.push_bytes(&tokenizer.decoder.bytes_of(&spelling, true), text);
        } else {
            self.push_bytes(token.bytes, text);
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
        let num_bytes = std::mem::take(&mut self.pending).len();
        self.push_broken(num_bytes, text);
    }

    fn push_bytes(&mut self, bytes: &[u8], text: &mut String) {
        if self.pending.is_empty() {
            self.push_utf8(bytes, text);
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            self.push_utf8(&joined, text);
        }
    }

    fn push_utf8(&mut self, bytes: &[u8], text: &mut String) {
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push_str(chunk.valid(), text);
            let is_last = chunks.peek().is_none();
            if is_last && is_incomplete(chunk.invalid()) {
                self.pending = chunk.invalid().to_vec();
            } else {
                self.push_broken(chunk.invalid().len(), text);
            }
        }
    }

    fn push_broken(&mut self, num_bytes: usize, text: &mut String) {
        let replaces_each = self.tokenizer.decoder.replaces_each_byte();
        let count = if replaces_each { num_bytes } else { num_bytes.min(1) };
        for _ in 0..count {
            self.push_str("\u{fffd}", text);
        }
    }

    fn push_str(&mut self, mut valid: &str, text: &mut String) {
        while self.num_to_strip > 0 && !valid.is_empty() {
            let content = self.tokenizer.decoder.strip_start.map(|(content, _)| content);
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

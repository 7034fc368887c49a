//! The bytes of every token, by id.
//!
//! ```text
//! entries   [ absent | bytes 0..2 | bytes 2..7, special | bytes 7..8 ]   by id
//! bytes     [ H i Ġ w o r l ! ... ]                                     one after the other
//! ```
//!
//! Filled once from the token decoder, so that decoding a token is a copy of its bytes. It
//! deliberately does not know texts of tokens: looking up by text is the segmenter's.

use super::error::TextError;

/// Ids are indices of a table: this bounds the table, and real vocabularies stay far below it.
pub(super) const MAX_VOCAB_SIZE: usize = 1 << 24;
/// No token stands for more text; real ones stay below a thousand bytes.
const MAX_TOKEN_BYTES: usize = 1 << 16;

/// The bytes of every token, by id.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    start: u32,
    end: u32,
    is_present: bool,
    is_special: bool,
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    /// What it stands for, except where it is the first of a text.
    pub(super) bytes: &'a [u8],
    /// Whether it marks structure (such as the end of a turn) rather than being text.
    pub(super) is_special: bool,
}

impl Vocabulary {
    /// Adds a token. Ids may come in any order and leave holes.
    ///
    /// # Errors
    /// [`TextError::Invalid`] for an id or a token beyond every use, and for an id taken twice.
    pub(super) fn insert(
        &mut self,
        id: u32,
        bytes: &[u8],
        is_special: bool,
    ) -> Result<(), TextError> {
        let invalid = |problem: String| TextError::invalid(format!("token {id}"), problem);
        let index = id as usize;
        if index >= MAX_VOCAB_SIZE {
            return Err(invalid(format!("ids must be below {MAX_VOCAB_SIZE}")));
        }
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(invalid(format!(
                "stands for {} bytes, at most {MAX_TOKEN_BYTES} are allowed",
                bytes.len()
            )));
        }
        let start = u32::try_from(self.bytes.len());
        let end = u32::try_from(self.bytes.len() + bytes.len());
        let (Ok(start), Ok(end)) = (start, end) else {
            return Err(invalid("the vocabulary stands for more than 4 GiB of text".to_owned()));
        };
        if index >= self.entries.len() {
            self.entries.resize(index + 1, Entry::default());
        }
        if self.entries[index].is_present {
            return Err(invalid("two tokens have this id".to_owned()));
        }
        self.entries[index] = Entry { start, end, is_present: true, is_special };
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// One more than the highest id.
    pub(super) fn size(&self) -> usize {
        self.entries.len()
    }

    /// The token of that id.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] when there is none.
    pub(super) fn token(&self, id: u32) -> Result<Token<'_>, TextError> {
        match self.entries.get(id as usize) {
            Some(entry) if entry.is_present => Ok(Token {
                bytes: &self.bytes[entry.start as usize..entry.end as usize],
                is_special: entry.is_special,
            }),
            _ => Err(TextError::UnknownToken { id, vocab_size: self.size() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_leave_holes_but_not_repeat_or_be_huge() {
        let mut vocabulary = Vocabulary::default();
        vocabulary.insert(2, b"two", true).unwrap();
        vocabulary.insert(0, b"", false).unwrap();
        assert_eq!(vocabulary.size(), 3);
        assert_eq!(vocabulary.token(2).unwrap().bytes, b"two");
        assert!(vocabulary.token(2).unwrap().is_special);
        assert!(vocabulary.token(1).is_err());
        assert!(vocabulary.token(u32::MAX).is_err());
        assert!(vocabulary.insert(2, b"again", false).is_err());
        assert!(vocabulary.insert(u32::MAX, b"", false).is_err());
        assert!(vocabulary.insert(1, &vec![0; MAX_TOKEN_BYTES + 1], false).is_err());
    }
}

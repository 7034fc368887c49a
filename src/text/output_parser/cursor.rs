//! Reads the beginning of a text that is still being written.
//!
//! Every step says one of three things: here it is, it is something else, or more text is needed
//! to know. The last two end a run, which starts anew when there is more text: what is read this
//! way is short.

/// Why reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// The text may go on as expected.
    More,
    /// It is not what was expected.
    Other,
}

/// What has not been read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest }
    }

    pub(super) fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// The next character, which is not read.
    pub(super) fn peek(&self) -> Result<char, Halt> {
        self.rest.chars().next().ok_or(Halt::More)
    }

    /// Exactly this text.
    pub(super) fn literal(&mut self, literal: &str) -> Result<(), Halt> {
        if self.optional(literal)? { Ok(()) } else { Err(Halt::Other) }
    }

    /// This text, or nothing.
    pub(super) fn optional(&mut self, literal: &str) -> Result<bool, Halt> {
        if let Some(rest) = self.rest.strip_prefix(literal) {
            self.rest = rest;
            return Ok(true);
        }
        if literal.starts_with(self.rest) { Err(Halt::More) } else { Ok(false) }
    }

    /// White space and this text, or nothing at all.
    pub(super) fn optional_after_space(&mut self, literal: &str) -> Result<bool, Halt> {
        let before = self.rest;
        self.skip_space();
        let is_there = self.optional(literal)?;
        if !is_there {
            self.rest = before;
        }
        Ok(is_there)
    }

    /// What comes before this text, which is read too.
    pub(super) fn until(&mut self, literal: &str) -> Result<&'a str, Halt> {
        let (before, rest) = self.rest.split_once(literal).ok_or(Halt::More)?;
        self.rest = rest;
        Ok(before)
    }

    /// A string of JSON.
    pub(super) fn string(&mut self) -> Result<String, Halt> {
        if self.peek()? != '"' {
            return Err(Halt::Other);
        }
        let mut is_escaped = false;
        let end = self.rest[1..].find(|character| {
            let ends = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            ends
        });
        let (string, rest) = self.rest.split_at(end.ok_or(Halt::More)? + 2);
        self.rest = rest;
        serde_json::from_str(string).map_err(|_| Halt::Other)
    }

    /// The name of a function, which ends before another character.
    pub(super) fn name(&mut self) -> Result<&'a str, Halt> {
        let goes_on = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
        let end = self.rest.find(|c| !goes_on(c)).ok_or(Halt::More)?;
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if name.is_empty() { Err(Halt::Other) } else { Ok(name) }
    }
}

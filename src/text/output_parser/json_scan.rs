//! Finds where a JSON value ends, one character at a time.
//!
//! It looks at strings and brackets only: what else is wrong with the text is for its reader to
//! find. A bracket of the wrong kind closes as well as the right one.
//!
//! What this module deliberately does not do: parse.

/// The state within an object or a list.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonScan {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl JsonScan {
    /// Takes the next character; whether the value has ended with it. The first must open one.
    pub(super) fn push(&mut self, character: char) -> bool {
        if self.in_string {
            match character {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Writes a character that is about to be pushed. Models write line ends into strings as they
    /// are, which JSON forbids: they are escaped.
    pub(super) fn write(&self, character: char, out: &mut String) {
        match character {
            '\n' if self.in_string && !self.is_escaped => out.push_str("\\n"),
            '\r' if self.in_string && !self.is_escaped => out.push_str("\\r"),
            '\t' if self.in_string && !self.is_escaped => out.push_str("\\t"),
            _ => out.push(character),
        }
    }

    /// The text of a value as JSON can have it.
    pub(super) fn mended(text: &str) -> String {
        let mut scan = Self::default();
        let mut mended = String::with_capacity(text.len());
        for character in text.chars() {
            scan.write(character, &mut mended);
            scan.push(character);
        }
        mended
    }
}

//! Lets text through up to a marker.
//!
//! What may be the beginning of a marker waits, and so does the white space before it, which goes
//! with the marker: `Well.\n\n<tool_call>` is the text `Well.`.

/// What to do with the characters that have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing can be said yet.
    Waiting,
    /// This is text.
    Text(String),
    /// These are white space and a marker.
    Marker(String),
}

/// Looks for markers, none of which begins with another one or with white space.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    markers: &'static [&'static str],
    /// Is a marker as long as no text came before it.
    first: Option<&'static str>,
    /// White space and the beginning of a marker.
    held: String,
    num_space_bytes: usize,
}

impl Finder {
    pub(super) fn new(markers: &'static [&'static str], first: Option<&'static str>) -> Self {
        Self { markers, first, held: String::new(), num_space_bytes: 0 }
    }

    pub(super) fn push(&mut self, character: char) -> Found {
        self.held.push(character);
        if self.held.len() - character.len_utf8() == self.num_space_bytes
            && character.is_whitespace()
        {
            self.num_space_bytes = self.held.len();
            return Found::Waiting;
        }
        let mut num_text_bytes = 0;
        loop {
            let rest = &self.held[num_text_bytes..];
            // Only in the first round can there be so much white space that counting it costs.
            let space = match num_text_bytes {
                0 => self.num_space_bytes,
                _ => rest.len() - rest.trim_start().len(),
            };
            let marked = &rest[space..];
            let first = self.first.filter(|_| num_text_bytes == 0);
            let markers = || self.markers.iter().copied().chain(first);
            if markers().any(|marker| marker == marked) {
                // A marker can only be complete with the last character: all before it is text or
                // belongs to it, and text was let through when it came.
                self.num_space_bytes = 0;
                return Found::Marker(std::mem::take(&mut self.held));
            }
            if markers().any(|marker| marker.starts_with(marked)) {
                self.num_space_bytes = space;
                break;
            }
            let character = marked.chars().next().map_or(0, char::len_utf8);
            num_text_bytes += space + character;
        }
        if num_text_bytes == 0 {
            return Found::Waiting;
        }
        self.first = None;
        let rest = self.held.split_off(num_text_bytes);
        Found::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What is held back at the end.
    pub(super) fn finish(&mut self) -> String {
        self.num_space_bytes = 0;
        std::mem::take(&mut self.held)
    }
}

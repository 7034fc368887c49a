//! What the model thinks, apart from what it says.
//!
//! A thought is looked for where an answer begins. White space at its ends, and between it and the
//! answer, belongs to neither.

use super::finder::{Finder, Found};
use super::format::ReasoningFormat;
use super::piece::Pieces;

/// Parts an answer into thought and the rest.
#[derive(Clone, Debug)]
pub(super) struct ReasoningParser {
    format: ReasoningFormat,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// White space and perhaps the beginning of the marker that opens a thought.
    Start { held: String, is_open: bool },
    /// Within a thought; `has_begun` when it is more than white space.
    Inside { finder: Finder, has_begun: bool },
    /// White space between thought and answer.
    After,
    /// The answer.
    Past,
}

impl ReasoningParser {
    pub(super) fn new(format: ReasoningFormat, is_open: bool) -> Self {
        Self { format, state: State::Start { held: String::new(), is_open } }
    }

    /// Takes the next character; what turns out to be of the answer is appended to `answer`.
    pub(super) fn push(&mut self, character: char, out: &mut Pieces<'_>, answer: &mut String) {
        match &mut self.state {
            State::Start { held, is_open } => {
                let (open, _) = self.format.markers();
                held.push(character);
                let marker = held.trim_start();
                if marker == open {
                    self.begin("", out, answer);
                } else if !open.starts_with(marker) {
                    let held = std::mem::take(held);
                    if *is_open {
                        self.begin(&held, out, answer);
                    } else {
                        answer.push_str(&held);
                        self.state = State::Past;
                    }
                }
            }
            State::Inside { finder, has_begun } => match finder.push(character) {
                Found::Waiting => {}
                Found::Marker(_) => self.state = State::After,
                Found::Text(text) => {
                    out.reasoning(if *has_begun { &text } else { text.trim_start() });
                    *has_begun = true;
                }
            },
            State::After if character.is_whitespace() => {}
            State::After | State::Past => {
                self.state = State::Past;
                answer.push(character);
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Pieces<'_>, answer: &mut String) {
        match std::mem::replace(&mut self.state, State::Past) {
            State::Start { held, is_open: false } => answer.push_str(&held),
            State::Start { held, is_open: true } => out.reasoning(held.trim()),
            State::Inside { mut finder, has_begun } => {
                let held = finder.finish();
                out.reasoning(if has_begun { &held } else { held.trim_start() }.trim_end());
            }
            State::After | State::Past => {}
        }
    }

    fn begin(&mut self, text: &str, out: &mut Pieces<'_>, answer: &mut String) {
        let finder = Finder::new(self.format.markers().1, None);
        self.state = State::Inside { finder, has_begun: false };
        for character in text.chars() {
            self.push(character, out, answer);
        }
    }
}

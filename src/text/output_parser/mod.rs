//! A model's answer taken apart: what it thinks, what it says, and the tools that it calls.
//!
//! Models write all of that into one text, each family in its own way. A parser gets the text as
//! it is made and tells what it is, as early as it can be known.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`OutputFormat`] | how a model writes thoughts ([`ReasoningFormat`]) and calls ([`ToolFormat`]) |
//! | [`OutputParser`] | takes one answer apart |
//! | [`Piece`] | a piece of thought, text, or a call |
//! | [`RequiredCalls`] | which tools an answer must call; [`OutputFormat::grammar_of_calls`] is its grammar |
//!
//! ```text
//! text --chars--> ReasoningParser --answer--> ToolParser --> Piece, Piece, ..
//!                   `--> Reasoning              finder: Text .. marker
//!                                               syntax: head, tail of a call
//!                                               json_scan, tagged, python_call: its arguments
//! ```
//!
//! Parsers go one character at a time, so that it makes no difference how the text was cut.
//! Whatever does not follow the format is text: nothing is lost but the marks of calls and thoughts
//! and the white space around them. Arguments are sent as the model writes them, as JSON text.
//!
//! What this module deliberately does not do: it does not check arguments against a tool's schema.
//! A grammar does that while they are made.

mod calls;
mod cursor;
mod finder;
mod format;
mod grammar;
mod ids;
mod json_scan;
mod piece;
mod python_call;
mod reasoning;
mod syntax;
mod tagged;
#[cfg(test)]
mod tests;

use self::calls::ToolParser;
pub use self::format::{OutputFormat, ReasoningFormat, ToolFormat, UnknownFormat};
pub use self::grammar::{RequiredCalls, RequiredTool};
pub use self::piece::Piece;
use self::piece::Pieces;
use self::reasoning::ReasoningParser;
use super::conversation::ToolSpec;

/// Takes one answer apart, as it is made.
#[derive(Clone, Debug)]
pub struct OutputParser {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
}

impl OutputParser {
    /// The parser of an answer; [`ReasoningFormat::starts_in_reasoning`] tells of the prompt
    /// whether the answer begins within a thought. Calls get their ids from the seed, so choices
    /// of one request need seeds of their own.
    pub fn new(format: OutputFormat, starts_in_reasoning: bool, id_seed: u64) -> Self {
        Self {
            reasoning: format
                .reasoning
                .map(|format| ReasoningParser::new(format, starts_in_reasoning)),
            tools: format.tools.map(|format| ToolParser::new(format, id_seed)),
        }
    }

    /// The parser with the tools that may be called: where arguments are written without types,
    /// the schemas say which of them are not strings.
    #[must_use]
    pub fn with_tools(mut self, tools: &[ToolSpec]) -> Self {
        if let Some(parser) = &mut self.tools {
            parser.set_tools(tools);
        }
        self
    }

    /// Takes more of the answer, and appends what can be said of it now.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        let out = &mut Pieces::new(out);
        let Some(reasoning) = &mut self.reasoning else {
            answer(&mut self.tools, text, out);
            return;
        };
        let mut past = String::new();
        for character in text.chars() {
            reasoning.push(character, out, &mut past);
        }
        answer(&mut self.tools, &past, out);
    }

    /// The end of the answer: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        let out = &mut Pieces::new(out);
        if let Some(reasoning) = &mut self.reasoning {
            let mut past = String::new();
            reasoning.finish(out, &mut past);
            answer(&mut self.tools, &past, out);
        }
        if let Some(tools) = &mut self.tools {
            tools.finish(out);
        }
    }
}

fn answer(tools: &mut Option<ToolParser>, text: &str, out: &mut Pieces<'_>) {
    match tools {
        Some(tools) => tools.push_str(text, out),
        None => out.content(text),
    }
}

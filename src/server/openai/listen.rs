//! From a choice's text to what it says: thoughts, words, calls of tools.
//!
//! ```text
//! Listening (of a request) --listener(choice)--> Listener --hear(delta)--> pieces   streams
//!                          `--said(choice)---------------------------> Said         whole answers
//! ```
//!
//! | Rule | Why |
//! | --- | --- |
//! | without `include_reasoning`, thoughts are heard and not told | they are no part of the words |
//! | without `parallel_tool_calls`, the first call counts | the others were not asked for |
//! | reasoning tokens are counted one by one | a stream and a whole answer tell the same number |
//!
//! What this module deliberately does not do: it knows no format of calls and no dialect of answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::engine::{ChoiceDelta, ChoiceEnd, FinishReason};
use crate::text::output_parser::{OutputFormat, OutputParser, Piece};
use crate::text::{Detokenizer, Tokenizer, ToolSpec};

/// How the choices of one request are heard.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    pub(super) tokenizer: Tokenizer,
    pub(super) tools: Arc<[ToolSpec]>,
    pub(super) format: OutputFormat,
    pub(super) starts_in_reasoning: bool,
    pub(super) include_reasoning: bool,
    pub(super) parallel_tool_calls: bool,
}

impl Listening {
    /// For a choice that begins.
    pub(super) fn listener(&self) -> Listener {
        let parser = || {
            let seed = RandomState::new().hash_one(0);
            OutputParser::new(self.format, self.starts_in_reasoning, seed).with_tools(&self.tools)
        };
        let thought = self.format.reasoning.map(|_| ThoughtCount {
            detokenizer: self.tokenizer.detokenizer(false),
            parser: parser(),
            num_tokens: 0,
            has_thought: self.starts_in_reasoning,
        });
        Listener {
            parser: parser(),
            thought: thought.map_or(Thought::Over(0), |count| Thought::On(Box::new(count))),
            include_reasoning: self.include_reasoning,
            parallel_tool_calls: self.parallel_tool_calls,
            has_called: false,
        }
    }

    /// What a whole choice says.
    pub(super) fn said(&self, choice: &ChoiceDelta) -> Said {
        let mut listener = self.listener();
        let mut pieces = Vec::new();
        listener.hear(choice, &mut pieces);
        listener.finish(&mut pieces);
        let mut said = Said { reasoning_tokens: listener.reasoning_tokens(), ..Said::default() };
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => said.reasoning.push_str(&text),
                Piece::Content(text) => said.content.push_str(&text),
                Piece::ToolCall { id, name, .. } => {
                    said.calls.push(SaidCall { id, name, arguments: String::new() });
                }
                Piece::Arguments { index, json } => {
                    if let Some(call) = said.calls.get_mut(index) {
                        call.arguments.push_str(&json);
                    }
                }
            }
        }
        said
    }

    /// Whether thoughts can be told apart, and so counted.
    pub(super) fn hears_reasoning(&self) -> bool {
        self.format.reasoning.is_some()
    }
}

/// What a choice says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reasoning: String,
    pub(super) content: String,
    pub(super) calls: Vec<SaidCall>,
    pub(super) reasoning_tokens: usize,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SaidCall {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON text, if the model wrote such.
    pub(super) arguments: String,
}

/// Hears one choice.
#[derive(Debug)]
pub(super) struct Listener {
    parser: OutputParser,
    thought: Thought,
    include_reasoning: bool,
    parallel_tool_calls: bool,
    has_called: bool,
}

impl Listener {
    /// More of the choice.
    pub(super) fn hear(&mut self, delta: &ChoiceDelta, out: &mut Vec<Piece>) {
        self.thought.count(&delta.token_ids);
        let begin = out.len();
        self.parser.push(&delta.text, out);
        self.filter(begin, out);
    }

    /// The choice has ended: what was held back comes out.
    pub(super) fn finish(&mut self, out: &mut Vec<Piece>) {
        let begin = out.len();
        self.parser.finish(out);
        self.filter(begin, out);
    }

    fn filter(&mut self, begin: usize, out: &mut Vec<Piece>) {
        let fresh = out.split_off(begin);
        out.extend(fresh.into_iter().filter(|piece| match piece {
            Piece::Reasoning(_) => self.include_reasoning,
            Piece::Content(_) => true,
            Piece::ToolCall { index, .. } | Piece::Arguments { index, .. } => {
                self.has_called = true;
                self.parallel_tool_calls || *index == 0
            }
        }));
    }

    /// Whether there was a call.
    pub(super) fn has_called(&self) -> bool {
        self.has_called
    }

    /// Tokens of thought so far.
    pub(super) fn reasoning_tokens(&self) -> usize {
        match &self.thought {
            Thought::On(count) if count.has_thought => count.num_tokens,
            Thought::On(_) => 0,
            Thought::Over(num_tokens) => *num_tokens,
        }
    }
}

/// How far the thinking is.
#[derive(Debug)]
enum Thought {
    /// No word was said yet.
    On(Box<ThoughtCount>),
    /// It took so many tokens.
    Over(usize),
}

/// Counts tokens until the first word. Its parser sees one token at a time, however many come
/// together.
#[derive(Debug)]
struct ThoughtCount {
    detokenizer: Detokenizer,
    parser: OutputParser,
    num_tokens: usize,
    has_thought: bool,
}

impl Thought {
    fn count(&mut self, token_ids: &[u32]) {
        let Self::On(count) = self else { return };
        for &token_id in token_ids {
            if count.is_over_with(token_id) {
                let num_tokens = if count.has_thought { count.num_tokens } else { 0 };
                *self = Self::Over(num_tokens);
                return;
            }
        }
    }
}

impl ThoughtCount {
    /// Takes a token; whether it is a word's.
    fn is_over_with(&mut self, token_id: u32) -> bool {
        // What the tokenizer has no token for has no text.
        let text = self.detokenizer.push(token_id).unwrap_or_default();
        let mut pieces = Vec::new();
        self.parser.push(&text, &mut pieces);
        self.has_thought |= pieces.iter().any(|piece| matches!(piece, Piece::Reasoning(_)));
        if pieces.iter().any(|piece| !matches!(piece, Piece::Reasoning(_))) {
            return true;
        }
        self.num_tokens += 1;
        false
    }
}

/// The word for an end: calls count for more than a stop, and less than a length.
pub(super) fn finish_reason(end: &ChoiceEnd, has_called: bool) -> &'static str {
    match end.reason {
        FinishReason::Stop if has_called => "tool_calls",
        reason => reason.as_str(),
    }
}

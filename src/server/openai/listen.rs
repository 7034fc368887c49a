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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;
    use crate::text::output_parser::{ReasoningFormat, ToolFormat};

    const TEXT: &str = "<think>hm</think>well\n<tool_call>\n{\"name\": \"f\", \"arguments\": \
                        {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": \
                        {}}\n</tool_call>";

    fn listening() -> Listening {
        let (tools, reasoning) = (Some(ToolFormat::Hermes), Some(ReasoningFormat::Qwen3));
        Listening {
            tokenizer: fake::tokenizer(),
            tools: Arc::default(),
            format: OutputFormat { tools, reasoning },
            starts_in_reasoning: false,
            include_reasoning: true,
            parallel_tool_calls: true,
        }
    }

    /// A token of these tests' tokenizer is a byte.
    fn delta(text: &str) -> ChoiceDelta {
        let token_ids = text.bytes().map(u32::from).collect();
        ChoiceDelta { text: text.to_owned(), token_ids, ..ChoiceDelta::default() }
    }

    #[test]
    fn thoughts_words_and_calls_are_told_apart_and_counted() {
        let said = listening().said(&delta(TEXT));
        assert_eq!((said.reasoning.as_str(), said.content.as_str()), ("hm", "well"));
        assert_eq!(said.reasoning_tokens, "<think>hm</think>".len());
        let calls: Vec<_> =
            said.calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
        assert_eq!(calls, [("f", r#"{"a": 1}"#), ("g", "{}")]);
        assert_ne!(said.calls[0].id, said.calls[1].id);
        assert_eq!(listening().said(&delta("well")).reasoning_tokens, 0);
    }

    #[test]
    fn a_stream_counts_and_says_the_same_however_it_is_cut() {
        for size in 1..TEXT.len() {
            let mut listener = listening().listener();
            let mut pieces = Vec::new();
            for begin in (0..TEXT.len()).step_by(size) {
                let end = (begin + size).min(TEXT.len());
                listener.hear(&delta(&TEXT[begin..end]), &mut pieces);
            }
            listener.finish(&mut pieces);
            assert_eq!(listener.reasoning_tokens(), "<think>hm</think>".len(), "{size}");
            assert!(listener.has_called());
            let arguments = |of: usize| {
                let more = pieces.iter().filter_map(move |piece| match piece {
                    Piece::Arguments { index, json } if *index == of => Some(json.as_str()),
                    _ => None,
                });
                more.collect::<String>()
            };
            assert_eq!((arguments(0), arguments(1)), (r#"{"a": 1}"#.into(), "{}".into()), "{size}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_told() {
        let quiet =
            Listening { include_reasoning: false, parallel_tool_calls: false, ..listening() };
        let said = quiet.said(&delta(TEXT));
        assert_eq!((said.reasoning.as_str(), said.content.as_str()), ("", "well"));
        assert_eq!((said.calls.len(), said.calls[0].name.as_str()), (1, "f"));
        assert!(said.reasoning_tokens > 0, "they were generated all the same");
    }

    #[test]
    fn calls_count_for_more_than_a_stop_and_less_than_a_length() {
        let end = |reason| ChoiceEnd { reason, stop: None, cumulative_logprob: None };
        assert_eq!(finish_reason(&end(FinishReason::Stop), true), "tool_calls");
        assert_eq!(finish_reason(&end(FinishReason::Stop), false), "stop");
        assert_eq!(finish_reason(&end(FinishReason::Length), true), "length");
    }
}

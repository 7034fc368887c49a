//! The message around its blocks, whole and as the first and last events of a stream.
//!
//! ```text
//! message_start  { events of blocks }  message_delta  message_stop
//!                 at any place: error
//! ```
//!
//! | Ended by | `stop_reason` |
//! | --- | --- |
//! | `max_tokens`, the end of the context | `max_tokens` |
//! | a call | `tool_use` |
//! | one of `stop_sequences` | `stop_sequence` |
//! | anything else | `end_turn` |
//!
//! As this dialect counts, `input_tokens` are without those that were cached. How many these are
//! is known at the end: `message_start` counts them all as input, `message_delta` is exact.
//!
//! What this module deliberately does not do: blocks; see [`blocks`](super::blocks).

use serde_json::{Value, json};

use super::blocks::{BlockList, add};
use super::errors;
use crate::engine::{ChoiceDelta, ChoiceEnd, FinishReason, StopMatch};
use crate::server::error::ApiError;
use crate::server::openai::generate::{Answer, Head, OfPrompt, Shape};
use crate::server::openai::listen::{Listener, Listening};
use crate::server::openai::types::TokenUsage;
use crate::server::sse::EventText;

/// The shape of a message.
pub(in crate::server::openai) struct Shaped {
    head: Head,
    num_prompt_tokens: usize,
    listener: Listener,
    blocks: BlockList,
    stop: Stop,
}

/// Why a message ended: nothing is known of one that goes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stop {
    reason: Option<&'static str>,
    sequence: Option<String>,
}

impl Stop {
    fn of(end: &ChoiceEnd, has_called: bool) -> Self {
        let because = |reason| Self { reason: Some(reason), sequence: None };
        match (end.reason, &end.stop) {
            (FinishReason::Length, _) => because("max_tokens"),
            _ if has_called => because("tool_use"),
            (FinishReason::Stop, Some(StopMatch::Text(text))) => {
                Self { sequence: Some(text.clone()), ..because("stop_sequence") }
            }
            (FinishReason::Stop, _) => because("end_turn"),
        }
    }
}

impl Shaped {
    pub(super) fn new(head: Head, num_prompt_tokens: usize, listening: &Listening) -> Self {
        let (listener, blocks, stop) =
            (listening.listener(), BlockList::default(), Stop::default());
        Self { head, num_prompt_tokens, listener, blocks, stop }
    }

    /// The message as far as it is.
    fn message(&self, usage: TokenUsage) -> Value {
        json!({
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": self.blocks.blocks(),
            "stop_reason": self.stop.reason,
            "stop_sequence": self.stop.sequence,
            "usage": usage_object(usage),
        })
    }

    fn close(&mut self, end: Option<&ChoiceEnd>, out: &mut EventText) {
        let mut pieces = Vec::new();
        self.listener.finish(&mut pieces);
        self.blocks.push(pieces, out);
        self.blocks.finish(out);
        self.stop = end.map(|end| Stop::of(end, self.listener.has_called())).unwrap_or_default();
    }

    fn hear(&mut self, delta: &ChoiceDelta, out: &mut EventText) {
        let mut pieces = Vec::new();
        self.listener.hear(delta, &mut pieces);
        self.blocks.push(pieces, out);
    }
}

fn usage_object(usage: TokenUsage) -> Value {
    let cached = usage.prompt_tokens_details.cached_tokens;
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        // Nothing is written for later that would cost more: the cache is the server's own.
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}

impl Shape for Shaped {
    fn begin(&mut self, out: &mut EventText) {
        let usage = TokenUsage { prompt_tokens: self.num_prompt_tokens, ..TokenUsage::default() };
        add(out, "message_start", json!({"message": self.message(usage)}));
    }

    fn opening(&mut self, _choice: usize, _of_prompt: &OfPrompt, _out: &mut EventText) {}

    fn delta(&mut self, delta: &ChoiceDelta, out: &mut EventText) {
        self.hear(delta, out);
    }

    fn finish(&mut self, _choice: usize, end: &ChoiceEnd, out: &mut EventText) {
        self.close(Some(end), out);
    }

    fn end(&mut self, usage: TokenUsage, out: &mut EventText) {
        let Stop { reason, sequence } = &self.stop;
        let delta = json!({"delta": {"stop_reason": reason, "stop_sequence": sequence},
                           "usage": usage_object(usage)});
        add(out, "message_delta", delta);
        add(out, "message_stop", json!({}));
    }

    fn failed(&self, error: &ApiError, out: &mut EventText) {
        out.named("error", &errors::object(error, None));
    }

    fn whole(&mut self, answer: &Answer) -> Vec<u8> {
        // Nobody reads the events of a message that is not streamed.
        let mut unread = EventText::default();
        if let Some(choice) = answer.choices.first() {
            self.hear(choice, &mut unread);
            self.close(choice.end.as_ref(), &mut unread);
        }
        self.message(answer.usage).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_reason() {
        let text = || Some(StopMatch::Text("x".into()));
        for (reason, stop, has_called, expected, sequence) in [
            (FinishReason::Length, None, false, "max_tokens", None),
            (FinishReason::Length, None, true, "max_tokens", None),
            (FinishReason::Stop, None, true, "tool_use", None),
            (FinishReason::Stop, None, false, "end_turn", None),
            (FinishReason::Stop, Some(StopMatch::Token(7)), false, "end_turn", None),
            (FinishReason::Stop, text(), false, "stop_sequence", Some("x".to_owned())),
        ] {
            let end = ChoiceEnd { reason, stop, cumulative_logprob: None };
            let stop = Stop { reason: Some(expected), sequence };
            assert_eq!(Stop::of(&end, has_called), stop, "{end:?}");
        }
    }

    #[test]
    fn what_was_cached_is_no_input() {
        let mut usage =
            TokenUsage { prompt_tokens: 10, completion_tokens: 3, ..TokenUsage::default() };
        usage.prompt_tokens_details.cached_tokens = 8;
        let object = usage_object(usage);
        assert_eq!((&object["input_tokens"], &object["output_tokens"]), (&json!(2), &json!(3)));
        assert_eq!(object["cache_read_input_tokens"], 8);
    }
}

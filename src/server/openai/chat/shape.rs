//! How the answers of `/v1/chat/completions` look.
//!
//! ```text
//! {"delta": {"role": "assistant", "content": ""}}                              opening
//! {"delta": {"reasoning_content": "hm"}}                                       a piece each
//! {"delta": {"content": "well"}}
//! {"delta": {"tool_calls": [{"index": 0, "id", "type", "function": {"name", "arguments": ""}}]}}
//! {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}
//! {"delta": {}, "finish_reason": "tool_calls"}                                 finish
//! {"choices": [], "usage": {..}}                                               where asked for
//! [DONE]
//! ```
//!
//! Log probabilities and token ids come with the first piece of the tokens' text, or with an empty
//! one while their text is held back.

use super::super::generate::{Answer, Frame, Head, OfPrompt, Shape};
use super::super::listen::{Listener, Listening, SaidCall, finish_reason};
use super::super::logprobs::{ChatLogprobs, PromptLogprobs, TokenNames};
use super::super::types::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion,
    CompletionTokensDetails, Delta, FunctionObject, StopReason, TokenIdKeys, TokenUsage,
    ToolCallObject, UsageKey,
};
use crate::engine::{ChoiceDelta, ChoiceEnd, TokenLogprobs};
use crate::server::sse::EventText;
use crate::text::output_parser::Piece;

/// The shape of a chat completion.
pub(in crate::server::openai) struct Shaped {
    pub(super) head: Head,
    pub(super) names: TokenNames,
    pub(super) service_tier: Option<&'static str>,
    /// Whether calls are told in the deprecated form.
    pub(super) is_deprecated: bool,
    pub(super) has_logprobs: bool,
    /// How many of the likeliest tokens are told for each token of the prompt.
    pub(super) prompt_logprobs: Option<usize>,
    /// The prompt, where it and all token ids are told.
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) listening: Listening,
    /// One for each choice of a stream.
    pub(super) listeners: Vec<Listener>,
    /// Of a stream whose chunks differ in their choices only.
    pub(super) frame: Option<Frame>,
}

impl Shaped {
    fn chunk<'a>(&'a self, choices: Vec<ChatChunkChoice<'a>>, usage: UsageKey) -> ChatChunk<'a> {
        ChatChunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            system_fingerprint: &self.head.fingerprint,
            service_tier: self.service_tier,
            usage,
            prompt_token_ids: None,
        }
    }

    fn choice(&self, choice: ChatChunkChoice<'_>, out: &mut EventText) {
        match &self.frame {
            Some(frame) => frame.chunk(&choice, out),
            None => out.json(&self.chunk(vec![choice], self.head.usage_so_far())),
        }
    }

    /// The pieces of some tokens, of which there may be none.
    fn pieces(&self, delta: &ChoiceDelta, pieces: Vec<Piece>, out: &mut EventText) {
        let mut logprobs = self.logprobs(&delta.logprobs).filter(|_| !delta.logprobs.is_empty());
        let returns_ids = self.prompt_token_ids.is_some() && !delta.token_ids.is_empty();
        let mut token_ids = returns_ids.then_some(delta.token_ids.as_slice());
        let mut deltas: Vec<Delta> = pieces.into_iter().map(|piece| self.delta_of(piece)).collect();
        if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
        }
        for said in deltas {
            let choice = ChatChunkChoice {
                index: delta.index,
                delta: said,
                logprobs: logprobs.take(),
                ids: TokenIdKeys { token_ids: token_ids.take(), ..TokenIdKeys::default() },
                ..ChatChunkChoice::default()
            };
            self.choice(choice, out);
        }
    }

    fn delta_of(&self, piece: Piece) -> Delta {
        let empty = Delta::default();
        let (index, id, name, arguments) = match piece {
            Piece::Reasoning(text) => return Delta { reasoning_content: Some(text), ..empty },
            Piece::Content(text) => return Delta { content: Some(text), ..empty },
            Piece::ToolCall { index, id, name } => (index, Some(id), Some(name), String::new()),
            Piece::Arguments { index, json } => (index, None, None, json),
        };
        let function = FunctionObject { name, arguments };
        if self.is_deprecated {
            return Delta { function_call: Some(function), ..empty };
        }
        let kind = id.is_some().then_some("function");
        let call = ToolCallObject { index: Some(index), id, kind, function };
        Delta { tool_calls: vec![call], ..empty }
    }

    fn whole_choice<'a>(
        &self,
        choice: &'a ChoiceDelta,
        reasoning_tokens: &mut usize,
    ) -> ChatChoice<'a> {
        let end = choice.end.as_ref();
        let said = self.listening.said(choice);
        *reasoning_tokens += said.reasoning_tokens;
        let has_called = !said.calls.is_empty();
        let has_text = !said.content.is_empty() || !has_called;
        let mut message = AssistantMessage {
            role: "assistant",
            content: has_text.then_some(said.content),
            refusal: (),
            reasoning_content: Some(said.reasoning).filter(|text| !text.is_empty()),
            tool_calls: Vec::new(),
            function_call: None,
        };
        let mut calls = said.calls.into_iter();
        if self.is_deprecated {
            message.function_call = calls.next().map(|call| call_object(call).function);
        } else {
            message.tool_calls = calls.map(call_object).collect();
        }
        let token_ids = self.prompt_token_ids.is_some().then_some(choice.token_ids.as_slice());
        ChatChoice {
            index: choice.index,
            message,
            logprobs: self.logprobs(&choice.logprobs),
            finish_reason: end.map(|end| self.reason(end, has_called)),
            stop_reason: end.and_then(StopReason::of),
            ids: TokenIdKeys { token_ids, ..TokenIdKeys::default() },
        }
    }

    fn reason(&self, end: &ChoiceEnd, has_called: bool) -> &'static str {
        match finish_reason(end, has_called) {
            "tool_calls" if self.is_deprecated => "function_call",
            reason => reason,
        }
    }

    fn logprobs(&self, logprobs: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        self.has_logprobs.then(|| ChatLogprobs::new(&self.names, logprobs))
    }

    fn counted(&self, usage: TokenUsage, reasoning_tokens: usize) -> TokenUsage {
        let details = CompletionTokensDetails { reasoning_tokens };
        let completion_tokens_details = self.listening.hears_reasoning().then_some(details);
        TokenUsage { completion_tokens_details, ..usage }
    }
}

fn call_object(call: SaidCall) -> ToolCallObject {
    let function = FunctionObject { name: Some(call.name), arguments: call.arguments };
    ToolCallObject { index: None, id: Some(call.id), kind: Some("function"), function }
}

impl Shape for Shaped {
    fn begin(&mut self, _out: &mut EventText) {
        self.frame = self.head.frame(|usage| self.chunk(Vec::new(), usage).to_json());
    }

    fn opening(&mut self, index: usize, _of_prompt: &OfPrompt, out: &mut EventText) {
        let delta =
            Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
        let choice = ChatChunkChoice { index, delta, ..ChatChunkChoice::default() };
        let prompt_token_ids = self.prompt_token_ids.as_deref();
        let chunk = self.chunk(vec![choice], self.head.usage_so_far());
        out.json(&ChatChunk { prompt_token_ids, ..chunk });
    }

    fn delta(&mut self, delta: &ChoiceDelta, out: &mut EventText) {
        self.head.count(delta);
        let mut pieces = Vec::new();
        self.listeners[delta.index].hear(delta, &mut pieces);
        self.pieces(delta, pieces, out);
    }

    fn finish(&mut self, index: usize, end: &ChoiceEnd, out: &mut EventText) {
        let mut pieces = Vec::new();
        self.listeners[index].finish(&mut pieces);
        self.pieces(&ChoiceDelta { index, ..ChoiceDelta::default() }, pieces, out);
        let choice = ChatChunkChoice {
            index,
            finish_reason: Some(self.reason(end, self.listeners[index].has_called())),
            stop_reason: StopReason::of(end),
            ..ChatChunkChoice::default()
        };
        self.choice(choice, out);
    }

    fn end(&mut self, usage: TokenUsage, out: &mut EventText) {
        if self.head.has_usage() {
            let reasoning = self.listeners.iter().map(Listener::reasoning_tokens).sum();
            out.json(&self.chunk(Vec::new(), UsageKey::Of(self.counted(usage, reasoning))));
        }
        out.done();
    }

    fn whole(&mut self, answer: &Answer) -> Vec<u8> {
        let of_prompt = answer.of_prompts.first().and_then(Option::as_deref);
        let prompt_logprobs = self.prompt_logprobs.zip(of_prompt).map(|(num_top, logprobs)| {
            PromptLogprobs::new(&self.names.tokenizer, logprobs, num_top)
        });
        let mut reasoning_tokens = 0;
        let choices = answer
            .choices
            .iter()
            .map(|choice| self.whole_choice(choice, &mut reasoning_tokens))
            .collect();
        let completion = ChatCompletion {
            id: &self.head.id,
            object: "chat.completion",
            created: self.head.created,
            model: &self.head.model,
            choices,
            system_fingerprint: &self.head.fingerprint,
            service_tier: self.service_tier,
            usage: self.counted(answer.usage, reasoning_tokens),
            prompt_logprobs,
            prompt_token_ids: self.prompt_token_ids.as_deref(),
        };
        completion.to_json()
    }
}

//! What a chat template is given: who said what, which tools there are, and what else is in scope.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`ChatMessage`] | one turn: its role, its text, the tools that it calls |
//! | [`ToolCall`] | a function and what it is called with |
//! | [`ToolSpec`] | a function that the model may call |
//! | [`Conversation`] | all of that, and how the prompt is to end |
//!
//! ```text
//! message  {"role", "content", "reasoning_content"?, "reasoning"?, "thinking"?, "tool_calls"?,
//!           "tool_call_id"?, "name"?}
//! call     {"id", "type": "function", "function": {"name", "arguments": {..}}}
//! tool     {"type": "function", "function": {"name", "description"?, "parameters"?}}
//! ```
//!
//! The keys and their order are those that the reference (Transformers) hands to templates. What a
//! message does not have is not there; but a template that asks whether `content` is none, as some
//! do that were made before the reference dropped such keys, is given none.
//!
//! What this module deliberately does not do: it knows no dialect of HTTP. Whoever reads requests
//! converts them to these types.

use std::sync::LazyLock;

use minijinja::value::{Serde, Value};
use serde_json::{Map, Value as Json};

/// The names by which templates ask for what a model thought.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What they say; `None` where a message only calls tools.
    pub content: Option<String>,
    /// What the model thought before it spoke.
    pub reasoning_content: Option<String>,
    /// The tools that the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// Which user, or which tool, speaks.
    pub name: Option<String>,
}

impl ChatMessage {
    /// What somebody says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), ..Self::default() }
    }

    /// As a template sees it; with `none_for_no_content` there always is a `content`.
    pub(super) fn to_value(&self, none_for_no_content: bool) -> Value {
        let mut pairs = vec![("role", Value::from(&*self.role))];
        if self.content.is_some() || none_for_no_content {
            pairs.push(("content", Value::from(self.content.as_deref())));
        }
        if let Some(reasoning) = &self.reasoning_content {
            pairs.extend(REASONING_KEYS.map(|key| (key, Value::from(&**reasoning))));
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(ToolCall::to_value);
            pairs.push(("tool_calls", calls.collect()));
        }
        let rest = [("tool_call_id", &self.tool_call_id), ("name", &self.name)];
        pairs.extend(
            rest.into_iter().filter_map(|(key, text)| Some((key, text.as_deref()?.into()))),
        );
        Value::from_pairs(pairs)
    }
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// By which its answer names it.
    pub id: String,
    /// The function.
    pub name: String,
    /// What it is called with: an object, as a rule. Templates write it out as JSON.
    pub arguments: Json,
}

impl ToolCall {
    fn to_value(&self) -> Value {
        let function = Value::from_pairs([
            ("name", Value::from(&*self.name)),
            ("arguments", Value::from(Serde(&self.arguments))),
        ]);
        Value::from_pairs([
            ("id", Value::from(&*self.id)),
            ("type", Value::from("function")),
            ("function", function),
        ])
    }
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolSpec {
    /// By which the model calls it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON schema of its arguments; null when it was not said.
    pub parameters: Json,
    /// Whether the arguments have to follow the schema.
    pub strict: bool,
}

impl ToolSpec {
    pub(super) fn to_value(&self) -> Value {
        let mut function = vec![("name", Value::from(&*self.name))];
        if let Some(description) = &self.description {
            function.push(("description", Value::from(&**description)));
        }
        if !self.parameters.is_null() {
            function.push(("parameters", Value::from(Serde(&self.parameters))));
        }
        Value::from_pairs([
            ("type", Value::from("function")),
            ("function", Value::from_pairs(function)),
        ])
    }
}

static NO_KWARGS: LazyLock<Map<String, Json>> = LazyLock::new(Map::new);

/// A conversation and how its prompt is to end.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// The turns so far.
    pub messages: &'a [ChatMessage],
    /// What the model may call; templates see `none` for no tools.
    pub tools: &'a [ToolSpec],
    /// What the model may quote, usually with `title` and `text`; `none` likewise.
    pub documents: &'a [Json],
    /// Whether to end with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether to end within the last message, for the model to go on with it.
    pub continue_final_message: bool,
    /// Further names in scope, such as `enable_thinking`.
    pub kwargs: &'a Map<String, Json>,
}

impl<'a> Conversation<'a> {
    /// A conversation that the assistant is to answer, with no tools.
    pub fn new(messages: &'a [ChatMessage]) -> Self {
        Self {
            messages,
            tools: &[],
            documents: &[],
            add_generation_prompt: true,
            continue_final_message: false,
            kwargs: &NO_KWARGS,
        }
    }
}

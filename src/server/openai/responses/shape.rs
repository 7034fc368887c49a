//! The response around its items, whole and as the first and last events of a stream.
//!
//! ```text
//! response.created  response.in_progress  { events of items }  response.completed
//!                                                              response.incomplete   max_output_tokens
//!                                                              response.failed
//! ```
//!
//! What this module deliberately does not do: items; see [`assembly`](super::assembly).

use serde_json::{Value, json};

use super::assembly::Assembly;
use super::requests::ResponsesRequest;
use super::store::Stored;
use crate::engine::{ChoiceDelta, ChoiceEnd, FinishReason, SamplingParams, TokenLogprobs};
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::server::openai::chat::service_tier;
use crate::server::openai::generate::{Answer, Head, OfPrompt, Shape};
use crate::server::openai::listen::{Listener, Listening};
use crate::server::openai::logprobs::{ChatLogprobs, TokenNames};
use crate::server::openai::types::TokenUsage;
use crate::server::sse::EventText;
use crate::text::ChatMessage;

/// What a response repeats of its request.
#[derive(Debug)]
pub(super) struct Echo {
    pub(super) parallel_tool_calls: bool,
    /// Keys of the response object.
    fields: Value,
}

impl Echo {
    /// Of a request from which nothing was taken yet.
    pub(super) fn new(request: &mut ResponsesRequest) -> Result<Self, ApiError> {
        let value = |json: Option<&super::Json>, default: Value| {
            json.map_or(default, |json| json.0.clone())
        };
        let tool = |tool: &super::FunctionTool| {
            json!({"type": "function", "name": tool.name, "description": tool.description,
                   "parameters": value(tool.parameters.as_ref(), Value::Null),
                   "strict": tool.strict.unwrap_or(false)})
        };
        let tools: Vec<Value> = request.tools.iter().flatten().map(tool).collect();
        let parallel_tool_calls = request.parallel_tool_calls.unwrap_or(true);
        let format = request.text.as_ref().and_then(|text| text.format.as_ref());
        let format = format.map_or_else(|| json!({"type": "text"}), text_format);
        let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref());
        let fields = json!({
            "background": false,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": null,
            "metadata": value(request.metadata.as_ref(), json!({})),
            "parallel_tool_calls": parallel_tool_calls,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": effort, "summary": null},
            "service_tier": service_tier(request.service_tier.as_deref())?.unwrap_or("default"),
            "store": request.store.unwrap_or(true),
            "text": {"format": format},
            "tool_choice": value(request.tool_choice.as_ref(), json!("auto")),
            "tools": tools,
            "top_logprobs": request.top_logprobs.unwrap_or(0),
            "truncation": "disabled",
            "user": request.template.sampling.user,
        });
        Ok(Self { parallel_tool_calls, fields })
    }

    /// What was not said has been decided by now.
    pub(super) fn sampled_with(&mut self, params: &SamplingParams) {
        // The shortest text that means the number, rather than all digits of its wider form.
        let number = |number: f32| json!(number.to_string().parse::<f64>().unwrap_or_default());
        self.fields["temperature"] = number(params.temperature);
        self.fields["top_p"] = number(params.top_p);
        self.fields["presence_penalty"] = number(params.presence_penalty);
        self.fields["frequency_penalty"] = number(params.frequency_penalty);
    }
}

fn text_format(format: &super::TextFormat) -> Value {
    let mut object = json!({"type": format.kind});
    if let Some(schema) = &format.schema {
        object["name"] = json!(format.name);
        object["schema"] = schema.0.clone();
        object["strict"] = json!(format.strict.unwrap_or(false));
    }
    object
}

/// The shape of a response.
pub(in crate::server::openai) struct Shaped {
    head: Head,
    echo: Echo,
    names: TokenNames,
    has_logprobs: bool,
    listener: Listener,
    assembly: Assembly,
    is_incomplete: bool,
    /// Where the response is held, and the conversation before it.
    store: Option<(ServerState, Vec<ChatMessage>)>,
}

impl Shaped {
    pub(super) fn new(
        head: Head,
        echo: Echo,
        names: TokenNames,
        has_logprobs: bool,
        listening: &Listening,
        store: Option<(ServerState, Vec<ChatMessage>)>,
    ) -> Self {
        let listener = listening.listener();
        let assembly = Assembly::new(head.id.trim_start_matches("resp_").to_owned());
        let is_incomplete = false;
        Self { head, echo, names, has_logprobs, listener, assembly, is_incomplete, store }
    }

    /// The response object.
    fn response(&self, status: &str, usage: Option<Value>, error: Value) -> Value {
        let mut response = json!({
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": error,
            "incomplete_details": null,
            "model": self.head.model,
            "output": self.assembly.items(),
        });
        if status == "incomplete" {
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        if let (Value::Object(response), Value::Object(fields)) = (&mut response, &self.echo.fields)
        {
            response.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        response["usage"] = usage.unwrap_or_default();
        response
    }

    /// The response at its end, which is held from then on where it is to be.
    fn ended(&mut self, usage: TokenUsage) -> (&'static str, Value) {
        let status = if self.is_incomplete { "incomplete" } else { "completed" };
        let usage = json!({
            "input_tokens": usage.prompt_tokens,
            // Nothing is written for later that would cost more: the cache is the server's own.
            "input_tokens_details": {
                "cached_tokens": usage.prompt_tokens_details.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.listener.reasoning_tokens()},
            "total_tokens": usage.total_tokens,
        });
        let response = self.response(status, Some(usage), Value::Null);
        if let Some((state, mut messages)) = self.store.take() {
            messages.push(self.assembly.said().clone());
            let json = response.to_string().into_bytes();
            state.responses().insert(self.head.id.clone(), Stored { json, messages });
        }
        (status, response)
    }

    fn logprobs(&self, logprobs: &[TokenLogprobs]) -> Vec<Value> {
        if !self.has_logprobs {
            return Vec::new();
        }
        let told = serde_json::to_value(ChatLogprobs::new(&self.names, logprobs));
        match told.ok().and_then(|mut told| Some(told.get_mut("content")?.take())) {
            Some(Value::Array(tokens)) => tokens,
            _ => Vec::new(),
        }
    }

    fn close(&mut self, end: Option<&ChoiceEnd>, out: &mut EventText) {
        let mut pieces = Vec::new();
        self.listener.finish(&mut pieces);
        self.assembly.push(pieces, Vec::new(), out);
        self.is_incomplete = end.is_some_and(|end| end.reason == FinishReason::Length);
        let status = if self.is_incomplete { "incomplete" } else { "completed" };
        self.assembly.finish(status, out);
    }
}

impl Shape for Shaped {
    fn begin(&mut self, out: &mut EventText) {
        let response = json!({"response": self.response("in_progress", None, Value::Null)});
        self.assembly.event("response.created", &response, out);
        self.assembly.event("response.in_progress", &response, out);
    }

    fn opening(&mut self, _choice: usize, _of_prompt: &OfPrompt, _out: &mut EventText) {}

    fn delta(&mut self, delta: &ChoiceDelta, out: &mut EventText) {
        let mut pieces = Vec::new();
        self.listener.hear(delta, &mut pieces);
        let logprobs = self.logprobs(&delta.logprobs);
        self.assembly.push(pieces, logprobs, out);
    }

    fn finish(&mut self, _choice: usize, end: &ChoiceEnd, out: &mut EventText) {
        self.close(Some(end), out);
    }

    fn end(&mut self, usage: TokenUsage, out: &mut EventText) {
        let (status, response) = self.ended(usage);
        let name = format!("response.{status}");
        self.assembly.event(&name, &json!({ "response": response }), out);
    }

    fn failed(&self, error: &ApiError, out: &mut EventText) {
        let message = error.body().error.message;
        let error = json!({"code": "server_error", "message": message});
        let response = json!({"response": self.response("failed", None, error)});
        self.assembly.last_event("response.failed", &response, out);
    }

    fn whole(&mut self, answer: &Answer) -> Vec<u8> {
        // Nobody reads the events of a response that is not streamed.
        let mut unread = EventText::default();
        if let Some(choice) = answer.choices.first() {
            let mut pieces = Vec::new();
            self.listener.hear(choice, &mut pieces);
            let thought = self.listener.reasoning_tokens().min(choice.logprobs.len());
            let logprobs = self.logprobs(&choice.logprobs[thought..]);
            self.assembly.push(pieces, logprobs, &mut unread);
            self.close(choice.end.as_ref(), &mut unread);
        }
        self.ended(answer.usage).1.to_string().into_bytes()
    }
}

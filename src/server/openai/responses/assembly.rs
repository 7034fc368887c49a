//! Pieces of an answer to the items of a response, and the events that tell of them.
//!
//! ```text
//! thoughts   output_item.added  content_part.added  reasoning_text.delta ..  reasoning_text.done
//!            content_part.done  output_item.done
//! words      output_item.added  content_part.added  output_text.delta ..  output_text.done
//!            content_part.done  output_item.done
//! a call     output_item.added  function_call_arguments.delta ..  function_call_arguments.done
//!            output_item.done
//! ```
//!
//! Each event has the number after that of the event before it.
//!
//! What this module deliberately does not do: the events around all items, which are the shape's.

use serde_json::{Value, json};

use super::super::listen::SaidCall;
use crate::server::openai::chat::arguments;
use crate::server::sse::EventText;
use crate::text::output_parser::Piece;
use crate::text::{ChatMessage, ToolCall};

/// The items of one response as they come.
#[derive(Debug)]
pub(super) struct Assembly {
    /// Part of the items' ids.
    tag: String,
    done: Vec<Value>,
    open: Option<Open>,
    /// What the items say, as a conversation keeps it.
    said: ChatMessage,
    sequence: u64,
}

/// The item that grows.
#[derive(Debug)]
struct Open {
    id: String,
    kind: Kind,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
    Call { index: usize, id: String, name: String },
}

impl Kind {
    /// What the names of its text's events begin with.
    fn text_event(&self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_text",
            Self::Message => "response.output_text",
            Self::Call { .. } => "response.function_call_arguments",
        }
    }
}

impl Open {
    fn item(&self, status: &str) -> Value {
        let content = || if status == "in_progress" { json!([]) } else { json!([self.part()]) };
        match &self.kind {
            Kind::Reasoning => json!({"id": self.id, "type": "reasoning", "summary": [],
                                      "content": content(), "status": status}),
            Kind::Message => json!({"id": self.id, "type": "message", "status": status,
                                    "role": "assistant", "content": content()}),
            Kind::Call { id, name, .. } => {
                json!({"id": self.id, "type": "function_call", "status": status, "call_id": id,
                       "name": name, "arguments": self.text})
            }
        }
    }

    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            _ => json!({"type": "output_text", "text": self.text, "annotations": [],
                        "logprobs": self.logprobs}),
        }
    }
}

impl Assembly {
    /// Nothing was said yet; the text tells the response's items from others'.
    pub(super) fn new(tag: String) -> Self {
        let said = ChatMessage { role: "assistant".to_owned(), ..ChatMessage::default() };
        Self { tag, done: Vec::new(), open: None, said, sequence: 0 }
    }

    /// The items that are complete.
    pub(super) fn items(&self) -> &[Value] {
        &self.done
    }

    /// What they say, as a conversation keeps it.
    pub(super) fn said(&self) -> &ChatMessage {
        &self.said
    }

    /// Adds an event with its number.
    pub(super) fn event(&mut self, name: &str, fields: &Value, out: &mut EventText) {
        self.last_event(name, fields, out);
        self.sequence += 1;
    }

    /// Adds the last event of a stream that fails.
    pub(super) fn last_event(&self, name: &str, fields: &Value, out: &mut EventText) {
        let mut event = json!({"type": name, "sequence_number": self.sequence});
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        out.named(name, &event);
    }

    /// Takes pieces in order. The log probabilities are those of the words among them.
    pub(super) fn push(
        &mut self,
        pieces: Vec<Piece>,
        mut logprobs: Vec<Value>,
        out: &mut EventText,
    ) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => self.text(Kind::Reasoning, &text, Vec::new(), out),
                Piece::Content(text) => {
                    self.text(Kind::Message, &text, std::mem::take(&mut logprobs), out);
                }
                Piece::ToolCall { index, id, name } => {
                    self.open(Kind::Call { index, id, name }, out);
                }
                Piece::Arguments { index, json } => self.arguments(index, &json, out),
            }
        }
    }

    /// All was said; `status` is that of the last item.
    pub(super) fn finish(&mut self, status: &str, out: &mut EventText) {
        if self.open.is_none() && self.done.is_empty() {
            self.open(Kind::Message, out);
        }
        self.close(status, out);
    }

    fn text(&mut self, kind: Kind, text: &str, logprobs: Vec<Value>, out: &mut EventText) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.open(kind, out);
        }
        self.append(text, logprobs, out);
    }

    fn arguments(&mut self, of: usize, text: &str, out: &mut EventText) {
        let is_open = |open: &Open| matches!(open.kind, Kind::Call { index, .. } if index == of);
        // Parsers end a call before they begin the next.
        if self.open.as_ref().is_some_and(is_open) {
            self.append(text, Vec::new(), out);
        }
    }

    fn open(&mut self, kind: Kind, out: &mut EventText) {
        self.close("completed", out);
        let prefix = match kind {
            Kind::Reasoning => "rs",
            Kind::Message => "msg",
            Kind::Call { .. } => "fc",
        };
        let output_index = self.done.len();
        let id = format!("{prefix}_{}{output_index}", self.tag);
        let open = Open { id, kind, text: String::new(), logprobs: Vec::new() };
        let item = open.item("in_progress");
        let added = json!({"output_index": output_index, "item": item});
        self.event("response.output_item.added", &added, out);
        if !matches!(open.kind, Kind::Call { .. }) {
            let added = json!({"item_id": open.id, "output_index": output_index,
                               "content_index": 0, "part": open.part()});
            self.event("response.content_part.added", &added, out);
        }
        self.open = Some(open);
    }

    fn append(&mut self, text: &str, logprobs: Vec<Value>, out: &mut EventText) {
        let output_index = self.done.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut fields = json!({"item_id": open.id, "output_index": output_index, "delta": text});
        match open.kind {
            Kind::Reasoning => fields["content_index"] = 0.into(),
            Kind::Message => {
                fields["content_index"] = 0.into();
                fields["logprobs"] = logprobs.clone().into();
                open.logprobs.extend(logprobs);
            }
            Kind::Call { .. } => {}
        }
        let name = format!("{}.delta", open.kind.text_event());
        self.event(&name, &fields, out);
    }

    fn close(&mut self, status: &str, out: &mut EventText) {
        let Some(open) = self.open.take() else { return };
        let (output_index, id) = (self.done.len(), &open.id);
        let name = format!("{}.done", open.kind.text_event());
        let mut fields = json!({"item_id": id, "output_index": output_index});
        match &open.kind {
            Kind::Call { name, .. } => {
                fields["name"] = name.as_str().into();
                fields["arguments"] = open.text.as_str().into();
            }
            kind => {
                fields["content_index"] = 0.into();
                fields["text"] = open.text.as_str().into();
                if *kind == Kind::Message {
                    fields["logprobs"] = open.logprobs.clone().into();
                }
            }
        }
        self.event(&name, &fields, out);
        if !matches!(open.kind, Kind::Call { .. }) {
            let done = json!({"item_id": id, "output_index": output_index, "content_index": 0,
                              "part": open.part()});
            self.event("response.content_part.done", &done, out);
        }
        let item = open.item(status);
        let done = json!({"output_index": output_index, "item": item});
        self.event("response.output_item.done", &done, out);
        self.done.push(item);
        self.keep(open);
    }

    /// Remembers what an item said.
    fn keep(&mut self, open: Open) {
        match open.kind {
            Kind::Reasoning => {
                self.said.reasoning_content.get_or_insert_default().push_str(&open.text);
            }
            Kind::Message => self.said.content.get_or_insert_default().push_str(&open.text),
            Kind::Call { id, name, .. } => {
                let call = SaidCall { id, name, arguments: open.text };
                // What is no object cannot be shown to the model again; that it called can.
                let arguments = arguments(Some(Value::String(call.arguments)));
                let arguments = arguments.unwrap_or_else(|_| json!({}));
                self.said.tool_calls.push(ToolCall { id: call.id, name: call.name, arguments });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_each_is_closed_before_the_next() {
        let mut assembly = Assembly::new("x".into());
        let mut out = EventText::default();
        let pieces = vec![
            Piece::Reasoning("h".into()),
            Piece::Reasoning("m".into()),
            Piece::Content("well".into()),
            Piece::ToolCall { index: 0, id: "c0".into(), name: "f".into() },
            Piece::Arguments { index: 0, json: r#"{"a":"#.into() },
            Piece::Arguments { index: 0, json: "1}".into() },
            Piece::ToolCall { index: 1, id: "c1".into(), name: "g".into() },
        ];
        assembly.push(pieces, vec![json!({"token": "well"})], &mut out);
        assembly.finish("incomplete", &mut out);
        let events = out.events();
        for (index, event) in events.iter().enumerate() {
            assert!(event.contains(&format!(r#""sequence_number":{index}"#)), "{event}");
        }
        assert_eq!(events.len(), 7 + 6 + 5 + 3);
        let items = assembly.items();
        let kinds: Vec<_> = items.iter().map(|item| item["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
        assert_eq!(items[0]["content"][0]["text"], "hm");
        assert_eq!(items[1]["content"][0]["logprobs"][0]["token"], "well");
        assert_eq!(
            (&items[2]["arguments"], &items[2]["call_id"]),
            (&json!(r#"{"a":1}"#), &json!("c0"))
        );
        assert_eq!(
            (&items[2]["status"], &items[3]["status"]),
            (&json!("completed"), &json!("incomplete"))
        );
        let said = assembly.said();
        assert_eq!(
            (said.content.as_deref(), said.reasoning_content.as_deref()),
            (Some("well"), Some("hm"))
        );
        assert_eq!(said.tool_calls[0].arguments, json!({"a": 1}));
        assert_eq!(said.tool_calls[1].arguments, json!({}));
    }

    #[test]
    fn who_said_nothing_said_an_empty_message() {
        let mut assembly = Assembly::new("x".into());
        assembly.finish("completed", &mut EventText::default());
        assert_eq!(assembly.items()[0]["content"][0]["text"], "");
    }
}

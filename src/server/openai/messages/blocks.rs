//! Pieces of an answer to the blocks of a message, and the events that tell of them.
//!
//! ```text
//! thoughts   content_block_start  content_block_delta (thinking_delta) ..    content_block_stop
//! words      content_block_start  content_block_delta (text_delta) ..        content_block_stop
//! a call     content_block_start  content_block_delta (input_json_delta) ..  content_block_stop
//! ```
//!
//! A block is closed before the next begins. Thoughts are not signed: nothing here is held back
//! from who may read them.
//!
//! What this module deliberately does not do: the events around all blocks, which are the shape's.

use serde_json::{Value, json};

use crate::server::openai::chat::arguments;
use crate::server::sse::EventText;
use crate::text::output_parser::Piece;

/// The blocks of one message as they come.
#[derive(Debug, Default)]
pub(super) struct BlockList {
    done: Vec<Value>,
    open: Option<Open>,
}

/// The block that grows.
#[derive(Debug)]
struct Open {
    kind: Kind,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
    ToolUse { index: usize, id: String, name: String },
}

impl Open {
    fn block(&self) -> Value {
        let text = self.text.as_str();
        match &self.kind {
            Kind::Thinking => json!({"type": "thinking", "thinking": text, "signature": ""}),
            Kind::Text => json!({"type": "text", "text": text}),
            Kind::ToolUse { id, name, .. } => {
                // What was cut short is no object, and the dialect has no place for its text.
                let input = arguments(Some(text.into())).unwrap_or_else(|_| json!({}));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        }
    }

    fn delta(&self, text: &str) -> Value {
        match self.kind {
            Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
            Kind::Text => json!({"type": "text_delta", "text": text}),
            Kind::ToolUse { .. } => json!({"type": "input_json_delta", "partial_json": text}),
        }
    }
}

impl BlockList {
    /// The blocks that are complete.
    pub(super) fn blocks(&self) -> &[Value] {
        &self.done
    }

    /// Takes pieces in order.
    pub(super) fn push(&mut self, pieces: Vec<Piece>, out: &mut EventText) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => self.text(&Kind::Thinking, &text, out),
                Piece::Content(text) => self.text(&Kind::Text, &text, out),
                Piece::ToolCall { index, id, name } => {
                    self.open(Kind::ToolUse { index, id, name }, out);
                }
                Piece::Arguments { index, json } => self.arguments(index, &json, out),
            }
        }
    }

    /// All was said. Who said nothing said an empty text.
    pub(super) fn finish(&mut self, out: &mut EventText) {
        if self.open.is_none() && self.done.is_empty() {
            self.open(Kind::Text, out);
        }
        self.close(out);
    }

    fn text(&mut self, kind: &Kind, text: &str, out: &mut EventText) {
        if text.is_empty() {
            return;
        }
        if self.open.as_ref().is_none_or(|open| open.kind != *kind) {
            self.open(kind.clone(), out);
        }
        self.append(text, out);
    }

    fn arguments(&mut self, of: usize, text: &str, out: &mut EventText) {
        let is_open = |open: &Open| matches!(open.kind, Kind::ToolUse { index, .. } if index == of);
        // Parsers end a call before they begin the next.
        if self.open.as_ref().is_some_and(is_open) {
            self.append(text, out);
        }
    }

    fn open(&mut self, kind: Kind, out: &mut EventText) {
        self.close(out);
        let open = Open { kind, text: String::new() };
        let start = json!({"index": self.done.len(), "content_block": open.block()});
        add(out, "content_block_start", start);
        self.open = Some(open);
    }

    fn append(&mut self, text: &str, out: &mut EventText) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let delta = json!({"index": self.done.len(), "delta": open.delta(text)});
        add(out, "content_block_delta", delta);
    }

    fn close(&mut self, out: &mut EventText) {
        let Some(open) = self.open.take() else { return };
        add(out, "content_block_stop", json!({"index": self.done.len()}));
        self.done.push(open.block());
    }
}

/// Adds an event whose data repeats its name.
pub(super) fn add(out: &mut EventText, name: &str, fields: Value) {
    let mut event = json!({ "type": name });
    if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
        event.extend(fields);
    }
    out.named(name, &event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_order_and_each_is_closed_before_the_next() {
        let mut list = BlockList::default();
        let mut out = EventText::default();
        let pieces = vec![
            Piece::Reasoning("h".into()),
            Piece::Reasoning("m".into()),
            Piece::Content(String::new()),
            Piece::Content("well".into()),
            Piece::ToolCall { index: 0, id: "c0".into(), name: "f".into() },
            Piece::Arguments { index: 0, json: r#"{"a":"#.into() },
            Piece::Arguments { index: 0, json: "1}".into() },
            Piece::ToolCall { index: 1, id: "c1".into(), name: "g".into() },
            Piece::Arguments { index: 1, json: r#"{"cut"#.into() },
        ];
        list.push(pieces, &mut out);
        list.finish(&mut out);
        let expected = [
            json!({"type": "thinking", "thinking": "hm", "signature": ""}),
            json!({"type": "text", "text": "well"}),
            json!({"type": "tool_use", "id": "c0", "name": "f", "input": {"a": 1}}),
            json!({"type": "tool_use", "id": "c1", "name": "g", "input": {}}),
        ];
        assert_eq!(list.blocks(), expected);
        let mut expected = EventText::default();
        let start = json!({"index": 1, "content_block": {"type": "text", "text": ""}});
        add(&mut expected, "content_block_start", start);
        add(&mut expected, "content_block_stop", json!({"index": 3}));
        let (out, expected) = (out.events(), expected.events());
        assert_eq!((out.len(), out[4], out[13]), (14, expected[0], expected[1]));
    }

    #[test]
    fn who_said_nothing_said_an_empty_text() {
        let mut list = BlockList::default();
        list.finish(&mut EventText::default());
        assert_eq!(list.blocks(), [json!({"type": "text", "text": ""})]);
    }
}

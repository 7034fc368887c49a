//! What parsers write: pieces of an answer, those of one kind and one push joined.

/// A piece of an answer. The pieces of one kind (and one index) join to the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the model thinks.
    Reasoning(String),
    /// What it says.
    Content(String),
    /// The beginning of a call.
    ToolCall {
        /// Which call of the answer it is, from 0.
        index: usize,
        /// By which its answer will name it.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// Which call of the answer it is.
        index: usize,
        /// A fragment of JSON text.
        json: String,
    },
}

/// Where pieces go. Those that were there before are left as they are.
pub(super) struct Pieces<'a> {
    out: &'a mut Vec<Piece>,
    num_before: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(out: &'a mut Vec<Piece>) -> Self {
        let num_before = out.len();
        Self { out, num_before }
    }

    fn last(&mut self) -> Option<&mut Piece> {
        self.out.get_mut(self.num_before..)?.last_mut()
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.last() {
            _ if text.is_empty() => {}
            Some(Piece::Reasoning(last)) => last.push_str(text),
            _ => self.out.push(Piece::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn content(&mut self, text: &str) {
        match self.last() {
            _ if text.is_empty() => {}
            Some(Piece::Content(last)) => last.push_str(text),
            _ => self.out.push(Piece::Content(text.to_owned())),
        }
    }

    pub(super) fn tool_call(&mut self, index: usize, id: String, name: String) {
        self.out.push(Piece::ToolCall { index, id, name });
    }

    pub(super) fn arguments(&mut self, of: usize, text: &str) {
        match self.last() {
            _ if text.is_empty() => {}
            Some(Piece::Arguments { index, json }) if *index == of => json.push_str(text),
            _ => self.out.push(Piece::Arguments { index: of, json: text.to_owned() }),
        }
    }
}

//! The calls of tools in an answer, one character at a time.
//!
//! ```text
//!            marker           arguments begin            they end
//!  Text -----------> Head ---------------------> Arguments ----> Tail --.
//!   ^  ^              |  \                        Object          | ^   |
//!   |  '- malformed --'   '----------------------> Tagged --------|-'   |
//!   |                                              Python         |     |
//!   '---------------------------- no other call ------------------' <---'
//! ```
//!
//! A call that turns out not to be one is text. One whose arguments were begun stays one, whatever
//! follows: what was sent cannot be taken back.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::cursor::Halt;
use super::finder::{Finder, Found};
use super::format::ToolFormat;
use super::ids::CallIds;
use super::json_scan::JsonScan;
use super::piece::Pieces;
use super::python_call;
use super::syntax::{Head, Tail};
use super::tagged::Tagged;
use crate::text::ToolSpec;

/// What stands before and after a call's arguments is shorter.
const MAX_FRAME_BYTES: usize = 512;

/// Parts an answer into text and calls.
#[derive(Clone, Debug)]
pub(super) struct ToolParser {
    format: ToolFormat,
    tools: Arc<[ToolSpec]>,
    ids: CallIds,
    num_calls: usize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Text {
        finder: Finder,
        /// Whether nothing but white space came since a call: at the end, that is dropped.
        is_after_call: bool,
    },
    Head {
        raw: String,
        /// Bytes at which it is no longer believed.
        limit: usize,
    },
    Arguments {
        scan: JsonScan,
        in_object: bool,
    },
    Object {
        raw: String,
        start: usize,
        scan: JsonScan,
    },
    Tagged(Tagged),
    Python {
        raw: String,
        name: String,
        scan: python_call::Scan,
    },
    Tail {
        raw: String,
        in_object: bool,
    },
}

/// A call as an object of JSON.
#[derive(Deserialize)]
struct CallObject<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

impl ToolParser {
    pub(super) fn new(format: ToolFormat, id_seed: u64) -> Self {
        let (markers, first) = format.markers();
        Self {
            format,
            tools: Arc::default(),
            ids: CallIds::new(id_seed),
            num_calls: 0,
            state: State::Text { finder: Finder::new(markers, first), is_after_call: false },
        }
    }

    pub(super) fn set_tools(&mut self, tools: &[ToolSpec]) {
        self.tools = tools.into();
    }

    pub(super) fn push_str(&mut self, text: &str, out: &mut Pieces<'_>) {
        for character in text.chars() {
            self.push(character, out);
        }
    }

    pub(super) fn push(&mut self, character: char, out: &mut Pieces<'_>) {
        match &mut self.state {
            State::Text { finder, is_after_call } => match finder.push(character) {
                Found::Waiting => {}
                Found::Text(text) => {
                    *is_after_call = false;
                    out.content(&text);
                }
                Found::Marker(raw) => self.begin(raw, out),
            },
            State::Head { raw, .. } => {
                raw.push(character);
                self.read_head(out);
            }
            State::Arguments { scan, in_object } => {
                let mut written = String::with_capacity(4);
                scan.write(character, &mut written);
                out.arguments(self.num_calls - 1, &written);
                if scan.push(character) {
                    self.state = State::Tail { raw: String::new(), in_object: *in_object };
                }
            }
            State::Object { raw, start, scan } => {
                raw.push(character);
                if scan.push(character) {
                    let (raw, start) = (std::mem::take(raw), *start);
                    self.end_object(&raw, start, out);
                }
            }
            State::Tagged(tagged) => {
                let mut json = String::new();
                let rest = tagged.push(character, &mut json);
                out.arguments(self.num_calls - 1, &json);
                if let Some(rest) = rest {
                    self.state = State::Tail { raw: String::new(), in_object: false };
                    self.push_str(&rest, out);
                }
            }
            State::Python { raw, name, scan } => {
                raw.push(character);
                if scan.push(character) {
                    let (raw, name) = (std::mem::take(raw), std::mem::take(name));
                    self.end_python(&raw, name, out);
                }
            }
            State::Tail { raw, in_object } => {
                raw.push(character);
                let read = self.format.tail(raw, *in_object);
                let is_endless = raw.len() > MAX_FRAME_BYTES;
                match read {
                    Ok(Tail::Call(rest)) => self.begin(rest, out),
                    Ok(Tail::Text(rest)) => self.resume_text(&rest, true, out),
                    Err(Halt::More) if !is_endless => {}
                    Err(_) => {
                        let rest = std::mem::take(raw);
                        self.resume_text(&rest, true, out);
                    }
                }
            }
        }
    }

    /// The end of the answer. A frame that was being written is dropped where the call is whole and
    /// is text where the call has not begun.
    pub(super) fn finish(&mut self, out: &mut Pieces<'_>) {
        let (markers, _) = self.format.markers();
        let end = State::Text { finder: Finder::new(markers, None), is_after_call: false };
        match std::mem::replace(&mut self.state, end) {
            State::Text { mut finder, is_after_call } => {
                let held = finder.finish();
                if !(is_after_call && held.trim().is_empty()) {
                    out.content(&held);
                }
            }
            State::Head { raw, .. } | State::Object { raw, .. } | State::Python { raw, .. } => {
                out.content(&raw);
            }
            State::Tagged(tagged) => {
                let mut json = String::new();
                tagged.finish(&mut json);
                out.arguments(self.num_calls - 1, &json);
            }
            State::Arguments { .. } | State::Tail { .. } => {}
        }
    }

    fn begin(&mut self, raw: String, out: &mut Pieces<'_>) {
        let limit = raw.len() - raw.trim_start().len() + MAX_FRAME_BYTES;
        self.state = State::Head { raw, limit };
        self.read_head(out);
    }

    fn read_head(&mut self, out: &mut Pieces<'_>) {
        let State::Head { raw, limit } = &mut self.state else { return };
        let read = self.format.head(raw);
        let is_endless = raw.len() > *limit;
        let raw = match read {
            Err(Halt::More) if !is_endless => return,
            _ => std::mem::take(raw),
        };
        match read {
            Ok(Head::Arguments { name, in_object }) => {
                self.call(name, out);
                self.state = State::Arguments { scan: JsonScan::default(), in_object };
                self.push('{', out);
            }
            Ok(Head::Object { start }) => {
                let mut scan = JsonScan::default();
                let ends = raw[start..].chars().map(|character| scan.push(character));
                if ends.fold(false, |_, has_ended| has_ended) {
                    self.end_object(&raw, start, out);
                } else {
                    self.state = State::Object { raw, start, scan };
                }
            }
            Ok(Head::Tagged { name }) => {
                self.call(name.clone(), out);
                let tool = self.tools.iter().find(|tool| tool.name == name);
                let parameters = tool.map(|tool| tool.parameters.clone());
                self.state = State::Tagged(Tagged::new(parameters.unwrap_or_default()));
            }
            Ok(Head::Python { name }) => {
                self.state = State::Python { raw, name, scan: python_call::Scan::default() };
            }
            Err(_) => self.give_up(&raw, out),
        }
    }

    /// It is no call. Its last character, which showed that, may begin one.
    fn give_up(&mut self, raw: &str, out: &mut Pieces<'_>) {
        let last = raw.char_indices().next_back().map_or(0, |(position, _)| position);
        out.content(&raw[..last]);
        self.resume_text(&raw[last..], false, out);
    }

    fn resume_text(&mut self, text: &str, is_after_call: bool, out: &mut Pieces<'_>) {
        let (markers, _) = self.format.markers();
        self.state = State::Text { finder: Finder::new(markers, None), is_after_call };
        self.push_str(text, out);
    }

    fn call(&mut self, name: String, out: &mut Pieces<'_>) {
        let id = self.ids.next(self.format == ToolFormat::Mistral);
        out.tool_call(self.num_calls, id, name);
        self.num_calls += 1;
    }

    fn end_object(&mut self, raw: &str, start: usize, out: &mut Pieces<'_>) {
        let text = JsonScan::mended(&raw[start..]);
        let object = serde_json::from_str::<CallObject<'_>>(&text).ok();
        // Without a marker, an object is only a call if it says with what.
        let is_marked = self.format != ToolFormat::Llama3Json;
        let object = object.filter(|object| is_marked || object.arguments.is_some());
        let Some(object) = object else {
            out.content(raw);
            self.resume_text("", false, out);
            return;
        };
        let arguments = object.arguments.map_or("null", RawValue::get);
        let arguments = match serde_json::from_str::<String>(arguments) {
            // Some models write the arguments as a string that holds JSON.
            Ok(inner) if inner.trim_start().starts_with('{') => inner,
            _ if arguments == "null" => "{}".to_owned(),
            _ => arguments.to_owned(),
        };
        self.call(object.name, out);
        out.arguments(self.num_calls - 1, &arguments);
        // The tail begins behind the object's own end.
        self.state = State::Tail { raw: String::new(), in_object: true };
        self.push('}', out);
    }

    fn end_python(&mut self, raw: &str, name: String, out: &mut Pieces<'_>) {
        let Some(arguments) = python_call::arguments_of(raw) else {
            out.content(raw);
            self.resume_text("", false, out);
            return;
        };
        self.call(name, out);
        out.arguments(self.num_calls - 1, &arguments);
        self.state = State::Tail { raw: String::new(), in_object: false };
    }
}

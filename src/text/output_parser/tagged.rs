//! Arguments between tags, as JSON.
//!
//! ```text
//! <parameter=city>\nLyon\n</parameter> <parameter=days>3</parameter> </function>
//! {"city": "Lyon"                      , "days": 3                   }
//! ```
//!
//! A value is a string unless the tool's schema says that it is something else and it reads as JSON.

use serde_json::Value as Json;
use serde_json::value::RawValue;

const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
const FUNCTION_END: &str = "</function>";

/// What was read of the arguments.
#[derive(Clone, Debug)]
pub(super) struct Tagged {
    parameters: Json,
    buffer: String,
    /// The parameter whose value is being read.
    key: Option<String>,
    has_some: bool,
}

impl Tagged {
    /// Arguments of a tool whose parameters have that schema.
    pub(super) fn new(parameters: Json) -> Self {
        Self { parameters, buffer: String::new(), key: None, has_some: false }
    }

    /// Takes the next character; at the end, the text that is no part of the arguments.
    pub(super) fn push(&mut self, character: char, json: &mut String) -> Option<String> {
        self.buffer.push(character);
        if self.key.is_some() {
            if self.buffer.ends_with(PARAMETER_END) {
                self.buffer.truncate(self.buffer.len() - PARAMETER_END.len());
                self.end_value(json);
            }
            return None;
        }
        let tag = self.buffer.trim_start();
        if let Some(key) = tag.strip_prefix(PARAMETER) {
            if let Some(key) = key.strip_suffix('>') {
                self.key = Some(key.trim().to_owned());
                self.buffer.clear();
            }
            return None;
        }
        if PARAMETER.starts_with(tag) || (FUNCTION_END.starts_with(tag) && tag != FUNCTION_END) {
            return None;
        }
        json.push_str(if self.has_some { "}" } else { "{}" });
        if tag == FUNCTION_END {
            self.buffer.clear();
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// The end of the answer: a value that was begun is told as far as it goes.
    pub(super) fn finish(mut self, json: &mut String) {
        if self.key.is_some() {
            self.end_value(json);
        }
    }

    fn end_value(&mut self, json: &mut String) {
        let key = self.key.take().unwrap_or_default();
        let text = std::mem::take(&mut self.buffer);
        let text = text.strip_prefix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        json.push_str(if self.has_some { ", " } else { "{" });
        self.has_some = true;
        json.push_str(&Json::from(&*key).to_string());
        json.push_str(": ");
        json.push_str(&value(&self.parameters["properties"][&key], text));
    }
}

fn value(schema: &Json, text: &str) -> String {
    let string = || Json::from(text).to_string();
    let is_string = match &schema["type"] {
        Json::String(name) => name == "string",
        Json::Array(names) => names.iter().any(|name| name == "string") && text.trim() != "null",
        _ => !["anyOf", "oneOf", "allOf", "$ref"].iter().any(|key| schema.get(key).is_some()),
    };
    if is_string {
        return string();
    }
    match text.trim() {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        text => serde_json::from_str::<&RawValue>(text)
            .map_or_else(|_| string(), |value| value.get().to_owned()),
    }
}

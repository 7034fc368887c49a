//! Grammars of answers that must call tools.
//!
//! ```text
//! start: thought? call more*            more: separator call
//! call: call0 | call1 | ..              one for each tool
//! call0: "<tool_call>\n{..\"arguments\": " %json {schema of tool 0} "}\n</tool_call>"
//! ```
//!
//! A marker that is a special token of the model is written as that token, any other one as text.
//! Arguments follow their tool's schema, whether it is strict or not: there is nothing else for a
//! grammar to go by.
//!
//! What this module deliberately does not do: compile. What a schema may have is for the compiler
//! to say.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::format::{OutputFormat, ReasoningFormat, ToolFormat};
use super::syntax::{CALL_BEGIN, CALL_END, CALLS_BEGIN, CALLS_END, SEPARATOR};
use crate::text::conversation::ToolSpec;
use crate::text::grammar::GrammarSpec;
use crate::text::tokenizer::Tokenizer;

/// Which tool an answer must call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequiredTool {
    /// Any of them.
    Any,
    /// The one of this name.
    Named(String),
}

/// An answer that has to call tools.
#[derive(Clone, Copy, Debug)]
pub struct RequiredCalls<'a> {
    /// What there is to call.
    pub tools: &'a [ToolSpec],
    /// What has to be called.
    pub choice: &'a RequiredTool,
    /// Whether more than one call may come.
    pub parallel: bool,
}

/// Where a special token has the text of a marker, its id.
type SpecialId<'a> = dyn Fn(&str) -> Option<u32> + 'a;

impl OutputFormat {
    /// The grammar of answers that call tools, after a thought where the model thinks. `None`
    /// without a format of calls, and where no tool has the name that is required.
    pub fn grammar_of_calls(
        self,
        calls: &RequiredCalls<'_>,
        starts_in_reasoning: bool,
        tokenizer: &Tokenizer,
    ) -> Option<GrammarSpec> {
        let special_id = special_ids(tokenizer);
        let rules = self.tools?.rules(calls, &special_id)?;
        let thought = self.thought(starts_in_reasoning, &special_id);
        Some(GrammarSpec::Lark(format!("{thought}{rules}")))
    }

    /// The grammar of answers that follow a JSON schema, after a thought where the model thinks.
    /// The schema is an object's JSON text.
    pub fn grammar_of_json(
        self,
        schema: &str,
        starts_in_reasoning: bool,
        tokenizer: &Tokenizer,
    ) -> GrammarSpec {
        if self.reasoning.is_none() {
            return GrammarSpec::JsonSchema(schema.to_owned());
        }
        let thought = self.thought(starts_in_reasoning, &special_ids(tokenizer));
        GrammarSpec::Lark(format!("{thought}answer: %json {schema}\n"))
    }

    /// The start: a thought, or what the model may write instead of one, and the answer.
    fn thought(self, is_open: bool, special_id: &SpecialId<'_>) -> String {
        let Some(format) = self.reasoning else {
            return "start: answer\n".to_owned();
        };
        let (open, close) = format.markers();
        let (open, close) = (marker(open, special_id), close[0]);
        let start = match (format, is_open) {
            // The prompt may have opened it, or not.
            (ReasoningFormat::DeepSeekR1, true) => format!("({open})? thought answer"),
            (_, true) => "thought answer".to_owned(),
            (_, false) => format!("({open} thought)? answer"),
        };
        let thought = match special_id(close) {
            Some(id) => format!("thought: /(.|\\n)*/ <[{id}]> /\\s*/\n"),
            None => format!("thought: inside /\\s*/\ninside[lazy]: /(.|\\n)*{}/\n", escaped(close)),
        };
        format!("start: {start}\n{thought}")
    }
}

fn special_ids(tokenizer: &Tokenizer) -> impl Fn(&str) -> Option<u32> {
    |text| tokenizer.token_to_id(text).filter(|id| tokenizer.is_special(*id))
}

impl ToolFormat {
    /// The rule `answer` and those that it needs.
    fn rules(self, calls: &RequiredCalls<'_>, special_id: &SpecialId<'_>) -> Option<String> {
        let is_required = |tool: &&ToolSpec| match calls.choice {
            RequiredTool::Any => true,
            RequiredTool::Named(name) => tool.name == *name,
        };
        let tools: Vec<&ToolSpec> = calls.tools.iter().filter(is_required).collect();
        if tools.is_empty() {
            return None;
        }
        let writer = Writer {
            format: self,
            is_named: self == Self::Mistral && special_id("[ARGS]").is_some(),
            special_id,
        };
        let (open, separator, close) = writer.frame();
        let more = if calls.parallel { format!(" ({separator} call)*") } else { String::new() };
        let names: Vec<String> = (0..tools.len()).map(|index| format!("call{index}")).collect();
        let mut rules = format!("answer: {open} call{more} {close}\ncall: {}\n", names.join(" | "));
        for (name, tool) in names.iter().zip(&tools) {
            let _ = writeln!(rules, "{name}: {}", writer.call(tool));
        }
        if self == Self::Qwen3Coder {
            rules.push_str("text[lazy]: /(.|\\n)*\\n<\\/parameter>\\n/\n");
        }
        Some(rules)
    }
}

/// Writes the rules of one format.
struct Writer<'a> {
    format: ToolFormat,
    /// Whether Mistral's calls are a name and its arguments rather than a list.
    is_named: bool,
    special_id: &'a SpecialId<'a>,
}

impl Writer<'_> {
    fn marker(&self, text: &str) -> String {
        marker(text, self.special_id)
    }

    /// What stands before, between and after calls.
    fn frame(&self) -> (String, String, String) {
        let literals = |open: &str, separator: &str, close: &str| {
            (literal(open), literal(separator), literal(close))
        };
        match self.format {
            ToolFormat::Hermes | ToolFormat::Qwen3Coder => literals("", "\n", ""),
            ToolFormat::Llama3Json => literals("", "; ", ""),
            ToolFormat::Mistral if self.is_named => literals("", "", ""),
            ToolFormat::Mistral => {
                let open = format!("{} {}", self.marker("[TOOL_CALLS]"), literal("["));
                (open, literal(", "), literal("]"))
            }
            ToolFormat::DeepSeekV3 => {
                (self.marker(CALLS_BEGIN), literal("\n"), self.marker(CALLS_END))
            }
            ToolFormat::DeepSeekV31 => {
                (self.marker(CALLS_BEGIN), literal(""), self.marker(CALLS_END))
            }
            ToolFormat::Pythonic => literals("[", ", ", "]"),
        }
    }

    fn call(&self, tool: &ToolSpec) -> String {
        let name = Json::from(&*tool.name).to_string();
        let schema = schema_of(tool);
        let object = |key: &str| {
            let head = literal(&format!("{{\"name\": {name}, \"{key}\": "));
            format!("{head} %json {schema} {}", literal("}"))
        };
        match self.format {
            ToolFormat::Hermes => {
                let (open, close) = (self.marker("<tool_call>"), self.marker("</tool_call>"));
                let (after, before) = (literal("\n"), literal("\n"));
                format!("{open} {after} {} {before} {close}", object("arguments"))
            }
            ToolFormat::Llama3Json => object("parameters"),
            ToolFormat::Mistral if self.is_named => {
                let (open, middle) = (self.marker("[TOOL_CALLS]"), self.marker("[ARGS]"));
                format!("{open} {} {middle} %json {schema}", literal(&tool.name))
            }
            ToolFormat::Mistral => object("arguments"),
            ToolFormat::DeepSeekV3 => {
                let (open, close) = (self.marker(CALL_BEGIN), self.marker(CALL_END));
                let name = literal(&format!("{}\n```json\n", tool.name));
                format!(
                    "{open} {} {} {name} %json {schema} {} {close}",
                    literal("function"),
                    self.marker(SEPARATOR),
                    literal("\n```"),
                )
            }
            ToolFormat::DeepSeekV31 => {
                let (open, close) = (self.marker(CALL_BEGIN), self.marker(CALL_END));
                let (name, middle) = (literal(&tool.name), self.marker(SEPARATOR));
                format!("{open} {name} {middle} %json {schema} {close}")
            }
            ToolFormat::Qwen3Coder => {
                let (open, close) = (self.marker("<tool_call>"), self.marker("</tool_call>"));
                let head = literal(&format!("\n<function={}>\n", tool.name));
                let parameters = tagged_parameters(&schema);
                format!("{open} {head} {parameters} {} {close}", literal("</function>\n"))
            }
            ToolFormat::Pythonic => {
                let head = literal(&format!("{}(", tool.name));
                format!("{head} {} {}", python_parameters(&schema), literal(")"))
            }
        }
    }
}

/// The schema of a tool's arguments, which are an object whatever it says.
fn schema_of(tool: &ToolSpec) -> Json {
    match &tool.parameters {
        Json::Object(schema) if schema.contains_key("type") => tool.parameters.clone(),
        Json::Object(schema) => {
            let mut schema = schema.clone();
            schema.insert("type".to_owned(), json!("object"));
            Json::Object(schema)
        }
        _ => json!({"type": "object"}),
    }
}

/// A property of an object's schema: its name, whether it must be there, and its own schema.
struct Property {
    name: String,
    is_required: bool,
    schema: Json,
}

fn properties(schema: &Json) -> Vec<Property> {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|n| n == name));
    let all = schema["properties"].as_object().into_iter().flatten();
    let mut properties: Vec<Property> = all
        .map(|(name, of)| {
            let mut of = of.as_object().cloned().unwrap_or_else(Map::new);
            // What the property refers to is defined beside it.
            for key in ["$defs", "definitions"] {
                if let Some(definitions) = schema.get(key) {
                    of.insert(key.to_owned(), definitions.clone());
                }
            }
            Property {
                name: name.clone(),
                is_required: is_required(name),
                schema: Json::Object(of),
            }
        })
        .collect();
    properties.sort_by_key(|property| !property.is_required);
    properties
}

fn tagged_parameters(schema: &Json) -> String {
    let parameter = |property: Property| {
        let head = literal(&format!("<parameter={}>\n", property.name));
        let value = if property.schema["type"] == "string" && property.schema.get("enum").is_none()
        {
            "text".to_owned()
        } else {
            format!("%json {} {}", property.schema, literal("\n</parameter>\n"))
        };
        let optional = if property.is_required { "" } else { "?" };
        format!("({head} {value}){optional}")
    };
    let parameters: Vec<String> = properties(schema).into_iter().map(parameter).collect();
    parameters.join(" ")
}

/// Optional arguments come first, each with its comma, so that none is left over or missing.
fn python_parameters(schema: &Json) -> String {
    let (required, optional): (Vec<_>, Vec<_>) =
        properties(schema).into_iter().partition(|property| property.is_required);
    let value = |property: &Property| {
        format!("{} %json {}", literal(&format!("{}=", property.name)), property.schema)
    };
    let optional =
        optional.iter().map(|property| format!("({} {})?", value(property), literal(", ")));
    let separator = format!(" {} ", literal(", "));
    let required: Vec<String> = required.iter().map(value).collect();
    let mut parameters: Vec<String> = optional.collect();
    parameters.push(required.join(&separator));
    parameters.join(" ")
}

fn marker(text: &str, special_id: &SpecialId<'_>) -> String {
    special_id(text).map_or_else(|| literal(text), |id| format!("<[{id}]>"))
}

/// A text as a grammar's string.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { Json::from(text).to_string() }
}

/// A text as a part of a grammar's regular expression.
fn escaped(text: &str) -> String {
    // Not all punctuation: a backslash gives some of it a meaning, such as a word's beginning.
    let special = |c: char| r"\.+*?()|[]{}^$#&-~/".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

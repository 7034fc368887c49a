//! Conversations to prompts, by the model's own template.
//!
//! A chat template is a Jinja program that comes with the model. What it renders must equal what
//! the model was trained on to the byte, so the environment is that of the reference (Transformers'
//! `apply_chat_template`): block tags take the white space around them, values print as Python
//! prints them, strings have Python's methods.
//!
//! | In scope | What it is |
//! | --- | --- |
//! | `messages` | the conversation: `role` and `content` of each message |
//! | `add_generation_prompt` | whether to end with the start of the assistant's turn |
//! | `bos_token`, `eos_token` | their texts, where the model has them |
//! | `tools`, `documents` | `none` |
//! | `raise_exception(text)` | refuses the conversation |
//! | `strftime_now(format)` | today, in UTC |
//! | `value \| tojson` | as Python's `json.dumps` |
//! | `{% generation %}` | marks what was generated, for training: ignored |
//!
//! A template can loop and can multiply strings, so it runs on a budget that counts instructions
//! and bytes alike. It sees nothing but the values above: no file, no other template.
//!
//! One thing the budget does not see: printing a list that holds one list twice, which holds one
//! list twice, and so on for dozens of levels. The engine walks it before it counts. `tojson` is
//! bounded by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde::Deserialize;

use super::error::TextError;
use super::json_format;
use super::model_folder::{CONFIG_FILE, MAX_CONFIG_BYTES, special_tokens};
use super::python_methods;
use super::strftime;
use super::text_file;

const TEMPLATE_FILE: &str = "chat_template.jinja";
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;
/// One unit is an instruction or 64 bytes: half a gigabyte of text, or a second of work.
const FUEL: u64 = 8_000_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
}

impl ChatMessage {
    /// What somebody says.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    fn to_value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// The model's way to write a conversation as one prompt.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: Arc<str>,
}

impl ChatTemplate {
    /// Checks the source and keeps it. The tokens are texts that the template may name.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line of the syntax error.
    pub fn new(
        source: String,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
    ) -> Result<Self, TextError> {
        let template = Self {
            environment: Arc::new(environment(bos_token, eos_token, SystemTime::now)),
            source: prepare(&source).into(),
        };
        template.environment.template_from_str(&template.source).map_err(template_error)?;
        Ok(template)
    }

    /// The template of a model folder: `chat_template.jinja`, or `chat_template` of
    /// `tokenizer_config.json`, which is a text or a list of named ones with a `default`. `None`
    /// when there is neither.
    ///
    /// # Errors
    /// As of [`new`](Self::new), and errors that name the file when it is broken.
    pub fn from_folder(model_folder: &Path) -> Result<Option<Self>, TextError> {
        let source = match text_file::read(&model_folder.join(TEMPLATE_FILE), MAX_TEMPLATE_BYTES)? {
            Some(source) => Some(source),
            None => configured_template(model_folder)?,
        };
        let Some(source) = source else {
            return Ok(None);
        };
        let (bos_token, eos_token) = special_tokens(model_folder)?;
        Self::new(source, bos_token.as_deref(), eos_token.as_deref()).map(Some)
    }

    /// The template with another clock for `strftime_now`, for prompts that must repeat.
    pub fn with_clock(mut self, now: fn() -> SystemTime) -> Self {
        let environment = Arc::make_mut(&mut self.environment);
        add_clock(environment, now);
        self
    }

    /// The conversation as a prompt; with `add_generation_prompt`, up to where the assistant's next
    /// words begin. The prompt has its special tokens in it: tokenize it without adding more.
    ///
    /// # Errors
    /// [`TextError::Refused`] when the template raises an exception, [`TextError::Template`] when
    /// it fails, [`TextError::TemplateBudget`] when it takes too much.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let template = self.environment.template_from_str(&self.source).map_err(template_error)?;
        let scope = context! {
            messages => messages.iter().map(ChatMessage::to_value).collect::<Value>(),
            add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template.render(scope).map_err(template_error)
    }
}

/// The parts of `tokenizer_config.json` that are about templates.
#[derive(Deserialize)]
struct Config {
    chat_template: Option<ConfiguredTemplate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfiguredTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

fn configured_template(model_folder: &Path) -> Result<Option<String>, TextError> {
    let path = model_folder.join(CONFIG_FILE);
    let config: Option<Config> = text_file::read_json(&path, MAX_CONFIG_BYTES)?;
    Ok(match config.and_then(|config| config.chat_template) {
        None => None,
        Some(ConfiguredTemplate::One(source)) => Some(source),
        Some(ConfiguredTemplate::Named(templates)) => {
            let mut names = templates.iter().map(|template| template.name.as_str());
            let default = names.position(|name| name == "default").ok_or_else(|| {
                let problem = "`chat_template` is a list without a template named `default`";
                TextError::invalid(path.display().to_string(), problem)
            })?;
            templates.into_iter().nth(default).map(|template| template.template)
        }
    })
}

fn environment(
    bos_token: Option<&str>,
    eos_token: Option<&str>,
    now: fn() -> SystemTime,
) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("invariant: the default delimiters are valid"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(python_methods::call);
    environment.add_filter("tojson", json_format::tojson);
    environment.add_filter("trim", python_methods::trim);
    environment.add_function("raise_exception", raise_exception);
    add_clock(&mut environment, now);
    for (name, token) in [("bos_token", bos_token), ("eos_token", eos_token)] {
        if let Some(token) = token {
            environment.add_global(name, token);
        }
    }
    environment
}

fn add_clock(environment: &mut Environment<'static>, now: fn() -> SystemTime) {
    environment.add_function("strftime_now", move |format: &str| strftime::format(format, now()));
}

/// What a template refuses a conversation with, carried through the engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Exception(String);

fn raise_exception(message: &str) -> Result<String, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.to_owned());
    Err(error.with_source(Exception(message.to_owned())))
}

/// The innermost error says what happened; those around it say where it passed.
fn template_error(error: Error) -> TextError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = source {
        if let Some(exception) = current.downcast_ref::<Exception>() {
            return TextError::Refused(exception.0.clone());
        }
        let engine = current.downcast_ref::<Error>();
        if engine.is_some_and(|error| error.kind() == ErrorKind::OutOfFuel) {
            return TextError::TemplateBudget;
        }
        source = current.source();
    }
    let problem = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TextError::Template { line: error.line(), problem }
}

/// The source as the reference's lexer sees it: one kind of line end; and the tags that mark
/// generated text as blocks that do nothing but have their own scope.
fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        prepared.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (open, inside) =
            tag[..end].split_at(if tag[2..].starts_with(['-', '+']) { 3 } else { 2 });
        let name = inside.trim_end_matches(['-', '+']);
        let replacement = match name.trim() {
            "generation" => Some(" with "),
            "endgeneration" => Some(" endwith "),
            _ => None,
        };
        match replacement {
            Some(replacement) => prepared.extend([open, replacement, &inside[name.len()..]]),
            None => prepared.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    prepared.push_str(rest);
    prepared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_blocks_that_do_nothing() {
        let source = "{%- generation -%}a{% endgeneration %}{% if x %}{% endif %}{%generation%}";
        let expected = "{%- with -%}a{% endwith %}{% if x %}{% endif %}{% with %}";
        assert_eq!(prepare(source), expected);
        assert_eq!(prepare("a\r\nb\rc{% generation"), "a\nb\nc{% generation");
    }
}

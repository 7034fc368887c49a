//! Conversations to prompts, by the model's own template.
//!
//! A chat template is a Jinja program that comes with the model. What it renders must equal what
//! the model was trained on to the byte, so the environment is that of the reference (Transformers'
//! `apply_chat_template`): block tags take the white space around them, values print as Python
//! prints them, strings have Python's methods.
//!
//! | In scope | What it is |
//! | --- | --- |
//! | `messages` | the conversation: see [`ChatMessage`](super::ChatMessage) |
//! | `add_generation_prompt` | whether to end with the start of the assistant's turn |
//! | `bos_token`, `eos_token` | their texts, where the model has them |
//! | `tools`, `documents` | lists, or `none` |
//! | further names | what the request gives by name; those of this table are refused |
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
//!
//! A prompt that ends within its last message is made as the reference does it: a mark is put
//! behind the message's text, and what is rendered from the mark on is cut off.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde::Deserialize;

use super::conversation::{ChatMessage, Conversation, ToolSpec};
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
/// Stands behind the text of a message that is to be gone on with; the reference's own, for what a
/// template does to it (such as trimming it) must come out the same.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// What a request cannot give a template by name.
const RESERVED_NAMES: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
];

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

    /// The same surroundings with another program, for requests that bring their own.
    ///
    /// # Errors
    /// As of [`new`](Self::new), and [`TextError::Invalid`] for one that is too long.
    pub fn with_source(&self, source: &str) -> Result<Self, TextError> {
        if source.len() as u64 > MAX_TEMPLATE_BYTES {
            let problem = format!("{} bytes, more than {MAX_TEMPLATE_BYTES}", source.len());
            return Err(TextError::invalid("chat template", problem));
        }
        let source = prepare(source).into();
        let template = Self { environment: Arc::clone(&self.environment), source };
        template.environment.template_from_str(&template.source).map_err(template_error)?;
        Ok(template)
    }

    /// The program's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as a prompt, which ends as it says. The prompt has its special tokens in
    /// it: tokenize it without adding more.
    ///
    /// # Errors
    /// [`TextError::Refused`] when the template raises an exception, [`TextError::Template`] when
    /// it fails, [`TextError::TemplateBudget`] when it takes too much, [`TextError::ReservedName`]
    /// for a name that is in scope already, [`TextError::CannotContinue`] when the last message
    /// cannot be gone on with.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TextError> {
        let reserved = |name: &&String| RESERVED_NAMES.contains(&name.as_str());
        if let Some(name) = conversation.kwargs.keys().find(reserved) {
            return Err(TextError::ReservedName(name.clone()));
        }
        if !conversation.continue_final_message {
            return self.render_messages(conversation, conversation.messages);
        }
        let (content, marked) = self.mark(conversation)?;
        cut_at_mark(self.render_messages(conversation, &marked)?, content)
    }

    fn render_messages(
        &self,
        conversation: &Conversation<'_>,
        messages: &[ChatMessage],
    ) -> Result<String, TextError> {
        let template = self.environment.template_from_str(&self.source).map_err(template_error)?;
        let none = asks_whether_content_is_none(&self.source);
        let messages = messages.iter();
        let scope = context! {
            messages => messages.map(|message| message.to_value(none)).collect::<Value>(),
            add_generation_prompt => conversation.add_generation_prompt,
            tools => list_or_none(conversation.tools, ToolSpec::to_value),
            documents => list_or_none(conversation.documents, |document| Serde(document).into()),
            ..Value::from(Serde(conversation.kwargs)),
        };
        template.render(scope).map_err(template_error)
    }

    /// The text to go on with, and the messages with the mark behind it.
    fn mark<'a>(
        &self,
        conversation: &Conversation<'a>,
    ) -> Result<(&'a str, Vec<ChatMessage>), TextError> {
        let cannot = |why| Err(TextError::CannotContinue(why));
        if conversation.add_generation_prompt {
            return cannot("`add_generation_prompt` asks for a new one");
        }
        let Some((last, before)) = conversation.messages.split_last() else {
            return cannot("there is none");
        };
        let Some(content) = last.content.as_deref() else {
            return cannot("it has no content");
        };
        if !self.source.contains("content") {
            return cannot("the chat template does not write contents");
        }
        let mut marked = before.to_vec();
        marked.push(ChatMessage { content: Some(format!("{content}{MARK}")), ..last.clone() });
        Ok((content, marked))
    }
}

/// `none` for an empty list: templates ask whether there is one at all.
fn list_or_none<T>(items: &[T], to_value: impl Fn(&T) -> Value) -> Value {
    if items.is_empty() { Value::from(()) } else { items.iter().map(to_value).collect() }
}

fn asks_whether_content_is_none(source: &str) -> bool {
    let questions = [" is none", " is not none"].into_iter();
    questions.flat_map(|question| source.match_indices(question)).any(|(position, _)| {
        source[..position].trim_end_matches(['\'', '"', ']', ' ']).ends_with("content")
    })
}

/// What was rendered before the mark. A template that trims contents has trimmed the mark's last
/// space: then the white space before it goes too, as it would have without the mark.
fn cut_at_mark(mut prompt: String, content: &str) -> Result<String, TextError> {
    let position = prompt.rfind(MARK.trim_end());
    let Some(position) = position.filter(|_| prompt.contains(python_methods::trim(content))) else {
        return Err(TextError::CannotContinue("the chat template does not write it as it is"));
    };
    let keeps_space = prompt[position..].starts_with(MARK);
    prompt.truncate(position);
    if !keeps_space {
        prompt.truncate(python_methods::trim_end(&prompt).len());
    }
    Ok(prompt)
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
    environment.add_filter("trim", python_methods::trim_filter);
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

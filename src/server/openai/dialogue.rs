//! One conversation to be answered, in no dialect: what all of them convert into.
//!
//! ```text
//! chat, responses, messages --convert--> Dialogue --ready--> Turn: an engine request,
//!                                          |  |                and how its answer is heard
//!             template, tokenizer, limits -'  '- grammar of the answer's form or of a forced call
//! ```
//!
//! | Asked for | What becomes of it |
//! | --- | --- |
//! | tools | the template shows them; calls are told from words |
//! | a forced call | a grammar in the model's own format of calls; such a format is taken for granted when the template tells none |
//! | a form | a grammar for the whole answer; not together with a forced call |
//! | JSON, and a model that thinks | the grammar begins where the thought ends |
//! | another form, and a model that thinks | it does not think |
//! | `reasoning_effort` | a name that templates know; `none` also says `enable_thinking: false` |
//! | `truncate_prompt_tokens` | the last tokens of the prompt stay |
//!
//! What this module deliberately does not do: HTTP, JSON, and how answers look.

use serde_json::{Map, Value};

use super::format::Format;
use super::generate::{self, Streaming};
use super::listen::Listening;
use super::prompt::{check_model, check_text_bytes, encode, truncate};
use super::requests::TemplateFields;
use super::sampling::{Named, Setting, sampling_params};
use super::scheduling;
use super::tools::Tools;
use crate::engine;
use crate::server::ServerState;
use crate::server::error::ApiError;
use crate::text::grammar::{Grammar, GrammarSpec};
use crate::text::output_parser::{OutputFormat, RequiredCalls, ToolFormat};
use crate::text::{ChatMessage, ChatTemplate, Conversation, TextError};

/// How a forced call is written for a model whose template tells no format.
const FALLBACK_FORMAT: ToolFormat = ToolFormat::Hermes;

/// The schema of every JSON object.
const ANY_OBJECT: &str = r#"{"type": "object"}"#;

/// One conversation to be answered.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) messages: Vec<ChatMessage>,
    pub(super) tools: Tools,
    /// Whether an answer may have more than one call.
    pub(super) parallel_tool_calls: bool,
    pub(super) max_tokens: Named,
    pub(super) logprobs: Named,
    /// The form that the answer must have.
    pub(super) format: Option<Format>,
    /// How it becomes a prompt, and how it is sampled.
    pub(super) fields: TemplateFields,
    /// Whether the answer tells what the model thought.
    pub(super) include_reasoning: bool,
    /// The field that carries the messages.
    pub(super) param: &'static str,
}

/// A dialogue that can be answered.
#[derive(Debug)]
pub(super) struct Turn {
    /// What the engine is asked.
    pub(super) request: engine::Request,
    pub(super) streaming: Streaming,
    /// How the answer is heard.
    pub(super) listening: Listening,
}

impl Dialogue {
    /// Checks everything and makes the prompt.
    ///
    /// # Errors
    /// The first field that is wrong, by name.
    pub(super) fn ready(self, state: &ServerState) -> Result<Turn, ApiError> {
        let fields = &self.fields.sampling;
        check_model(state, fields)?;
        let setting = Setting {
            defaults: &state.options().default_sampling,
            tokenizer: state.tokenizer(),
            vocab_size: state.engine().vocab_size(),
        };
        let mut params = sampling_params(fields, self.max_tokens, self.logprobs, setting)?;
        let streaming = generate::streaming(fields)?;

        let format = self.output_format(state)?;
        let (text, prompt) = self.prompt(state)?;
        let starts_in_reasoning =
            format.reasoning.is_some_and(|reasoning| reasoning.starts_in_reasoning(&text));
        let grammar = self.grammar(state, format, starts_in_reasoning)?;
        if format.shows_special_tokens() {
            params.skip_special_tokens = false;
        }
        let request = scheduling::requests(fields, vec![prompt], params, grammar)?.remove(0);
        let listening = Listening {
            tokenizer: state.tokenizer().clone(),
            tools: self.tools.specs.into(),
            format,
            starts_in_reasoning,
            include_reasoning: self.include_reasoning,
            parallel_tool_calls: self.parallel_tool_calls,
        };
        Ok(Turn { request, streaming, listening })
    }

    /// What to look for in the answer.
    fn output_format(&self, state: &ServerState) -> Result<OutputFormat, ApiError> {
        let known = state.options().output_format;
        let tools = match known.tools {
            _ if self.tools.specs.is_empty() => None,
            None if self.tools.required.is_some() => Some(FALLBACK_FORMAT),
            None => {
                let message = "`tools` are not supported with this model: its chat template tells \
                               no format of calls; start the server with --tool-call-parser, or \
                               force a call with `tool_choice`";
                return Err(ApiError::invalid("tools", message));
            }
            tools => tools,
        };
        Ok(OutputFormat { tools, ..known })
    }

    /// The prompt as text and as tokens.
    fn prompt(&self, state: &ServerState) -> Result<(String, Vec<u32>), ApiError> {
        let text = render(state, self)?;
        let fields = &self.fields.sampling;
        let add_special_tokens = fields.add_special_tokens.unwrap_or(false);
        let prompt = encode(state, self.param, &text, add_special_tokens)?;
        let prompt = truncate(state, fields, prompt)?;
        if prompt.is_empty() {
            let message = "the messages render to an empty prompt";
            return Err(ApiError::invalid(self.param, message));
        }
        Ok((text, prompt))
    }

    /// What the answer must follow, after a thought where the model thinks.
    fn grammar(
        &self,
        state: &ServerState,
        output: OutputFormat,
        starts_in_reasoning: bool,
    ) -> Result<Option<Grammar>, ApiError> {
        let tokenizer = state.tokenizer();
        match (&self.format, &self.tools.required) {
            (None, None) => Ok(None),
            (Some(format), None) => {
                let spec = match &format.spec {
                    GrammarSpec::JsonSchema(schema) if output.reasoning.is_some() => {
                        output.grammar_of_json(schema, starts_in_reasoning, tokenizer)
                    }
                    GrammarSpec::JsonObject if output.reasoning.is_some() => {
                        output.grammar_of_json(ANY_OBJECT, starts_in_reasoning, tokenizer)
                    }
                    spec => spec.clone(),
                };
                compile(state, &spec, format.param).map(Some)
            }
            (Some(format), Some(_)) => {
                let (param, problem) = (format.param, "a `tool_choice` that forces a call");
                let message = format!("`{param}` is not allowed together with {problem}");
                Err(ApiError::invalid(param, message))
            }
            (None, Some(choice)) => {
                let parallel = self.parallel_tool_calls;
                let calls = RequiredCalls { tools: &self.tools.specs, choice, parallel };
                let spec = output.grammar_of_calls(&calls, starts_in_reasoning, tokenizer);
                let spec = spec.expect("invariant: a forced call has a format and a tool");
                compile(state, &spec, "tools").map(Some)
            }
        }
    }
}

/// Compiles what a field asks for.
///
/// # Errors
/// Why it cannot be compiled, with the field's name.
pub(super) fn compile(
    state: &ServerState,
    spec: &GrammarSpec,
    param: &str,
) -> Result<Grammar, ApiError> {
    let invalid = |error: String| ApiError::invalid(param, format!("invalid {param}: {error}"));
    let compiler = state.grammars().map_err(|error| invalid(error.to_string()))?;
    compiler.compile(spec).map_err(|error| invalid(error.to_string()))
}

/// The prompt's text.
///
/// # Errors
/// The template refuses the messages, or there is none.
pub(super) fn render(state: &ServerState, dialogue: &Dialogue) -> Result<String, ApiError> {
    let Dialogue { messages, fields, param, .. } = dialogue;
    let template = state.chat_template().ok_or_else(|| {
        ApiError::invalid(param, "the model has no chat template; use /v1/completions")
    })?;
    let own = own_template(state, template, fields)?;
    let texts = messages
        .iter()
        .flat_map(|message| [&message.content, &message.reasoning_content].into_iter().flatten());
    check_text_bytes(state, param, texts.map(String::len).sum())?;

    let kwargs = kwargs(fields)?;
    let documents: Vec<Value> =
        fields.documents.iter().flatten().map(|json| json.0.clone()).collect();
    let continue_final_message = fields.continue_final_message.unwrap_or(false);
    let conversation = Conversation {
        messages,
        tools: &dialogue.tools.specs,
        documents: &documents,
        add_generation_prompt: fields.add_generation_prompt.unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs: &kwargs,
    };
    own.as_ref().unwrap_or(template).render(&conversation).map_err(|error| {
        let param = match error {
            TextError::ReservedName(_) => "chat_template_kwargs",
            TextError::CannotContinue(_) => "continue_final_message",
            _ => param,
        };
        ApiError::invalid(param, format!("the chat template refuses the messages: {error}"))
    })
}

/// The template that a request brings, where that is allowed: it is a program.
fn own_template(
    state: &ServerState,
    template: &ChatTemplate,
    fields: &TemplateFields,
) -> Result<Option<ChatTemplate>, ApiError> {
    const PARAM: &str = "chat_template";
    let Some(source) = &fields.chat_template else { return Ok(None) };
    if !state.options().trust_request_chat_template {
        let message = "`chat_template` is only allowed where the server was started with \
                       --trust-request-chat-template";
        return Err(ApiError::invalid(PARAM, message));
    }
    let invalid = |error| ApiError::invalid(PARAM, format!("invalid {PARAM}: {error}"));
    template.with_source(source).map(Some).map_err(invalid)
}

/// What the template is given by name.
fn kwargs(fields: &TemplateFields) -> Result<Map<String, Value>, ApiError> {
    const PARAM: &str = "chat_template_kwargs";
    let mut kwargs = match fields.chat_template_kwargs.as_ref().map(|json| &json.0) {
        None => Map::new(),
        Some(Value::Object(kwargs)) => kwargs.clone(),
        Some(_) => {
            let message = "invalid chat_template_kwargs: expected an object";
            return Err(ApiError::invalid(PARAM, message));
        }
    };
    if let Some(effort) = &fields.reasoning_effort {
        if effort == "none" {
            kwargs.entry("enable_thinking").or_insert(false.into());
        }
        kwargs.entry("reasoning_effort").or_insert(effort.as_str().into());
    }
    Ok(kwargs)
}

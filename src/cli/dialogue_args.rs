//! The flags that say how conversations are written and read.
//!
//! What this module deliberately does not do: it knows no format; their names are `text`'s.

use std::str::FromStr;

use clap::Args;

use super::values;
use crate::text::ChatTemplate;
use crate::text::output_parser::{OutputFormat, ReasoningFormat, ToolFormat};

/// How a format is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice<T> {
    /// By what the chat template writes.
    Detected,
    /// There is none.
    None,
    /// It is this one.
    Named(T),
}

impl<T> Choice<T> {
    fn of(self, detected: Option<T>) -> Option<T> {
        match self {
            Self::Detected => detected,
            Self::None => None,
            Self::Named(format) => Some(format),
        }
    }
}

/// How conversations are written and read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversation options")]
#[expect(clippy::doc_markdown, reason = "the doc is the help, where backticks are noise")]
pub(crate) struct DialogueArgs {
    /// How the model writes calls of tools, such as hermes, llama3_json, mistral or deepseek_v3;
    /// none: answers are not looked through for calls; auto: as its chat template tells.
    #[arg(long, value_name = "NAME", env = "CAIRN_TOOL_CALL_PARSER", default_value = "auto")]
    #[arg(value_parser = choice::<ToolFormat>)]
    tool_call_parser: Choice<ToolFormat>,

    /// How the model writes what it thinks, such as deepseek_r1, qwen3 or mistral; none: thoughts
    /// are part of the answer; auto: as its chat template tells.
    #[arg(long, value_name = "NAME", env = "CAIRN_REASONING_PARSER", default_value = "auto")]
    #[arg(value_parser = choice::<ReasoningFormat>)]
    reasoning_parser: Choice<ReasoningFormat>,

    /// Let the model decide whether to call a tool. It may always; scripts give this flag.
    #[arg(long, env = "CAIRN_ENABLE_AUTO_TOOL_CHOICE", value_parser = values::switch())]
    enable_auto_tool_choice: bool,

    /// Let requests bring a chat template of their own, which is a program that runs here.
    #[arg(long, env = "CAIRN_TRUST_REQUEST_CHAT_TEMPLATE", value_parser = values::switch())]
    trust_request_chat_template: bool,
}

impl DialogueArgs {
    /// How the answers of a model with this template are read.
    pub(crate) fn output_format(&self, template: Option<&ChatTemplate>) -> OutputFormat {
        let source = template.map(ChatTemplate::source).unwrap_or_default();
        let detected = OutputFormat::detect(source);
        OutputFormat {
            tools: self.tool_call_parser.of(detected.tools),
            reasoning: self.reasoning_parser.of(detected.reasoning),
        }
    }

    /// Whether requests may bring a template.
    pub(crate) fn trust_request_chat_template(&self) -> bool {
        self.trust_request_chat_template
    }
}

fn choice<T: FromStr>(name: &str) -> Result<Choice<T>, T::Err> {
    match name {
        "auto" => Ok(Choice::Detected),
        "none" => Ok(Choice::None),
        name => name.parse().map(Choice::Named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_named_detected_or_not_there() {
        let hermes = Some(ToolFormat::Hermes);
        let of =
            |name: &str, detected| choice::<ToolFormat>(name).map(|choice| choice.of(detected));
        assert_eq!(of("auto", hermes), Ok(hermes));
        assert_eq!(of("none", hermes), Ok(None));
        assert_eq!(of("mistral", hermes), Ok(Some(ToolFormat::Mistral)));
        assert!(of("nothing", None).unwrap_err().to_string().contains("hermes"));
    }
}

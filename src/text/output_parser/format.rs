//! Which ways of writing calls and thoughts there are, and which one a model's template uses.

use std::str::FromStr;

/// How a model writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": {..}}</tool_call>`: Hermes, Qwen 2.5, Qwen 3.
    Hermes,
    /// `{"name": .., "parameters": {..}}` as the whole answer, with or without `<|python_tag|>`,
    /// several parted by `;`: Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS][{"name": .., "arguments": {..}}]`, or `[TOOL_CALLS]name[ARGS]{..}`: Mistral.
    Mistral,
    /// `name` and a fenced block of JSON between markers: `DeepSeek` V3 and R1.
    DeepSeekV3,
    /// `name`, a marker and JSON between markers: `DeepSeek` V3.1.
    DeepSeekV31,
    /// `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`: Qwen 3
    /// Coder.
    Qwen3Coder,
    /// `[name(key=value), ..]` as the whole answer: Llama 3.2, Llama 4.
    Pythonic,
}

/// How a model writes what it thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasoningFormat {
    /// `<think>..</think>`, whose beginning may be missing: an answer begins with thought.
    DeepSeekR1,
    /// `<think>..</think>`, or no thought at all.
    Qwen3,
    /// `[THINK]..[/THINK]`.
    Mistral,
    /// `<seed:think>..</seed:think>`.
    SeedOss,
}

/// The name of a format that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} parser `{name}` (known: {known})")]
pub struct UnknownFormat {
    what: &'static str,
    name: String,
    known: String,
}

/// vLLM's names of `--tool-call-parser`.
const TOOL_FORMATS: &[(&str, ToolFormat)] = &[
    ("hermes", ToolFormat::Hermes),
    ("qwen", ToolFormat::Hermes),
    ("qwen3", ToolFormat::Hermes),
    ("llama3_json", ToolFormat::Llama3Json),
    ("llama4_json", ToolFormat::Llama3Json),
    ("mistral", ToolFormat::Mistral),
    ("deepseek_v3", ToolFormat::DeepSeekV3),
    ("deepseek_v31", ToolFormat::DeepSeekV31),
    ("qwen3_coder", ToolFormat::Qwen3Coder),
    ("qwen3_xml", ToolFormat::Qwen3Coder),
    ("pythonic", ToolFormat::Pythonic),
    ("llama4_pythonic", ToolFormat::Pythonic),
];

/// vLLM's names of `--reasoning-parser`.
const REASONING_FORMATS: &[(&str, ReasoningFormat)] = &[
    ("deepseek_r1", ReasoningFormat::DeepSeekR1),
    ("deepseek_v3", ReasoningFormat::Qwen3),
    ("qwen3", ReasoningFormat::Qwen3),
    ("glm45", ReasoningFormat::Qwen3),
    ("mistral", ReasoningFormat::Mistral),
    ("seed_oss", ReasoningFormat::SeedOss),
];

fn by_name<T: Copy>(
    what: &'static str,
    formats: &[(&str, T)],
    name: &str,
) -> Result<T, UnknownFormat> {
    let found = formats.iter().find(|(known, _)| *known == name);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let known: Vec<&str> = formats.iter().map(|(known, _)| *known).collect();
        UnknownFormat { what, name: name.to_owned(), known: known.join(", ") }
    })
}

impl FromStr for ToolFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        by_name("tool call", TOOL_FORMATS, name)
    }
}

impl FromStr for ReasoningFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        by_name("reasoning", REASONING_FORMATS, name)
    }
}

impl ToolFormat {
    /// Whether its markers may be special tokens, which text is usually made without.
    pub fn shows_special_tokens(self) -> bool {
        !matches!(self, Self::Pythonic)
    }
}

impl ReasoningFormat {
    /// What begins a thought, and what ends it.
    pub(super) fn markers(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::DeepSeekR1 | Self::Qwen3 => ("<think>", &["</think>"]),
            Self::Mistral => ("[THINK]", &["[/THINK]"]),
            Self::SeedOss => ("<seed:think>", &["</seed:think>"]),
        }
    }

    /// Whether its markers may be special tokens, which text is usually made without.
    pub fn shows_special_tokens(self) -> bool {
        true
    }

    /// Whether what follows this prompt is thought from its first word on: the prompt's end opened
    /// it, or the model always begins so.
    pub fn starts_in_reasoning(self, prompt: &str) -> bool {
        let (open, close) = self.markers();
        let prompt = prompt.trim_end();
        prompt.ends_with(open) || (self == Self::DeepSeekR1 && !prompt.ends_with(close[0]))
    }
}

/// How a model's answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputFormat {
    /// Calls of tools; `None`: answers are not looked through for them.
    pub tools: Option<ToolFormat>,
    /// Thoughts, likewise.
    pub reasoning: Option<ReasoningFormat>,
}

impl OutputFormat {
    /// The formats whose markers the template writes when it shows the model its own past.
    pub fn detect(template_source: &str) -> Self {
        let has = |text: &str| template_source.contains(text);
        let tools = if has("<tool_call>") {
            let is_tagged = has("<function=");
            Some(if is_tagged { ToolFormat::Qwen3Coder } else { ToolFormat::Hermes })
        } else if has("[TOOL_CALLS]") {
            Some(ToolFormat::Mistral)
        } else if has("<｜tool▁call▁begin｜>") {
            let is_fenced = has("```json");
            Some(if is_fenced { ToolFormat::DeepSeekV3 } else { ToolFormat::DeepSeekV31 })
        } else if has("<|python_tag|>") {
            Some(ToolFormat::Llama3Json)
        } else {
            None
        };
        let reasoning = if has("[THINK]") {
            Some(ReasoningFormat::Mistral)
        } else if has("<seed:think>") {
            Some(ReasoningFormat::SeedOss)
        } else if has("</think>") {
            // DeepSeek's own models begin with thought unless their template can ask for none.
            let always = has("<｜Assistant｜>") && !has("thinking");
            Some(if always { ReasoningFormat::DeepSeekR1 } else { ReasoningFormat::Qwen3 })
        } else {
            None
        };
        Self { tools, reasoning }
    }

    /// Whether the text to parse must be made with its special tokens.
    pub fn shows_special_tokens(self) -> bool {
        self.tools.is_some_and(ToolFormat::shows_special_tokens)
            || self.reasoning.is_some_and(ReasoningFormat::shows_special_tokens)
    }
}

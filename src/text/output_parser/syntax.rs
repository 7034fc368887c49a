//! How the formats write a call, up to its arguments and from their end on.
//!
//! | Format | Before the arguments | After them |
//! | --- | --- | --- |
//! | Hermes | `<tool_call>` `{"name": "f", "arguments":` | `}` `</tool_call>` |
//! | Llama 3 | `<\|python_tag\|>`? or `;` `{"name": "f", "parameters":` | `}` |
//! | Mistral | `[TOOL_CALLS]` `[` or `,` `{"name": "f", "arguments":` | `}` and perhaps `]` |
//! | Mistral | `[TOOL_CALLS]` `f` `[CALL_ID]i`? `[ARGS]`? | |
//! | `DeepSeek` V3 | `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n` fence | fence `<｜tool▁call▁end｜>` |
//! | `DeepSeek` V3.1 | `<｜tool▁call▁begin｜>f<｜tool▁sep｜>` | `<｜tool▁call▁end｜>` |
//! | Qwen 3 Coder | `<tool_call>` `<function=f>` | `</function>` `</tool_call>` |
//! | Pythonic | `[` or `,` `f(` | `)` and perhaps `]` |
//!
//! White space may stand between all of these.

use super::cursor::{Cursor, Halt};
use super::format::ToolFormat;

pub(super) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";
const FENCE: &str = "```";

/// What follows the beginning of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// An object, whose first character is the last that was read.
    Arguments {
        name: String,
        /// Whether the call itself is an object, which ends after its arguments.
        in_object: bool,
    },
    /// An object that has to be read whole, from this byte on, to know what it calls.
    Object { start: usize },
    /// Arguments between tags.
    Tagged { name: String },
    /// Python's arguments, in parentheses.
    Python { name: String },
}

/// What follows the end of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Another call, of which this much has been read.
    Call(String),
    /// No other call at once; this much of the text has been read.
    Text(String),
}

impl ToolFormat {
    /// What begins a call within an answer, and what does only as its beginning.
    pub(super) fn markers(self) -> (&'static [&'static str], Option<&'static str>) {
        match self {
            Self::Hermes | Self::Qwen3Coder => (&["<tool_call>"], None),
            Self::Llama3Json => (&["<|python_tag|>"], Some("{")),
            Self::Mistral => (&["[TOOL_CALLS]"], None),
            Self::DeepSeekV3 | Self::DeepSeekV31 => (&[CALLS_BEGIN, CALL_BEGIN], None),
            Self::Pythonic => (&["<|python_start|>"], Some("[")),
        }
    }

    /// Reads a call up to its arguments.
    pub(super) fn head(self, raw: &str) -> Result<Head, Halt> {
        let cursor = &mut Cursor::new(raw);
        cursor.skip_space();
        match self {
            Self::Hermes => {
                cursor.literal("<tool_call>")?;
                object(cursor, raw)
            }
            Self::Llama3Json => {
                if !cursor.optional("<|python_tag|>")? {
                    cursor.optional(";")?;
                }
                object(cursor, raw)
            }
            Self::Mistral => mistral(cursor, raw),
            Self::DeepSeekV3 | Self::DeepSeekV31 => deepseek(cursor),
            Self::Qwen3Coder => {
                cursor.literal("<tool_call>")?;
                cursor.skip_space();
                cursor.literal("<function=")?;
                let name = cursor.until(">")?.trim().to_owned();
                if name.is_empty() { Err(Halt::Other) } else { Ok(Head::Tagged { name }) }
            }
            Self::Pythonic => {
                if cursor.optional("<|python_start|>")? {
                    cursor.skip_space();
                }
                if !cursor.optional("[")? {
                    cursor.literal(",")?;
                }
                cursor.skip_space();
                let name = cursor.name()?.to_owned();
                cursor.literal("(")?;
                Ok(Head::Python { name })
            }
        }
    }

    /// Reads on from the end of a call's arguments.
    pub(super) fn tail(self, raw: &str, in_object: bool) -> Result<Tail, Halt> {
        let cursor = &mut Cursor::new(raw);
        if in_object {
            end_of_object(cursor)?;
        }
        let goes_on = match self {
            Self::Hermes | Self::Qwen3Coder => {
                cursor.optional_after_space("</tool_call>")?;
                false
            }
            Self::Llama3Json => {
                let mut next = *cursor;
                next.optional_after_space(";")?;
                next.skip_space();
                next.peek()? == '{'
            }
            Self::Mistral if in_object => is_next_in_list(cursor)?,
            Self::Mistral => false,
            Self::DeepSeekV3 | Self::DeepSeekV31 => {
                cursor.optional_after_space(FENCE)?;
                cursor.optional_after_space(CALL_END)?;
                let mut next = *cursor;
                let goes_on = next.optional_after_space(CALL_BEGIN)?;
                if !goes_on {
                    cursor.optional_after_space(CALLS_END)?;
                }
                goes_on
            }
            Self::Pythonic => {
                let goes_on = is_next_in_list(cursor)?;
                if !goes_on {
                    cursor.optional_after_space("<|python_end|>")?;
                }
                goes_on
            }
        };
        let rest = cursor.rest.to_owned();
        Ok(if goes_on { Tail::Call(rest) } else { Tail::Text(rest) })
    }
}

/// Whether a comma follows, which is not read; the end of the list is.
fn is_next_in_list(cursor: &mut Cursor<'_>) -> Result<bool, Halt> {
    let mut next = *cursor;
    if next.optional_after_space(",")? {
        return Ok(true);
    }
    cursor.optional_after_space("]")?;
    Ok(false)
}

fn mistral(cursor: &mut Cursor<'_>, raw: &str) -> Result<Head, Halt> {
    if !cursor.optional("[TOOL_CALLS]")? {
        cursor.literal(",")?;
        return object(cursor, raw);
    }
    cursor.skip_space();
    if cursor.peek()? == '{' || cursor.optional("[")? {
        return object(cursor, raw);
    }
    let name = cursor.name()?.to_owned();
    if cursor.optional_after_space("[CALL_ID]")? {
        cursor.skip_space();
        cursor.name()?;
    }
    cursor.optional_after_space("[ARGS]")?;
    cursor.skip_space();
    cursor.literal("{")?;
    Ok(Head::Arguments { name, in_object: false })
}

/// V3 writes a type before the separator and the name behind it, V3.1 the name before it.
fn deepseek(cursor: &mut Cursor<'_>) -> Result<Head, Halt> {
    cursor.optional(CALLS_BEGIN)?;
    cursor.skip_space();
    cursor.literal(CALL_BEGIN)?;
    let before = cursor.until(SEPARATOR)?.trim();
    cursor.skip_space();
    let name = if cursor.peek()? == '{' {
        before
    } else {
        let name = cursor.until("\n")?.trim();
        cursor.skip_space();
        if cursor.optional(FENCE)? {
            cursor.optional("json")?;
        }
        cursor.skip_space();
        name
    };
    cursor.literal("{")?;
    if name.is_empty() {
        return Err(Halt::Other);
    }
    Ok(Head::Arguments { name: name.to_owned(), in_object: false })
}

/// `{"name": "f", "arguments": {`, perhaps with other keys of a call before the last one. An object
/// with a key that no call has is none.
fn object(cursor: &mut Cursor<'_>, raw: &str) -> Result<Head, Halt> {
    cursor.skip_space();
    let start = raw.len() - cursor.rest.len();
    cursor.literal("{")?;
    let mut name = None;
    loop {
        cursor.skip_space();
        let key = cursor.string()?;
        cursor.skip_space();
        cursor.literal(":")?;
        cursor.skip_space();
        match key.as_str() {
            "name" => name = Some(cursor.string()?),
            "id" | "type" => {
                cursor.string()?;
            }
            "arguments" | "parameters" => {
                let opens = cursor.peek()? == '{';
                return Ok(match name {
                    Some(name) if opens => Head::Arguments { name, in_object: true },
                    _ => Head::Object { start },
                });
            }
            _ => return Err(Halt::Other),
        }
        cursor.skip_space();
        if cursor.peek()? == '}' && name.is_some() {
            return Ok(Head::Object { start });
        }
        cursor.literal(",")?;
    }
}

/// The rest of a call's object after its arguments. Where its end is missing, so be it.
fn end_of_object(cursor: &mut Cursor<'_>) -> Result<(), Halt> {
    loop {
        if cursor.optional_after_space("}")? || !cursor.optional_after_space(",")? {
            return Ok(());
        }
        cursor.skip_space();
        cursor.string()?;
        cursor.skip_space();
        cursor.literal(":")?;
        cursor.skip_space();
        cursor.string()?;
    }
}

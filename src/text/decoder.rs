//! From a token as the vocabulary spells it to the bytes that it stands for.
//!
//! | Step | `Ġworld` `▁world` `<0xE4>` become |
//! | --- | --- |
//! | byte level | ` world`: every letter stands for one byte, `Ġ` for a space |
//! | byte fallback | the byte `E4`, part of a character |
//! | replace | ` world`, with `▁` replaced by a space |
//! | metaspace | the same, but nothing in front of the first token |
//! | strip | one space less at the start of the whole text |
//!
//! Bytes are the common ground: what a token stands for does not depend on its neighbours, only on
//! being the first, so decoding is joining. The library's decoders work on whole sequences instead,
//! which would cost a stream of n tokens n decodes, and let a late token change text already sent.
//!
//! It deliberately has no suffix decoders (`</w>`, `##`): no model served here needs them.

use serde_json::Value;

use super::error::TextError;

const SUPPORTED: &str = "ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Sequence, Strip";

/// How tokens become bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoder {
    steps: Vec<Step>,
    /// Tokens of a file without a decoder are words: a space goes between.
    joins_with_space: bool,
    /// Characters to drop from the start of the whole text, and how many at most.
    pub(super) strip_start: Option<(char, usize)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    ByteLevel,
    ByteFallback,
    Replace { pattern: String, content: String },
    Metaspace { replacement: char, drops_on_first: bool },
    Strip { content: char, start: usize, stop: usize },
}

impl Decoder {
    /// Every letter of a token stands for one byte.
    pub(super) fn byte_level() -> Self {
        Self { steps: vec![Step::ByteLevel], joins_with_space: false, strip_start: None }
    }

    /// `▁` for spaces and `<0xNN>` for bytes.
    pub(super) fn sentencepiece(has_space_prefix: bool) -> Self {
        let replace = Step::Replace { pattern: "▁".to_owned(), content: " ".to_owned() };
        Self {
            steps: vec![replace, Step::ByteFallback],
            joins_with_space: false,
            strip_start: has_space_prefix.then_some((' ', 1)),
        }
    }

    /// The `decoder` of a tokenizer.json.
    ///
    /// # Errors
    /// [`TextError::Unsupported`] for other types, [`TextError::Invalid`] for missing fields.
    pub(super) fn from_json(decoder: &Value) -> Result<Self, TextError> {
        let mut result =
            Self { steps: Vec::new(), joins_with_space: decoder.is_null(), strip_start: None };
        if !decoder.is_null() {
            let mut is_fused = false;
            result.add_json(decoder, &mut is_fused)?;
        }
        Ok(result)
    }

    fn add_json(&mut self, part: &Value, is_fused: &mut bool) -> Result<(), TextError> {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let step = match kind {
            "Sequence" => {
                for member in part.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                    self.add_json(member, is_fused)?;
                }
                return Ok(());
            }
            "Fuse" => {
                *is_fused = true;
                return Ok(());
            }
            "ByteLevel" => Step::ByteLevel,
            "ByteFallback" => Step::ByteFallback,
            "Replace" => replace_step(part)?,
            "Metaspace" => metaspace_step(part)?,
            "Strip" => strip_step(part)?,
            _ => return Err(unsupported(kind)),
        };
        match step {
            Step::Strip { content, start, stop: 0 } if *is_fused => {
                self.strip_start = Some((content, start));
            }
            // After all tokens became one text, the end of a text is known only when it ends.
            _ if *is_fused => return Err(unsupported(&format!("{kind} after Fuse"))),
            _ => self.steps.push(step),
        }
        Ok(())
    }

    /// Whether broken characters show as one U+FFFD per byte, as byte-fallback tokens do, rather
    /// than per broken sequence.
    pub(super) fn replaces_each_byte(&self) -> bool {
        self.steps.contains(&Step::ByteFallback)
    }

    /// Whether a token may stand for something else when it is the first of a text.
    pub(super) fn treats_first_token_apart(&self) -> bool {
        self.joins_with_space
            || self
                .steps
                .iter()
                .any(|step| matches!(step, Step::Metaspace { drops_on_first: true, .. }))
    }

    /// What the token stands for.
    pub(super) fn bytes_of(&self, token: &str, is_first: bool) -> Vec<u8> {
        let mut text = token.to_owned();
        for step in &self.steps {
            text = match step {
                Step::ByteLevel => match bytes_of_letters(&text) {
                    Some(bytes) => return bytes,
                    None => text,
                },
                Step::ByteFallback => match fallback_byte(&text) {
                    Some(byte) => return vec![byte],
                    None => text,
                },
                Step::Replace { pattern, content } => text.replace(pattern, content),
                Step::Metaspace { replacement, drops_on_first } => {
                    let space = if is_first && *drops_on_first { "" } else { " " };
                    text.replace(*replacement, space)
                }
                Step::Strip { content, start, stop } => {
                    strip(&text, *content, *start, *stop).to_owned()
                }
            };
        }
        if self.joins_with_space && !is_first {
            text.insert(0, ' ');
        }
        text.into_bytes()
    }
}

fn unsupported(kind: &str) -> TextError {
    TextError::Unsupported {
        what: "decoder",
        name: kind.to_owned(),
        supported: SUPPORTED.to_owned(),
    }
}

fn field<'a>(part: &'a Value, name: &str) -> Result<&'a str, TextError> {
    let text = part.get(name).and_then(Value::as_str);
    text.filter(|text| !text.is_empty() || name == "content").ok_or_else(|| {
        TextError::invalid("decoder", format!("`{name}` must be a string that is not empty"))
    })
}

fn single_char(part: &Value, name: &str) -> Result<char, TextError> {
    let mut chars = field(part, name)?.chars();
    match (chars.next(), chars.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(TextError::invalid("decoder", format!("`{name}` must be one character"))),
    }
}

fn replace_step(part: &Value) -> Result<Step, TextError> {
    let Some(pattern) = part.get("pattern").filter(|pattern| pattern.get("String").is_some())
    else {
        return Err(unsupported("Replace with a regex"));
    };
    Ok(Step::Replace {
        pattern: field(pattern, "String")?.to_owned(),
        content: field(part, "content")?.to_owned(),
    })
}

fn metaspace_step(part: &Value) -> Result<Step, TextError> {
    let scheme = part.get("prepend_scheme").and_then(Value::as_str);
    // Older files have a flag instead of a scheme.
    let has_prefix = part.get("add_prefix_space").and_then(Value::as_bool);
    Ok(Step::Metaspace {
        replacement: single_char(part, "replacement")?,
        drops_on_first: scheme != Some("never") && has_prefix != Some(false),
    })
}

fn strip_step(part: &Value) -> Result<Step, TextError> {
    let count = |name| {
        let count =
            part.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| TextError::invalid("decoder", format!("`{name}` must be a count")))
    };
    Ok(Step::Strip {
        content: single_char(part, "content")?,
        start: count("start")?,
        stop: count("stop")?,
    })
}

fn strip(mut text: &str, content: char, start: usize, stop: usize) -> &str {
    for _ in 0..start.min(text.len()) {
        text = text.strip_prefix(content).unwrap_or(text);
    }
    for _ in 0..stop.min(text.len()) {
        text = text.strip_suffix(content).unwrap_or(text);
    }
    text
}

/// `<0xE4>` is the byte E4.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes that the letters stand for; `None` when one of them stands for none, as in tokens that
/// were added to the vocabulary in plain text.
fn bytes_of_letters(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of_letter).collect()
}

/// The alphabet of byte-level vocabularies (GPT-2, `encoder.py`): bytes that print stand for
/// themselves, the other 68 for the letters from U+0100 on, in order.
fn byte_of_letter(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_byte_has_one_letter() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of_letter).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(bytes_of_letters("ĠHi").unwrap(), b" Hi");
        assert_eq!(bytes_of_letters("a b"), None);
    }

    #[test]
    fn only_two_hex_digits_are_a_byte() {
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
        for token in ["<0x0>", "<0x+1>", "<0x0AB>", "0x0A", "<0xé>"] {
            assert_eq!(fallback_byte(token), None, "{token}");
        }
    }

    #[test]
    fn a_decoder_that_is_not_known_is_named() {
        let error = Decoder::from_json(&json!({"type": "CTC"})).unwrap_err();
        assert!(error.to_string().starts_with("decoder `CTC` is not supported"), "{error}");
        let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
        let sequence = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]});
        assert!(Decoder::from_json(&sequence).is_err());
        assert!(
            Decoder::from_json(
                &json!({"type": "Replace", "pattern": {"String": ""}, "content": ""})
            )
            .is_err()
        );
        assert!(Decoder::from_json(&json!([])).is_err());
    }

    #[test]
    fn the_first_metaspace_is_dropped_unless_the_scheme_is_never() {
        let decoder = |scheme| {
            let part = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme});
            Decoder::from_json(&part).unwrap()
        };
        assert_eq!(decoder("first").bytes_of("▁a", true), b"a");
        assert_eq!(decoder("first").bytes_of("▁a", false), b" a");
        assert_eq!(decoder("never").bytes_of("▁a", true), b" a");
    }
}

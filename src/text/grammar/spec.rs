//! What a text is to look like, as its source.

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::GrammarError;
use super::json_schema;

/// Bytes of one source.
pub(super) const MAX_SOURCE_BYTES: usize = 512 * 1024;
/// Bytes of a regex.
pub(super) const MAX_REGEX_BYTES: usize = 4 * 1024;
/// Bytes of the rules of a Lark grammar.
const MAX_RULES_BYTES: usize = 64 * 1024;
/// How deep brackets of a pattern may be nested.
const MAX_PATTERN_DEPTH: usize = 200;
/// How many choices there may be.
const MAX_CHOICES: usize = 20_000;

/// What a text is to look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows; the schema's own JSON text.
    JsonSchema(String),
    /// Text that a regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in llguidance's variant of Lark, whose start rule is `start`.
    Lark(String),
}

/// A spec in the form that the library takes.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// A checked schema.
    Schema(Value),
    /// A Lark grammar.
    Lark(String),
    /// One that has schemas in it, which are checked.
    LarkWithSchemas(String),
    /// A regular expression.
    Regex(String),
}

impl GrammarSpec {
    /// What kind of source it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "choice",
            Self::Lark(_) => "grammar",
        }
    }

    /// Bytes of its source.
    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(|text| text.len() + 1).sum(),
        }
    }

    /// Checks sizes and shapes, and brings it into the library's form.
    ///
    /// # Errors
    /// What is too large, or cannot be honoured.
    pub(super) fn source(&self) -> Result<Source, GrammarError> {
        let at_most = |what, got: usize, max: usize| match got {
            got if got <= max => Ok(()),
            got => Err(GrammarError::TooLarge { what, got, max }),
        };
        at_most("bytes of its source", self.num_bytes(), MAX_SOURCE_BYTES)?;
        match self {
            Self::JsonObject => Ok(Source::Schema(json_schema::any_object())),
            Self::JsonSchema(text) => json_schema::check(text).map(Source::Schema),
            Self::Regex(pattern) => {
                at_most("bytes of a pattern", pattern.len(), MAX_REGEX_BYTES)?;
                at_most("nested brackets", depth_of(pattern), MAX_PATTERN_DEPTH)?;
                Ok(Source::Regex(without_anchors(pattern).to_owned()))
            }
            Self::Choice(choices) => {
                if choices.is_empty() {
                    return Err(GrammarError::NoChoice);
                }
                at_most("choices", choices.len(), MAX_CHOICES)?;
                Ok(Source::Lark(lark_of_choices(choices)))
            }
            Self::Lark(grammar) => {
                let (rules, whole) = with_checked_schemas(grammar)?;
                at_most("bytes of rules", rules.len(), MAX_RULES_BYTES)?;
                at_most("nested brackets", depth_of(&rules), MAX_PATTERN_DEPTH)?;
                Ok(if whole.len() == rules.len() {
                    Source::Lark(whole)
                } else {
                    Source::LarkWithSchemas(whole)
                })
            }
        }
    }
}

/// A Lark grammar without the schemas in it (`%json {...}`), and with them once they are checked. What
/// follows the word and is no JSON is left to the compiler.
fn with_checked_schemas(grammar: &str) -> Result<(String, String), GrammarError> {
    const WORD: &str = "%json";
    let (mut rules, mut whole) = (String::new(), String::new());
    let mut rest = grammar;
    while let Some(at) = rest.find(WORD) {
        let (before, after) = rest.split_at(at + WORD.len());
        rules.push_str(before);
        whole.push_str(before);
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<&RawValue>();
        rest = after;
        if let Some(Ok(schema)) = values.next() {
            rest = &after[values.byte_offset()..];
            whole.push(' ');
            whole.push_str(&json_schema::check(schema.get())?.to_string());
        }
    }
    rules.push_str(rest);
    whole.push_str(rest);
    Ok((rules, whole))
}

/// How deep brackets are nested at most. Brackets that stand for themselves count as well, which
/// makes this an upper bound.
fn depth_of(pattern: &str) -> usize {
    let (mut depth, mut max_depth) = (0_usize, 0);
    for byte in pattern.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        max_depth = max_depth.max(depth);
    }
    max_depth
}

/// A pattern matches the whole text, so `^` at its beginning and `$` at its end say nothing new. In
/// front of and behind alternatives they mean less than they seem to: those stay, to be refused.
fn without_anchors(pattern: &str) -> &str {
    if pattern.contains('|') {
        return pattern;
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        Some(body) => {
            let num_backslashes = body.bytes().rev().take_while(|byte| *byte == b'\\').count();
            if num_backslashes % 2 == 0 { body } else { pattern }
        }
        None => pattern,
    }
}

/// One terminal with all choices, so that the lexer follows them side by side.
fn lark_of_choices(choices: &[String]) -> String {
    let quoted: Vec<String> =
        choices.iter().map(|choice| Value::String(choice.clone()).to_string()).collect();
    format!("start: CHOICE\nCHOICE: {}\n", quoted.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_that_say_nothing_are_dropped() {
        for (pattern, expected) in [
            ("^a+$", "a+"),
            ("a$", "a"),
            (r"a\$", r"a\$"),
            (r"a\\$", r"a\\"),
            ("^a|b$", "^a|b$"),
            ("", ""),
        ] {
            assert_eq!(without_anchors(pattern), expected);
        }
    }

    #[test]
    fn schemas_inside_a_grammar_are_checked_as_others_are() {
        let (rules, whole) = with_checked_schemas(
            "start: \"<a>\" %json {\"title\": \"(((\", \"type\": \"null\"} \"</a>\"",
        )
        .unwrap();
        assert_eq!(rules, "start: \"<a>\" %json \"</a>\"");
        assert!(whole.starts_with("start: \"<a>\" %json {\"type\":\"null\",\"x-guidance\":{"));
        assert!(whole.ends_with("} \"</a>\""));
        let error = with_checked_schemas("start: %json {\"not\": {}}").unwrap_err();
        assert!(matches!(error, GrammarError::Keyword { .. }));
        let broken = "start: %json {\"type\"";
        assert_eq!(with_checked_schemas(broken).unwrap().1, broken);
    }

    #[test]
    fn brackets_are_counted_as_deep_as_they_can_be() {
        assert_eq!(depth_of("(a[b]{2})"), 2);
        assert_eq!(depth_of("))(("), 2);
        assert_eq!(depth_of(&"(".repeat(1000)), 1000);
    }
}

//! Why there is no grammar, or no next token.

/// Why a spec did not become a grammar. The messages are for whoever wrote the spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// Something about it is larger than what is compiled.
    #[error("expected at most {max} {what}, got {got}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many there were.
        got: usize,
        /// How many there may be.
        max: usize,
    },
    /// A choice between nothing.
    #[error("expected at least one choice, got none")]
    NoChoice,
    /// A schema that is no JSON.
    #[error("the JSON schema is not JSON: {0}")]
    NotJson(String),
    /// A part of a schema has the wrong JSON type or value.
    #[error("{place}: expected {expected}, got {got}")]
    Schema {
        /// Where in the schema, as a JSON pointer.
        place: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// A keyword that would say something about the text, and is not enforced.
    #[error(
        "{place}: the keyword `{keyword}` is not supported: remove it, or allow for what it forbids"
    )]
    Keyword {
        /// Where in the schema, as a JSON pointer.
        place: String,
        /// The keyword.
        keyword: String,
    },
    /// A reference to something outside of the schema.
    #[error(
        "{place}: expected a reference into the schema itself, `#/...`, got `{reference}`: nothing is fetched"
    )]
    Reference {
        /// Where in the schema, as a JSON pointer.
        place: String,
        /// The reference.
        reference: String,
    },
    /// The compiler refuses it.
    #[error("the {kind} cannot be compiled: {problem}")]
    Invalid {
        /// What kind of source it is.
        kind: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The compiler itself failed.
    #[error("the grammar compiler failed: {0}")]
    Compiler(String),
    /// The model's vocabulary cannot be used for grammars.
    #[error("grammars cannot be used with this model: {0}")]
    Vocabulary(String),
}

/// Why a text that follows a grammar cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output cannot go on as its grammar wants: {0}")]
pub struct MatchError(pub(super) String);

/// What the library said, without its own state, which may hold text of the model.
pub(super) fn brief(problem: &str) -> String {
    const MAX_CHARS: usize = 300;
    if problem.starts_with("NoExtension") {
        return "no text can follow that the grammar allows and the vocabulary can write"
            .to_owned();
    }
    let text = problem.split("\n<").next().unwrap_or_default().trim();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

//! What can go wrong between text and tokens.

use std::path::PathBuf;

/// Why a tokenizer or chat template could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model folder lacks the file.
    #[error("no {file} in {}", folder.display())]
    NotFound {
        /// The file's name.
        file: &'static str,
        /// The model folder.
        folder: PathBuf,
    },
    /// A file could not be read; the message names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file or a GGUF field holds something else than it should.
    #[error("{place}: {problem}")]
    Invalid {
        /// The file or field.
        place: String,
        /// What was expected and got.
        problem: String,
    },
    /// A tokenizer part is of a kind that is not implemented.
    #[error("{what} `{name}` is not supported (supported: {supported})")]
    Unsupported {
        /// The kind of part.
        what: &'static str,
        /// Its name in the file.
        name: String,
        /// The names that would work.
        supported: String,
    },
    /// The text is longer than what is tokenized in one go.
    #[error("the text has {bytes} bytes, but at most {max} can be tokenized at once")]
    TextTooLong {
        /// Length of the text.
        bytes: usize,
        /// The limit; lower for tokenizers that expand text.
        max: usize,
    },
    /// The tokenizer gave up on a text.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// An id that the vocabulary does not have.
    #[error("token id {id} is not in the vocabulary, whose ids are below {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// One more than the highest id.
        vocab_size: usize,
    },
    /// The chat template is broken, or does not fit the conversation.
    #[error("chat template{}: {problem}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// The line of the template, from 1.
        line: Option<usize>,
        /// What is wrong there.
        problem: String,
    },
    /// The chat template itself refuses the conversation, for example because roles do not alternate.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The chat template runs for too long or makes too much text.
    #[error("the chat template exceeds its budget of time and memory")]
    TemplateBudget,
    /// A request's own name for the chat template is one that the template has already.
    #[error("`{0}` cannot be given to the chat template by name: it is set already")]
    ReservedName(String),
    /// The last message of a conversation cannot be gone on with.
    #[error("the final message cannot be continued: {0}")]
    CannotContinue(&'static str),
}

impl TextError {
    pub(super) fn invalid(place: impl Into<String>, problem: impl ToString) -> Self {
        Self::Invalid { place: place.into(), problem: problem.to_string() }
    }
}

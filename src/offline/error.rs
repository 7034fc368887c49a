//! Why there is no engine, or no completion.

use crate::engine::{RequestError, SubmitError};
use crate::text::TextError;

/// Why there is no engine, or no completion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine was not started.
    #[error("the engine could not be started")]
    Start {
        /// Why, with its own causes.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// The way out, where one is known.
        hint: Option<String>,
    },
    /// A text could not be made tokens of, or messages no prompt.
    #[error("the prompt cannot be used")]
    Text(#[from] TextError),
    /// A conversation was given to a model that knows none.
    #[error("the model has no chat template: generate from a prompt instead")]
    NoChatTemplate,
    /// The engine did not take a prompt.
    #[error("prompt {prompt} was refused")]
    Refused {
        /// Which of the prompts, from 0.
        prompt: usize,
        /// Why.
        source: SubmitError,
    },
    /// The engine could not finish a prompt.
    #[error("prompt {prompt} could not be finished")]
    Failed {
        /// Which of the prompts, from 0.
        prompt: usize,
        /// Why.
        source: RequestError,
    },
}

impl Error {
    /// Of a start that failed.
    pub(super) fn start(error: anyhow::Error) -> Self {
        Self::Start { hint: crate::boot::hint(&error), source: error.into() }
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Start { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

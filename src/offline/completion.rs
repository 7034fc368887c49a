//! What was made of one prompt, from the engine's messages to a whole.
//!
//! What this module deliberately does not do: it submits nothing.

use crate::engine::{FinishReason, Output, RequestError, ResponseStream, Usage};

/// What was made of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// Its continuations, at least one.
    pub choices: Vec<Choice>,
    /// Counts and times.
    pub usage: Usage,
}

/// One continuation of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The generated text, without what ended it.
    pub text: String,
    /// The generated tokens, an end-of-text token included.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl Completion {
    /// The text of the first choice.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }
}

/// Reads a request's output to its end.
pub(super) fn collect(
    prompt_token_ids: Vec<u32>,
    mut stream: ResponseStream,
) -> Result<Completion, RequestError> {
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    loop {
        match stream.blocking_recv().unwrap_or(Output::Failed(RequestError::Stopped)) {
            Output::Delta { text: more, token_ids: more_ids } => {
                text.push_str(&more);
                token_ids.extend(more_ids);
            }
            Output::Finished { reason, usage } => {
                let choices = vec![Choice { text, token_ids, finish_reason: reason }];
                return Ok(Completion { prompt_token_ids, choices, usage });
            }
            Output::Failed(error) => return Err(error),
        }
    }
}

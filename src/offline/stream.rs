//! Text as it is made.
//!
//! What this module deliberately does not do: it joins nothing; see [`Completion`](super::Completion)
//! for the whole.

use super::Error;
use crate::engine::{ChoiceDelta, Output, RequestError, ResponseStream, TokenLogprobs, Usage};

/// The output of one request, piece by piece. Dropping it ends the request.
#[derive(Debug)]
pub struct TextStream {
    stream: ResponseStream,
    prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    usage: Option<Usage>,
    has_ended: bool,
}

impl TextStream {
    pub(super) fn new(stream: ResponseStream) -> Self {
        Self { stream, prompt_logprobs: None, usage: None, has_ended: false }
    }

    /// With `prompt_logprobs`, once the first piece was read: one for each token of the prompt; the
    /// first has none.
    pub fn prompt_logprobs(&self) -> Option<&[Option<TokenLogprobs>]> {
        self.prompt_logprobs.as_deref()
    }

    /// Counts and times, once there is no next piece.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

impl Iterator for TextStream {
    type Item = Result<ChoiceDelta, Error>;

    /// Waits for the next piece. The last one of each choice says how it ended.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.has_ended {
            let output = self.stream.blocking_recv();
            match output.unwrap_or(Output::Failed(RequestError::Stopped)) {
                Output::PromptLogprobs(logprobs) => self.prompt_logprobs = Some(logprobs),
                Output::Embedding(_) => {}
                Output::Delta(delta) => return Some(Ok(delta)),
                Output::Finished(usage) => {
                    self.has_ended = true;
                    self.usage = Some(usage);
                }
                Output::Failed(source) => {
                    self.has_ended = true;
                    return Some(Err(Error::Failed { prompt: 0, source }));
                }
            }
        }
        None
    }
}

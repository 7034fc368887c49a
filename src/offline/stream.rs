//! Text as it is made.
//!
//! What this module deliberately does not do: it joins nothing; see [`Completion`](super::Completion)
//! for the whole.

use super::Error;
use crate::engine::{FinishReason, Output, RequestError, ResponseStream, Usage};

/// The output of one request, piece by piece. Dropping it ends the request.
#[derive(Debug)]
pub struct TextStream {
    stream: ResponseStream,
    usage: Option<Usage>,
    has_ended: bool,
}

impl TextStream {
    pub(super) fn new(stream: ResponseStream) -> Self {
        Self { stream, usage: None, has_ended: false }
    }

    /// Counts and times, once the last piece was read.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }
}

/// More of one choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChoiceDelta {
    /// Which choice, from 0.
    pub index: usize,
    /// Newly generated text; whole characters only.
    pub text: String,
    /// The tokens generated since the last delta.
    pub token_ids: Vec<u32>,
    /// Set in a choice's last delta.
    pub end: Option<FinishReason>,
}

impl Iterator for TextStream {
    type Item = Result<ChoiceDelta, Error>;

    /// Waits for the next piece. Ends after the last one, or after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let output = self.stream.blocking_recv();
        match output.unwrap_or(Output::Failed(RequestError::Stopped)) {
            Output::Delta { text, token_ids } => {
                Some(Ok(ChoiceDelta { text, token_ids, ..ChoiceDelta::default() }))
            }
            Output::Finished { reason, usage } => {
                self.has_ended = true;
                self.usage = Some(usage);
                Some(Ok(ChoiceDelta { end: Some(reason), ..ChoiceDelta::default() }))
            }
            Output::Failed(source) => {
                self.has_ended = true;
                Some(Err(Error::Failed { prompt: 0, source }))
            }
        }
    }
}

//! The way out: from the engine to the one who reads a request's [`ResponseStream`].
//!
//! ```text
//! engine --push--> pending text and tokens --flush--> channel [ delta delta .. | delta | last ] --> reader
//!                  (merged while the channel is full)             always free:   1       1
//! ```
//!
//! The engine never waits for a reader. Two places of the channel are reserved from the start, one
//! for the text that is still pending at the end and one for the last message, so a request ends
//! at once however slowly it is read. An outbox that is dropped without a last message, for
//! whatever reason, sends [`RequestError::Stopped`]: nobody is left waiting.
//!
//! What this module deliberately does not do: it does not decide what is text and when it ends.
//!
//! [`ResponseStream`]: super::ResponseStream

use tokio::sync::mpsc;

use super::request::{FinishReason, Output, RequestError, Usage};

/// Deltas that wait for the reader before the next ones are merged.
const MAX_WAITING_DELTAS: usize = 32;

/// The engine's end of one request's channel.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: mpsc::Sender<Output>,
    /// The two reserved places: `None` once the last message is sent.
    reserved: Option<(mpsc::OwnedPermit<Output>, mpsc::OwnedPermit<Output>)>,
    pending_text: String,
    pending_token_ids: Vec<u32>,
}

impl Outbox {
    /// A channel with both its ends.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Output>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_DELTAS + 2);
        let permit = || sender.clone().try_reserve_owned().ok();
        let reserved = permit().zip(permit());
        debug_assert!(reserved.is_some(), "a new channel is empty");
        let outbox =
            Self { sender, reserved, pending_text: String::new(), pending_token_ids: Vec::new() };
        (outbox, receiver)
    }

    /// Whether the reader is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Where new text is to be appended.
    pub(crate) fn text(&mut self) -> &mut String {
        &mut self.pending_text
    }

    /// Adds a generated token; goes out with the text at the next flush.
    pub(crate) fn push_token(&mut self, token_id: u32) {
        self.pending_token_ids.push(token_id);
    }

    /// Sends what is pending if the channel has room; otherwise it stays.
    pub(crate) fn flush(&mut self) {
        if self.has_pending()
            && let Ok(permit) = self.sender.try_reserve()
        {
            permit.send(Output::Delta {
                text: std::mem::take(&mut self.pending_text),
                token_ids: std::mem::take(&mut self.pending_token_ids),
            });
        }
    }

    /// Sends what is pending and then the good end.
    pub(crate) fn finish(mut self, reason: FinishReason, usage: Usage) {
        self.end(Output::Finished { reason, usage });
    }

    /// Sends what is pending and then the bad end.
    pub(crate) fn fail(mut self, error: RequestError) {
        self.end(Output::Failed(error));
    }

    fn has_pending(&self) -> bool {
        !self.pending_text.is_empty() || !self.pending_token_ids.is_empty()
    }

    fn end(&mut self, last: Output) {
        let Some((delta_permit, last_permit)) = self.reserved.take() else {
            return;
        };
        if self.has_pending() {
            delta_permit.send(Output::Delta {
                text: std::mem::take(&mut self.pending_text),
                token_ids: std::mem::take(&mut self.pending_token_ids),
            });
        }
        last_permit.send(last);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.end(Output::Failed(RequestError::Stopped));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const USAGE: Usage = Usage {
        prompt_tokens: 1,
        completion_tokens: 1,
        queue_time: Duration::ZERO,
        time_to_first_token: Duration::ZERO,
        total_time: Duration::ZERO,
    };

    fn push(outbox: &mut Outbox, text: &str, token_id: u32) {
        outbox.text().push_str(text);
        outbox.push_token(token_id);
        outbox.flush();
    }

    #[test]
    fn merges_what_a_slow_reader_does_not_fetch_and_still_ends() {
        let (mut outbox, mut receiver) = Outbox::channel();
        for token_id in 0..1000 {
            push(&mut outbox, "x", token_id);
        }
        outbox.finish(FinishReason::Length, USAGE);
        let (mut text, mut tokens, mut num_deltas) = (String::new(), Vec::new(), 0);
        loop {
            match receiver.try_recv().unwrap() {
                Output::Delta { text: more, token_ids } => {
                    text.push_str(&more);
                    tokens.extend(token_ids);
                    num_deltas += 1;
                }
                Output::Finished { reason, .. } => break assert_eq!(reason, FinishReason::Length),
                Output::Failed(error) => panic!("{error}"),
            }
        }
        assert_eq!(text.len(), 1000);
        assert!(tokens.iter().copied().eq(0..1000));
        assert_eq!(num_deltas, MAX_WAITING_DELTAS + 1);
        assert!(receiver.try_recv().is_err(), "the last message is the last");
    }

    #[test]
    fn a_dropped_outbox_tells_its_reader() {
        let (mut outbox, mut receiver) = Outbox::channel();
        push(&mut outbox, "a", 1);
        drop(outbox);
        assert!(matches!(receiver.try_recv(), Ok(Output::Delta { .. })));
        assert!(matches!(receiver.try_recv(), Ok(Output::Failed(RequestError::Stopped))));
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn sees_that_its_reader_is_gone() {
        let (mut outbox, receiver) = Outbox::channel();
        assert!(!outbox.is_closed());
        drop(receiver);
        assert!(outbox.is_closed());
        push(&mut outbox, "a", 1);
        outbox.fail(RequestError::Stopped);
    }
}

//! The way out: from the engine to the one who reads a request's [`ResponseStream`].
//!
//! ```text
//!  engine thread                              any thread
//!  Outbox: pending  --flush (try_lock)--->  Mailbox  --recv: take, leaving empty buffers--> reader
//!          (stays here while the reader holds the lock)
//! ```
//!
//! The engine never waits for a reader: what cannot be handed over at once stays pending, and what
//! a slow reader does not fetch is merged, so that nothing queues up. The reader takes text and
//! tokens by leaving buffers of the same size behind: once they have grown, the engine's side
//! allocates nothing. Only the last message takes the lock in earnest, and whoever holds it then
//! holds it for the time of a few moves.
//!
//! An outbox that is dropped without a last message, for whatever reason, sends
//! [`RequestError::Stopped`]: nobody is left waiting.
//!
//! What this module deliberately does not do: it does not decide what is text and when it ends.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::core::Command;
use super::request::{ChoiceDelta, ChoiceEnd, Output, RequestError, RequestId, Usage};
use super::sampling::TokenLogprobs;

/// What waits to be read.
#[derive(Debug, Default)]
struct Letters {
    prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    embedding: Option<Vec<f32>>,
    /// By choice; those without news are skipped.
    choices: Vec<ChoiceDelta>,
    last: Option<Result<Usage, RequestError>>,
    /// Whoever waits for the next letter.
    waker: Option<Waker>,
}

/// Between the two ends.
#[derive(Debug, Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    is_abandoned: AtomicBool,
}

impl Mailbox {
    /// Nothing that is done under the lock can panic halfway, so a poisoned one is still good.
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Letters>> {
        match self.letters.try_lock() {
            Ok(letters) => Some(letters),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn has_news(choice: &ChoiceDelta) -> bool {
    !choice.text.is_empty() || !choice.token_ids.is_empty() || choice.end.is_some()
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Outbox {
    mailbox: Arc<Mailbox>,
    /// By choice: what was not handed over yet.
    pending: Vec<ChoiceDelta>,
    has_pending: bool,
    is_ended: bool,
}

impl Outbox {
    /// Both ends of a way for that many choices.
    pub(crate) fn new(id: RequestId, num_choices: usize) -> (Self, ResponseStream) {
        let choices = || -> Vec<ChoiceDelta> {
            (0..num_choices).map(|index| ChoiceDelta { index, ..ChoiceDelta::default() }).collect()
        };
        let letters = Letters { choices: choices(), ..Letters::default() };
        let mailbox = Arc::new(Mailbox { letters: Mutex::new(letters), ..Mailbox::default() });
        let stream =
            ResponseStream { id, mailbox: Arc::clone(&mailbox), next_choice: 0, commands: None };
        (Self { mailbox, pending: choices(), has_pending: false, is_ended: false }, stream)
    }

    /// Whether the reader is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.mailbox.is_abandoned.load(Ordering::Acquire)
    }

    /// Where the news of a choice are to be added; they go out with the next flush.
    pub(crate) fn choice(&mut self, index: usize) -> &mut ChoiceDelta {
        self.has_pending = true;
        &mut self.pending[index]
    }

    /// Ends a choice.
    pub(crate) fn end_choice(&mut self, index: usize, end: ChoiceEnd) {
        self.choice(index).end = Some(end);
    }

    /// Hands over the prompt's logprobs.
    pub(crate) fn prompt_logprobs(&mut self, logprobs: Vec<Option<TokenLogprobs>>) {
        let waker = {
            let mut letters = self.mailbox.lock();
            letters.prompt_logprobs = Some(logprobs);
            letters.waker.take()
        };
        wake(waker);
    }

    /// Hands over the vector of the prompt.
    pub(crate) fn embedding(&mut self, embedding: Vec<f32>) {
        let waker = {
            let mut letters = self.mailbox.lock();
            letters.embedding = Some(embedding);
            letters.waker.take()
        };
        wake(waker);
    }

    /// Hands over what is pending; `false` when the reader is just taking something.
    pub(crate) fn flush(&mut self) -> bool {
        if !self.has_pending {
            return true;
        }
        let Some(letters) = self.mailbox.try_lock() else {
            return false;
        };
        let waker = hand_over(&mut self.pending, letters);
        self.has_pending = false;
        wake(waker);
        true
    }

    /// Sends what is pending and then the good end.
    pub(crate) fn finish(mut self, usage: Usage) {
        self.end(Ok(usage));
    }

    /// Sends what is pending and then the bad end.
    pub(crate) fn fail(mut self, error: RequestError) {
        self.end(Err(error));
    }

    fn end(&mut self, last: Result<Usage, RequestError>) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        let mut letters = self.mailbox.lock();
        letters.last = Some(last);
        let waker = hand_over(&mut self.pending, letters);
        wake(waker);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.end(Err(RequestError::Stopped));
    }
}

/// Moves the news of each choice behind those that wait already.
fn hand_over(pending: &mut [ChoiceDelta], mut letters: MutexGuard<'_, Letters>) -> Option<Waker> {
    for (waiting, news) in letters.choices.iter_mut().zip(pending) {
        waiting.text.push_str(&news.text);
        news.text.clear();
        waiting.token_ids.append(&mut news.token_ids);
        waiting.logprobs.append(&mut news.logprobs);
        if let Some(end) = news.end.take() {
            waiting.end = Some(end);
        }
    }
    letters.waker.take()
}

/// After the lock is gone: who wakes up at once must not find it taken.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The output of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct ResponseStream {
    id: RequestId,
    mailbox: Arc<Mailbox>,
    /// Choices are served in turn, so that none waits behind a talkative one.
    next_choice: usize,
    /// Who is told that nobody reads any more.
    commands: Option<Sender<Command>>,
}

impl ResponseStream {
    pub(crate) fn on_drop(&mut self, commands: Sender<Command>) {
        self.commands = Some(commands);
    }

    /// The request's number.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The next message; `None` after [`Output::Finished`] or [`Output::Failed`]. Runs in any
    /// executor.
    pub async fn recv(&mut self) -> Option<Output> {
        poll_fn(|ctx| self.poll_recv(ctx)).await
    }

    /// [`recv`](Self::recv) for a thread that may block.
    pub fn blocking_recv(&mut self) -> Option<Output> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut ctx = Context::from_waker(&waker);
        loop {
            match self.poll_recv(&mut ctx) {
                Poll::Ready(output) => return output,
                // Returns at once if the waker was called meanwhile.
                Poll::Pending => thread::park(),
            }
        }
    }

    fn poll_recv(&mut self, ctx: &mut Context<'_>) -> Poll<Option<Output>> {
        let mut letters = self.mailbox.lock();
        if let Some(logprobs) = letters.prompt_logprobs.take() {
            return Poll::Ready(Some(Output::PromptLogprobs(logprobs)));
        }
        if let Some(embedding) = letters.embedding.take() {
            return Poll::Ready(Some(Output::Embedding(embedding)));
        }
        let num_choices = letters.choices.len();
        let in_turn = (0..num_choices).map(|offset| (self.next_choice + offset) % num_choices);
        let found = in_turn.into_iter().find(|&index| has_news(&letters.choices[index]));
        if let Some(index) = found {
            self.next_choice = (index + 1) % num_choices;
            return Poll::Ready(Some(Output::Delta(take(&mut letters.choices[index]))));
        }
        if let Some(last) = letters.last.take() {
            // The mark of an end that was read: no waker is ever left behind it.
            letters.choices.clear();
            return Poll::Ready(Some(last.map_or_else(Output::Failed, Output::Finished)));
        }
        if num_choices == 0 {
            return Poll::Ready(None);
        }
        letters.waker = Some(ctx.waker().clone());
        Poll::Pending
    }
}

/// Takes a choice's news and leaves buffers of their size behind.
fn take(choice: &mut ChoiceDelta) -> ChoiceDelta {
    let empty = ChoiceDelta {
        index: choice.index,
        text: String::with_capacity(choice.text.capacity()),
        token_ids: Vec::with_capacity(choice.token_ids.capacity()),
        logprobs: Vec::with_capacity(choice.logprobs.capacity()),
        end: None,
    };
    std::mem::replace(choice, empty)
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        self.mailbox.is_abandoned.store(true, Ordering::Release);
        if let Some(commands) = &self.commands {
            // An engine that is gone needs not be told.
            let _ = commands.send(Command::Abandon(self.id));
        }
    }
}

/// Wakes a thread that blocks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::request::FinishReason;
    use super::*;

    fn end(reason: FinishReason) -> ChoiceEnd {
        ChoiceEnd { reason, stop: None, cumulative_logprob: None }
    }

    fn new(num_choices: usize) -> (Outbox, ResponseStream) {
        Outbox::new(RequestId(1), num_choices)
    }

    fn push(outbox: &mut Outbox, index: usize, text: &str, token_id: u32) {
        let choice = outbox.choice(index);
        choice.text.push_str(text);
        choice.token_ids.push(token_id);
        outbox.flush();
    }

    fn delta(stream: &mut ResponseStream) -> ChoiceDelta {
        match stream.blocking_recv() {
            Some(Output::Delta(delta)) => delta,
            other => panic!("expected a delta, got {other:?}"),
        }
    }

    #[test]
    fn merges_what_a_slow_reader_does_not_fetch_and_still_ends() {
        let (mut outbox, mut stream) = new(1);
        for token_id in 0..1000 {
            push(&mut outbox, 0, "x", token_id);
        }
        outbox.end_choice(0, end(FinishReason::Length));
        outbox.finish(Usage::default());
        let all = delta(&mut stream);
        assert_eq!(all.text.len(), 1000);
        assert!(all.token_ids.iter().copied().eq(0..1000));
        assert_eq!(all.end, Some(end(FinishReason::Length)));
        assert!(matches!(stream.blocking_recv(), Some(Output::Finished(_))));
        assert!(stream.blocking_recv().is_none(), "the last message is the last");
        assert!(stream.blocking_recv().is_none());
    }

    #[test]
    fn choices_are_served_in_turn() {
        let (mut outbox, mut stream) = new(3);
        for index in [2, 0, 1] {
            push(&mut outbox, index, "a", 1);
        }
        assert_eq!(delta(&mut stream).index, 0);
        push(&mut outbox, 0, "b", 2);
        assert_eq!([delta(&mut stream).index, delta(&mut stream).index], [1, 2]);
        let last = delta(&mut stream);
        assert_eq!((last.index, last.text.as_str(), last.token_ids), (0, "b", vec![2]));
    }

    #[test]
    fn a_reader_that_waits_is_woken() {
        let (mut outbox, mut stream) = new(1);
        let reader = thread::spawn(move || {
            let mut num_tokens = 0;
            loop {
                match stream.blocking_recv() {
                    Some(Output::Delta(delta)) => num_tokens += delta.token_ids.len(),
                    Some(Output::Finished(_)) => return num_tokens,
                    other => panic!("{other:?}"),
                }
            }
        });
        for token_id in 0..200 {
            push(&mut outbox, 0, "", token_id);
            if token_id % 50 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        outbox.finish(Usage::default());
        assert_eq!(reader.join().unwrap(), 200);
    }

    #[test]
    fn what_the_reader_takes_leaves_room_for_as_much() {
        let (mut outbox, mut stream) = new(1);
        push(&mut outbox, 0, "0123456789", 1);
        delta(&mut stream);
        let letters = outbox.mailbox.lock();
        assert!(letters.choices[0].text.capacity() >= 10);
        assert!(letters.choices[0].token_ids.capacity() >= 1);
    }

    #[test]
    fn the_engine_keeps_what_it_cannot_hand_over_at_once() {
        let (mut outbox, mut stream) = new(1);
        let mailbox = Arc::clone(&outbox.mailbox);
        let held = mailbox.lock();
        push(&mut outbox, 0, "a", 1);
        drop(held);
        push(&mut outbox, 0, "b", 2);
        let both = delta(&mut stream);
        assert_eq!((both.text.as_str(), both.token_ids), ("ab", vec![1, 2]));
    }

    #[test]
    fn a_dropped_outbox_tells_its_reader() {
        let (mut outbox, mut stream) = new(1);
        push(&mut outbox, 0, "a", 1);
        drop(outbox);
        assert_eq!(delta(&mut stream).text, "a");
        assert!(matches!(stream.blocking_recv(), Some(Output::Failed(RequestError::Stopped))));
        assert!(stream.blocking_recv().is_none());
    }

    #[test]
    fn sees_that_its_reader_is_gone() {
        let (mut outbox, stream) = new(1);
        assert!(!outbox.is_abandoned());
        drop(stream);
        assert!(outbox.is_abandoned());
        push(&mut outbox, 0, "a", 1);
        outbox.fail(RequestError::Stopped);
    }
}

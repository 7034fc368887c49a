//! Responses that may be asked for again, held in memory.
//!
//! | Bound | Value |
//! | --- | --- |
//! | responses | [`MAX_RESPONSES`] |
//! | bytes of them and of their conversations | [`MAX_BYTES`] |
//!
//! The oldest goes first, and all go with the process. Whoever knows an id, which nobody can guess,
//! may have the response.
//!
//! What this module deliberately does not do: disks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::text::ChatMessage;

/// Most responses that are held.
const MAX_RESPONSES: usize = 4096;
/// Most bytes of them.
const MAX_BYTES: usize = 64 << 20;
/// What a message takes besides its texts.
const MESSAGE_BYTES: usize = 256;

/// A response that ended, and the conversation up to its end, without instructions.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) json: Vec<u8>,
    pub(super) messages: Vec<ChatMessage>,
}

impl Stored {
    fn num_bytes(&self) -> usize {
        let of_message = |message: &ChatMessage| {
            let texts = [&message.content, &message.reasoning_content, &message.tool_call_id];
            let texts: usize = texts.into_iter().flatten().map(String::len).sum();
            // A tree of values takes far more than its text.
            let calls = message.tool_calls.iter();
            let calls: usize =
                calls.map(|call| call.arguments.to_string().len() * 8 + MESSAGE_BYTES).sum();
            texts + calls + MESSAGE_BYTES
        };
        self.json.len() + self.messages.iter().map(of_message).sum::<usize>()
    }
}

/// The responses that are held.
#[derive(Debug, Default)]
pub(in crate::server) struct ResponseStore(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by_id: HashMap<String, (Arc<Stored>, usize)>,
    /// Oldest first; ids that were deleted are skipped when their turn comes.
    order: VecDeque<String>,
    num_bytes: usize,
}

impl ResponseStore {
    /// Nothing that is done under the lock can panic halfway.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a response, and lets go of old ones for it. One that is larger than all bounds is not
    /// held.
    pub(super) fn insert(&self, id: String, stored: Stored) {
        let num_bytes = stored.num_bytes();
        if num_bytes > MAX_BYTES {
            return;
        }
        let mut held = self.lock();
        while held.order.len() >= MAX_RESPONSES || held.num_bytes + num_bytes > MAX_BYTES {
            let Some(oldest) = held.order.pop_front() else { break };
            held.remove(&oldest);
        }
        held.num_bytes += num_bytes;
        held.order.push_back(id.clone());
        held.by_id.insert(id, (Arc::new(stored), num_bytes));
    }

    /// The response of this id, while it is held.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Stored>> {
        self.lock().by_id.get(id).map(|(stored, _)| Arc::clone(stored))
    }

    /// Lets go of a response; false when it was not held.
    pub(super) fn remove(&self, id: &str) -> bool {
        self.lock().remove(id)
    }
}

impl Held {
    fn remove(&mut self, id: &str) -> bool {
        let removed = self.by_id.remove(id);
        self.num_bytes -= removed.as_ref().map_or(0, |(_, num_bytes)| *num_bytes);
        removed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(num_bytes: usize) -> Stored {
        Stored { json: vec![b' '; num_bytes], messages: Vec::new() }
    }

    #[test]
    fn the_oldest_goes_first() {
        let store = ResponseStore::default();
        for index in 0..=MAX_RESPONSES {
            store.insert(index.to_string(), stored(1));
        }
        assert!(store.find("0").is_none());
        assert!(store.find("1").is_some() && store.find(&MAX_RESPONSES.to_string()).is_some());
        store.insert("large".into(), stored(MAX_BYTES));
        assert!(store.find("large").is_some() && store.find("1").is_none());
        store.insert("too large".into(), stored(MAX_BYTES + 1));
        assert!(store.find("large").is_some() && store.find("too large").is_none());
    }

    #[test]
    fn what_is_deleted_is_gone_and_frees_its_bytes() {
        let store = ResponseStore::default();
        store.insert("a".into(), stored(10));
        assert!(store.remove("a") && !store.remove("a"));
        assert!(store.find("a").is_none());
        assert_eq!(store.lock().num_bytes, 0);
    }
}

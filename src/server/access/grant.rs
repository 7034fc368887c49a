//! Whose request it is, for whoever answers it: the one thing of this folder that endpoints see.
//!
//! ```text
//! guard --Grant in the request's extensions--> endpoint --Charge per engine request--> ledger
//! ```
//!
//! Tokens are paid as they come: the prompt with the first token of the answer, each token of the
//! answer when it is there, and what is left to pay at the end. A client that leaves before the
//! first token pays for its prompt, which was or is being computed; a request that fails before it
//! pays nothing.
//!
//! What this module deliberately does not do: it refuses nothing by limits; that was before.

use std::fmt;
use std::sync::Arc;

use super::registry::{Access, Key};
use super::usage::Usage;
use crate::server::error::ApiError;

/// Whose request it is; by default nobody's, which is what an open server's requests are.
#[derive(Clone, Default)]
pub(crate) struct Grant(Option<(Access, Arc<Key>)>);

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.name()).finish()
    }
}

impl Grant {
    pub(super) fn new(access: Access, key: Arc<Key>) -> Self {
        Self(Some((access, key)))
    }

    /// The name of the key.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, key)| key.entry.name.as_str())
    }

    /// The priority of a request that asks for this one, where 0 is what nobody asked for: no more
    /// urgent than the key's, and the key's where nothing is asked for.
    pub(crate) fn priority(&self, asked: i32) -> i32 {
        let own = self.0.as_ref().and_then(|(_, key)| key.entry.priority);
        own.map_or(asked, |own| if asked == 0 { own } else { asked.max(own) })
    }

    /// Whether the key may use this model.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check_model(&self, model: &str) -> Result<(), ApiError> {
        match &self.0 {
            Some((_, key)) if !key.entry.allows_model(model) => {
                let message = format!("this key may not use the model `{model}`");
                Err(ApiError::Forbidden { code: "model_not_allowed", message })
            }
            _ => Ok(()),
        }
    }

    /// Whether the key may use this endpoint.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check_endpoint(&self, path: &str) -> Result<(), ApiError> {
        match &self.0 {
            Some((_, key)) if !key.entry.allows_endpoint(path) => {
                let message = format!("this key may not use {path}");
                Err(ApiError::Forbidden { code: "endpoint_not_allowed", message })
            }
            _ => Ok(()),
        }
    }

    /// What one request to the engine, with this many tokens of prompt, will pay.
    pub(crate) fn charge(&self, prompt_tokens: usize) -> Charge {
        Charge { grant: self.clone(), prompt_tokens: whole(prompt_tokens), paid: Usage::default() }
    }

    fn pay(&self, used: &Usage) {
        if let Some((access, key)) = &self.0 {
            key.ledger.charge(access.now(), used);
            access.note_usage();
        }
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What one request to the engine pays. Dropping it pays what is due.
#[derive(Debug)]
pub(crate) struct Charge {
    grant: Grant,
    /// Not paid yet; 0 once they are.
    prompt_tokens: u64,
    paid: Usage,
}

impl Charge {
    /// More tokens of the answer are there.
    pub(crate) fn generated(&mut self, num_tokens: usize) {
        self.pay(Usage { completion_tokens: whole(num_tokens), ..Usage::default() });
    }

    /// The answer is whole: this is what it took.
    pub(crate) fn finished(&mut self, cached_tokens: usize, completion_tokens: usize) {
        let completion_tokens =
            whole(completion_tokens).saturating_sub(self.paid.completion_tokens);
        self.pay(Usage {
            cached_tokens: whole(cached_tokens),
            completion_tokens,
            ..Usage::default()
        });
    }

    /// The request failed through no fault of its own: what was not paid yet is not.
    pub(crate) fn failed(&mut self) {
        self.prompt_tokens = 0;
    }

    fn pay(&mut self, mut used: Usage) {
        used.prompt_tokens = std::mem::take(&mut self.prompt_tokens);
        if used != Usage::default() {
            self.grant.pay(&used);
            self.paid.add(&used);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pay(Usage::default());
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::Digest;
    use super::super::entry::KeyEntry;
    use super::super::ledger::Ledger;
    use super::*;

    fn grant(priority: Option<i32>) -> (Grant, Arc<Ledger>) {
        let entry = KeyEntry { priority, ..KeyEntry::new("a", Digest::of(b"a")) };
        let ledger = Arc::new(Ledger::default());
        let key = Key { entry, ledger: Arc::clone(&ledger) };
        (Grant::new(Access::default(), Arc::new(key)), ledger)
    }

    #[test]
    fn a_key_is_the_most_urgent_that_its_requests_can_be() {
        for (own, asked, expected) in [
            (None, 0, 0),
            (None, -7, -7),
            (Some(5), 0, 5),
            (Some(5), 3, 5),
            (Some(5), 9, 9),
            (Some(-5), 0, -5),
            (Some(-5), -9, -5),
            (Some(-5), -3, -3),
        ] {
            assert_eq!(grant(own).0.priority(asked), expected, "{own:?} {asked}");
        }
        assert_eq!(Grant::default().priority(-3), -3);
    }

    #[test]
    fn tokens_are_paid_once_however_a_request_ends() {
        let (grant, ledger) = grant(None);
        let paid = || {
            let total = ledger.total();
            (total.prompt_tokens, total.cached_tokens, total.completion_tokens)
        };
        let mut whole = grant.charge(10);
        assert_eq!(paid(), (0, 0, 0));
        whole.generated(1);
        whole.generated(2);
        assert_eq!(paid(), (10, 0, 3));
        // Tokens that were not shown.
        whole.finished(8, 5);
        drop(whole);
        assert_eq!(paid(), (10, 8, 5));

        let mut left_early = grant.charge(100);
        left_early.generated(1);
        drop(left_early);
        assert_eq!(paid(), (110, 8, 6));
        drop(grant.charge(1000));
        assert_eq!(paid(), (1110, 8, 6), "it left before the first token");
        grant.charge(5000).failed();
        assert_eq!(paid(), (1110, 8, 6));
        // Nobody's request.
        Grant::default().charge(7).generated(1);
    }
}

//! A compiled grammar, and where a text is in it.
//!
//! ```text
//! Grammar --matcher()--> Matcher --mask()--> which tokens --consume(token)--> is the text complete?
//!                           `--clone()--> another text with the same past
//! ```
//!
//! Matchers of one grammar share what its lexer found out, so later texts are matched faster. It
//! grows with new text; a grammar that has become large, or whose lexer gave up, is told so by
//! [`Grammar::is_worn`], and compiled anew for the next request.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llguidance::{TokenParser, panic_utils};

use super::error::{MatchError, brief};
use super::mask::Mask;
use super::token_trie::TokenTrie;

/// A compiled grammar before its first token. Cloning is cheap.
#[derive(Clone)]
pub struct Grammar(Arc<Inner>);

struct Inner {
    start: TokenParser,
    trie: Arc<TokenTrie>,
    /// What may come first; every text needs it.
    first: Mask,
    /// A matcher failed.
    has_failed: AtomicBool,
}

/// Where a text is in its grammar. A clone goes its own way from the same place.
#[derive(Clone)]
pub struct Matcher {
    parser: TokenParser,
    grammar: Grammar,
    /// What may come next, where that is known already.
    ahead: Option<Result<Mask, MatchError>>,
}

impl Grammar {
    /// A parser that has seen nothing yet.
    ///
    /// # Errors
    /// When nothing may come first.
    pub(super) fn new(mut parser: TokenParser, trie: Arc<TokenTrie>) -> Result<Self, MatchError> {
        parser.start_without_prompt();
        let first = mask_of(&mut parser, &trie)?;
        Ok(Self(Arc::new(Inner { start: parser, trie, first, has_failed: AtomicBool::new(false) })))
    }

    /// For a text that begins.
    pub fn matcher(&self) -> Matcher {
        Matcher {
            parser: self.0.start.clone(),
            grammar: self.clone(),
            ahead: Some(Ok(self.0.first.clone())),
        }
    }

    /// Token ids are below this.
    pub fn vocab_size(&self) -> usize {
        self.0.trie.env.tok_trie().vocab_size()
    }

    /// Whether a later request is better off with a fresh one: its lexer has so many states, or a
    /// text failed.
    pub(super) fn is_worn(&self, max_states: usize) -> bool {
        let num_states = || self.0.start.parser.lexer_stats().num_states;
        // A lexer that panicked has poisoned its lock.
        self.0.has_failed.load(Ordering::Relaxed)
            || panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(num_states())))
                .map_or(true, |num_states| num_states > max_states)
    }
}

impl Matcher {
    /// Which tokens may come next; end-of-text tokens where the text may end.
    ///
    /// # Errors
    /// When the grammar's budgets are spent, and when no token of the vocabulary can follow.
    pub fn mask(&mut self) -> Result<Mask, MatchError> {
        let made = self.ahead.take();
        made.unwrap_or_else(|| mask_of(&mut self.parser, &self.grammar.0.trie))
            .inspect_err(|_| self.note_failure())
    }

    /// Finds out what [`mask`](Self::mask) will say, at a time when nobody waits for it.
    pub fn prepare(&mut self) {
        if self.ahead.is_none() {
            self.ahead = Some(mask_of(&mut self.parser, &self.grammar.0.trie));
        }
    }

    /// Takes the token that came next; `true` when the text is complete: nothing may follow.
    ///
    /// # Errors
    /// When the token may not come next, and when the grammar's budgets are spent.
    pub fn consume(&mut self, token_id: u32) -> Result<bool, MatchError> {
        self.ahead = None;
        let token_id = self.grammar.0.trie.original(token_id);
        let parser = &mut self.parser;
        let consumed = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            parser.consume_token(token_id)?;
            parser.check_stop()
        }));
        consumed.map_err(|error| {
            self.note_failure();
            MatchError(brief(&error.to_string()))
        })
    }

    fn note_failure(&self) {
        self.grammar.0.has_failed.store(true, Ordering::Relaxed);
    }
}

fn mask_of(parser: &mut TokenParser, trie: &TokenTrie) -> Result<Mask, MatchError> {
    let bits = panic_utils::catch_unwind(AssertUnwindSafe(|| parser.compute_mask()));
    let bits = bits.map_err(|error| MatchError(brief(&error.to_string())))?;
    Ok(Mask::new(&bits, trie.twins()))
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("num_first", &self.0.first.num_allowed()).finish()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("num_tokens", &self.parser.num_tokens())
            .finish_non_exhaustive()
    }
}

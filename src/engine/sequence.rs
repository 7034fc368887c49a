//! One line of tokens on its way: what it has, what is guessed to follow, and its text.
//!
//! ```text
//! token_ids   [ prompt ........ | generated ... | drafts ]
//!               num_prompt        num_known
//! ```
//!
//! Text is made some time after its token, while the device runs the next step, unless a stop
//! string may end the sequence there.
//!
//! What this module deliberately does not do: it chooses no tokens, holds no KV blocks, and knows
//! nothing of the other sequences of its request.

use crate::text::grammar::Matcher;
use crate::text::{Detokenizer, TextError, Tokenizer};

use super::group::{Group, GroupKey};
use super::request::ChoiceDelta;
use super::sampling::{SamplingParams, TokenCounts};
use super::slots::Key;
use super::stop::StopStrings;

/// A sequence's place in the engine.
pub(crate) type SeqKey = Key<Sequence>;

/// One line of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Whose it is.
    pub(crate) group: GroupKey,
    /// Which of its request's choices it is.
    pub(crate) choice: usize,
    /// Of the random numbers.
    pub(crate) seed: u64,
    /// Sum of the logprobs of its generated tokens, where they are counted.
    pub(crate) cumulative_logprob: f64,
    /// Where its output is kept that must not be seen yet.
    pub(crate) held: Option<ChoiceDelta>,
    /// What penalties count.
    pub(crate) counts: Option<TokenCounts>,
    /// Where its generated tokens are in its request's grammar.
    pub(crate) matcher: Option<Box<Matcher>>,
    token_ids: Vec<u32>,
    num_prompt_tokens: usize,
    num_known: usize,
    /// Tokens whose text was made, prompt included.
    num_told: usize,
    text: TextStream,
}

/// From tokens to text that may be shown.
#[derive(Clone, Debug)]
pub(crate) struct TextStream {
    detokenizer: Detokenizer,
    stop_strings: StopStrings,
    scratch: String,
}

impl TextStream {
    /// The text of no token yet.
    pub(crate) fn new(tokenizer: &Tokenizer, params: &SamplingParams) -> Self {
        let detokenizer = tokenizer.detokenizer(params.skip_special_tokens);
        let stop_strings = StopStrings::new(&params.stop, params.include_stop_str_in_output);
        Self { detokenizer, stop_strings, scratch: String::new() }
    }

    /// Whether text can end the sequence.
    fn can_stop(&self) -> bool {
        !self.stop_strings.is_empty()
    }

    /// Appends what a token adds to the text; `Some` with the stop string that it completes, by
    /// index. Where stops are not looked for yet, none is found, now or later, in this text.
    fn push(
        &mut self,
        token_id: u32,
        may_stop: bool,
        shown: &mut String,
    ) -> Result<Option<usize>, TextError> {
        if !may_stop || !self.can_stop() {
            return self.detokenize(token_id, shown).map(|()| None);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let pushed = self.detokenize(token_id, &mut scratch);
        let found = pushed.map(|()| self.stop_strings.push(&scratch, shown));
        self.scratch = scratch;
        found
    }

    fn detokenize(&mut self, token_id: u32, text: &mut String) -> Result<(), TextError> {
        match self.detokenizer.push_into(token_id, text) {
            // A row of the model's vocabulary that the tokenizer has no token for: no text.
            Err(TextError::UnknownToken { .. }) => Ok(()),
            pushed => pushed,
        }
    }

    /// The text of those tokens, whatever strings are in it.
    pub(crate) fn tell_all(&self, token_ids: &[u32], text: &mut String) -> Result<(), TextError> {
        let mut fresh = self.clone();
        for &token_id in token_ids {
            fresh.detokenize(token_id, text)?;
        }
        text.push_str(&fresh.detokenizer.finish());
        Ok(())
    }

    /// Lets out the text that was held back; it may turn out to hold a stop string.
    fn finish(&mut self, shown: &mut String) -> Option<usize> {
        // A copy, for this is not the sequence's end yet; it holds a few bytes and a pointer.
        let tail = self.detokenizer.clone().finish();
        if let Some(found) = self.stop_strings.push(&tail, shown) {
            return Some(found);
        }
        shown.push_str(&self.stop_strings.finish());
        None
    }
}

impl Sequence {
    /// A sequence that has a prompt and nothing else.
    pub(crate) fn new(
        group: GroupKey,
        prompt_token_ids: Vec<u32>,
        seed: u64,
        counts: Option<TokenCounts>,
        text: TextStream,
    ) -> Self {
        let num_prompt_tokens = prompt_token_ids.len();
        Self {
            group,
            choice: 0,
            seed,
            cumulative_logprob: 0.0,
            held: None,
            counts,
            matcher: None,
            token_ids: prompt_token_ids,
            num_prompt_tokens,
            num_known: num_prompt_tokens,
            num_told: num_prompt_tokens,
            text,
        }
    }

    /// Prompt and generated tokens.
    pub(crate) fn token_ids(&self) -> &[u32] {
        &self.token_ids[..self.num_known]
    }

    /// Prompt and generated tokens, and the drafts behind them.
    pub(crate) fn with_drafts(&self) -> &[u32] {
        &self.token_ids
    }

    /// The prompt.
    pub(crate) fn prompt(&self) -> &[u32] {
        &self.token_ids[..self.num_prompt_tokens]
    }

    /// What was generated.
    pub(crate) fn generated(&self) -> &[u32] {
        &self.token_ids[self.num_prompt_tokens..self.num_known]
    }

    /// Guesses at what comes next.
    pub(crate) fn drafts(&self) -> &[u32] {
        &self.token_ids[self.num_known..]
    }

    /// Puts guesses in the place of those before.
    pub(crate) fn set_drafts(&mut self, drafts: &[u32]) {
        self.token_ids.truncate(self.num_known);
        self.token_ids.extend_from_slice(drafts);
    }

    /// Forgets the guesses.
    pub(crate) fn clear_drafts(&mut self) {
        self.token_ids.truncate(self.num_known);
    }

    /// Appends a token; the drafts stay if the first of them was right.
    pub(crate) fn append(&mut self, token_id: u32) {
        if self.token_ids.get(self.num_known) != Some(&token_id) {
            self.token_ids.truncate(self.num_known);
            self.token_ids.push(token_id);
        }
        self.num_known += 1;
        if let Some(counts) = &mut self.counts {
            counts.push(token_id);
        }
    }

    /// Whether its text may end it.
    pub(crate) fn text_can_stop(&self) -> bool {
        self.text.can_stop()
    }

    /// Makes the text of all tokens that have none yet, but for the last `num_left`; `Some` with
    /// the index of a stop string that ends it.
    pub(crate) fn tell_text(
        &mut self,
        out: &mut ChoiceDelta,
        num_left: usize,
        min_tokens: usize,
    ) -> Result<Option<usize>, TextError> {
        while self.num_told + num_left < self.num_known {
            let token_id = self.token_ids[self.num_told];
            self.num_told += 1;
            let may_stop = self.num_told - self.num_prompt_tokens > min_tokens;
            let found = self.text.push(token_id, may_stop, &mut out.text)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The end of its text; `Some` with the index of a stop string that it turned out to hold.
    pub(crate) fn end_text(&mut self, out: &mut ChoiceDelta) -> Option<usize> {
        self.text.finish(&mut out.text)
    }

    /// A sequence with the same prompt, and nothing else yet.
    pub(crate) fn first_again(&self, choice: usize, seed: u64, group: &Group) -> Self {
        let counts = self.counts.as_ref().map(|_| TokenCounts::new(self.prompt(), &[]));
        let held = self.held.as_ref().map(|_| ChoiceDelta::default());
        let prompt = self.prompt().to_vec();
        let first = Self::new(self.group, prompt, seed, counts, group.text.clone());
        Self { choice, held, matcher: group.matcher(), ..first }
    }

    /// A sequence that has the same past.
    pub(crate) fn fork(&self, choice: usize, seed: u64) -> Self {
        let mut fork = Self { choice, seed, ..self.clone() };
        fork.clear_drafts();
        fork
    }
}

//! A sequence as the scheduler knows it: what it has, what is planned, what is in flight.
//!
//! ```text
//! tokens      0 ................ num_tokens   + num_expected      the newest ones are on their way
//! K and V     0 ... num_done ... num_computed                     in the cache; planned or in flight
//! ```
//!
//! What this module deliberately does not do: it decides nothing about others.

use super::super::kv_cache::BlockTable;
use super::super::rank::Rank;
use super::super::scheduler_output::SchedulerOutput;
use super::super::sequence::SeqKey;
use super::Limits;
use super::Progress;

/// What the scheduler is told of a new sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSequence<'a> {
    pub(crate) rank: Rank,
    /// At least 1.
    pub(crate) num_tokens: usize,
    /// It ends when it has so many.
    pub(crate) max_len: usize,
    /// Each of its steps that samples gives exactly one token, unless it ends.
    pub(crate) is_predictable: bool,
    /// Tokens of the prompt, where each of them needs its logits; otherwise 0.
    pub(crate) num_prompt_logits: usize,
    pub(crate) cache_salt: Option<&'a str>,
}

/// One sequence's share of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Drafts included.
    pub(super) num_tokens: usize,
    pub(super) num_logits: usize,
    pub(super) num_drafts: usize,
    pub(super) is_sampled: bool,
    /// It is counted on to give one token.
    is_expected: bool,
    /// It was preempted after the launch: what it computes is lost, what it samples is not.
    is_void: bool,
}

/// A sequence as the scheduler knows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: SeqKey,
    pub(super) rank: Rank,
    /// Prompt and generated, as far as known.
    pub(super) num_tokens: usize,
    /// Tokens that shares planned or in flight will append, if all goes on.
    num_expected: usize,
    /// Tokens whose K and V are in the cache once all that is planned is computed.
    pub(super) num_computed_tokens: usize,
    /// Those that are in it now.
    pub(super) num_done_tokens: usize,
    pub(super) num_drafts: usize,
    max_len: usize,
    num_prompt_logits: usize,
    pub(super) is_predictable: bool,
    pub(super) is_running: bool,
    /// Its first admission was counted by the prefix cache.
    pub(super) is_counted: bool,
    pub(super) num_cached_tokens: usize,
    pub(super) table: BlockTable,
    pub(super) planned: Option<Share>,
    pub(super) in_flight: Option<Share>,
}

impl Entry {
    pub(super) fn new(key: SeqKey, new: &NewSequence<'_>, table: BlockTable) -> Self {
        Self {
            key,
            rank: new.rank,
            num_tokens: new.num_tokens,
            num_expected: 0,
            num_computed_tokens: 0,
            num_done_tokens: 0,
            num_drafts: 0,
            max_len: new.max_len,
            num_prompt_logits: new.num_prompt_logits,
            is_predictable: new.is_predictable,
            is_running: false,
            is_counted: false,
            num_cached_tokens: 0,
            table,
            planned: None,
            in_flight: None,
        }
    }

    /// Another sequence with the same tokens, which has computed as much if it runs.
    pub(super) fn fork(
        &self,
        key: SeqKey,
        rank: Rank,
        table: BlockTable,
        is_running: bool,
    ) -> Self {
        let num_computed = if is_running { self.num_done_tokens } else { 0 };
        Self {
            key,
            rank,
            num_expected: 0,
            num_computed_tokens: num_computed,
            num_done_tokens: num_computed,
            num_drafts: 0,
            is_running,
            is_counted: true,
            table,
            planned: None,
            in_flight: None,
            ..*self
        }
    }

    /// How many of its tokens may come from the prefix cache: one at least is computed, and with
    /// them all where the prompt's logits are wanted and not there yet.
    pub(super) fn lookup_limit(&self) -> usize {
        if self.num_prompt_logits > 0 { 0 } else { self.num_tokens - 1 }
    }

    /// Begins, or begins again, with that much in the cache.
    pub(super) fn resume_at(&mut self, num_cached: usize) {
        self.num_computed_tokens = num_cached;
        self.num_done_tokens = num_cached;
    }

    /// Gives back what a try to be admitted took.
    pub(super) fn drop_blocks(&mut self) {
        self.table.clear();
        self.resume_at(0);
    }

    /// Loses its blocks.
    pub(super) fn preempt(&mut self) {
        if let Some(share) = self.planned.take() {
            self.unplan(share);
        }
        if let Some(share) = &mut self.in_flight {
            share.is_void = true;
        }
        self.is_running = false;
        self.drop_blocks();
    }

    /// Whether it can be planned only once the results of its last step are there.
    pub(super) fn is_waited_for(&self) -> bool {
        self.in_flight.is_some() && !self.is_predictable
    }

    /// What it would compute next within the limits and the rest of a plan; `None` for nothing.
    pub(super) fn next_share(&self, limits: &Limits, plan: &SchedulerOutput) -> Option<Share> {
        let len = self.num_tokens + self.num_expected;
        // A sequence that is full has nothing more to say, so its last token is not computed.
        if self.planned.is_some() || len >= self.max_len {
            return None;
        }
        let missing = len.checked_sub(self.num_computed_tokens).filter(|&missing| missing > 0)?;
        let tokens_left = limits.tokens_left(plan);
        let logits_left = limits.logits_left(plan).min(limits.max_logits_per_seq);
        let mut chunk = missing.min(tokens_left).min(limits.max_chunk);
        if self.num_computed_tokens < self.num_prompt_logits {
            // Each row of the prompt is wanted, and so is each after it in the same share.
            chunk = chunk.min(logits_left);
            let is_sampled = chunk == missing;
            return (chunk > 0).then(|| Share::new(chunk, chunk, 0, is_sampled));
        }
        if chunk < missing {
            return (chunk > 0).then(|| Share::new(chunk, 0, 0, false));
        }
        if logits_left == 0 {
            return None;
        }
        let room = (tokens_left - chunk).min(logits_left - 1).min(self.max_len - len - 1);
        let num_drafts = self.num_drafts.min(room);
        Some(Share::new(chunk + num_drafts, 1 + num_drafts, num_drafts, true))
    }

    /// Counts on a share that was planned.
    pub(super) fn plan(&mut self, share: Share) {
        let is_expected = share.is_sampled && self.is_predictable;
        self.num_computed_tokens += share.num_tokens;
        self.num_expected += usize::from(is_expected);
        self.planned = Some(Share { is_expected, ..share });
    }

    fn unplan(&mut self, share: Share) {
        self.num_computed_tokens -= share.num_tokens;
        self.num_expected -= usize::from(share.is_expected);
    }

    /// Leaves the first so many tokens in the plan, without logits.
    pub(super) fn shorten_plan(&mut self, num_tokens: usize) {
        let share = self.planned.take().expect("invariant: it is planned");
        self.unplan(share);
        self.plan(Share::new(num_tokens, 0, 0, false));
    }

    /// A share was computed.
    pub(super) fn complete(&mut self, share: Share, progress: Progress) {
        self.num_expected -= usize::from(share.is_expected);
        self.num_tokens += progress.num_appended;
        if share.is_sampled {
            self.num_drafts = 0;
        }
        if share.is_void {
            return;
        }
        self.num_done_tokens += share.num_tokens - progress.num_rejected;
        // What is planned ahead builds on it, and nothing is for one with drafts.
        self.num_computed_tokens -= progress.num_rejected;
        if self.num_done_tokens >= self.num_prompt_logits {
            self.num_prompt_logits = 0;
        }
    }

    /// Checks that its numbers fit together.
    pub(super) fn check(&self) -> Result<(), String> {
        let fail = |what: &str| Err(format!("sequence {:?}: {what}: {self:?}", self.key));
        if !self.is_running && !self.table.blocks().is_empty() {
            return fail("it waits and holds blocks");
        }
        if self.num_done_tokens > self.num_computed_tokens {
            return fail("more is computed than planned");
        }
        if self.num_computed_tokens > self.num_tokens + self.num_expected + self.num_drafts {
            return fail("more is planned than there is");
        }
        Ok(())
    }
}

impl Share {
    fn new(num_tokens: usize, num_logits: usize, num_drafts: usize, is_sampled: bool) -> Self {
        let (is_expected, is_void) = (false, false);
        Self { num_tokens, num_logits, num_drafts, is_sampled, is_expected, is_void }
    }
}

//! What one step computes, as plain data: the scheduler writes it, the runner reads it, and
//! neither calls the other.

use std::ops::Range;

use super::kv_cache::{BlockCopy, BlockId};
use super::sequence::SeqKey;

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerOutput {
    /// The sequences of this step; each occurs once.
    pub(crate) scheduled: Vec<ScheduledSequence>,
    /// Equal to the sum of `num_scheduled_tokens`; at most `max_num_batched_tokens`.
    pub(crate) total_num_scheduled_tokens: usize,
    /// Equal to the sum of `num_logits`; at most `max_num_logits`.
    pub(crate) total_num_logits: usize,
    /// Tokens that are kept for sequences that can be planned only once their results are there.
    pub(super) num_kept_tokens: usize,
    /// Sequences that lost their blocks while this step was planned.
    pub(crate) num_preempted: usize,
    /// Blocks to be copied before the step runs, in this order.
    pub(crate) copies: Vec<BlockCopy>,
    /// The block tables of `scheduled`, one after the other.
    block_ids: Vec<BlockId>,
}

/// One sequence's share of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduledSequence {
    /// Whose tokens they are.
    pub(crate) key: SeqKey,
    /// Tokens of the sequence that are in the KV cache already; the position of the first token
    /// of this step.
    pub(crate) num_computed_tokens: usize,
    /// Tokens to compute in this step, at least 1, drafts included.
    pub(crate) num_scheduled_tokens: usize,
    /// How many of the last of them get a row of logits.
    pub(crate) num_logits: usize,
    /// How many of the last of them are drafts, guesses at what comes next.
    pub(crate) num_drafts: usize,
    /// Whether the newest token of the sequence is among them: only then do the logits say what
    /// comes next.
    pub(crate) is_sampled: bool,
    /// Where its block table lies in `SchedulerOutput::block_ids`.
    blocks: Range<usize>,
}

impl SchedulerOutput {
    /// Forgets the step but keeps the memory.
    pub(super) fn clear(&mut self) {
        self.scheduled.clear();
        self.total_num_scheduled_tokens = 0;
        self.total_num_logits = 0;
        self.num_kept_tokens = 0;
        self.num_preempted = 0;
        self.copies.clear();
        self.block_ids.clear();
    }

    /// Adds a share, whose `blocks` are filled in here.
    pub(super) fn push(&mut self, share: ScheduledSequence, blocks: &[BlockId]) {
        let first_block = self.block_ids.len();
        self.block_ids.extend_from_slice(blocks);
        self.total_num_scheduled_tokens += share.num_scheduled_tokens;
        self.total_num_logits += share.num_logits;
        self.scheduled
            .push(ScheduledSequence { blocks: first_block..self.block_ids.len(), ..share });
    }

    /// Takes a sequence's share out again; the others keep their order.
    pub(super) fn remove(&mut self, key: SeqKey) -> Option<ScheduledSequence> {
        let place = self.scheduled.iter().position(|share| share.key == key)?;
        let share = self.scheduled.remove(place);
        self.total_num_scheduled_tokens -= share.num_scheduled_tokens;
        self.total_num_logits -= share.num_logits;
        Some(share)
    }

    /// Leaves the first `num_tokens` of a share, which are not its newest, without logits.
    pub(super) fn shorten(&mut self, place: usize, num_tokens: usize) {
        let share = &mut self.scheduled[place];
        self.total_num_scheduled_tokens -= share.num_scheduled_tokens - num_tokens;
        self.total_num_logits -= share.num_logits;
        share.num_scheduled_tokens = num_tokens;
        (share.num_logits, share.num_drafts, share.is_sampled) = (0, 0, false);
    }

    /// Whether nobody has a share.
    pub(crate) fn is_empty(&self) -> bool {
        self.scheduled.is_empty()
    }

    /// The KV blocks of a sequence of this step, in the order of its tokens; enough for all tokens
    /// up to and including this step's.
    pub(crate) fn blocks_of(&self, share: &ScheduledSequence) -> &[BlockId] {
        &self.block_ids[share.blocks.clone()]
    }
}

impl ScheduledSequence {
    /// A share of those tokens, without logits.
    pub(super) fn new(key: SeqKey, tokens: Range<usize>) -> Self {
        Self {
            key,
            num_computed_tokens: tokens.start,
            num_scheduled_tokens: tokens.len(),
            num_logits: 0,
            num_drafts: 0,
            is_sampled: false,
            blocks: 0..0,
        }
    }

    /// Positions, in the sequence's own tokens, of the tokens of this step.
    pub(crate) fn tokens(&self) -> Range<usize> {
        self.num_computed_tokens..self.num_computed_tokens + self.num_scheduled_tokens
    }
}

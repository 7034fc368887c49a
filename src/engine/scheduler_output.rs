//! What one step computes, as plain data: the scheduler writes it, the runner reads it, and
//! neither calls the other.

use std::ops::Range;

use super::block_pool::BlockId;
use super::request::RequestId;

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerOutput {
    /// The requests of this step, in order of arrival; each occurs once.
    pub(crate) scheduled: Vec<ScheduledRequest>,
    /// Equal to the sum of `num_scheduled_tokens`; at most `max_num_batched_tokens`.
    pub(crate) total_num_scheduled_tokens: usize,
    /// Requests that lost their blocks while this step was planned.
    pub(crate) num_preempted: usize,
    /// The block tables of `scheduled`, one after the other.
    block_ids: Vec<BlockId>,
}

/// One request's share of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScheduledRequest {
    /// Whose tokens they are.
    pub(crate) id: RequestId,
    /// Tokens of the request that are in the KV cache already; the position of the first token
    /// of this step.
    pub(crate) num_computed_tokens: usize,
    /// Tokens to compute in this step, at least 1.
    pub(crate) num_scheduled_tokens: usize,
    /// Whether the last token of this step is the request's newest: only then do its logits say
    /// what comes next.
    pub(crate) is_sampled: bool,
    /// Where its block table lies in `SchedulerOutput::block_ids`.
    blocks: Range<usize>,
}

impl SchedulerOutput {
    /// Forgets the step but keeps the memory.
    pub(super) fn clear(&mut self) {
        self.scheduled.clear();
        self.total_num_scheduled_tokens = 0;
        self.num_preempted = 0;
        self.block_ids.clear();
    }

    /// Adds a request's share.
    pub(super) fn push(
        &mut self,
        id: RequestId,
        tokens: Range<usize>,
        is_sampled: bool,
        blocks: &[BlockId],
    ) {
        let first_block = self.block_ids.len();
        self.block_ids.extend_from_slice(blocks);
        self.total_num_scheduled_tokens += tokens.len();
        self.scheduled.push(ScheduledRequest {
            id,
            num_computed_tokens: tokens.start,
            num_scheduled_tokens: tokens.len(),
            is_sampled,
            blocks: first_block..self.block_ids.len(),
        });
    }

    /// The KV blocks of a request of this step, in the order of its tokens; enough for all tokens
    /// up to and including this step's.
    pub(crate) fn blocks_of(&self, request: &ScheduledRequest) -> &[BlockId] {
        &self.block_ids[request.blocks.clone()]
    }
}

impl ScheduledRequest {
    /// Positions, in the request's own tokens, of the tokens of this step.
    pub(crate) fn tokens(&self) -> Range<usize> {
        self.num_computed_tokens..self.num_computed_tokens + self.num_scheduled_tokens
    }
}

//! The inputs of a launch, laid out as `model::io` draws them, padding included.
//!
//! Buffers are kept from launch to launch: once they have grown, a launch allocates nothing here.
//!
//! What this module deliberately does not do: it chooses no size; it fills the one it is given.

use crate::model::io::NUM_GRAPH_INPUTS;

use super::buckets::StepSize;
use super::kv_cache::BlockId;
use super::scheduler_output::{ScheduledSequence, SchedulerOutput};
use super::sequence::SeqKey;

/// The inputs of one launch, in the order of `GraphInput`.
#[derive(Debug, Default)]
pub(crate) struct Inputs([Vec<i32>; NUM_GRAPH_INPUTS]);

impl Inputs {
    /// Each input, row-major.
    pub(crate) fn slices(&self) -> [&[i32]; NUM_GRAPH_INPUTS] {
        self.0.each_ref().map(Vec::as_slice)
    }

    /// Lays out the sequences at those places of a step. What was checked when the engine started
    /// makes every number fit `i32`.
    pub(crate) fn fill<'t>(
        &mut self,
        step: &SchedulerOutput,
        places: &[usize],
        tokens_of: impl Fn(SeqKey) -> &'t [u32],
        size: StepSize,
        block_size: usize,
    ) {
        self.0.iter_mut().for_each(Vec::clear);
        for &place in places {
            let share = &step.scheduled[place];
            let tokens = &tokens_of(share.key)[share.tokens()];
            self.push(share, tokens, step.blocks_of(share), block_size, size);
        }
        self.pad(size);
    }

    fn push(
        &mut self,
        share: &ScheduledSequence,
        tokens: &[u32],
        blocks: &[BlockId],
        block_size: usize,
        size: StepSize,
    ) {
        let [token_ids, positions, slot_mapping, block_tables, query_ends, seq_lens, logit_rows] =
            &mut self.0;
        token_ids.extend(tokens.iter().map(|&token| token as i32));
        positions.extend(share.tokens().map(|position| position as i32));
        slot_mapping.extend(share.tokens().map(|position| slot(blocks, block_size, position)));
        block_tables.extend(blocks.iter().map(|block| block.0 as i32));
        query_ends.push(token_ids.len() as i32);
        seq_lens.push(share.tokens().end as i32);
        block_tables.resize(seq_lens.len() * size.max_blocks as usize, 0);
        let end = token_ids.len() as i32;
        logit_rows.extend(end - share.num_logits as i32..end);
    }

    fn pad(&mut self, size: StepSize) {
        let [token_ids, positions, slot_mapping, block_tables, query_ends, seq_lens, logit_rows] =
            &mut self.0;
        let (num_tokens, num_seqs) = (size.num_tokens as usize, size.num_seqs as usize);
        let last_query_end = token_ids.len() as i32;
        token_ids.resize(num_tokens, 0);
        positions.resize(num_tokens, 0);
        slot_mapping.resize(num_tokens, -1);
        block_tables.resize(num_seqs * size.max_blocks as usize, 0);
        query_ends.resize(num_seqs, last_query_end);
        seq_lens.resize(num_seqs, 0);
        logit_rows.resize(size.num_logits as usize, 0);
    }
}

fn slot(blocks: &[BlockId], block_size: usize, position: usize) -> i32 {
    let block = blocks[position / block_size].0 as usize;
    (block * block_size + position % block_size) as i32
}

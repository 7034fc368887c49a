//! The signature that every model graph shares: its inputs and symbols, in order.
//!
//! The graph computes one step for a ragged batch of sequences. The tokens of all sequences lie
//! one after the other:
//!
//! ```text
//! sequence          0           1     2
//! token_ids    [ a b c d ]   [ e ]  [ f ]     num_tokens = 6
//! query_ends           4       5      6       num_seqs = 3
//! seq_lens             4      17      9       tokens in the KV cache after this step
//! logit_rows           3       4      5       rows of the hidden state that become logits
//! ```
//!
//! Padding, for graphs of a fixed size: a padded token has slot -1 and lies past the last
//! `query_ends`; a padded sequence repeats the last `query_ends` and has `seq_lens` 0; a padded
//! logit row repeats row 0. Whatever they compute is not read.

use crate::ir::SymbolId;

/// Inputs of a model graph, all `i32`, in the order of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum GraphInput {
    /// `[num_tokens]`: the tokens to compute.
    TokenIds = 0,
    /// `[num_tokens]`: position of each token in its sequence, from 0.
    Positions = 1,
    /// `[num_tokens]`: where its K and V go: `block_id * block_size + offset`, or -1 for nowhere.
    SlotMapping = 2,
    /// `[num_seqs, max_blocks]`: the KV blocks of each sequence, in order; unused entries are 0.
    BlockTables = 3,
    /// `[num_seqs]`: cumulative count of tokens up to and including this sequence.
    QueryEnds = 4,
    /// `[num_seqs]`: tokens of the sequence in the KV cache after this step.
    SeqLens = 5,
    /// `[num_logits]`: rows of the hidden state to turn into logits.
    LogitRows = 6,
}

/// What a model graph gives for the rows of [`GraphInput::LogitRows`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphOutput {
    /// `[num_logits, vocab_size]`, f32.
    Logits,
    /// `[num_logits, hidden_size]`, f32: the last hidden states, after the last norm.
    HiddenStates,
}

/// Number of inputs of a model graph.
pub const NUM_GRAPH_INPUTS: usize = 7;

/// Symbols of a model graph: their ids in its symbol table.
pub mod symbols {
    use super::SymbolId;

    /// Tokens computed in the step.
    pub const NUM_TOKENS: SymbolId = SymbolId(0);
    /// Sequences in the step.
    pub const NUM_SEQS: SymbolId = SymbolId(1);
    /// Width of the block tables.
    pub const MAX_BLOCKS: SymbolId = SymbolId(2);
    /// Rows of logits.
    pub const NUM_LOGITS: SymbolId = SymbolId(3);
    /// Blocks in the KV pool.
    pub const NUM_BLOCKS: SymbolId = SymbolId(4);
    /// Rows of the rope tables: positions that the model can be run at.
    pub const NUM_POSITIONS: SymbolId = SymbolId(5);
    /// How many there are.
    pub const COUNT: usize = 6;
}

//! The blocks of one sequence.
//!
//! ```text
//! block_size 4, 10 tokens computed, room for 16
//!
//!  blocks       [ 2 ]       [ 0 ]       [ 5 ]       [ 9 ]
//!  tokens      0 1 2 3     4 5 6 7     8 9 . .     . . . .
//!              `-- registered: 2 -'     ^ written next      a block of which others hold a part
//!                                                           is copied before it is written
//! ```
//!
//! A table holds a reference to each of its blocks and gives it back when it is cleared or dropped.
//!
//! What this module deliberately does not do: it does not know the tokens; the sequence has them.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::BlockId;
use super::chain::Salt;
use super::pool::Pool;

/// The blocks of one sequence, in the order of its tokens; dropping it gives them back.
pub(crate) struct BlockTable {
    pub(super) blocks: Vec<BlockId>,
    /// Blocks from the first on whose content is cached, in this block or in one that equals it.
    pub(super) num_registered: usize,
    /// How often the cache had been reset when the first block was taken: what was computed before
    /// a reset is not registered after it.
    pub(super) epoch: u64,
    pub(super) salt: Salt,
    pub(super) root_hash: u64,
    /// Whole blocks of the announced prompt; 0 when none is.
    pub(super) num_prompt_blocks: usize,
    /// Hash of the block that others may wait for.
    pub(super) announced: Option<u64>,
    pub(super) pool: Rc<RefCell<Pool>>,
}

impl BlockTable {
    /// The blocks, in the order of the sequence's tokens.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Whether the table holds no block.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Takes note of the epoch in which the first block is taken.
    pub(super) fn start(&mut self, epoch: u64) {
        if self.blocks.is_empty() {
            self.epoch = epoch;
        }
    }

    /// Gives every block back; those that are cached can still be found.
    pub(crate) fn clear(&mut self) {
        let pool = Rc::clone(&self.pool);
        let mut pool = pool.borrow_mut();
        pool.withdraw(self);
        // Last block first: the tail of a sequence is forgotten before its head, without which it
        // could not be found.
        for block in self.blocks.drain(..).rev() {
            pool.give_back(block);
        }
        self.num_registered = 0;
        self.num_prompt_blocks = 0;
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for BlockTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockTable")
            .field("blocks", &self.blocks)
            .field("num_registered", &self.num_registered)
            .finish_non_exhaustive()
    }
}

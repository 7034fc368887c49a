//! Room for tokens that are about to be written: new blocks, and blocks of one's own.
//!
//! ```text
//!   before    [ 2 ]  [ 0 ]  [ 5 ]                    num_computed 10, num_tokens 17, block_size 4
//!                             ^ writes from 10 on
//!   after     [ 2 ]  [ 0 ]  [ 7 ]  [ 8 ]  [ 3 ]      and a copy 5 -> 7 if 5 may not be written
//! ```
//!
//! | The block that is written | |
//! | --- | --- |
//! | held by this table alone, cached with no token at or behind the first one written | is written as it is; what is cached in it stays true |
//! | held by others too | is copied |
//! | held by this table alone, but more of it is cached than stays true | is copied; without room for that its content is forgotten and it is written as it is |
//!
//! The first rule is what a conversation that goes on meets: its tail is written where it is. The
//! last one lets a sequence run that needs every block there is.
//!
//! What this module deliberately does not do: it copies nothing itself; the copies are done on the
//! device before the step that they are planned for.

use super::pool::{Block, Pool};
use super::table::BlockTable;
use super::{BlockCopy, BlockId};

/// What stands against writing into a held block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Free,
    /// Other tables hold it.
    Shared,
    /// Nobody else holds it, but tokens that would be overwritten are cached.
    Cached,
}

impl Pool {
    /// See `KvCache::try_reserve`.
    pub(super) fn try_reserve(
        &mut self,
        table: &mut BlockTable,
        num_computed: usize,
        num_tokens: usize,
        watermark: usize,
        copies: &mut Vec<BlockCopy>,
    ) -> bool {
        debug_assert!(table.num_registered * self.block_size <= num_computed, "hits are computed");
        table.start(self.epoch);
        let num_wanted = num_tokens.div_ceil(self.block_size);
        let num_present = table.blocks.len();
        let num_new = num_wanted.saturating_sub(num_present);
        let written = if num_tokens > num_computed {
            num_computed / self.block_size..num_wanted.min(num_present)
        } else {
            0..0
        };
        let (mut num_shared, mut num_cached) = (0, 0);
        for idx in written.clone() {
            match self.access(table.blocks[idx], self.first_written(idx, num_computed)) {
                Access::Free => {}
                Access::Shared => num_shared += 1,
                Access::Cached => num_cached += 1,
            }
        }
        let is_room =
            |num_blocks: usize| num_blocks == 0 || num_blocks + watermark <= self.num_free;
        let is_copying_cached = is_room(num_new + num_shared + num_cached);
        if !is_copying_cached && !is_room(num_new + num_shared) {
            return false;
        }
        if num_shared + num_cached > 0 {
            for idx in written.clone() {
                self.make_writable(table, idx, num_computed, is_copying_cached, copies);
            }
        }
        table.blocks.extend((0..num_new).map(|_| self.allocate()));
        debug_assert!(written.into_iter().all(|idx| {
            let first = self.first_written(idx, num_computed);
            self.access(table.blocks[idx], first) == Access::Free
        }));
        true
    }

    /// See `KvCache::push_block`.
    pub(super) fn push_block(&mut self, table: &mut BlockTable) -> Option<BlockId> {
        table.start(self.epoch);
        let block = (self.num_free > 0).then(|| self.allocate())?;
        table.blocks.push(block);
        Some(block)
    }

    fn make_writable(
        &mut self,
        table: &mut BlockTable,
        idx: usize,
        num_computed: usize,
        is_copying_cached: bool,
        copies: &mut Vec<BlockCopy>,
    ) {
        let block = table.blocks[idx];
        match self.access(block, self.first_written(idx, num_computed)) {
            Access::Free => {}
            Access::Cached if !is_copying_cached => self.unregister(block),
            Access::Shared | Access::Cached => {
                let own = self.allocate();
                // A block of which nothing is computed is replaced by any other.
                if idx * self.block_size < num_computed {
                    copies.push(BlockCopy { from: block, to: own });
                    self.stats.num_copies += 1;
                }
                self.give_back(block);
                table.blocks[idx] = own;
            }
        }
    }

    /// The first place in block `idx` of a table that is written when `num_computed` tokens are.
    fn first_written(&self, idx: usize, num_computed: usize) -> usize {
        num_computed.saturating_sub(idx * self.block_size)
    }

    fn access(&self, block: BlockId, first_written: usize) -> Access {
        let Block { refs, node } = self.block(block);
        let num_cached = node.map_or(0, |node| self.index.node(node).num_tokens as usize);
        if refs > 1 {
            Access::Shared
        } else if num_cached > first_written {
            Access::Cached
        } else {
            Access::Free
        }
    }
}

//! From tokens to KV blocks: how many a sequence needs, and whether it gets them.
//!
//! ```text
//! block_size 4, 10 tokens      [ 0 1 2 3 | 4 5 6 7 | 8 9 . . ]     3 blocks, 2 slots to spare
//! ```
//!
//! What this module deliberately does not do: it does not decide who gets blocks or who loses
//! them; that is the scheduler's work.

use super::block_pool::{BlockPool, BlockTable};

/// The KV cache as the scheduler sees it.
#[derive(Debug)]
pub(crate) struct KvCacheManager {
    pool: BlockPool,
    block_size: usize,
}

impl KvCacheManager {
    /// `num_blocks` free blocks of `block_size` tokens each.
    pub(crate) fn new(num_blocks: u32, block_size: usize) -> Self {
        Self { pool: BlockPool::new(num_blocks), block_size }
    }

    /// A table for a new sequence, without blocks.
    pub(crate) fn new_table(&self) -> BlockTable {
        self.pool.new_table()
    }

    /// Makes room for `num_tokens` tokens in all; `false`, and nothing taken, when too few blocks
    /// are free.
    #[must_use]
    pub(crate) fn try_reserve(&self, table: &mut BlockTable, num_tokens: usize) -> bool {
        table.try_grow(num_tokens.div_ceil(self.block_size))
    }

    /// Blocks held by sequences.
    pub(crate) fn num_used(&self) -> usize {
        self.pool.num_blocks() - self.pool.num_free()
    }

    /// See [`BlockPool::check_integrity`].
    pub(crate) fn check_integrity<'a>(
        &self,
        tables: impl IntoIterator<Item = &'a BlockTable>,
    ) -> Result<(), String> {
        self.pool.check_integrity(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_whole_blocks() {
        let kv_cache = KvCacheManager::new(3, 4);
        let mut table = kv_cache.new_table();
        for (num_tokens, num_blocks) in [(1, 1), (4, 1), (5, 2), (12, 3)] {
            assert!(kv_cache.try_reserve(&mut table, num_tokens));
            assert_eq!(table.blocks().len(), num_blocks);
            assert_eq!(kv_cache.num_used(), num_blocks);
        }
        assert!(!kv_cache.try_reserve(&mut table, 13));
    }
}

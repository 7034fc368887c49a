//! The KV blocks: who holds which, in constant time per block.
//!
//! ```text
//! BlockPool (num_blocks)          free: [9 4 7]  <- a stack: the block used last is handed out first
//!    |  new_table()
//!    v
//! BlockTable (one sequence)       blocks: [2 0 5]   tokens 0..16, 16..32, 32..48 of the sequence
//!    `- dropped: its blocks are free again
//! ```
//!
//! A block is either on the free stack or in exactly one table: ids are only ever moved between
//! the two, and a table gives its blocks back when it is dropped, so none can be lost or held
//! twice. [`BlockPool::check_integrity`] proves it for the tables that it is shown.
//!
//! What this module deliberately does not do: it knows no tokens and no requests, and it never
//! touches the device.

use std::cell::RefCell;
use std::rc::Rc;

/// Number of a KV block on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) u32);

#[derive(Debug)]
struct FreeBlocks {
    stack: Vec<BlockId>,
    /// By block: whether it is on the stack. Redundant on purpose: it finds a double free at once.
    is_free: Vec<bool>,
}

/// All KV blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: Rc<RefCell<FreeBlocks>>,
}

impl BlockPool {
    /// A pool of blocks `0..num_blocks`, all free.
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self {
            free: Rc::new(RefCell::new(FreeBlocks {
                stack: (0..num_blocks).rev().map(BlockId).collect(),
                is_free: vec![true; num_blocks as usize],
            })),
        }
    }

    /// Blocks of the pool, free or not.
    pub(crate) fn num_blocks(&self) -> usize {
        self.free.borrow().is_free.len()
    }

    /// Blocks that no table holds.
    pub(crate) fn num_free(&self) -> usize {
        self.free.borrow().stack.len()
    }

    /// A table that holds no block yet.
    pub(crate) fn new_table(&self) -> BlockTable {
        BlockTable { blocks: Vec::new(), free: Rc::clone(&self.free) }
    }

    /// Checks that every block is either free or in exactly one of `tables`, which must be all.
    ///
    /// # Errors
    /// The first block that is not, and where it was found.
    pub(crate) fn check_integrity<'a>(
        &self,
        tables: impl IntoIterator<Item = &'a BlockTable>,
    ) -> Result<(), String> {
        let free = self.free.borrow();
        let mut is_seen = vec![false; free.is_free.len()];
        let mut see = |id: BlockId, place: &str, is_free: bool| {
            let idx = id.0 as usize;
            match is_seen.get_mut(idx) {
                None => return Err(format!("block {idx} {place} is not of this pool")),
                Some(true) => return Err(format!("block {idx} {place} is also elsewhere")),
                Some(seen) => *seen = true,
            }
            if free.is_free[idx] == is_free {
                return Ok(());
            }
            Err(format!("block {idx} {place} is marked as if it were elsewhere"))
        };
        for &id in &free.stack {
            see(id, "on the free stack", true)?;
        }
        for &id in tables.into_iter().flat_map(|table| &table.blocks) {
            see(id, "in a table", false)?;
        }
        match is_seen.iter().position(|&seen| !seen) {
            Some(idx) => Err(format!("block {idx} is neither free nor in a table")),
            None => Ok(()),
        }
    }
}

/// The blocks of one sequence, in the order of its tokens; dropping it frees them.
#[derive(Debug)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    free: Rc<RefCell<FreeBlocks>>,
}

impl BlockTable {
    /// The blocks, in the order of the sequence's tokens.
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Takes blocks until the table has `num_blocks`: all of them, or none and `false`. A table
    /// that is longer already stays as it is.
    #[must_use]
    pub(crate) fn try_grow(&mut self, num_blocks: usize) -> bool {
        let missing = num_blocks.saturating_sub(self.blocks.len());
        let mut free = self.free.borrow_mut();
        let Some(kept) = free.stack.len().checked_sub(missing) else {
            return false;
        };
        let first_new = self.blocks.len();
        self.blocks.extend(free.stack.drain(kept..).rev());
        for id in &self.blocks[first_new..] {
            free.is_free[id.0 as usize] = false;
        }
        true
    }

    /// Gives every block back.
    pub(crate) fn clear(&mut self) {
        let mut free = self.free.borrow_mut();
        // Last block first, so that the next table gets them in the order in which they were.
        for id in self.blocks.drain(..).rev() {
            debug_assert!(!free.is_free[id.0 as usize], "block {} is freed twice", id.0);
            free.is_free[id.0 as usize] = true;
            free.stack.push(id);
        }
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dropped_table_returns_its_blocks() {
        let pool = BlockPool::new(4);
        let mut table = pool.new_table();
        assert!(table.try_grow(3));
        assert_eq!(table.blocks(), [BlockId(0), BlockId(1), BlockId(2)]);
        assert_eq!(pool.num_free(), 1);
        pool.check_integrity([&table]).unwrap();
        drop(table);
        assert_eq!(pool.num_free(), 4);
        pool.check_integrity([]).unwrap();
    }

    #[test]
    fn growing_takes_all_or_nothing() {
        let pool = BlockPool::new(4);
        let (mut one, mut two) = (pool.new_table(), pool.new_table());
        assert!(one.try_grow(3));
        assert!(!two.try_grow(2));
        assert_eq!((two.blocks().len(), pool.num_free()), (0, 1));
        assert!(one.try_grow(2), "a longer table has nothing to take");
        assert_eq!(one.blocks().len(), 3);
    }

    #[test]
    fn integrity_sees_a_table_that_was_not_shown() {
        let pool = BlockPool::new(2);
        let mut table = pool.new_table();
        assert!(table.try_grow(1));
        assert!(pool.check_integrity([]).is_err());
        assert!(pool.check_integrity([&table, &table]).is_err());
    }

    proptest! {
        #[test]
        fn blocks_are_never_lost_or_shared(
            num_blocks in 0_u32..12,
            moves in prop::collection::vec((0_usize..4, 0_usize..8), 0..60),
        ) {
            let pool = BlockPool::new(num_blocks);
            let mut tables: Vec<_> = (0..4).map(|_| pool.new_table()).collect();
            for (idx, wanted) in moves {
                if wanted == 0 {
                    tables[idx] = pool.new_table();
                } else {
                    let (held, free) = (tables[idx].blocks().len(), pool.num_free());
                    prop_assert_eq!(tables[idx].try_grow(wanted), wanted <= held + free);
                }
                prop_assert_eq!(pool.check_integrity(&tables), Ok(()));
                let used: usize = tables.iter().map(|table| table.blocks().len()).sum();
                prop_assert_eq!(used + pool.num_free(), pool.num_blocks());
            }
        }
    }
}

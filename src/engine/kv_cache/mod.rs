//! The KV cache: which blocks a sequence has, and which of them it need not compute.
//!
//! ```text
//!   request   tokens  ------------ lookup ----------->  KvCache  ---  Pool: references, free list
//!                                                          |            `- PrefixIndex: tokens -> block
//!      BlockTable [2 0 5 7]  <--- whole blocks, a part ----'
//!          |
//!          |  try_reserve   room for the tokens of a step    copies: [5 -> 7]
//!          |  (the step runs: copies first, then K and V are written)
//!          |  commit        full blocks can be found from now on
//!          `- release       the sequence ended: its tail can be found as well
//! ```
//!
//! *Block*: room on the device for the K and V of `block_size` tokens, in all layers. *Table*: the
//! blocks of one sequence. *Cached* or *registered*: a block's content can be found by its tokens.
//!
//! | File | Idea |
//! | --- | --- |
//! | `table` | the blocks of one sequence, given back on drop |
//! | `pool` | references, least recently used first, duplicates |
//! | `reserve` | new blocks, copy on write |
//! | `prefix` | lookup, commit, release, announce |
//! | `prefix_index` | the tree of cached contents |
//! | `chain`, `ghost`, `list`, `stats` | hashes and salts, what was forgotten, linked lists, counters |
//! | `integrity` | every rule of the above, checked |
//!
//! What this module promises:
//!
//! 1. A hit is the content that was asked for: every token and every block before are compared.
//! 2. A block is written by a table only while no other holds it, and never where it is cached.
//! 3. Every operation takes constant time per block and none allocates in steady state.
//!
//! What this module deliberately does not do: it decides not who gets blocks or who loses them, and
//! it never touches the device.

mod chain;
mod ghost;
mod integrity;
mod list;
mod pool;
mod prefix;
mod prefix_index;
mod reserve;
mod stats;
mod table;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use chain::Salt;
use pool::Pool;

pub(crate) use stats::{Lookup, PrefixCacheStats};
pub(crate) use table::BlockTable;

/// Number of a KV block on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId(pub(crate) u32);

/// A copy of one block's K and V, in all layers, before a step.
///
/// The copies of a step are done in their order, after the step before: a block that is copied from
/// may be written by a later copy, or by the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockCopy {
    /// What is read.
    pub(crate) from: BlockId,
    /// What is written; its table has it already.
    pub(crate) to: BlockId,
}

/// How a [`KvCache`] is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvCacheOptions {
    /// Blocks on the device.
    pub(crate) num_blocks: u32,
    /// Tokens per block, at least 1.
    pub(crate) block_size: usize,
    /// Without it nothing is ever found, and tables share blocks only by forks.
    pub(crate) is_prefix_cache_on: bool,
    /// Any number. One that clients cannot know keeps them from making lookups slow; it changes no
    /// result.
    pub(crate) hash_seed: u64,
}

/// All KV blocks of one engine; belongs to the engine's thread.
pub(crate) struct KvCache {
    inner: Rc<RefCell<Pool>>,
    block_size: usize,
    num_blocks: usize,
    is_prefix_cache_on: bool,
}

impl KvCache {
    /// All blocks free and nothing cached.
    ///
    /// # Panics
    /// If a block has no room for a token.
    pub(crate) fn new(options: KvCacheOptions) -> Self {
        Self::with_hash_fn(options, chain::hash_block)
    }

    fn with_hash_fn(options: KvCacheOptions, hash_fn: chain::HashFn) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Pool::new(options, hash_fn))),
            block_size: options.block_size,
            num_blocks: options.num_blocks as usize,
            is_prefix_cache_on: options.is_prefix_cache_on,
        }
    }

    /// Tokens per block.
    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Blocks, held or not.
    pub(crate) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Blocks that no table holds, cached or not: all of them can be taken.
    pub(crate) fn num_free(&self) -> usize {
        self.inner.borrow().num_free
    }

    /// Blocks that hold so many tokens.
    pub(crate) fn num_blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }

    /// Blocks that tables hold.
    pub(crate) fn num_used(&self) -> usize {
        self.num_blocks - self.num_free()
    }

    /// Blocks that can be found by their tokens, held or not.
    pub(crate) fn num_cached(&self) -> usize {
        self.inner.borrow().index.num_cached()
    }

    /// A table without blocks. Tables share only with those of the same `salt` (`cache_salt`).
    pub(crate) fn new_table(&self, salt: Option<&str>) -> BlockTable {
        let salt = Salt::new(salt);
        let pool = self.inner.borrow();
        BlockTable {
            blocks: Vec::new(),
            num_registered: 0,
            epoch: pool.epoch,
            salt,
            root_hash: salt.root_hash(pool.hash_fn, pool.hash_seed),
            num_prompt_blocks: 0,
            announced: None,
            pool: Rc::clone(&self.inner),
        }
    }

    /// Puts the longest cached beginning of `tokens[..limit]` into an empty table: whole blocks,
    /// then at most one of which only a part matches. To give the hits back, clear the table.
    ///
    /// A sequence that shall be sampled from must compute its last token: `limit` is one less than
    /// its tokens, or less still.
    pub(crate) fn lookup(&self, table: &mut BlockTable, tokens: &[u32], limit: usize) -> Lookup {
        self.inner.borrow_mut().lookup(table, tokens, limit)
    }

    /// Counts a lookup: once for each sequence that is admitted, however often it was tried.
    pub(crate) fn count(&self, lookup: &Lookup) {
        self.inner.borrow_mut().stats.count(lookup);
    }

    /// Tells other lookups that the blocks of this prompt are being computed: one whose first
    /// missing block is the next of them `is_pending`. Ends with the prompt's last commit, or when
    /// the table is cleared or dropped.
    pub(crate) fn announce(&self, table: &mut BlockTable, tokens: &[u32]) {
        if self.is_prefix_cache_on {
            self.inner.borrow_mut().announce(table, tokens);
        }
    }

    /// Makes room for `num_tokens` tokens in all, of which `num_computed` are written already (all
    /// that were hit or committed are): takes new blocks, and replaces those that this sequence is about to write and may not, adding the
    /// copies that this takes. All or nothing; `false` when fewer than `watermark` blocks would
    /// remain free. A table that lacks nothing takes nothing, however few are free.
    #[must_use]
    pub(crate) fn try_reserve(
        &self,
        table: &mut BlockTable,
        num_computed: usize,
        num_tokens: usize,
        watermark: usize,
        copies: &mut Vec<BlockCopy>,
    ) -> bool {
        let mut pool = self.inner.borrow_mut();
        pool.try_reserve(table, num_computed, num_tokens, watermark, copies)
    }

    /// A new block at the end of the table, for whoever brings its content from elsewhere; `None`
    /// when no block is free. After that, [`Self::commit`] makes it findable.
    pub(crate) fn push_block(&self, table: &mut BlockTable) -> Option<BlockId> {
        self.inner.borrow_mut().push_block(table)
    }

    /// Makes the blocks findable whose tokens, the first `num_computed` of `tokens`, are all
    /// computed. What was computed before a reset is left out.
    pub(crate) fn commit(&self, table: &mut BlockTable, tokens: &[u32], num_computed: usize) {
        let num_full = num_computed / self.block_size;
        if num_full > table.num_registered && self.is_prefix_cache_on {
            self.inner.borrow_mut().commit(table, tokens, num_full);
        }
    }

    /// Gives all blocks back, after everything in them that is computed was made findable: also the
    /// last block, with the tokens that it has.
    pub(crate) fn release(&self, table: &mut BlockTable, tokens: &[u32], num_computed: usize) {
        self.commit(table, tokens, num_computed);
        if self.is_prefix_cache_on {
            self.inner.borrow_mut().commit_tail(table, tokens, num_computed);
        }
        table.clear();
    }

    /// Another table with the same blocks: whichever of the two writes into one first, copies it.
    pub(crate) fn fork(&self, table: &BlockTable) -> BlockTable {
        let mut pool = self.inner.borrow_mut();
        table.blocks.iter().for_each(|&block| pool.hold(block));
        BlockTable {
            blocks: table.blocks.clone(),
            announced: None,
            num_prompt_blocks: 0,
            pool: Rc::clone(&self.inner),
            ..*table
        }
    }

    /// A table without blocks that shares with the same others.
    pub(crate) fn empty_like(&self, table: &BlockTable) -> BlockTable {
        BlockTable {
            blocks: Vec::new(),
            num_registered: 0,
            announced: None,
            num_prompt_blocks: 0,
            pool: Rc::clone(&self.inner),
            ..*table
        }
    }

    /// Forgets everything that is cached, also in blocks that are held, and returns how many blocks
    /// that were. What running sequences have computed so far is not cached later either.
    pub(crate) fn reset(&self) -> usize {
        self.inner.borrow_mut().reset()
    }

    /// What happened since the start.
    pub(crate) fn stats(&self) -> PrefixCacheStats {
        self.inner.borrow().stats
    }

    /// Checks every rule of the cache against `tables`, which must be all that hold blocks.
    ///
    /// # Errors
    /// The first rule that is broken, and where.
    pub(crate) fn check_integrity<'a>(
        &self,
        tables: impl IntoIterator<Item = &'a BlockTable>,
    ) -> Result<(), String> {
        let tables: Vec<&BlockTable> = tables.into_iter().collect();
        integrity::check(&self.inner.borrow(), &tables)
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache")
            .field("num_blocks", &self.num_blocks)
            .field("num_used", &self.num_used())
            .field("num_cached", &self.num_cached())
            .finish_non_exhaustive()
    }
}

//! Who holds which block, and what becomes of those that nobody holds.
//!
//! ```text
//!                       nobody holds it                               held by tables
//!  free:  front  [ not cached ... | cached: oldest ... newest ]  back     refs 1, 2, ...
//!           |                                            ^     \             ^  |
//!           |  allocate: forget what is cached in it     |      `-- hit -----'  |
//!           `--------------------------------------------|-- refs 1 -----------'
//!                                                        `-- last reference given back
//! ```
//!
//! One list holds all blocks without references. Those that are not cached are put at its front,
//! cached ones at its back, so that taking from the front evicts the least recently used one, and
//! only when all that remain are cached.
//!
//! Two sequences may compute the same content at the same time. One of the blocks is then the
//! node's, the others are its *duplicates*, and as long as somebody holds any of them, the node's is
//! a held one: when it is given back, a duplicate takes its place. So a sequence that runs never
//! loses the node that its next block is registered behind, and no node is evicted before its
//! children are: whoever held a child held its parent too, and gives it back later.
//!
//! What this module deliberately does not do: it knows no sequences; `KvCache` walks their tables.

use rustc_hash::FxHashMap;

use super::chain::{HashFn, Salt};
use super::ghost::Ghost;
use super::list::{Links, List};
use super::prefix_index::{NodeId, PrefixIndex};
use super::stats::PrefixCacheStats;
use super::table::BlockTable;
use super::{BlockId, KvCacheOptions};

/// What the pool knows of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) refs: u32,
    /// What is cached in it. Of a duplicate too: then the node has another block.
    pub(super) node: Option<NodeId>,
}

/// A place in a sequence, between two blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// The node of the block before; none before the first block of a salt that has no node yet.
    pub(super) node: Option<NodeId>,
    pub(super) hash: u64,
    pub(super) salt: Salt,
}

/// All blocks of one engine and what is cached in them.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) block_size: usize,
    pub(super) hash_fn: HashFn,
    pub(super) hash_seed: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) free: List,
    pub(super) num_free: usize,
    /// By block: of the free list while nobody holds it, of its node's duplicates while it is one.
    pub(super) links: Links,
    pub(super) index: PrefixIndex,
    ghost: Ghost,
    /// How many tables are computing the block with that hash right now.
    pub(super) announced: FxHashMap<u64, u32>,
    pub(super) epoch: u64,
    pub(super) stats: PrefixCacheStats,
}

impl Pool {
    /// All blocks free and nothing cached.
    pub(super) fn new(options: KvCacheOptions, hash_fn: HashFn) -> Self {
        let KvCacheOptions { num_blocks, block_size, is_prefix_cache_on, hash_seed } = options;
        assert!(block_size > 0, "invariant: a block has room for at least one token");
        let num_cacheable = if is_prefix_cache_on { num_blocks as usize } else { 0 };
        let (mut links, mut free) = (Links::new(num_blocks as usize), List::EMPTY);
        (0..num_blocks).for_each(|block| links.push_back(&mut free, block));
        Self {
            block_size,
            hash_fn,
            hash_seed,
            blocks: vec![Block { refs: 0, node: None }; num_blocks as usize],
            free,
            num_free: num_blocks as usize,
            links,
            index: PrefixIndex::new(num_cacheable, block_size),
            ghost: Ghost::new(num_cacheable),
            announced: FxHashMap::default(),
            epoch: 0,
            stats: PrefixCacheStats::default(),
        }
    }

    /// What the pool knows of a block.
    pub(super) fn block(&self, block: BlockId) -> Block {
        self.blocks[block.0 as usize]
    }

    pub(super) fn block_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.blocks[block.0 as usize]
    }

    /// The node of that hash was cached once and is not now.
    pub(super) fn was_cached(&self, hash: u64) -> bool {
        self.ghost.contains(hash)
    }

    /// Takes a block that nobody holds; there must be one.
    pub(super) fn allocate(&mut self) -> BlockId {
        let block = self.free.front().map(BlockId).expect("invariant: the caller counted them");
        if let Some(node) = self.block(block).node {
            self.stats.num_evictions_capacity += self.forget(node);
        }
        self.hold(block);
        block
    }

    /// Takes a reference to a block.
    pub(super) fn hold(&mut self, block: BlockId) {
        let refs = &mut self.block_mut(block).refs;
        *refs += 1;
        if *refs == 1 {
            self.num_free -= 1;
            self.links.remove(&mut self.free, block.0);
        }
    }

    /// Gives a reference back.
    pub(super) fn give_back(&mut self, block: BlockId) {
        let Block { refs, node } = self.block_mut(block);
        debug_assert!(*refs > 0, "block {} is given back twice", block.0);
        *refs -= 1;
        if *refs > 0 {
            return;
        }
        if let Some(node) = *node {
            self.detach(block, node);
        }
        self.num_free += 1;
        match self.block(block).node {
            Some(_) => self.links.push_back(&mut self.free, block.0),
            None => self.links.push_front(&mut self.free, block.0),
        }
    }

    /// Parts a block from its node if there is another block for that.
    fn detach(&mut self, block: BlockId, node: NodeId) {
        let Self { index, links, .. } = self;
        if index.node(node).block != block {
            links.remove(&mut index.node_mut(node).duplicates, block.0);
        } else if let Some(other) = index.node(node).duplicates.front() {
            links.remove(&mut index.node_mut(node).duplicates, other);
            index.set_block(node, BlockId(other));
        } else {
            return;
        }
        self.block_mut(block).node = None;
    }

    /// Ends what is cached in a held block, so that it can be written.
    pub(super) fn unregister(&mut self, block: BlockId) {
        let Some(node) = self.block(block).node else { return };
        self.detach(block, node);
        if let Some(node) = self.block(block).node {
            self.stats.num_evictions_capacity += self.forget(node);
        }
    }

    /// Forgets a node and all behind it, children before parents; returns how many that were.
    pub(super) fn forget(&mut self, top: NodeId) -> u64 {
        let (mut node, mut num_forgotten) = (top, 0);
        loop {
            if let Some(child) = self.index.first_child(node) {
                node = child;
                continue;
            }
            let parent = self.forget_leaf(node);
            num_forgotten += 1;
            if node == top {
                return num_forgotten;
            }
            node = parent;
        }
    }

    /// Forgets a node without children; returns its parent.
    fn forget_leaf(&mut self, id: NodeId) -> NodeId {
        let node = self.index.node_mut(id);
        let (block, hash, is_full) =
            (node.block, node.hash, node.num_tokens as usize == self.block_size);
        while let Some(duplicate) = node.duplicates.front() {
            self.links.remove(&mut node.duplicates, duplicate);
            self.blocks[duplicate as usize].node = None;
        }
        if is_full {
            self.ghost.insert(hash);
        }
        self.block_mut(block).node = None;
        self.move_to_front(block);
        self.index.remove(id)
    }

    /// See `KvCache::reset`.
    pub(super) fn reset(&mut self) -> usize {
        let num_forgotten = self.index.num_cached();
        for idx in 0..self.blocks.len() {
            if let Some(node) = self.blocks[idx].node {
                self.stats.num_evictions_reset += self.forget(node);
            }
        }
        self.epoch += 1;
        num_forgotten
    }

    /// Puts a block that is no longer cached where those are taken from, unless it is held.
    fn move_to_front(&mut self, block: BlockId) {
        if self.block(block).refs == 0 {
            self.links.remove(&mut self.free, block.0);
            self.links.push_front(&mut self.free, block.0);
        }
    }

    /// Makes a held, full block findable; returns the chain behind it.
    pub(super) fn register_full(&mut self, chain: Chain, block: BlockId, tokens: &[u32]) -> Chain {
        let own = self.block(block).node;
        if let Some(node) = own
            && self.index.node(node).num_tokens as usize == self.block_size
        {
            // A fork was faster.
            let hash = self.index.node(node).hash;
            return Chain { node: own, hash, ..chain };
        }
        let hash = (self.hash_fn)(chain.hash, tokens);
        let twin = chain.node.and_then(|parent| self.index.find(parent, hash, tokens));
        let node = match (twin, own) {
            (Some(twin), own) => {
                if let Some(own) = own {
                    self.index.remove(own);
                }
                self.join(block, twin);
                twin
            }
            (None, Some(own)) => {
                self.index.extend(own, tokens, Some(hash));
                own
            }
            (None, None) => self.insert(chain, block, tokens, Some(hash)),
        };
        Chain { node: Some(node), hash, ..chain }
    }

    /// Makes the beginning of a held block findable, unless others cover it.
    pub(super) fn register_partial(&mut self, chain: Chain, block: BlockId, tokens: &[u32]) {
        if let Some(own) = self.block(block).node {
            if tokens.len() > self.index.node(own).num_tokens as usize {
                self.index.extend(own, tokens, None);
            }
            return;
        }
        let similar = chain.node.and_then(|parent| self.index.find_beginning(parent, tokens));
        if similar.is_none_or(|(_, num_common)| num_common < tokens.len()) {
            self.insert(chain, block, tokens, None);
        }
    }

    fn insert(
        &mut self,
        chain: Chain,
        block: BlockId,
        tokens: &[u32],
        hash: Option<u64>,
    ) -> NodeId {
        let parent = chain.node.unwrap_or_else(|| self.index.insert_root(chain.salt));
        let node = self.index.insert(parent, block, tokens, hash);
        self.block_mut(block).node = Some(node);
        node
    }

    /// Adds a held block to those of the same content.
    fn join(&mut self, block: BlockId, node: NodeId) {
        let holder = self.index.node(node).block;
        self.block_mut(block).node = Some(node);
        if self.block(holder).refs == 0 {
            // Nobody needs that one any more: its memory is free.
            self.index.set_block(node, block);
            self.block_mut(holder).node = None;
            self.move_to_front(holder);
        } else {
            self.links.push_front(&mut self.index.node_mut(node).duplicates, block.0);
        }
    }

    /// Tells others that the table computes the block with that hash now, and no longer the one of
    /// which it told before.
    pub(super) fn tell(&mut self, table: &mut BlockTable, hash: u64) {
        self.withdraw(table);
        *self.announced.entry(hash).or_default() += 1;
        table.announced = Some(hash);
    }

    /// Takes back what the table told, if anything.
    pub(super) fn withdraw(&mut self, table: &mut BlockTable) {
        let Some(hash) = table.announced.take() else { return };
        let num_tables = self.announced.get_mut(&hash);
        let num_tables = num_tables.expect("invariant: it is counted while a table has it");
        *num_tables -= 1;
        if *num_tables == 0 {
            self.announced.remove(&hash);
        }
    }
}

//! The prefix cache as a sequence uses it: look up, compute, commit, release.
//!
//! ```text
//!  lookup   [ whole ][ whole ][ part. ]            hits: taken into the table
//!  announce                   [ told  ]            "this one is being computed: wait for it"
//!  commit   [ whole ][ whole ][ whole ][ whole ]   each block when its last token is computed
//!  release                                [ 2 ]    the tail, too, as far as it goes
//! ```
//!
//! A table knows how many of its blocks are registered; the last of them leads to the node that the
//! next one is behind. So a commit looks at the new blocks only.
//!
//! Of a prompt that is being computed only the next block is announced. Whoever shares the prompt up
//! to there misses just that block: all before it are cached and held.
//!
//! What this module deliberately does not do: it counts no lookup; see `stats`.

use super::pool::{Chain, Pool};
use super::prefix_index::{Node, NodeId};
use super::stats::Lookup;
use super::table::BlockTable;

impl Pool {
    /// See `KvCache::lookup`.
    pub(super) fn lookup(
        &mut self,
        table: &mut BlockTable,
        tokens: &[u32],
        limit: usize,
    ) -> Lookup {
        debug_assert!(table.is_empty(), "a lookup fills an empty table");
        table.start(self.epoch);
        let limit = limit.min(tokens.len());
        let mut chain = self.root_chain(table);
        let mut missing = None;
        for block_tokens in tokens[..limit].chunks_exact(self.block_size) {
            let id = match self.find_behind(chain, block_tokens) {
                Ok(id) => id,
                Err(hash) => {
                    missing = Some(hash);
                    break;
                }
            };
            let &Node { block, hash, .. } = self.index.node(id);
            self.hold(block);
            table.blocks.push(block);
            chain = Chain { node: Some(id), hash, ..chain };
        }
        table.num_registered = table.blocks.len();
        let num_whole_tokens = table.num_registered * self.block_size;
        let rest = &tokens[num_whole_tokens..];
        let num_partial_tokens =
            self.lookup_partial(table, chain, &rest[..limit - num_whole_tokens]);
        let num_cached_tokens = num_whole_tokens + num_partial_tokens;
        Lookup {
            num_cached_tokens,
            num_partial_tokens,
            is_pending: self.is_announced(chain, rest, missing),
            num_query_tokens: tokens.len(),
            num_tail_tokens: tokens.len()
                - num_cached_tokens.max(limit / self.block_size * self.block_size),
            is_evicted: missing.is_some_and(|hash| self.was_cached(hash)),
        }
    }

    /// The node of a whole block at that place, or the hash that it would have.
    fn find_behind(&self, chain: Chain, tokens: &[u32]) -> Result<NodeId, u64> {
        // Nearly every block of a long prompt is followed by one other, next to it in memory: four
        // times as fast as computing the hash and searching by it.
        if let Some(node) = chain.node.and_then(|parent| self.index.find_youngest(parent, tokens)) {
            return Ok(node);
        }
        let hash = (self.hash_fn)(chain.hash, tokens);
        chain.node.and_then(|parent| self.index.find(parent, hash, tokens)).ok_or(hash)
    }

    /// Takes a block that begins as `tokens` does; returns how many of them it has.
    fn lookup_partial(&mut self, table: &mut BlockTable, chain: Chain, tokens: &[u32]) -> usize {
        let found = chain.node.and_then(|parent| self.index.find_beginning(parent, tokens));
        let Some((node, num_tokens)) = found else { return 0 };
        if num_tokens < self.min_partial_tokens() {
            return 0;
        }
        let block = self.index.node(node).block;
        self.hold(block);
        table.blocks.push(block);
        num_tokens
    }

    /// Fewer tokens of a block are not worth its copy, which moves the whole block: as a rule of
    /// thumb an eighth. Chat templates begin every prompt with the same few tokens.
    fn min_partial_tokens(&self) -> usize {
        self.block_size.div_ceil(8)
    }

    fn is_announced(&self, chain: Chain, rest: &[u32], missing: Option<u64>) -> bool {
        if self.announced.is_empty() {
            return false;
        }
        let next = || rest.get(..self.block_size).map(|tokens| (self.hash_fn)(chain.hash, tokens));
        missing.or_else(next).is_some_and(|hash| self.announced.contains_key(&hash))
    }

    /// See `KvCache::announce`.
    pub(super) fn announce(&mut self, table: &mut BlockTable, tokens: &[u32]) {
        table.num_prompt_blocks = tokens.len() / self.block_size;
        if let Some(chain) = self.chain(table) {
            self.announce_next(table, chain, tokens);
        }
    }

    fn announce_next(&mut self, table: &mut BlockTable, chain: Chain, tokens: &[u32]) {
        self.withdraw(table);
        if table.num_registered < table.num_prompt_blocks {
            let next = &tokens[table.num_registered * self.block_size..][..self.block_size];
            self.tell(table, (self.hash_fn)(chain.hash, next));
        }
    }

    /// See `KvCache::commit`; at least one block became full.
    pub(super) fn commit(&mut self, table: &mut BlockTable, tokens: &[u32], num_full: usize) {
        let Some(mut chain) = self.chain(table) else {
            // Nobody has to wait for what will not be registered.
            self.withdraw(table);
            return;
        };
        for idx in table.num_registered..num_full {
            let block_tokens = &tokens[idx * self.block_size..][..self.block_size];
            chain = self.register_full(chain, table.blocks[idx], block_tokens);
        }
        table.num_registered = num_full;
        self.announce_next(table, chain, tokens);
    }

    /// Makes the last block findable, if it is not full.
    pub(super) fn commit_tail(
        &mut self,
        table: &mut BlockTable,
        tokens: &[u32],
        num_computed: usize,
    ) {
        let idx = num_computed / self.block_size;
        let tail = &tokens[idx * self.block_size..num_computed];
        // Of fewer tokens than were committed the last block is a registered one: nothing happens.
        if tail.len() >= self.min_partial_tokens()
            && let Some(chain) = self.chain(table)
        {
            self.register_partial(chain, table.blocks[idx], tail);
        }
    }

    fn root_chain(&self, table: &BlockTable) -> Chain {
        Chain { node: self.index.root(table.salt), hash: table.root_hash, salt: table.salt }
    }

    /// The place behind the registered blocks of a table; none when the cache was reset since.
    pub(super) fn chain(&self, table: &BlockTable) -> Option<Chain> {
        if table.epoch != self.epoch {
            return None;
        }
        let Some(last) = table.num_registered.checked_sub(1) else {
            return Some(self.root_chain(table));
        };
        let node = self.block(table.blocks[last]).node?;
        Some(Chain { node: Some(node), hash: self.index.node(node).hash, salt: table.salt })
    }
}

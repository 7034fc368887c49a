//! What a lookup found, and what is counted of it.
//!
//! ```text
//!  tokens      [ hit  hit  hit  hit ][ hit  hit  hit  hit ][ hit  .    .    .  ][ .    .  ]
//!                                                            partial  new/evicted    tail
//!                                                                             ^ limit: no more
//!                                                                               may be hit
//! ```
//!
//! Every token that was asked for is counted once: as a hit or as a miss of one kind.
//!
//! What this module deliberately does not do: it counts no time and knows no request; a lookup is
//! counted when its request is admitted, not each time that the request is tried.

/// What the prefix cache had of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Lookup {
    /// Tokens that need not be computed; their blocks are in the table.
    pub(crate) num_cached_tokens: usize,
    /// Those of them that lie in a block of which only a part matches.
    pub(crate) num_partial_tokens: usize,
    /// The first block that is missing is being computed for another sequence: wait, and it is a
    /// hit.
    pub(crate) is_pending: bool,
    /// Tokens of the sequence.
    pub(super) num_query_tokens: usize,
    /// Misses that no cache of whole blocks could have avoided.
    pub(super) num_tail_tokens: usize,
    /// The first whole block that is missing was cached once.
    pub(super) is_evicted: bool,
}

/// Counters of the prefix cache since the start, all of them in tokens or blocks.
#[expect(clippy::struct_field_names, reason = "they are all numbers")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefixCacheStats {
    /// Tokens of the sequences that were looked up: the hits and all misses together.
    pub(crate) num_query_tokens: u64,
    /// Tokens that were in the cache.
    pub(crate) num_hit_tokens: u64,
    /// Those hits that lie in a block of which only a part matched.
    pub(crate) num_partial_hit_tokens: u64,
    /// Misses whose first block was never cached, as far as is remembered.
    pub(crate) num_miss_tokens_new: u64,
    /// Misses whose first block was cached once: more memory would have helped.
    pub(crate) num_miss_tokens_evicted: u64,
    /// Misses behind the last whole block that could have been hit.
    pub(crate) num_miss_tokens_tail: u64,
    /// Cached blocks that were forgotten because others needed the memory.
    pub(crate) num_evictions_capacity: u64,
    /// Cached blocks that were forgotten because somebody asked for it.
    pub(crate) num_evictions_reset: u64,
    /// Blocks that were copied because others share them.
    pub(crate) num_copies: u64,
}

impl PrefixCacheStats {
    /// Adds what a lookup found.
    pub(super) fn count(&mut self, lookup: &Lookup) {
        let num_missing = lookup.num_query_tokens - lookup.num_cached_tokens;
        let num_blocks_missing = (num_missing - lookup.num_tail_tokens) as u64;
        self.num_query_tokens += lookup.num_query_tokens as u64;
        self.num_hit_tokens += lookup.num_cached_tokens as u64;
        self.num_partial_hit_tokens += lookup.num_partial_tokens as u64;
        self.num_miss_tokens_tail += lookup.num_tail_tokens as u64;
        if lookup.is_evicted {
            self.num_miss_tokens_evicted += num_blocks_missing;
        } else {
            self.num_miss_tokens_new += num_blocks_missing;
        }
    }
}

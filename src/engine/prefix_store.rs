//! Where KV blocks of prefixes outlive an engine: the trait that it asks, and what it is asked with.
//!
//! ```text
//! prompt tokens --key_of, block by block--> PrefixKey --contains--> load ----> KV pool
//!                                                                   save <---- KV pool
//! ```
//!
//! What this module deliberately does not do: no IO. Who implements the trait decides where blocks
//! lie, what else their keys depend on, and how many are kept.

use std::fmt;

/// Content address of one full KV block and all blocks before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixKey(pub [u8; 32]);

/// One full block of a prefix, as it is kept outside the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixBlock {
    /// Its address.
    pub key: PrefixKey,
    /// That of the block before it; `None`: it is the first.
    pub parent: Option<PrefixKey>,
    /// The block's own tokens.
    pub token_ids: Vec<u32>,
    /// Its K and V, as the backend's memory has them.
    pub bytes: Vec<u8>,
}

/// Where KV blocks of prefixes outlive an engine. Called from threads of its own, never from the
/// engine thread, but for `contains` and `key_of`.
pub trait PrefixStore: Send + Sync + fmt::Debug {
    /// Key of the block that follows `parent` (`None`: the first) with those tokens, under that cache
    /// salt.
    fn key_of(&self, parent: Option<PrefixKey>, salt: Option<&str>, token_ids: &[u32])
    -> PrefixKey;

    /// Whether it is there, as far as is known without IO.
    fn contains(&self, key: &PrefixKey) -> bool;

    /// Reads and verifies it; `None` is a miss of whatever reason. `token_ids` must equal, or it is
    /// `None`.
    fn load(&self, key: &PrefixKey, token_ids: &[u32]) -> Option<Vec<u8>>;

    /// Keeps it, if the budget allows; errors are warned about once and counted, never returned.
    fn save(&self, block: PrefixBlock);

    /// What happened since the store was opened.
    fn stats(&self) -> PrefixStoreStats;
}

/// Counters of a [`PrefixStore`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixStoreStats {
    /// Blocks that were loaded.
    pub hits: u64,
    /// Blocks that were asked for and could not be loaded, for whatever reason.
    pub misses: u64,
    /// Blocks that were written.
    pub saved: u64,
    /// Of the misses, those that were there but not what was written.
    pub corrupt: u64,
    /// Blocks that were removed to make room.
    pub evicted: u64,
    /// Bytes that the store holds, by its last count and what it wrote since.
    pub bytes: u64,
    /// Blocks that could not be read or written.
    pub errors: u64,
}

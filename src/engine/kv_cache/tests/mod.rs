//! The KV cache as the scheduler uses it.
//!
//! | File | Idea |
//! | --- | --- |
//! | `device` | what a device would have written into each block |
//! | `sharing`, `eviction` | one rule each, by example |
//! | `model` | random sequences against the simplest cache there is: a set of everything computed |
//!
//! What this module deliberately does not do: it measures no time.

mod device;
mod eviction;
mod model;
mod sharing;

use super::{KvCache, KvCacheOptions};

/// A cache of blocks of 4 tokens.
fn kv_cache(num_blocks: u32) -> KvCache {
    KvCache::new(KvCacheOptions {
        num_blocks,
        block_size: 4,
        is_prefix_cache_on: true,
        hash_seed: 1,
    })
}

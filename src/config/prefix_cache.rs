//! What was asked about prefixes that outlive the process.
//!
//! What this module deliberately does not do: it opens nothing.

use std::path::PathBuf;

/// Bytes that the folder may have, where nothing was asked for.
pub const DEFAULT_PREFIX_CACHE_MAX_BYTES: u64 = 4 << 30;
/// Later requests that must have used a block before it is written, where nothing was asked for.
pub const DEFAULT_PREFIX_CACHE_MIN_HITS: u32 = 1;

/// Where KV blocks of prefixes are kept, and which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixCacheConfig {
    /// The folder; `None`: they go with the process.
    pub folder: Option<PathBuf>,
    /// Bytes that the folder may have.
    pub max_bytes: u64,
    /// Later requests that must have used a block before it is written; 0: each block of each prompt
    /// is.
    pub min_hits: u32,
}

/// None are kept.
impl Default for PrefixCacheConfig {
    fn default() -> Self {
        Self {
            folder: None,
            max_bytes: DEFAULT_PREFIX_CACHE_MAX_BYTES,
            min_hits: DEFAULT_PREFIX_CACHE_MIN_HITS,
        }
    }
}

//! KV blocks of prefixes in a folder, so that a restarted engine answers a long system prompt without
//! computing it.
//!
//! ```text
//! engine --PrefixStore--> DiskPrefixStore --> graph_cache::DiskStore: one entry per block
//!                             |  index   what is there, without looking
//!                             |  room    the budget: makes room now and then, not at each block
//!                             '  age     a block is never older than those that need it
//! ```
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`PrefixFolder`] | the open folder: remembers the digest of weights, becomes a store |
//! | [`PrefixIdentity`] | everything that has to be equal for KV bytes to be right |
//! | [`DiskPrefixStore`] | what the engine gets |
//!
//! Crash safety, verification of every byte, quarantine, trust and pins are those of the crate that
//! keeps compiled graphs, and `cairn cache` with `--cache-dir` looks into the folder like into any
//! other. What one entry holds:
//!
//! ```text
//! entries/ab/abcd...64 digits.../
//!   kv.bin           the block's K and V, as the backend's memory has them
//!   manifest.json    kind `prefix`; key: every field of the identity, and the block's address
//!                    io: the entry of the block before it, and the block's own tokens
//!   record.bin
//! ```
//!
//! The address of a block is SHA-256 over identity, the address of the block before it (of a first
//! block: the cache salt) and its tokens. So an entry of other weights, another build, another
//! processor, other tokens or another tenant is not found, and salts are not on the disk.
//!
//! What this module deliberately does not do: it decides neither which blocks are worth keeping nor
//! when one is needed; the engine does. Nothing here waits for another process.

mod age;
mod counters;
mod entry;
mod folder;
mod identity;
mod index;
mod room;
mod store;
mod weights_digest;

pub use folder::{PrefixFolder, PrefixStoreOptions};
pub use identity::PrefixIdentity;
pub use store::DiskPrefixStore;
pub use weights_digest::WeightsDigest;

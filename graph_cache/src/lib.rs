//! A cache of compiled graphs that can be trusted. Bytes in, bytes out: this crate knows neither
//! what a graph is nor who compiles it.
//!
//! # Nouns
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`KeyFields`], [`CacheKey`] | everything that changes what the compiler produces, and its SHA-256 |
//! | artifact | what the compiler produced, as bytes; no weights, no addresses |
//! | [`Entry`], [`EntryMeta`] | an artifact in a store and what is known about it |
//! | [`Store`] | where entries are kept: [`DiskStore`], [`MemoryStore`] |
//! | [`GraphCache`] | the way from fields to a loaded graph; counts in [`CacheStats`] |
//!
//! # On disk
//!
//! ```text
//! <root>/                                  0700
//!   CACHEDIR.TAG                           for programs that make backups
//!   v1/                                    version of everything below
//!     entries/ab/cd/abcd...64 digits.../   one entry, named by its key
//!       artifact.bin                       the artifact as it is
//!       manifest.json                      for people: every key field in clear, sizes, producer
//!       record.bin                         key, size and SHA-256 of both, and of itself
//!     tmp/                                 entries being written; swept at open after an hour
//!     locks/<key>.lock                     who is compiling; the lock is the operating system's
//!     quarantine/<key>.<n>[.reason.txt]    what was found bad, and why
//! ```
//!
//! # Guarantees
//!
//! 1. **Never torn.** An entry is written beside its place, flushed, and appears by one rename. A
//!    writer may be killed at any instant: there is the old state or the new one.
//! 2. **Verified before use.** Every byte that leaves the store has been checked against its
//!    digest, in memory, after it was read. A bad entry is moved away and rebuilt once.
//! 3. **Trouble is a miss.** Whatever happens to the folder (full, read-only, deleted, damaged,
//!    links and FIFOs in it), the caller gets a graph, and a warning.
//! 4. **Compiled once**, by threads and processes that ask at the same time; but nobody waits for
//!    ever, and a failure to compile is never remembered.
//! 5. **Nothing is followed or executed**: no symbolic link inside the store, plain data only.
//!
//! # Map
//!
//! [`key`](KeyFields) and `digest` name things; `record` and `codec` are the format; `filesystem`,
//! `atomic_write` and `lock` are the operating system's part; `store`, `disk` and `memory` keep
//! entries; `single_flight`, `stats` and `graph_cache` put it together.
//!
//! What this crate deliberately does not do: it has no size limit, no eviction, no layers and no
//! remote stores.

mod atomic_write;
mod codec;
mod digest;
mod disk;
mod explain;
mod filesystem;
mod graph_cache;
mod key;
mod lock;
mod memory;
mod record;
mod single_flight;
mod stats;
mod store;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod testing;

pub use digest::{Digest, ParseDigestError};
pub use disk::DiskStore;
pub use explain::{Difference, Nearest};
pub use graph_cache::{GraphCache, LoadFailure, Origin, Outcome};
pub use key::{CacheKey, ClearField, ClearValue, KeyFields};
pub use lock::{KeyLock, LockOutcome};
pub use memory::MemoryStore;
pub use record::EntryMeta;
pub use stats::{CacheStats, StatsSnapshot};
pub use store::{Entry, Lookup, MissReason, Put, Store, StoreError};

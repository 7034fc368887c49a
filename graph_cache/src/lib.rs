//! A cache of compiled graphs that can be trusted, looked into, shipped and shared. Bytes in, bytes
//! out: this crate knows neither what a graph is nor who compiles it.
//!
//! # Nouns
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`KeyFields`], [`CacheKey`] | everything that changes what the compiler produces, and its SHA-256 |
//! | [`Artifact`] | what the compiler produced, as named files; no weights, no addresses |
//! | [`Entry`], [`Manifest`] | an artifact and what vouches for it: the only thing that stores take and give |
//! | [`Store`] | where entries are kept: [`DiskStore`], [`MemoryStore`], [`Layered`], `RemoteStore` |
//! | [`GraphCache`] | the way from fields to a loaded graph; tells [`Event`]s, counts in [`CacheStats`] |
//! | request | which graphs a model with a configuration needs; an entry like others |
//!
//! # On disk
//!
//! ```text
//! <root>/                                0700
//!   CACHEDIR.TAG                         for programs that make backups
//!   v2/                                  version of everything below
//!     entries/ab/abcd...64 digits.../    one entry, named by its key; its time is that of its last use
//!       record.bin                       key, sizes, digest of the manifest, digest of itself
//!       manifest.json                    for people: every key field in clear, SHA-256 per file, producer
//!       manifest.sig                     signatures, if somebody signed it
//!       <files>                          the artifact as it is
//!     tmp/<lease>.<n>/                   what living processes are writing or removing
//!     locks/<key>.lock                   who is compiling
//!     leases/<name>                      one per living process: its beat, and what it uses
//!     starts/<keys>/<name>               starts that are not ready yet, or failed
//!     pins/<key>                         never evicted
//!     quarantine/<key>.<n>[.reason.txt]  what was found bad, and why
//! ```
//!
//! Another version's folder is never touched by reading or writing; a folder of a newer one is left
//! alone, one of an older one goes with [`DiskStore::gc`].
//!
//! # Guarantees
//!
//! 1. **Never torn.** An entry is written beside its place, flushed, and appears by one rename. A
//!    writer may be killed at any instant: there is the old state or the new one, and what it left
//!    is removed by the next process.
//! 2. **Verified before use.** Every byte that leaves a store has been checked against its digest,
//!    in memory, after it was read. A bad entry is moved away and rebuilt once.
//! 3. **Trouble is a miss.** Whatever happens to the folder (full, read-only, deleted, damaged,
//!    links and FIFOs in it), the caller gets a graph, and a warning. Only [`CacheMode::Require`]
//!    turns a miss into an error, and that at once, with the explanation.
//! 4. **Compiled once**, by threads, processes and hosts that ask at the same time; nobody waits
//!    for ever or for the dead, and a failure to compile is never remembered. Where the file system
//!    has no locks, it may be compiled twice; nothing worse.
//! 5. **Explained.** A miss names the entry that is most like what was asked for, and what differs.
//! 6. **Nothing is followed or executed**: no symbolic link inside the store, plain data only; an
//!    entry that somebody else could have written is not used, unless [`Trust`] says so.
//! 7. **Bounded.** A budget evicts the least recently used, never what is pinned or in use.
//!
//! # Map
//!
//! | Folder or file | Holds |
//! | --- | --- |
//! | `key`, `digest`, `entry/` | names and the format |
//! | `filesystem`, `atomic_write`, `lease`, `lock`, `starts` | the operating system's part |
//! | `disk/`, `memory`, `readonly`, `layered`, `remote/`, `archive/` | places for entries |
//! | `gc`, `verify`, `trust/` | care and suspicion |
//! | `single_flight`, `request`, `explain`, `events`, `stats`, `graph_cache` | putting it together |
//!
//! # Alone
//!
//! The crate depends on nothing else of its repository. Features: `remote` (object stores),
//! `conformance` (what a [`Store`] promises, as tests for your own).

mod archive;
mod atomic_write;
mod beat;
mod call;
#[cfg(feature = "conformance")]
pub mod conformance;
mod digest;
mod disk;
mod entry;
mod events;
mod explain;
mod filesystem;
#[doc(hidden)]
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gc;
mod graph_cache;
mod key;
mod layered;
mod lease;
mod lock;
mod memory;
mod options;
mod readonly;
#[cfg(feature = "remote")]
mod remote;
mod request;
mod single_flight;
mod starts;
mod stats;
mod store;
mod trust;
mod verify;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod testing;

pub use archive::{ArchiveEntry, ArchiveError, ArchiveReport, export, import, read_index};
pub use digest::{Digest, ParseDigestError};
pub use disk::{DiskAccess, DiskOptions, DiskStore, EntryInfo, QuarantinedThing};
pub use entry::{
    Artifact, ArtifactError, ArtifactFile, Entry, EntryError, EntryMeta, FileInfo, Manifest,
};
pub use events::{Event, Events, Observer};
pub use explain::{Difference, Explanation, Found, Nearest};
pub use gc::{Evicted, GcOptions, GcReport, Reclaimed, Tally};
pub use graph_cache::{Compiled, GetError, GraphCache, LoadFailure, Origin, Outcome, Start};
pub use key::{CacheKey, ClearField, ClearValue, KeyFields, KeyStem};
pub use layered::Layered;
pub use lock::KeyLock;
pub use memory::MemoryStore;
pub use options::{
    CacheMode, CacheOptions, DEFAULT_MAX_FAILED_STARTS, DEFAULT_MAX_WAIT, Layer, ParseModeError,
};
pub use readonly::ReadOnly;
#[cfg(feature = "remote")]
pub use remote::{RemoteOptions, RemoteStore};
pub use request::{GRAPH_KIND, REQUEST_KIND, RequestGraph};
pub use stats::{CacheStats, StatsSnapshot};
pub use store::{LockOutcome, Lookup, MissReason, Put, Store, StoreError, Wait};
pub use trust::{KeyError, KeyRing, PublicKey, SigningKey, Trust};
pub use verify::{Problem, ProblemKind, VerifyOptions, VerifyProgress, VerifyReport};

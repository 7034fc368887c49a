//! Entries in one file: to carry them to nodes that no network reaches. An object store keeps each
//! entry in the same form, as an archive of one.
//!
//! ```text
//! zstd( tar( cairn-archive.json                  the index: what is in here, for people and scripts
//!            entries/<key>/record.bin            for every entry, in the index's order, its files
//!            entries/<key>/manifest.json         in the order in which they vouch for each other
//!            entries/<key>/manifest.sig          only where somebody signed it
//!            entries/<key>/<artifact files>      as the manifest lists them
//!            ... ) )
//! ```
//!
//! `tar --zstd -tvf FILE` lists it, and so does any other tool. The same entries always make the same
//! bytes (from the same version of the program): entries are sorted by key, nothing of this machine
//! or of this moment is written, and one thread compresses at a fixed level.
//!
//! # Reading what strangers wrote
//!
//! Before a member is read it is known which one it has to be: the index says whose entry is next,
//! and the entry's manifest, verified by then, which files it has and how large they are. A member's
//! header must be, byte for byte, the one that `export` writes for that path and size. So links,
//! folders, extensions, paths that lead elsewhere, and members too many, too few, too large or in
//! another order need no rules of their own: none of them is the expected member. Paths are only
//! ever compared, never opened.
//!
//! | Bounded | By |
//! | --- | --- |
//! | memory | one entry, and no more than twice of what has been read of it; the index; zstd's window |
//! | index | 64 MiB, 100,000 entries |
//! | an entry's files | the limits of records, manifests, signatures and artifacts |
//! | zstd's window | 128 MiB |
//!
//! What this module deliberately does not do: it trusts nobody (signatures are carried along), and it
//! puts nothing into a store; whoever imports does, entry by entry.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryError, Manifest};
use crate::key::CacheKey;
use crate::store::{Lookup, MissReason, Store, StoreError};

use read::Reader;
use write::Writer;

/// Number of the layout above.
const FORMAT: u32 = 1;
/// Path of the first member.
const INDEX: &str = "cairn-archive.json";
/// No index is longer than this.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// No archive has more entries than this.
const MAX_ENTRIES: usize = 100_000;
/// Memory that zstd may use to look back, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;
/// A tar consists of blocks of this size.
const BLOCK_BYTES: usize = 512;

/// What the index says of one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveEntry {
    /// Its key.
    pub key: CacheKey,
    /// What kind of thing it is.
    pub kind: String,
    /// A word for people.
    pub note: String,
    /// When it was compiled, as people write it.
    pub created: String,
    /// The bytes of its artifact's files together.
    pub artifact_bytes: u64,
}

/// The first member.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: u32,
    entries: Vec<ArchiveEntry>,
}

/// What was exported or imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveReport {
    /// Entries.
    pub num_entries: u64,
    /// The bytes of their artifacts, before they were compressed.
    pub artifact_bytes: u64,
}

/// Why an archive was not written or not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// An entry that was to be exported is not there, or is not good.
    #[error("cannot export entry {key}: {reason}; name it no longer, or compile it again")]
    Missing {
        /// Its key.
        key: CacheKey,
        /// What is known about it.
        reason: MissReason,
    },
    /// Somebody replaced an entry while it was being exported.
    #[error("entry {key} changed while it was being exported; export again")]
    Changed {
        /// Its key.
        key: CacheKey,
    },
    /// There are too many entries for one archive.
    #[error("archive of {got} entries, expected at most {MAX_ENTRIES}; use several archives")]
    Count {
        /// How many there are.
        got: usize,
    },
    /// It cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[source] io::Error),
    /// It ends before it is whole.
    #[error("archive ends within `{member}`; it was not copied whole")]
    Cut {
        /// Where.
        member: String,
    },
    /// It cannot be read.
    #[error("cannot read `{member}` of the archive: {source}")]
    Read {
        /// Where.
        member: String,
        /// What happened.
        source: io::Error,
    },
    /// It was written by a newer version.
    #[error(
        "archive is of format {got}, this version reads format {FORMAT}; use a version that reads \
         it, or export it again with this one"
    )]
    Format {
        /// Its format.
        got: u64,
    },
    /// The index is not one.
    #[error("`{INDEX}` of the archive: {0}")]
    Index(String),
    /// A member is not the next one.
    #[error("archive member `{expected}` expected, got {got}")]
    Member {
        /// The path of the one that should be here.
        expected: String,
        /// What is here, in words.
        got: String,
    },
    /// A member has a size that it cannot have.
    #[error("archive member `{member}` has {got} bytes, expected {min} to {max}")]
    Size {
        /// Its path.
        member: String,
        /// Its size.
        got: u64,
        /// The smallest size.
        min: u64,
        /// The largest size.
        max: u64,
    },
    /// The archive goes on where it should end.
    #[error("archive has more after its last entry: {0}")]
    Trailing(&'static str),
    /// What the archive holds is not the entry that was written.
    #[error("archive entry {key}: {source}")]
    Entry {
        /// Its key.
        key: CacheKey,
        /// What is wrong with it.
        source: EntryError,
    },
    /// The index describes an entry otherwise than its manifest does.
    #[error("archive entry {key}: `{INDEX}` does not say of it what its manifest says")]
    Described {
        /// Its key.
        key: CacheKey,
    },
    /// An entry could not be taken in.
    #[error("cannot import entry {key}: {source}")]
    Take {
        /// Its key.
        key: CacheKey,
        /// Why.
        source: StoreError,
    },
}

impl ArchiveEntry {
    fn of(manifest: &Manifest) -> Self {
        Self {
            key: manifest.key,
            kind: manifest.meta.kind.clone(),
            note: manifest.meta.note.clone(),
            created: manifest.created.clone(),
            artifact_bytes: manifest.num_artifact_bytes(),
        }
    }
}

impl ArchiveReport {
    fn add(&mut self, manifest: &Manifest) {
        self.num_entries += 1;
        self.artifact_bytes = self.artifact_bytes.saturating_add(manifest.num_artifact_bytes());
    }
}

/// Writes the entries of these keys, in the order of the keys and each once, and tells `progress`
/// which one has been written. Every entry is verified on its way.
///
/// # Errors
/// When an entry is missing or not good, or when `out` cannot be written. What has been written until
/// then is not an archive.
pub fn export(
    store: &dyn Store,
    keys: &[CacheKey],
    out: impl Write,
    progress: &mut dyn FnMut(&Manifest),
) -> Result<ArchiveReport, ArchiveError> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > MAX_ENTRIES {
        return Err(ArchiveError::Count { got: keys.len() });
    }
    let entries: Vec<_> = keys.iter().map(|key| described(store, key)).collect::<Result<_, _>>()?;
    let index = Index { format: FORMAT, entries };
    let mut writer = Writer::new(out)?;
    writer.index(&index)?;
    let mut report = ArchiveReport::default();
    for announced in &index.entries {
        let key = announced.key;
        let entry = match store.get(&key) {
            Lookup::Hit(entry) => entry,
            Lookup::Miss(reason) => return Err(ArchiveError::Missing { key, reason }),
        };
        if ArchiveEntry::of(entry.manifest()) != *announced {
            return Err(ArchiveError::Changed { key });
        }
        writer.entry(&entry)?;
        report.add(entry.manifest());
        progress(entry.manifest());
    }
    writer.finish()?;
    Ok(report)
}

fn described(store: &dyn Store, key: &CacheKey) -> Result<ArchiveEntry, ArchiveError> {
    if let Some(manifest) = store.manifest(key) {
        return Ok(ArchiveEntry::of(&manifest));
    }
    match store.get(key) {
        Lookup::Hit(entry) => Ok(ArchiveEntry::of(entry.manifest())),
        Lookup::Miss(reason) => Err(ArchiveError::Missing { key: *key, reason }),
    }
}

/// Reads an archive and hands over its entries, one by one, each verified.
///
/// # Errors
/// When anything is not as `export` writes it, or when `take` fails. The entries handed over until
/// then are good.
pub fn import(
    input: impl Read,
    take: &mut dyn FnMut(Entry) -> Result<(), StoreError>,
) -> Result<ArchiveReport, ArchiveError> {
    let mut reader = Reader::new(input)?;
    let mut report = ArchiveReport::default();
    for announced in reader.index()?.entries {
        let key = announced.key;
        let entry = reader.entry(&announced)?;
        report.add(entry.manifest());
        take(entry).map_err(|source| ArchiveError::Take { key, source })?;
    }
    reader.finish()?;
    Ok(report)
}

/// What an archive says that it holds. No more than the beginning of it is read, and nothing of it
/// is verified.
///
/// # Errors
/// When it does not begin as an archive does.
pub fn read_index(input: impl Read) -> Result<Vec<ArchiveEntry>, ArchiveError> {
    Ok(Reader::new(input)?.index()?.entries)
}

/// An archive of this one entry.
#[cfg(any(test, feature = "fuzzing", feature = "remote"))]
pub(crate) fn encode_entry(entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes)?;
    writer.index(&Index { format: FORMAT, entries: vec![ArchiveEntry::of(entry.manifest())] })?;
    writer.entry(entry)?;
    writer.finish()?;
    Ok(bytes)
}

/// The entry of an archive that holds this one and no other.
#[cfg(any(test, feature = "fuzzing", feature = "remote"))]
pub(crate) fn decode_entry(key: &CacheKey, bytes: &[u8]) -> Result<Entry, ArchiveError> {
    let mut reader = Reader::new(bytes)?;
    let entries = reader.index()?.entries;
    let [announced] = entries.as_slice() else {
        let got = entries.len();
        return Err(ArchiveError::Index(format!("lists {got} entries, expected one")));
    };
    if announced.key != *key {
        let found = announced.key;
        return Err(ArchiveError::Entry {
            key: *key,
            source: EntryError::Key { expected: *key, found },
        });
    }
    let entry = reader.entry(announced)?;
    reader.finish()?;
    Ok(entry)
}

/// The path of an entry's file.
fn path_of(key: &CacheKey, name: &str) -> String {
    format!("entries/{key}/{name}")
}

/// The zeros after a member of this size, up to the next block.
const fn padding(bytes: u64) -> usize {
    (BLOCK_BYTES - (bytes % BLOCK_BYTES as u64) as usize) % BLOCK_BYTES
}

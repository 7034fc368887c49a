//! The store that the engine asks.
//!
//! | Found | Answer |
//! | --- | --- |
//! | the block, every byte as it was written | its bytes |
//! | nothing | a miss |
//! | bytes that are not those that were written, or no block | a miss; moved into the quarantine |
//! | what cannot be read now, or somebody else could have written | a miss and an error; left alone |
//! | other tokens under the same address | a miss |
//!
//! Whoever saves waits for a thread that is making room; nobody else waits for anybody, and nobody for
//! another process: two that write the same block at the same time have written it once for nothing.
//!
//! What this module deliberately does not do: an entry is not verified until it is loaded.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use cairn_graph_cache::{
    CacheKey, DiskStore, EntryInfo, GcOptions, KeyFields, KeyStem, Lookup, MissReason, Put,
    Store as _, StoreError,
};
use sha2::{Digest as _, Sha256};

use super::age::{LastUse, raised};
use super::counters::{Counters, WarnOnce};
use super::entry::{self, Stored, own_field, with_own_field};
use super::folder::{PrefixFolder, PrefixStoreOptions};
use super::identity::PrefixIdentity;
use super::index::{Index, Link};
use super::room::Room;
use crate::engine::{PrefixBlock, PrefixKey, PrefixStore, PrefixStoreStats};

/// What the first block of a prefix comes after, as it is hashed.
const FIRST: u8 = 0;
const FIRST_WITH_SALT: u8 = 1;
/// Any other block comes after another one.
const AFTER: u8 = 2;

/// KV blocks in a folder, of one identity.
#[derive(Debug)]
pub struct DiskPrefixStore {
    disk: DiskStore,
    producer: String,
    block_size: usize,
    block_bytes: usize,
    /// Of every entry's key.
    fields: KeyFields,
    stem: KeyStem,
    /// Has taken the identity: where every block's address begins.
    addresses: Sha256,
    is_only_read: bool,
    index: Index,
    room: Mutex<Room>,
    /// What the folder holds, for whoever does not want to wait until room was made.
    held: AtomicU64,
    counters: Counters,
    of_errors: WarnOnce,
    of_damage: WarnOnce,
}

/// Why a block was not kept.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("a block has {got} {what}, expected {expected}")]
    Size { what: &'static str, got: usize, expected: usize },
    #[error(transparent)]
    Artifact(#[from] cairn_graph_cache::ArtifactError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DiskPrefixStore {
    /// Opens a folder, creating it where it is missing, for the blocks of this identity.
    ///
    /// # Errors
    /// When the folder is not to be trusted, or can neither be read nor created.
    pub fn open(
        path: &std::path::Path,
        identity: &PrefixIdentity,
        options: PrefixStoreOptions,
    ) -> Result<Self, StoreError> {
        PrefixFolder::open(path, options, &identity.producer)?.into_store(identity)
    }

    pub(super) fn new(folder: PrefixFolder, identity: &PrefixIdentity) -> Result<Self, StoreError> {
        let PrefixFolder { disk, options, producer } = folder;
        let entries = disk.entries()?;
        let held = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.bytes));
        let fields = identity.fields();
        let addresses = Sha256::new().chain_update(fields.key().as_bytes());
        Ok(Self {
            disk,
            producer,
            block_size: identity.block_size,
            block_bytes: identity.block_bytes,
            stem: fields.stem(),
            fields,
            addresses,
            is_only_read: options.is_only_read,
            index: Index::of(entries.into_iter().map(|entry| entry.key)),
            room: Mutex::new(Room::new(options.max_bytes, held)),
            held: AtomicU64::new(held),
            counters: Counters::default(),
            of_errors: WarnOnce::default(),
            of_damage: WarnOnce::default(),
        })
    }

    /// The key of the entry that a block is kept in, as `cairn cache` has it.
    pub fn entry_key(&self, key: &PrefixKey) -> CacheKey {
        self.stem.key_with(&own_field(key))
    }

    /// The folder's store, to look into it.
    pub fn disk(&self) -> &DiskStore {
        &self.disk
    }

    fn read(&self, key: &CacheKey) -> Result<Stored, MissReason> {
        match self.disk.get(key) {
            Lookup::Hit(entry) => Stored::of(*entry, self.block_bytes).map_err(|what| {
                let folder = self.disk.entry_folder(key);
                MissReason::Bad(format!("`{}`: {what}", folder.display()))
            }),
            Lookup::Miss(reason) => Err(reason),
        }
    }

    fn cannot_load(&self, key: &CacheKey, reason: &MissReason) {
        self.index.remove(key);
        match reason {
            MissReason::Absent => {}
            MissReason::Bad(_) => {
                self.counters.corrupt.add(1);
                let what = format_args!("a kept KV block is computed again: {reason}");
                self.of_damage.warn(what);
                self.move_away(key);
            }
            _ => {
                self.counters.errors.add(1);
                self.of_errors.warn(format_args!("a kept KV block is computed again: {reason}"));
            }
        }
    }

    /// Moves a bad entry away, unless another process has replaced it. Should that happen right after
    /// the look, a good one is moved away, and computed again.
    fn move_away(&self, key: &CacheKey) {
        if self.is_only_read {
            return;
        }
        if let Err(MissReason::Bad(reason)) = self.read(key)
            && let Err(error) = self.disk.quarantine(key, &reason)
        {
            tracing::debug!(%error, "a bad KV block stays where it is");
        }
    }

    fn try_save(&self, key: CacheKey, block: PrefixBlock) -> Result<(), SaveError> {
        let PrefixBlock { key: address, parent, token_ids, bytes } = block;
        for (what, got, expected) in
            [("tokens", token_ids.len(), self.block_size), ("bytes", bytes.len(), self.block_bytes)]
        {
            if got != expected {
                return Err(SaveError::Size { what, got, expected });
            }
        }
        let parent = parent.map(|parent| self.entry_key(&parent));
        let link = parent.map_or(Link::First, Link::After);
        let fields = with_own_field(self.fields.clone(), &address);
        let entry = entry::seal(&fields, parent, &token_ids, bytes, &self.producer)?;
        if !self.take_room(entry.artifact().num_bytes() + entry.manifest_json().len() as u64)? {
            tracing::debug!("a KV block is not kept: there is no room for it");
            return Ok(());
        }
        if let Put::Stored { .. } = self.disk.put(&entry)? {
            self.counters.saved.add(1);
        }
        self.index.insert(key, link);
        Ok(())
    }

    fn take_room(&self, bytes: u64) -> Result<bool, StoreError> {
        let mut failed = None;
        let mut room = self.room();
        let is_taken = room.take(bytes, Instant::now(), |target| {
            self.make_room(target).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        self.held.store(room.held(), Ordering::Relaxed);
        failed.map_or(Ok(is_taken), Err)
    }

    /// Removes what was not used for the longest time, until no more than `target` bytes are left;
    /// says how many are, unless another process was at it.
    fn make_room(&self, target: u64) -> Result<Option<u64>, StoreError> {
        self.set_last_uses(&self.disk.entries()?);
        let report = self.disk.gc(&GcOptions { max_bytes: Some(target), dry_run: false })?;
        for evicted in &report.evicted {
            self.index.remove(&evicted.key);
        }
        self.counters.evicted.add(report.evicted.len() as u64);
        tracing::debug!(
            evicted = report.evicted.len(),
            bytes_left = report.bytes_after,
            "made room for KV blocks"
        );
        Ok((!report.skipped).then_some(report.bytes_after))
    }

    /// Tells the folder of the uses that it knows nothing of: of blocks that lie in an engine's memory,
    /// and of those before them.
    fn set_last_uses(&self, entries: &[EntryInfo]) {
        let now = SystemTime::now();
        let uses = entries.iter().map(|entry| {
            let is_used = self.index.take_asked_for(&entry.key) || entry.is_pinned;
            let last = entry.last_used.unwrap_or(SystemTime::UNIX_EPOCH);
            let parent = match self.link(&entry.key) {
                Link::After(parent) => Some(parent),
                Link::First | Link::Unknown => None,
            };
            LastUse { key: entry.key, parent, time: if is_used { now } else { last } }
        });
        let uses = raised(uses.collect());
        let known: HashMap<_, _> =
            entries.iter().map(|entry| (entry.key, entry.last_used)).collect();
        for LastUse { key, time, .. } in uses {
            if known[&key].unwrap_or(SystemTime::UNIX_EPOCH) != time
                && let Err(error) = self.disk.set_last_used(&key, time)
            {
                // It may be gone by now.
                tracing::debug!(%error, "a KV block's last use is not set");
            }
        }
    }

    /// What an entry needs; read from it the first time.
    fn link(&self, key: &CacheKey) -> Link {
        let known = self.index.link(key);
        if known != Link::Unknown {
            return known;
        }
        let link = self.disk.manifest(key).as_ref().and_then(entry::link);
        // A bad entry needs nothing, and is noticed when it is loaded.
        let link = link.unwrap_or(Link::First);
        self.index.insert(*key, link);
        link
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // A panic elsewhere leaves the numbers whole.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PrefixStore for DiskPrefixStore {
    fn key_of(
        &self,
        parent: Option<PrefixKey>,
        salt: Option<&str>,
        token_ids: &[u32],
    ) -> PrefixKey {
        let mut address = self.addresses.clone();
        match (parent, salt) {
            // The salt is in the address of the first block, and so in all of them.
            (Some(parent), _) => {
                address.update([AFTER]);
                address.update(parent.0);
            }
            (None, Some(salt)) => {
                address.update([FIRST_WITH_SALT]);
                address.update((salt.len() as u64).to_le_bytes());
                address.update(salt);
            }
            (None, None) => address.update([FIRST]),
        }
        for id in token_ids {
            address.update(id.to_le_bytes());
        }
        PrefixKey(address.finalize().into())
    }

    fn contains(&self, key: &PrefixKey) -> bool {
        self.index.ask_for(&self.entry_key(key))
    }

    fn load(&self, key: &PrefixKey, token_ids: &[u32]) -> Option<Vec<u8>> {
        let key = self.entry_key(key);
        let stored = self.read(&key).inspect_err(|reason| self.cannot_load(&key, reason)).ok();
        let stored = stored.filter(|stored| stored.has_tokens(token_ids));
        let Some(Stored { link, bytes, .. }) = stored else {
            self.counters.misses.add(1);
            return None;
        };
        self.index.insert(key, link);
        self.counters.hits.add(1);
        Some(bytes)
    }

    fn save(&self, block: PrefixBlock) {
        let key = self.entry_key(&block.key);
        if self.is_only_read || self.index.ask_for(&key) {
            return;
        }
        if let Err(error) = self.try_save(key, block) {
            self.counters.errors.add(1);
            self.of_errors.warn(format_args!("a KV block is not kept: {error}"));
        }
    }

    fn stats(&self) -> PrefixStoreStats {
        let Counters { hits, misses, saved, corrupt, evicted, errors } = &self.counters;
        PrefixStoreStats {
            hits: hits.value(),
            misses: misses.value(),
            saved: saved.value(),
            corrupt: corrupt.value(),
            evicted: evicted.value(),
            bytes: self.held.load(Ordering::Relaxed),
            errors: errors.value(),
        }
    }
}

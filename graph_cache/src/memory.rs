//! Artifacts in this process's memory: what the cache falls back to when there is no usable folder.
//!
//! Bounded: when a new artifact does not fit beside the others, the oldest go first. It deliberately
//! has no lock; within one process, single flight is enough.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::key::CacheKey;
use crate::record::EntryMeta;
use crate::store::{Entry, Lookup, MissReason, Put, Store, StoreError};

/// A [`Store`] that lasts as long as the process.
#[derive(Debug)]
pub struct MemoryStore {
    max_bytes: u64,
    /// Oldest first. A process has a handful of graphs: a list is enough.
    entries: Mutex<VecDeque<(CacheKey, Entry)>>,
}

impl MemoryStore {
    /// An empty store that keeps at most `max_bytes` of artifacts.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<(CacheKey, Entry)>> {
        // No operation leaves the list half changed, so a panic elsewhere does not matter.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &CacheKey) -> Lookup {
        let entries = self.entries();
        match entries.iter().find(|(other, _)| other == key) {
            Some((_, entry)) => Lookup::Hit(entry.clone()),
            None => Lookup::Miss(MissReason::Absent),
        }
    }

    fn put(&self, key: &CacheKey, artifact: &[u8], meta: &EntryMeta) -> Result<Put, StoreError> {
        let bytes = artifact.len() as u64;
        if bytes > self.max_bytes {
            return Err(StoreError::TooLarge {
                what: "artifact",
                got: bytes,
                limit: self.max_bytes,
            });
        }
        let mut entries = self.entries();
        if entries.iter().any(|(other, _)| other == key) {
            return Ok(Put::AlreadyThere);
        }
        let mut held: u64 = entries.iter().map(|(_, e)| e.artifact.len() as u64).sum();
        while held > self.max_bytes - bytes {
            let (_, oldest) = entries.pop_front().expect("invariant: bytes are held by entries");
            held -= oldest.artifact.len() as u64;
        }
        let entry = Entry { artifact: artifact.to_vec(), meta: meta.clone() };
        entries.push_back((*key, entry));
        Ok(Put::Stored { bytes })
    }

    fn quarantine(&self, key: &CacheKey, _reason: &str) -> Result<(), StoreError> {
        self.remove(key).map(|_| ())
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        let mut entries = self.entries();
        let before = entries.len();
        entries.retain(|(other, _)| other != key);
        Ok(entries.len() < before)
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        let mut keys: Vec<_> = self.entries().iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> EntryMeta {
        EntryMeta {
            fields: Vec::new(),
            producer: "test".to_owned(),
            compile_ms: 0,
            created_unix_s: 0,
            note: String::new(),
        }
    }

    #[test]
    fn the_oldest_artifacts_make_room() {
        let store = MemoryStore::new(10);
        let keys = [1, 2, 3].map(|byte| CacheKey::from_bytes([byte; 32]));
        for key in &keys {
            store.put(key, &[0; 4], &meta()).unwrap();
        }
        assert_eq!(store.list().unwrap(), keys[1..]);
        assert!(store.put(&keys[0], &[0; 11], &meta()).is_err());
        assert_eq!(store.list().unwrap(), keys[1..]);
        assert!(store.remove(&keys[1]).unwrap());
        assert!(!store.remove(&keys[1]).unwrap());
    }
}

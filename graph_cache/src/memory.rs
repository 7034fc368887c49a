//! Entries in this process's memory: for tests, and what the cache falls back to when there is no
//! usable folder.
//!
//! Bounded: when a new artifact does not fit beside the others, the oldest go first. It deliberately
//! has no lock; within one process, single flight is enough.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::entry::{Entry, Manifest};
use crate::key::CacheKey;
use crate::store::{Lookup, MissReason, Put, Store, StoreError};

/// A [`Store`] that lasts as long as the process.
#[derive(Debug)]
pub struct MemoryStore {
    max_bytes: u64,
    /// Oldest first. A process has a handful of graphs: a list is enough.
    entries: Mutex<VecDeque<Entry>>,
}

impl MemoryStore {
    /// An empty store that keeps at most `max_bytes` of artifacts.
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // No operation leaves the list half changed, so a panic elsewhere does not matter.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        match self.entries().iter().find(|entry| entry.key() == key) {
            Some(entry) => Lookup::Hit(Box::new(entry.clone())),
            None => Lookup::Miss(MissReason::Absent),
        }
    }

    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        let entries = self.entries();
        entries.iter().find(|entry| entry.key() == key).map(|entry| entry.manifest().clone())
    }

    fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
        let bytes = entry.artifact().num_bytes();
        if bytes > self.max_bytes {
            return Err(StoreError::TooLarge {
                what: "artifact",
                got: bytes,
                limit: self.max_bytes,
            });
        }
        let mut entries = self.entries();
        if entries.iter().any(|there| there.key() == entry.key()) {
            return Ok(Put::AlreadyThere);
        }
        let mut held: u64 = entries.iter().map(|entry| entry.artifact().num_bytes()).sum();
        while held > self.max_bytes - bytes {
            let oldest = entries.pop_front().expect("invariant: bytes are held by entries");
            held -= oldest.artifact().num_bytes();
        }
        entries.push_back(entry.clone());
        Ok(Put::Stored { bytes })
    }

    fn quarantine(&self, key: &CacheKey, _reason: &str) -> Result<(), StoreError> {
        self.remove(key).map(|_| ())
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        let mut entries = self.entries();
        let before = entries.len();
        entries.retain(|entry| entry.key() != key);
        Ok(entries.len() < before)
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        let mut keys: Vec<_> = self.entries().iter().map(|entry| *entry.key()).collect();
        keys.sort_unstable();
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::entry_of;

    #[test]
    fn the_oldest_artifacts_make_room() {
        let store = MemoryStore::new(10);
        let entries = ["a", "b", "c"].map(|graph| entry_of(graph, &[("model.om", &[0; 4])]));
        for entry in &entries {
            assert_eq!(store.put(entry).unwrap(), Put::Stored { bytes: 4 });
        }
        let mut kept = entries[1..].iter().map(|entry| *entry.key()).collect::<Vec<_>>();
        kept.sort_unstable();
        assert_eq!(store.list().unwrap(), kept);
        assert_eq!(store.put(&entries[1]).unwrap(), Put::AlreadyThere);
        let too_large = entry_of("d", &[("model.om", &[0; 11])]);
        assert!(matches!(store.put(&too_large), Err(StoreError::TooLarge { .. })));
        assert_eq!(store.list().unwrap(), kept);
        assert_eq!(store.get(entries[2].key()), Lookup::Hit(Box::new(entries[2].clone())));
        assert_eq!(store.manifest(entries[2].key()).as_ref(), Some(entries[2].manifest()));
        assert!(store.remove(&kept[0]).unwrap());
        assert!(!store.remove(&kept[0]).unwrap());
        assert_eq!(store.get(&kept[0]), Lookup::Miss(MissReason::Absent));
    }
}

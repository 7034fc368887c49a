//! What is there, as far as is known without looking.
//!
//! ```text
//! opening: every key in the folder
//! saved, loaded:   known, with the block before it
//! not found, bad, evicted:   not known any more
//! ```
//!
//! Other processes share the folder: what they removed is noticed when it is asked for, what they
//! wrote when room is made or the same block is saved here.
//!
//! What this module deliberately does not do: no IO. The lock is held for a look into the map.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use cairn_graph_cache::CacheKey;

/// What an entry needs to be of use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// Not read yet.
    #[default]
    Unknown,
    /// Nothing.
    First,
    /// The entry of the block before it.
    After(CacheKey),
}

#[derive(Debug, Default)]
struct Known {
    link: Link,
    /// Whether somebody asked for it since room was made the last time.
    is_asked_for: AtomicBool,
}

/// The entries of a folder.
#[derive(Debug, Default)]
pub(super) struct Index(RwLock<HashMap<CacheKey, Known>>);

impl Index {
    pub(super) fn of(keys: impl IntoIterator<Item = CacheKey>) -> Self {
        let known = keys.into_iter().map(|key| (key, Known::default()));
        Self(RwLock::new(known.collect()))
    }

    /// Whether an entry is there; being asked for is a use.
    pub(super) fn ask_for(&self, key: &CacheKey) -> bool {
        let known = self.read();
        let known = known.get(key);
        known.inspect(|known| known.is_asked_for.store(true, Ordering::Relaxed)).is_some()
    }

    /// Whether it was asked for since the last call.
    pub(super) fn take_asked_for(&self, key: &CacheKey) -> bool {
        self.read().get(key).is_some_and(|known| known.is_asked_for.swap(false, Ordering::Relaxed))
    }

    pub(super) fn link(&self, key: &CacheKey) -> Link {
        self.read().get(key).map_or(Link::Unknown, |known| known.link)
    }

    /// The entry is there.
    pub(super) fn insert(&self, key: CacheKey, link: Link) {
        self.write().entry(key).or_default().link = link;
    }

    /// It is not.
    pub(super) fn remove(&self, key: &CacheKey) {
        self.write().remove(key);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<CacheKey, Known>> {
        // A panic elsewhere leaves the map whole.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<CacheKey, Known>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_use_until_it_is_taken() {
        let [there, absent] = [1, 2].map(|byte| CacheKey::from_bytes([byte; 32]));
        let index = Index::of([there]);
        assert!(!index.take_asked_for(&there));
        assert!(index.ask_for(&there) && !index.ask_for(&absent));
        assert!(index.take_asked_for(&there) && !index.take_asked_for(&there));
        assert_eq!(index.link(&there), Link::Unknown);
        index.insert(there, Link::After(absent));
        assert_eq!(index.link(&there), Link::After(absent));
        index.remove(&there);
        assert!(!index.ask_for(&there));
    }
}

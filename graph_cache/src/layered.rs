//! One writable store over any number of read-only ones.
//!
//! ```text
//! get:   upper --hit-------------------------------------------> entry
//!          `miss-> layer 1 -> layer 2 -> ... --hit--> copied up --> entry
//! put, remove, quarantine, lock:  upper only
//! ```
//!
//! | A layer's answer | What follows |
//! | --- | --- |
//! | a good entry | it is copied into the upper store, where a bad one makes way for it |
//! | absent | the next layer is asked |
//! | anything else | the next layer is asked; an event, the first time |
//!
//! An entry that was quarantined, though it is whole, is not taken from a layer again by this
//! process: else what had just been moved away would be back at the next look.
//!
//! What this module deliberately does not do: nothing is ever written to a layer.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::entry::{Entry, Manifest};
use crate::events::{Event, Events};
use crate::key::CacheKey;
use crate::store::{LockOutcome, Lookup, MissReason, Put, Store, StoreError, Wait};

/// One writable store over any number of read-only ones.
#[derive(Debug)]
pub struct Layered {
    upper: Box<dyn Store>,
    layers: Vec<Box<dyn Store>>,
    events: Events,
    /// Keys that are not to come from a layer.
    banned: Mutex<HashSet<CacheKey>>,
    /// Layers whose trouble was told of.
    complained: Mutex<HashSet<String>>,
}

impl Layered {
    /// `upper` over `layers`, of which the first is asked first.
    pub fn new(upper: Box<dyn Store>, layers: Vec<Box<dyn Store>>, events: Events) -> Self {
        let (banned, complained) = Default::default();
        Self { upper, layers, events, banned, complained }
    }

    /// The store on top.
    pub fn upper(&self) -> &dyn Store {
        &*self.upper
    }

    /// All stores, the upper one first.
    pub fn stores(&self) -> impl Iterator<Item = &dyn Store> {
        std::iter::once(self.upper()).chain(self.layers.iter().map(|layer| &**layer))
    }

    fn look_below(&self, key: &CacheKey, above: MissReason) -> Lookup {
        if lock(&self.banned).contains(key) {
            return Lookup::Miss(above);
        }
        let mut trouble = None;
        for layer in &self.layers {
            match layer.get(key) {
                Lookup::Hit(entry) => {
                    if let Some((place, reason)) = trouble {
                        self.complain(place, &reason);
                    }
                    self.promote(&entry, &above, layer.place());
                    return Lookup::Hit(entry);
                }
                Lookup::Miss(MissReason::Absent) => {}
                Lookup::Miss(reason) => trouble = trouble.or(Some((layer.place(), reason))),
            }
        }
        match (above, trouble) {
            // What is wrong with a layer is not to be mended by moving the upper entry away.
            (MissReason::Absent, Some((place, reason))) => {
                Lookup::Miss(MissReason::Unreadable(format!("in layer {place}: {reason}")))
            }
            (above, _) => Lookup::Miss(above),
        }
    }

    /// Copies an entry up. Not being able to is no trouble: it was read, and can be read again.
    fn promote(&self, entry: &Entry, above: &MissReason, from: String) {
        if let MissReason::Bad(_) = above {
            self.clear_the_way(entry.key());
        }
        match self.upper.put(entry) {
            Ok(Put::Stored { bytes }) => {
                self.events.emit(&Event::Promoted { key: *entry.key(), from, bytes });
            }
            Ok(Put::AlreadyThere) | Err(StoreError::ReadOnly { .. }) => {}
            Err(error) => tracing::debug!(%error, from, "an entry was not copied up"),
        }
    }

    /// Moves a bad upper entry away, under its lock, unless it was replaced by a good one meanwhile.
    fn clear_the_way(&self, key: &CacheKey) {
        let wait = Wait { at_most: Duration::ZERO, note: "replacing", progress: &|_, _| {} };
        let held = self.upper.lock(key, &wait);
        if matches!(held, LockOutcome::TimedOut { .. }) {
            return;
        }
        if let Lookup::Miss(MissReason::Bad(reason)) = self.upper.get(key)
            && self.upper.quarantine(key, &reason).is_ok()
        {
            self.events.emit(&Event::Quarantined { key: *key, reason });
        }
    }

    fn complain(&self, place: String, reason: &MissReason) {
        if lock(&self.complained).insert(place.clone()) {
            self.events.emit(&Event::LayerFailed { place, error: reason.to_string() });
        }
    }
}

impl Store for Layered {
    fn place(&self) -> String {
        self.upper.place()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        match self.upper.get(key) {
            Lookup::Hit(entry) => Lookup::Hit(entry),
            Lookup::Miss(reason) => self.look_below(key, reason),
        }
    }

    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        self.stores().find_map(|store| store.manifest(key))
    }

    fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
        self.upper.put(entry)
    }

    /// Also keeps this process from taking the entry from a layer.
    fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError> {
        lock(&self.banned).insert(*key);
        self.upper.quarantine(key, reason)
    }

    /// Removes from the upper store only, so that an entry of a layer may still be found.
    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        self.upper.remove(key)
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        let mut keys = BTreeSet::new();
        for store in self.stores() {
            keys.extend(store.list()?);
        }
        Ok(keys.into_iter().collect())
    }

    fn lock(&self, key: &CacheKey, wait: &Wait<'_>) -> LockOutcome {
        self.upper.lock(key, wait)
    }
}

/// A panic elsewhere leaves the sets whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

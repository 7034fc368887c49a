//! A store of which nothing is changed.

use std::sync::Arc;

use crate::entry::{Entry, Manifest};
use crate::key::CacheKey;
use crate::store::{LockOutcome, Lookup, Put, Store, StoreError, Wait};

/// Another store, without the ways to change it. Locks are not needed: nobody writes here.
#[derive(Debug)]
pub struct ReadOnly<S>(pub S);

impl<S: Store> ReadOnly<S> {
    fn refuse<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::ReadOnly { place: self.place() })
    }
}

impl<S: Store> Store for ReadOnly<S> {
    fn place(&self) -> String {
        self.0.place()
    }

    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        self.0.get(key)
    }

    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        self.0.manifest(key)
    }

    fn put(&self, _: &Entry) -> Result<Put, StoreError> {
        self.refuse()
    }

    fn quarantine(&self, _: &CacheKey, _: &str) -> Result<(), StoreError> {
        self.refuse()
    }

    fn remove(&self, _: &CacheKey) -> Result<bool, StoreError> {
        self.refuse()
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        self.0.list()
    }
}

/// A pointer to a store is that store.
macro_rules! forward {
    ($($pointer:ident),*) => {$(
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn place(&self) -> String {
                (**self).place()
            }

            fn get(&self, key: &CacheKey) -> Lookup {
                (**self).get(key)
            }

            fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
                (**self).manifest(key)
            }

            fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
                (**self).put(entry)
            }

            fn quarantine(&self, key: &CacheKey, reason: &str) -> Result<(), StoreError> {
                (**self).quarantine(key, reason)
            }

            fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
                (**self).remove(key)
            }

            fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
                (**self).list()
            }

            fn lock(&self, key: &CacheKey, wait: &Wait<'_>) -> LockOutcome {
                (**self).lock(key, wait)
            }
        }
    )*};
}

forward!(Box, Arc);

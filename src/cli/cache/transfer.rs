//! Entries from one store to another: several at a time, verified on their way.
//!
//! ```text
//! keys --4 at a time--> is it there?  yes: leave it      (a request that changed is replaced)
//!                                     no:  get (verify) -> put
//! ```
//!
//! The first failure ends it: what is wrong with one entry's way is mostly wrong with all. What was
//! carried until then stays, so that the same command goes on from there.
//!
//! What this module deliberately does not do: it removes nothing that is not replaced.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, anyhow};
use cairn_graph_cache::{CacheKey, Entry, Lookup, Put, REQUEST_KIND, Store};
use serde_json::{Value, json};

use super::view;
use crate::cli::output;
use crate::cli::progress::{Amount, Progress};
use crate::cli::values::display_bytes;

/// Entries on their way at the same time.
const MAX_AT_ONCE: usize = 4;

/// What became of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) num_new: u64,
    pub(super) bytes: u64,
    pub(super) num_there: u64,
}

/// Carries the entries of these keys; `again`: also those that are there already.
pub(super) fn carry(
    from: &dyn Store,
    to: &dyn Store,
    keys: &[CacheKey],
    again: bool,
    progress: &dyn Progress,
) -> anyhow::Result<Carried> {
    let what = format!("copying entries to {}", to.place());
    let task = progress.begin(&what, Amount::Items(keys.len() as u64));
    let there: BTreeSet<CacheKey> = to.list()?.into_iter().collect();
    let way = Way { from, to, there, again };
    let (next, num_done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (num_new, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let work = || {
        while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
            match way.carry(key) {
                Ok(None) => {}
                Ok(Some(carried)) => {
                    num_new.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(carried, Ordering::Relaxed);
                }
                Err(error) => {
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
            task.advance_to(num_done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    thread::scope(|scope| {
        for _ in 1..MAX_AT_ONCE.min(keys.len()) {
            scope.spawn(work);
        }
        work();
    });
    drop(task);
    let (num_new, bytes) = (num_new.into_inner(), bytes.into_inner());
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let all = keys.len();
        return Err(error).context(format!("after {num_new} of {}", view::entries(all)));
    }
    Ok(Carried { num_new, bytes, num_there: keys.len() as u64 - num_new })
}

/// From where to where.
struct Way<'a> {
    from: &'a dyn Store,
    to: &'a dyn Store,
    /// What is under its key there, good or bad.
    there: BTreeSet<CacheKey>,
    again: bool,
}

impl Way<'_> {
    /// Carries one entry; `None` when there was no need to.
    fn carry(&self, key: &CacheKey) -> anyhow::Result<Option<u64>> {
        let is_there = self.there.contains(key);
        if is_there && !self.again && self.is_good_there(key) && !self.is_request(key) {
            return Ok(None);
        }
        let entry = match self.from.get(key) {
            Lookup::Hit(entry) => entry,
            Lookup::Miss(reason) => {
                return Err(anyhow!("entry {key} of {}: {reason}", self.from.place()));
            }
        };
        if is_there && !self.make_way(&entry)? {
            return Ok(None);
        }
        match self.to.put(&entry).with_context(|| format!("entry {key}"))? {
            Put::Stored { bytes } => Ok(Some(bytes)),
            Put::AlreadyThere => Ok(None),
        }
    }

    /// Across a network, an entry is as good as its name says: whoever reads it verifies it.
    fn is_good_there(&self, key: &CacheKey) -> bool {
        !self.to.is_local() || matches!(self.to.get(key), Lookup::Hit(_))
    }

    /// Requests name the graphs that were needed last: under the same key, there may be others now.
    fn is_request(&self, key: &CacheKey) -> bool {
        let is = |store: &dyn Store| {
            store.manifest(key).is_some_and(|manifest| manifest.meta.kind == REQUEST_KIND)
        };
        if self.from.is_local() { is(self.from) } else { self.to.is_local() && is(self.to) }
    }

    /// Removes what an entry is to replace; says no where it is to stay.
    fn make_way(&self, entry: &Entry) -> anyhow::Result<bool> {
        let is_other = match self.to.get(entry.key()) {
            Lookup::Hit(other) => other.artifact() != entry.artifact(),
            // A bad one, for which `put` makes way itself.
            Lookup::Miss(_) => return Ok(true),
        };
        if self.again || is_other {
            self.to.remove(entry.key())?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Tells what was done.
pub(super) fn tell(carried: &Carried, to: &str, is_json: bool) -> anyhow::Result<()> {
    let Carried { num_new, bytes, num_there } = *carried;
    if is_json {
        output::write_json(&to_json(carried, to))?;
    }
    let new = view::entries(num_new as usize);
    output::say(format_args!(
        "{new}, {} copied to {to}; {num_there} there already",
        display_bytes(bytes)
    ));
    Ok(())
}

fn to_json(carried: &Carried, to: &str) -> Value {
    let Carried { num_new, bytes, num_there } = carried;
    json!({ "to": to, "new": num_new, "new_bytes": bytes, "already_there": num_there })
}

#[cfg(test)]
mod tests {
    use cairn_graph_cache::{Artifact, EntryMeta, KeyFields, MemoryStore};

    use super::*;
    use crate::cli::progress::Silent;

    fn entry(kind: &str, field: &str, content: &str) -> Entry {
        let artifact = Artifact::single("code", content.as_bytes().to_vec()).unwrap();
        let meta = EntryMeta {
            kind: kind.to_owned(),
            note: String::new(),
            producer: "test".to_owned(),
            created_unix_s: 0,
            compile_ms: 0,
            fields: Vec::new(),
            io: Value::Null,
            log_tail: String::new(),
        };
        Entry::seal(&KeyFields::new().text("field", field), artifact, meta)
    }

    fn store(entries: &[Entry]) -> MemoryStore {
        let store = MemoryStore::new(u64::MAX);
        for entry in entries {
            store.put(entry).unwrap();
        }
        store
    }

    #[test]
    fn what_is_missing_is_carried_and_what_is_there_stays() {
        let entries: Vec<_> = (0..9).map(|idx| entry("graph", &idx.to_string(), "x")).collect();
        let (from, to) = (store(&entries), store(&entries[..2]));
        let keys: Vec<_> = entries.iter().map(|entry| *entry.key()).collect();
        let carried = carry(&from, &to, &keys, false, &Silent).unwrap();
        assert_eq!((carried.num_new, carried.num_there), (7, 2));
        assert_eq!(to.list().unwrap(), from.list().unwrap());
        let carried = carry(&from, &to, &keys, false, &Silent).unwrap();
        assert_eq!((carried.num_new, carried.num_there), (0, 9));
        assert_eq!(carry(&from, &to, &keys, true, &Silent).unwrap().num_new, 9);
    }

    #[test]
    fn a_request_that_changed_is_replaced() {
        let (now, before) = (entry("request", "a", "now"), entry("request", "a", "before"));
        let (from, to) = (store(std::slice::from_ref(&now)), store(&[before]));
        assert_eq!(carry(&from, &to, &[*now.key()], false, &Silent).unwrap().num_new, 1);
        assert_eq!(to.get(now.key()), Lookup::Hit(Box::new(now.clone())));
        assert_eq!(carry(&from, &to, &[*now.key()], false, &Silent).unwrap().num_new, 0);
    }

    #[test]
    fn an_entry_that_is_not_there_ends_it() {
        let entry = entry("graph", "a", "x");
        let (from, to) = (store(&[]), store(&[]));
        let error = carry(&from, &to, &[*entry.key()], false, &Silent).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&entry.key().to_string()), "{text}");
        assert!(text.starts_with("after 0 of 1 entry: "), "{text}");
    }
}

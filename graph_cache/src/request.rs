//! From what somebody asks for to the graphs that it needs: request keys.
//!
//! ```text
//! model + configuration --fields--> request key --> entry of kind `request`: graphs.json
//!                                                   [ {"name": "decode 8", "key": "3f9a..."}, ... ]
//! ```
//!
//! A request's key is cheap: no graph has to be built for it. It is a hint, never proof: the graphs'
//! own keys decide what is loaded, and where the two disagree, an event says so. Requests are
//! entries like others: they are verified, exported, listed and removed in the same way.
//!
//! What this module deliberately does not do: it does not say what a request's fields are.

use serde::{Deserialize, Serialize};

use crate::entry::{Artifact, Entry, EntryMeta};
use crate::key::{CacheKey, KeyFields};
use crate::store::{Lookup, Store, StoreError};

/// The kind of a request's entry.
pub const REQUEST_KIND: &str = "request";
/// The kind of a graph's entry.
pub const GRAPH_KIND: &str = "graph";

const FILE: &str = "graphs.json";

/// A graph that a request needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestGraph {
    /// Its word for people.
    pub name: String,
    /// Its key.
    pub key: CacheKey,
}

/// The graphs that a request needed when somebody last asked; `None` when nobody did.
pub(crate) fn read(store: &dyn Store, key: &CacheKey) -> Option<Vec<RequestGraph>> {
    match store.get(key) {
        Lookup::Hit(entry) => serde_json::from_slice(entry.artifact().file(FILE)?).ok(),
        Lookup::Miss(_) => None,
    }
}

/// Stores what a request needs; says what differs from what was stored, if anything was.
pub(crate) fn write(
    store: &dyn Store,
    fields: &KeyFields,
    graphs: &[RequestGraph],
    meta: EntryMeta,
) -> Result<Option<String>, StoreError> {
    let key = fields.key();
    let before = read(store, &key);
    if before.as_deref() == Some(graphs) {
        return Ok(None);
    }
    let json = serde_json::to_vec_pretty(graphs)
        .expect("invariant: names and keys are text, which always encodes");
    let artifact = Artifact::single(FILE, json).map_err(crate::entry::EntryError::from)?;
    let entry = Entry::seal(fields, artifact, meta);
    store.remove(&key)?;
    store.put(&entry)?;
    Ok(before.map(|before| difference(&before, graphs)))
}

fn difference(before: &[RequestGraph], now: &[RequestGraph]) -> String {
    let missing_in = |these: &[RequestGraph], those: &[RequestGraph]| {
        these.iter().filter(|graph| !those.contains(graph)).map(|g| g.name.clone()).collect()
    };
    let gone: Vec<String> = missing_in(before, now);
    let new: Vec<String> = missing_in(now, before);
    format!("not any more: {}; new: {}", list(&gone), list(&new))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

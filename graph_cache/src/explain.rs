//! Why a graph is not in a cache: what differs from the entry that is most like it.
//!
//! ```text
//! wanted    backend=ascend  graph=3f9a..  soc=Ascend910B4  cann.compiler=8.3
//! nearest   backend=ascend  graph=3f9a..  soc=Ascend910B3  cann.compiler=8.3
//! differs                                 ^^^
//! ```
//!
//! What this module deliberately does not do: it says nothing about entries that are there but bad;
//! looking them up does.

use std::fmt;

use crate::key::{CacheKey, ClearField, ClearValue, KeyFields};
use crate::store::Store;

/// Digits of a digest that tell values apart for people.
const SHORT_DIGEST_CHARS: usize = 12;

/// Entries that are looked at. Each costs two small files, and an explanation is not worth reading
/// all of a folder that a whole fleet has filled.
const MAX_ENTRIES: usize = 1024;

/// The entry that is most like what was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its key.
    pub key: CacheKey,
    /// Its word for people.
    pub note: String,
    /// What differs, in the order of the fields; empty only when it is the entry looked for.
    pub differences: Vec<Difference>,
}

/// A field of two keys with different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field's name.
    pub field: String,
    /// What was looked for; `None`: no such field.
    pub wanted: Option<ClearValue>,
    /// What the entry has; `None`: no such field.
    pub found: Option<ClearValue>,
}

/// As in `soc is Ascend910B4, the nearest entry has Ascend910B3`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, found) = (shown(self.wanted.as_ref()), shown(self.found.as_ref()));
        write!(f, "{} is {wanted}, the nearest entry has {found}", self.field)
    }
}

/// Value and, for one that is shown by its digest only, the beginning of that.
fn shown(value: Option<&ClearValue>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(ClearValue::Text { text }) => text.clone(),
        Some(ClearValue::Digest { sha256, .. }) => {
            sha256.to_string().chars().take(SHORT_DIGEST_CHARS).collect()
        }
    }
}

/// The entry with the fewest differences, the newest among equals, of the first [`MAX_ENTRIES`].
pub(crate) fn nearest(store: &dyn Store, fields: &KeyFields) -> Option<Nearest> {
    let entries = store.list().ok()?.into_iter().take(MAX_ENTRIES).filter_map(|key| {
        let meta = store.meta(&key)?;
        let differences = differences(fields.clear(), &meta.fields);
        Some((meta.created_unix_s, Nearest { key, note: meta.note, differences }))
    });
    let best = entries.min_by_key(|(created, entry)| {
        (entry.differences.len(), std::cmp::Reverse(*created), entry.key)
    });
    best.map(|(_, entry)| entry)
}

fn differences(wanted: &[ClearField], found: &[ClearField]) -> Vec<Difference> {
    let value_in = |fields: &[ClearField], name: &str| {
        fields.iter().find(|field| field.name == name).map(|field| field.value.clone())
    };
    let of_wanted = wanted.iter().map(|field| Difference {
        field: field.name.clone(),
        wanted: Some(field.value.clone()),
        found: value_in(found, &field.name),
    });
    let only_found = found.iter().filter(|field| value_in(wanted, &field.name).is_none());
    let of_found = only_found.map(|field| Difference {
        field: field.name.clone(),
        wanted: None,
        found: Some(field.value.clone()),
    });
    of_wanted.chain(of_found).filter(|difference| difference.wanted != difference.found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GraphCache;

    fn fields(graph: &[u8], soc: &str) -> KeyFields {
        KeyFields::new().bytes("graph", graph).text("soc", soc)
    }

    fn cache(entries: &[KeyFields]) -> GraphCache {
        let cache = GraphCache::in_memory("test");
        for entry in entries {
            let load = |_: &[u8]| Ok::<_, crate::LoadFailure<String>>(());
            cache.get_or_compile(entry, "note", load, || Ok(b"artifact".to_vec())).unwrap();
        }
        cache
    }

    #[test]
    fn the_nearest_entry_names_what_differs() {
        let cache = cache(&[fields(b"a", "B3"), fields(b"b", "B3")]);
        let nearest = cache.nearest(&fields(b"b", "B4")).unwrap();
        assert_eq!(nearest.key, fields(b"b", "B3").key());
        let texts: Vec<String> = nearest.differences.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["soc is B4, the nearest entry has B3"]);
    }

    #[test]
    fn fields_that_only_one_side_has_are_differences() {
        let cache = cache(&[fields(b"a", "B3").text("extra", "1")]);
        let nearest =
            cache.nearest(&KeyFields::new().bytes("graph", b"a").text("new", "2")).unwrap();
        let texts: Vec<String> = nearest.differences.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "new is 2, the nearest entry has absent",
                "soc is absent, the nearest entry has B3",
                "extra is absent, the nearest entry has 1",
            ]
        );
    }

    #[test]
    fn an_empty_cache_has_no_nearest_and_an_entry_is_its_own() {
        assert_eq!(cache(&[]).nearest(&fields(b"a", "B3")), None);
        let nearest = cache(&[fields(b"a", "B3")]).nearest(&fields(b"a", "B3")).unwrap();
        assert_eq!(nearest.differences, []);
    }
}

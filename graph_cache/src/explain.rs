//! Why a graph is in a cache or not: where it is, or what differs from the entry that is most like
//! it.
//!
//! ```text
//! wanted    backend=ascend  graph=3f9a..  soc=Ascend910B4  cann.compiler=8.3
//! nearest   backend=ascend  graph=3f9a..  soc=Ascend910B3  cann.compiler=8.3
//! differs                                 ^^^
//! ```
//!
//! What this module deliberately does not do: it changes nothing; a bad entry stays where it is.

use std::fmt;

use crate::key::{CacheKey, ClearField, ClearValue, KeyFields};
use crate::layered::Layered;
use crate::store::{Lookup, MissReason};

/// Differences that a sentence names; a table has room for all.
const MAX_SHOWN: usize = 6;
/// Digits of a digest that tell values apart for people.
const SHORT_DIGEST_CHARS: usize = 12;

/// Whether a graph is in the cache, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The graph's key.
    pub key: CacheKey,
    /// The graph's word for people.
    pub note: String,
    /// What was found.
    pub found: Found,
}

/// What was found under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A good entry.
    Hit {
        /// In which store.
        place: String,
        /// Bytes of its artifact.
        bytes: u64,
        /// What compiling it took, in milliseconds.
        compile_ms: u64,
    },
    /// Nothing to use.
    Miss {
        /// Why.
        reason: MissReason,
        /// The entry that is most like it; `None` when there is none of its kind.
        nearest: Option<Box<Nearest>>,
    },
}

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

impl Explanation {
    /// Whether it is there.
    pub fn is_hit(&self) -> bool {
        matches!(self.found, Found::Hit { .. })
    }
}

/// As in `decode 8: not in the cache; soc is Ascend910B4, the nearest entry has Ascend910B3`.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.note, self.found)
    }
}

/// As in `not in the cache; soc is Ascend910B4, the nearest entry has Ascend910B3`.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit { place, bytes, .. } => write!(f, "in {place}, {bytes} bytes"),
            Self::Miss { reason, nearest: None } => {
                write!(f, "{reason}; there is no other entry to compare with")
            }
            Self::Miss { reason, nearest: Some(nearest) } => {
                write!(f, "{reason}")?;
                let shown = nearest.differences.iter().take(MAX_SHOWN);
                shown.clone().try_for_each(|difference| write!(f, "; {difference}"))?;
                match nearest.differences.len() - shown.len() {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
        }
    }
}

/// As in `soc is Ascend910B4, the nearest entry has Ascend910B3`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wanted, found) = (shown(self.wanted.as_ref()), shown(self.found.as_ref()));
        write!(f, "{} is {wanted}, the nearest entry has {found}", self.field)
    }
}

/// The value as a person compares it: of one that is kept as its digest only, the beginning of that.
fn shown(value: Option<&ClearValue>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(ClearValue::Text { text }) => text.clone(),
        Some(
            ClearValue::Bytes { sha256, .. } | ClearValue::LongText { text_sha256: sha256, .. },
        ) => sha256.to_string().chars().take(SHORT_DIGEST_CHARS).collect(),
    }
}

/// Looks a graph up and says what was found. Of each store, `at_most` so many entries are compared.
pub(crate) fn explain(
    stores: &Layered,
    fields: &KeyFields,
    note: &str,
    kind: &str,
    at_most: usize,
) -> Explanation {
    let key = fields.key();
    let mut reason = MissReason::Absent;
    for store in stores.stores() {
        match store.get(&key) {
            Lookup::Hit(entry) => {
                let found = Found::Hit {
                    place: store.place(),
                    bytes: entry.artifact().num_bytes(),
                    compile_ms: entry.manifest().meta.compile_ms,
                };
                return Explanation { key, note: note.to_owned(), found };
            }
            Lookup::Miss(found) if reason == MissReason::Absent => reason = found,
            Lookup::Miss(_) => {}
        }
    }
    let nearest = nearest(stores, fields, kind, at_most).map(Box::new);
    Explanation { key, note: note.to_owned(), found: Found::Miss { reason, nearest } }
}

/// The entry with the fewest differences, the newest among equals. Stores across a network are not
/// asked: each comparison would cost a download.
pub(crate) fn nearest(
    stores: &Layered,
    fields: &KeyFields,
    kind: &str,
    at_most: usize,
) -> Option<Nearest> {
    let entries = stores.stores().filter(|store| store.is_local()).flat_map(|store| {
        let keys = store.list().unwrap_or_default();
        keys.into_iter().take(at_most).filter_map(|key| store.manifest(&key))
    });
    let of_kind = entries.filter(|manifest| manifest.meta.kind == kind).map(|manifest| {
        let differences = differences(fields.clear(), &manifest.meta.fields);
        let nearest = Nearest { key: manifest.key, note: manifest.meta.note, differences };
        (manifest.meta.created_unix_s, nearest)
    });
    let best = of_kind.min_by_key(|(created, entry)| {
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
    use crate::{Artifact, Compiled, GraphCache, LoadFailure};

    fn fields(graph: &[u8], soc: &str) -> KeyFields {
        KeyFields::new().bytes("graph", graph).text("soc", soc)
    }

    fn cache(entries: &[KeyFields]) -> GraphCache {
        let cache = GraphCache::in_memory("test");
        for entry in entries {
            let load = |_: &Artifact| Ok::<_, LoadFailure<String>>(());
            let artifact = Artifact::single("a", b"artifact".to_vec()).unwrap();
            cache.get_or_compile(entry, "note", load, || Ok(Compiled::new(artifact))).unwrap();
        }
        cache
    }

    fn nearest_of(cache: &GraphCache, fields: &KeyFields) -> Option<Box<Nearest>> {
        match cache.explain(fields, "note", usize::MAX).found {
            Found::Hit { .. } => None,
            Found::Miss { nearest, .. } => nearest,
        }
    }

    #[test]
    fn the_nearest_entry_names_what_differs() {
        let cache = cache(&[fields(b"a", "B3"), fields(b"b", "B3")]);
        let nearest = nearest_of(&cache, &fields(b"b", "B4")).unwrap();
        assert_eq!(nearest.key, fields(b"b", "B3").key());
        let explanation = cache.explain(&fields(b"b", "B4"), "decode 8", usize::MAX);
        assert_eq!(
            explanation.to_string(),
            "decode 8: not in the cache; soc is B4, the nearest entry has B3"
        );
    }

    #[test]
    fn fields_that_only_one_side_has_are_differences() {
        let cache = cache(&[fields(b"a", "B3").text("extra", "1")]);
        let wanted = KeyFields::new().bytes("graph", b"a").text("new", "2");
        let nearest = nearest_of(&cache, &wanted).unwrap();
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
    fn an_empty_cache_has_no_nearest_and_an_entry_is_a_hit() {
        assert_eq!(nearest_of(&cache(&[]), &fields(b"a", "B3")), None);
        let explanation = cache(&[fields(b"a", "B3")]).explain(&fields(b"a", "B3"), "n", 1);
        assert!(explanation.is_hit(), "{explanation}");
    }
}

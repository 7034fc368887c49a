//! A block as an entry, and back.
//!
//! What this module deliberately does not do: bytes that leave the folder were verified before they
//! come here. What is checked is that they are a block.

use std::fmt::Write as _;
use std::time::SystemTime;

use cairn_graph_cache::{Artifact, ArtifactError, CacheKey, Entry, EntryMeta, KeyFields, Manifest};
use serde_json::{Value, json};

use super::index::Link;
use crate::engine::PrefixKey;

/// The kind of a block's entry.
pub(super) const PREFIX_KIND: &str = "prefix";
/// The file with K and V.
pub(super) const FILE: &str = "kv.bin";
/// Digits of a key that tell entries apart for people.
const SHORT_KEY_CHARS: usize = 12;

/// The field that tells the entries of an identity apart.
pub(super) fn own_field(key: &PrefixKey) -> KeyFields {
    with_own_field(KeyFields::new(), key)
}

/// The same, after the fields of the identity.
pub(super) fn with_own_field(identity: KeyFields, key: &PrefixKey) -> KeyFields {
    // Written like every digest.
    identity.text("block", CacheKey::from_bytes(key.0).to_string())
}

/// What is known of an entry that is made now.
pub(super) fn meta(kind: &str, note: String, producer: &str, io: Value) -> EntryMeta {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    EntryMeta {
        kind: kind.to_owned(),
        note,
        producer: producer.to_owned(),
        created_unix_s: now.map_or(0, |since| since.as_secs()),
        compile_ms: 0,
        fields: Vec::new(),
        io,
        log_tail: String::new(),
    }
}

/// The entry of a block; `fields` are those of its key, `parent` is the entry of the block before it.
pub(super) fn seal(
    fields: &KeyFields,
    parent: Option<CacheKey>,
    token_ids: &[u32],
    bytes: Vec<u8>,
    producer: &str,
) -> Result<Entry, ArtifactError> {
    let count = token_ids.len();
    let note = match parent {
        None => format!("the first {count} tokens"),
        Some(parent) => {
            let digits: String = parent.to_string().chars().take(SHORT_KEY_CHARS).collect();
            format!("{count} tokens after {digits}")
        }
    };
    let io = json!({ "parent": parent, "token_ids": text_of(token_ids) });
    let artifact = Artifact::single(FILE, bytes)?;
    Ok(Entry::seal(fields, artifact, meta(PREFIX_KIND, note, producer, io)))
}

/// A block that was read.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) link: Link,
    pub(super) bytes: Vec<u8>,
    tokens: String,
}

impl Stored {
    /// The block in a verified entry, or why there is none in it.
    pub(super) fn of(entry: Entry, block_bytes: usize) -> Result<Self, String> {
        let io = &entry.manifest().meta.io;
        let tokens = io["token_ids"].as_str().ok_or("its manifest names no tokens")?.to_owned();
        let link = link(entry.manifest()).ok_or("its manifest does not say what is before it")?;
        let files = entry.into_artifact().into_files();
        let file = files.into_iter().find(|file| file.name == FILE);
        let bytes = file.ok_or_else(|| format!("it has no file `{FILE}`"))?.bytes;
        if bytes.len() == block_bytes {
            Ok(Self { link, bytes, tokens })
        } else {
            Err(format!("`{FILE}` has {} bytes, expected {block_bytes}", bytes.len()))
        }
    }

    pub(super) fn has_tokens(&self, token_ids: &[u32]) -> bool {
        self.tokens == text_of(token_ids)
    }
}

/// What an entry needs to be of use; `None` where that cannot be read from it. What is no block needs
/// nothing.
pub(super) fn link(manifest: &Manifest) -> Option<Link> {
    if manifest.meta.kind != PREFIX_KIND {
        return Some(Link::First);
    }
    match manifest.meta.io.get("parent")? {
        Value::Null => Some(Link::First),
        parent => Some(Link::After(parent.as_str()?.parse().ok()?)),
    }
}

/// As in `12 7 99`: one line for people instead of one line for each.
fn text_of(token_ids: &[u32]) -> String {
    let mut text = String::with_capacity(6 * token_ids.len());
    for (at, id) in token_ids.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}{id}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Entry {
        let parent = CacheKey::from_bytes([7; 32]);
        seal(&own_field(&PrefixKey([1; 32])), Some(parent), &[12, 7, 99], vec![5; 8], "test 1")
            .unwrap()
    }

    #[test]
    fn a_block_comes_back_and_says_what_it_is() {
        let entry = block();
        assert_eq!(entry.manifest().meta.note, "3 tokens after 070707070707");
        assert_eq!(entry.manifest().meta.io["token_ids"], "12 7 99");
        let stored = Stored::of(entry, 8).unwrap();
        assert_eq!(stored.link, Link::After(CacheKey::from_bytes([7; 32])));
        assert!(stored.has_tokens(&[12, 7, 99]));
        for other in [&[12, 7][..], &[12, 79, 9], &[12, 7, 99, 0], &[]] {
            assert!(!stored.has_tokens(other), "{other:?}");
        }
        assert_eq!(stored.bytes, [5; 8]);
    }

    #[test]
    fn an_entry_that_is_no_block_of_that_size_is_refused() {
        assert!(Stored::of(block(), 9).unwrap_err().contains("`kv.bin` has 8 bytes, expected 9"));
        let fields = own_field(&PrefixKey([1; 32]));
        let other = |name: &str, io| {
            let artifact = Artifact::single(name, vec![0; 8]).unwrap();
            Entry::seal(&fields, artifact, meta(PREFIX_KIND, String::new(), "test 1", io))
        };
        let good = json!({ "parent": null, "token_ids": "1" });
        assert!(Stored::of(other("kv.bin", good.clone()), 8).is_ok());
        assert!(Stored::of(other("other", good), 8).is_err());
        for io in [json!(null), json!({ "token_ids": "1" }), json!({ "parent": null })] {
            assert!(Stored::of(other("kv.bin", io), 8).is_err());
        }
        let io = json!({ "parent": "no key", "token_ids": "1" });
        assert!(Stored::of(other("kv.bin", io), 8).is_err());
    }
}

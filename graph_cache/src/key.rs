//! What a compiled graph is filed under.
//!
//! | Noun | Meaning |
//! | --- | --- |
//! | [`KeyFields`] | the ordered list of everything that changes what the compiler produces |
//! | [`CacheKey`] | SHA-256 over those fields |
//! | [`KeyStem`] | the fields that many keys begin with, hashed once |
//! | [`ClearField`] | a field as a person reads it in `manifest.json` |
//!
//! ```text
//! hashed:   schema (u32)   then, for every field in order:
//!           tag (u8) | name length (u64) | name |    1 short text:      length (u64) | text
//!                                                    2 bytes, 3 long text: length (u64) | SHA-256
//!           all integers little-endian
//! ```
//!
//! Every part carries its length, so no two different lists of fields hash the same bytes: not when
//! a byte moves from one value to the next, nor when a text becomes bytes. What is hashed is what
//! `manifest.json` shows, so anybody can check that the fields written there are those of the key.
//!
//! What this module deliberately does not do: it does not say which fields belong in a key. That is
//! the caller's knowledge; paths, times, host names and weights are not among them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::{Digest, ParseDigestError};

/// Number of the hashed layout above; a change of the layout makes every key a new one.
const SCHEMA: u32 = 2;
/// Longest text that the manifest repeats in full, in bytes.
const MAX_CLEAR_TEXT_BYTES: usize = 1024;

const TAG_TEXT: u8 = 1;
const TAG_BYTES: u8 = 2;
const TAG_LONG_TEXT: u8 = 3;

/// The name of one compiled graph: SHA-256 over its [`KeyFields`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(Digest);

impl CacheKey {
    /// A key that was computed before.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest::from_bytes(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({self})")
    }
}

impl FromStr for CacheKey {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Everything that changes what the compiler produces, in order.
///
/// ```
/// use cairn_graph_cache::KeyFields;
///
/// let fields = KeyFields::new()
///     .text("backend", "cpu")
///     .bytes("graph", b"canonical bytes of the graph");
/// let other = KeyFields::new()
///     .text("backend", "null")
///     .bytes("graph", b"canonical bytes of the graph");
/// assert_ne!(fields.key(), other.key());
/// assert_eq!(fields.key().to_string().len(), 64);
/// ```
#[derive(Clone)]
pub struct KeyFields {
    clear: Vec<ClearField>,
}

impl KeyFields {
    /// No fields yet.
    pub fn new() -> Self {
        Self { clear: Vec::new() }
    }

    /// Adds a field that a person can read, such as a version or an option.
    pub fn text(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = value.as_ref();
        let clear = if value.len() <= MAX_CLEAR_TEXT_BYTES {
            ClearValue::Text { text: value.to_owned() }
        } else {
            let bytes = value.len() as u64;
            ClearValue::LongText { text_sha256: Digest::of(value.as_bytes()), bytes }
        };
        self.clear.push(ClearField { name: name.to_owned(), value: clear });
        self
    }

    /// Adds a field of any bytes, such as the canonical form of the graph.
    pub fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        let clear = ClearValue::Bytes { sha256: Digest::of(value), bytes: value.len() as u64 };
        self.clear.push(ClearField { name: name.to_owned(), value: clear });
        self
    }

    /// The key of these fields.
    pub fn key(&self) -> CacheKey {
        key_of(&self.clear)
    }

    /// These fields as the beginning of many keys.
    pub fn stem(&self) -> KeyStem {
        KeyStem::of(&self.clear)
    }

    /// The fields as a person reads them, in order.
    pub fn clear(&self) -> &[ClearField] {
        &self.clear
    }
}

/// The fields that many keys begin with, hashed once: for whoever needs keys by the thousand.
///
/// ```
/// use cairn_graph_cache::KeyFields;
///
/// let (common, own) = (KeyFields::new().text("a", "1"), KeyFields::new().text("b", "2"));
/// let both = KeyFields::new().text("a", "1").text("b", "2");
/// assert_eq!(common.stem().key_with(&own), both.key());
/// ```
#[derive(Clone, Debug)]
pub struct KeyStem(Sha256);

impl KeyStem {
    fn of(fields: &[ClearField]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(SCHEMA.to_le_bytes());
        feed(&mut hasher, fields);
        Self(hasher)
    }

    /// The key of the fields of the stem, followed by `more`.
    pub fn key_with(&self, more: &KeyFields) -> CacheKey {
        let mut hasher = self.0.clone();
        feed(&mut hasher, &more.clear);
        CacheKey::from_bytes(hasher.finalize().into())
    }
}

/// The key of fields as they are written in a manifest.
pub(crate) fn key_of(fields: &[ClearField]) -> CacheKey {
    let KeyStem(hasher) = KeyStem::of(fields);
    CacheKey::from_bytes(hasher.finalize().into())
}

fn feed(hasher: &mut Sha256, fields: &[ClearField]) {
    for field in fields {
        let (tag, length, value) = match &field.value {
            ClearValue::Text { text } => (TAG_TEXT, text.len() as u64, text.as_bytes()),
            ClearValue::Bytes { sha256, bytes } => (TAG_BYTES, *bytes, &sha256.as_bytes()[..]),
            ClearValue::LongText { text_sha256, bytes } => {
                (TAG_LONG_TEXT, *bytes, &text_sha256.as_bytes()[..])
            }
        };
        hasher.update([tag]);
        hasher.update((field.name.len() as u64).to_le_bytes());
        hasher.update(&field.name);
        hasher.update(length.to_le_bytes());
        hasher.update(value);
    }
}

impl Default for KeyFields {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeyFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFields")
            .field("key", &self.key())
            .field("clear", &self.clear)
            .finish_non_exhaustive()
    }
}

/// One field of a key as it is written in `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearField {
    /// The field's name.
    pub name: String,
    /// Its value, or what identifies it.
    #[serde(flatten)]
    pub value: ClearValue,
}

/// The value of a [`ClearField`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClearValue {
    /// A short text, in full.
    Text {
        /// The value.
        text: String,
    },
    /// Bytes.
    Bytes {
        /// Digest of the value.
        sha256: Digest,
        /// Its length.
        bytes: u64,
    },
    /// A text too long to repeat.
    LongText {
        /// Digest of the value.
        text_sha256: Digest,
        /// Its length.
        bytes: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A field as the tests write it; the tag says text or bytes.
    type TestField = (bool, String, String);

    fn key_of(fields: &[TestField]) -> CacheKey {
        fields
            .iter()
            .fold(KeyFields::new(), |keys, (is_text, name, value)| {
                if *is_text { keys.text(name, value) } else { keys.bytes(name, value.as_bytes()) }
            })
            .key()
    }

    fn fields() -> impl Strategy<Value = Vec<TestField>> {
        // A tiny alphabet makes near collisions likely.
        prop::collection::vec((any::<bool>(), "[ab]{0,3}", "[ab]{0,4}"), 0..5)
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_when_fields_are(a in fields(), b in fields()) {
            prop_assert_eq!(key_of(&a) == key_of(&b), a == b);
        }

        #[test]
        fn a_change_of_any_one_field_changes_the_key(
            fields in fields(), at in any::<prop::sample::Index>(), how in 0..4,
        ) {
            prop_assume!(!fields.is_empty());
            let mut changed = fields.clone();
            let field = &mut changed[at.index(fields.len())];
            match how {
                0 => field.0 = !field.0,
                1 => field.1.push('c'),
                2 => field.2.push('c'),
                _ => changed.push((true, String::new(), String::new())),
            }
            prop_assert_ne!(key_of(&fields), key_of(&changed));
        }

        #[test]
        fn moving_bytes_between_neighbours_changes_the_key(
            left in "[ab]{1,6}", right in "[ab]{0,6}", split in any::<prop::sample::Index>(),
        ) {
            let (kept, moved) = left.split_at(split.index(left.len()));
            let plain = KeyFields::new().text("x", &left).text("y", &right).key();
            let shifted = KeyFields::new().text("x", kept).text("y", format!("{moved}{right}")).key();
            prop_assert_ne!(plain, shifted);
            let into_name = KeyFields::new().text("x", kept).text(&format!("{moved}y"), &right).key();
            prop_assert_ne!(plain, into_name);
        }
    }

    #[test]
    fn a_stem_and_the_rest_give_the_key_of_both_wherever_they_are_split() {
        let long = "l".repeat(MAX_CLEAR_TEXT_BYTES + 1);
        let all = KeyFields::new().text("a", "1").bytes("b", b"2").text("c", long);
        for at in 0..=all.clear.len() {
            let (stem, rest) = all.clear.split_at(at);
            let [stem, rest] = [stem, rest].map(|clear| KeyFields { clear: clear.to_vec() });
            assert_eq!(stem.stem().key_with(&rest), all.key());
        }
    }

    #[test]
    fn the_hashed_layout_is_the_one_that_is_drawn() {
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend([1, 1, 0, 0, 0, 0, 0, 0, 0, b'n', 2, 0, 0, 0, 0, 0, 0, 0, b'v', b'w']);
        bytes.extend([2, 1, 0, 0, 0, 0, 0, 0, 0, b'm', 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(Digest::of(b"").as_bytes());
        let key = KeyFields::new().text("n", "vw").bytes("m", b"").key();
        assert_eq!(key.as_bytes(), Digest::of(&bytes).as_bytes());
    }

    #[test]
    fn long_values_are_shown_as_digest_and_length() {
        let fields = KeyFields::new()
            .text("short", "s")
            .text("long", "l".repeat(MAX_CLEAR_TEXT_BYTES + 1))
            .bytes("graph", b"g");
        let shown = serde_json::to_value(fields.clear()).unwrap();
        assert_eq!(shown[0]["text"], "s");
        assert_eq!(shown[1]["bytes"], 1025);
        assert_eq!(shown[1]["text_sha256"].as_str().unwrap().len(), 64);
        assert_eq!(shown[2]["sha256"], Digest::of(b"g").to_string());
        let back: Vec<ClearField> = serde_json::from_value(shown).unwrap();
        assert_eq!(back, fields.clear());
        assert_eq!(super::key_of(&back), fields.key());
    }
}

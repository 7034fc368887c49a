//! What the tests of the public surface share.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use cairn_graph_cache::{DiskStore, GraphCache, KeyFields, LoadFailure, Outcome};

pub(crate) const ARTIFACT: &[u8] = b"bytes of a compiled graph";

pub(crate) fn fields() -> KeyFields {
    KeyFields::new().text("backend", "test").bytes("graph", b"canonical bytes")
}

/// The cache in a folder, and not the one in memory that `GraphCache::open` may fall back to.
pub(crate) fn open(root: &Path) -> GraphCache {
    GraphCache::new(Box::new(DiskStore::open(root).unwrap()), "test 1.0")
}

/// Asks for the one graph; every answer must have the right bytes.
pub(crate) fn ask(cache: &GraphCache) -> Outcome {
    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
    let (bytes, outcome) =
        cache.get_or_compile(&fields(), "a note", load, || Ok(ARTIFACT.to_vec())).unwrap();
    assert_eq!(bytes, ARTIFACT);
    outcome
}

pub(crate) fn entry_folder(root: &Path) -> PathBuf {
    let hex = fields().key().to_string();
    root.join("v1/entries").join(&hex[0..2]).join(&hex[2..4]).join(hex)
}

//! Entries that this crate would not write: with right digests, but of other formats, or saying what
//! is not so. Written from the layout as it is documented, not by the crate's own code.

use std::fs;
use std::path::Path;

use cairn_graph_cache::{CacheKey, Digest};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// `record.bin` of a format, which vouches for this manifest.
pub(crate) fn record(format: u32, key: &CacheKey, manifest: &[u8], artifact_bytes: u64) -> Vec<u8> {
    let mut payload = key.as_bytes().to_vec();
    payload.extend(number(manifest.len() as u64));
    payload.extend(Digest::of(manifest).as_bytes());
    payload.extend(number(artifact_bytes));
    sealed(format, &payload)
}

/// Any payload behind a header with the right digest.
pub(crate) fn sealed(format: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"CairnGC\0".to_vec();
    bytes.extend(format.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    let digest = Sha256::new().chain_update(&bytes).chain_update(payload).finalize();
    bytes.extend(digest);
    bytes.extend(payload);
    bytes
}

/// A number as the payload has it: one byte, or a byte that says how many follow.
fn number(value: u64) -> Vec<u8> {
    let bytes = value.to_le_bytes();
    match value {
        0..=250 => vec![bytes[0]],
        251..=0xffff => [&[251], &bytes[..2]].concat(),
        0x1_0000..=0xffff_ffff => [&[252], &bytes[..4]].concat(),
        _ => [&[253], &bytes[..]].concat(),
    }
}

/// Changes the manifest of the entry in a folder, and makes the record vouch for it.
pub(crate) fn change_manifest(entry: &Path, key: &CacheKey, change: impl FnOnce(&mut Value)) {
    let path = entry.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    let files = manifest["files"].as_array().unwrap();
    let sizes = files.iter().map(|file| file["bytes"].as_u64().unwrap());
    let artifact_bytes = sizes.fold(0, u64::saturating_add);
    let json = serde_json::to_vec_pretty(&manifest).unwrap();
    fs::write(&path, &json).unwrap();
    fs::write(entry.join("record.bin"), record(2, key, &json, artifact_bytes)).unwrap();
}

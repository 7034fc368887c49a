//! What the fuzz targets call: every parser of bytes from outside, and what must hold of whatever it
//! makes of them. Not for anything else.
//!
//! | Target | Given | Must hold |
//! | --- | --- | --- |
//! | [`record()`] | a record; a payload under a digest that is right | what is read is written the same again |
//! | [`manifest()`] | `manifest.json` that a record vouches for, as it is and with its key put right | what is read is a manifest of its own key, and is one again once written |
//! | [`archive()`] | an archive; a tar to be compressed; a recipe for entries and for damage to their tar | what is read verifies, and reads the same from an archive of its own |
//! | [`signatures()`] | a manifest, `manifest.sig` and a list of keys | nothing verifies that the one trusted key did not sign |
//!
//! Random bytes do not pass a digest, so these functions put digests and checksums right themselves:
//! then the parsers behind them are reached.

use std::collections::BTreeMap;
use std::io::Read as _;

use sha2::{Digest as _, Sha256};

use crate::archive::{self, decode_entry, encode_entry};
use crate::entry::record::{FileDigest, Record};
use crate::entry::{Artifact, ArtifactFile, Entry, EntryMeta, Manifest, codec};
use crate::key::{CacheKey, KeyFields, key_of};
use crate::memory::MemoryStore;
use crate::store::Store as _;
use crate::trust::{KeyRing, PublicKey, SigningKey};

/// Bytes before the payload of a record, as `codec` draws them.
const RECORD_HEAD_BYTES: usize = 16;
const RECORD_DIGEST_BYTES: usize = 32;

/// A record, as it is and with its length and its digest put right.
///
/// # Panics
/// When something is read that is not written the same again.
pub fn record(data: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(record) = codec::decode(bytes) {
            let again = codec::decode(&codec::encode(&record));
            assert_eq!(again.as_ref(), Ok(&record), "a record that was read is written");
        }
    };
    check(data);
    let Some((head, payload)) = data.split_first_chunk::<RECORD_HEAD_BYTES>() else { return };
    let payload = payload.get(RECORD_DIGEST_BYTES..).unwrap_or_default();
    let mut head = *head;
    head[12..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    let digest = Sha256::new().chain_update(head).chain_update(payload).finalize();
    check(&[&head, &digest[..], payload].concat());
}

/// `manifest.json`, as it is and with the key, the sizes and the record put right.
///
/// # Panics
/// When something is read that does not keep the promises of a manifest.
pub fn manifest(data: &[u8]) {
    let zero = CacheKey::from_bytes([0; 32]);
    let vouched = |key: &CacheKey, json: &[u8], artifact_bytes| {
        let manifest = FileDigest::of(json);
        let record = codec::encode(&Record { key: *key.as_bytes(), manifest, artifact_bytes });
        Manifest::verified(key, &record, json)
    };
    let Ok(mut manifest) = serde_json::from_slice::<Manifest>(data) else {
        assert!(vouched(&zero, data, 0).is_err(), "what is no manifest was read as one");
        return;
    };
    let _ = vouched(&manifest.key, data, manifest.num_artifact_bytes());
    manifest.key = key_of(&manifest.meta.fields);
    manifest.format = codec::FORMAT;
    let (key, num_bytes) = (manifest.key, manifest.num_artifact_bytes());
    let Ok(read) = vouched(&key, &manifest.to_json(), num_bytes) else { return };
    assert_eq!(read.key, key);
    assert_eq!(read.files, manifest.files);
    assert_eq!(read.meta.fields, manifest.meta.fields);
    assert!(vouched(&zero, &manifest.to_json(), num_bytes).is_err(), "the wrong key was read");
}

/// An archive in one of three forms, as the first byte says.
///
/// # Panics
/// When something is read that does not verify, or not read again from an archive of its own.
pub fn archive(data: &[u8]) {
    let Some((form, data)) = data.split_first() else { return };
    match form % 3 {
        0 => drop(imported(data)),
        1 => drop(imported(&packed(data))),
        _ => {
            let (entries, damage) = entries(data);
            let archive = exported(&entries);
            assert_eq!(imported(&archive), Some(entries), "an export is imported");
            imported(&packed(&damaged(unpacked(&archive), damage)));
        }
    }
}

/// A manifest of up to 255 bytes (the first byte says how many), and the rest as signatures and as a
/// list of keys.
///
/// # Panics
/// When something verifies that was not signed.
pub fn signatures(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (manifest, rest) = rest.split_at(usize::from(*length).min(rest.len()));
    let trusted = trusted_key();
    let ring = KeyRing::parse(&trusted.public().to_string())
        .expect("invariant: a public key is a list of one");
    if ring.verify(manifest, rest).is_ok() {
        // There is one signature of a key and a message, and nobody finds it without the key.
        let line = trusted.sign(manifest);
        let signature = line.rsplit(' ').next().expect("invariant: a split has a first part");
        let is_there = rest.windows(signature.len()).any(|bytes| bytes == signature.as_bytes());
        assert!(is_there, "verified without a signature");
    }
    let text = String::from_utf8_lossy(rest);
    for line in text.lines() {
        if let Ok(key) = line.parse::<PublicKey>() {
            assert_eq!(key.to_string(), line, "a key has one spelling");
        }
    }
    if let Ok(ring) = KeyRing::parse(&text) {
        let _ = ring.verify(manifest, rest);
    }
}

/// The line of `manifest.sig` that [`signatures`] accepts.
pub fn trusted_signature(manifest: &[u8]) -> String {
    trusted_key().sign(manifest)
}

fn trusted_key() -> SigningKey {
    SigningKey::from_text(&format!("cairn-secret-ed25519:{}", "07".repeat(32)))
        .expect("invariant: any 32 bytes are a secret key")
}

/// The entries of an archive, if it is one, once they have been looked at.
fn imported(bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let result = archive::import(bytes, &mut |entry| {
        entries.push(entry);
        Ok(())
    });
    // What was handed over before an error must be good as well.
    for entry in &entries {
        let files = entry.artifact().files().to_vec();
        let parts = (entry.manifest_json().to_vec(), entry.signatures().to_vec());
        let again = Entry::from_parts(entry.key(), &entry.record(), parts.0, parts.1, files);
        assert_eq!(again.as_ref(), Ok(entry), "an imported entry verifies");
        let alone = encode_entry(entry).expect("invariant: what was read is within the limits");
        let again = decode_entry(entry.key(), &alone);
        assert_eq!(again.ok().as_ref(), Some(entry), "an imported entry is exported");
    }
    result.ok().map(|_| entries)
}

fn exported(entries: &[Entry]) -> Vec<u8> {
    let store = MemoryStore::new(u64::MAX);
    for entry in entries {
        store.put(entry).expect("invariant: a store in memory without a limit takes all");
    }
    let keys: Vec<_> = entries.iter().map(|entry| *entry.key()).collect();
    let mut archive = Vec::new();
    archive::export(&store, &keys, &mut archive, &mut |_| {})
        .expect("invariant: small entries are within the limits");
    archive
}

/// Up to three entries of what the data says, sorted by key, and the data that is left.
fn entries(mut data: &[u8]) -> (Vec<Entry>, &[u8]) {
    let mut entries = BTreeMap::new();
    for _ in 0..take(&mut data, 1).first().map_or(0, |count| count % 4) {
        let text = |data: &mut &[u8]| String::from_utf8_lossy(sized(data)).into_owned();
        let fields =
            KeyFields::new().text("name", text(&mut data)).bytes("graph", sized(&mut data));
        let mut files = Vec::new();
        for _ in 0..=take(&mut data, 1).first().map_or(0, |count| count % 3) {
            let name = text(&mut data);
            files.push(ArtifactFile { name, bytes: sized(&mut data).to_vec() });
        }
        // Names that are not allowed are not what is tested here.
        let Ok(artifact) = Artifact::new(files) else { continue };
        let meta = EntryMeta {
            kind: "graph".to_owned(),
            note: text(&mut data),
            producer: text(&mut data),
            created_unix_s: data.len() as u64,
            compile_ms: 1,
            fields: Vec::new(),
            io: serde_json::from_slice(sized(&mut data)).unwrap_or_default(),
            log_tail: text(&mut data),
        };
        let entry = Entry::seal(&fields, artifact, meta).with_signatures(sized(&mut data).to_vec());
        // What was sealed was not read: `io` may be a number that is not read as it is written.
        let parts = (entry.manifest_json().to_vec(), entry.signatures().to_vec());
        let files = entry.artifact().files().to_vec();
        let read = Entry::from_parts(entry.key(), &entry.record(), parts.0, parts.1, files);
        entries.insert(*entry.key(), read.expect("a sealed entry verifies"));
    }
    (entries.into_values().collect(), data)
}

/// A tar after changes to single bytes (3 bytes say where, 1 what), its checksums right again.
fn damaged(mut tar: Vec<u8>, changes: &[u8]) -> Vec<u8> {
    for change in changes.chunks_exact(4) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % tar.len();
        tar[at] ^= change[3];
        let block = &mut tar[at / 512 * 512..][..512];
        if block[257..].starts_with(b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
        }
    }
    tar
}

fn packed(tar: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(tar, 1).expect("invariant: there is memory for a small archive")
}

fn unpacked(archive: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut zstd = zstd::Decoder::new(archive).expect("invariant: there is memory for a decoder");
    zstd.read_to_end(&mut tar).expect("invariant: it was compressed here");
    tar
}

/// The next bytes, as many as there are.
fn take<'a>(data: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(at_most.min(data.len()));
    *data = rest;
    taken
}

/// As many bytes as the next one says.
fn sized<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = take(data, 1).first().copied().unwrap_or_default();
    take(data, usize::from(length))
}

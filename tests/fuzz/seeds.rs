//! Writes the inputs that the targets start from, one folder for each target: valid things, since
//! random bytes rarely become one. Usage: `seeds FOLDER`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use cairn_graph_cache::{
    Artifact, ArtifactFile, Entry, EntryMeta, KeyFields, MemoryStore, SigningKey, Store, export,
    fuzzing,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let folder: PathBuf = env::args_os().nth(1).ok_or("usage: seeds FOLDER")?.into();
    let (plain, full) = (entry("plain", &[("0", b"")])?, full_entry()?);
    let entries = [&plain, &full];

    let records: Vec<_> = entries.iter().map(|entry| entry.record()).collect();
    write(&folder, "record", &records)?;

    let manifests: Vec<_> = entries.iter().map(|entry| entry.manifest_json().to_vec()).collect();
    write(&folder, "manifest", &manifests)?;

    let mut archives = Vec::new();
    for entries in [&entries[..0], &entries[..1], &entries[..]] {
        let archive = archive_of(entries)?;
        let tar = zstd::decode_all(&archive[..])?;
        archives.extend([[&[0], &archive[..]].concat(), [&[1], &tar[..]].concat()]);
    }
    archives.extend([recipe(&[]), recipe(&[600, 700, 1536])]);
    write(&folder, "archive", &archives)?;

    let manifest = b"{\"format\": 2}";
    let signed = fuzzing::trusted_signature(manifest);
    let stranger = SigningKey::generate()?;
    let ring = format!("# who\n{} a host\n\n", stranger.public());
    let signatures =
        [signed.clone(), ring.clone(), format!("{ring}{}\n{signed}\n", stranger.sign(manifest))];
    let signatures =
        signatures.map(|rest| [&[manifest.len() as u8], &manifest[..], rest.as_bytes()].concat());
    write(&folder, "signatures", &signatures)
}

fn write(folder: &Path, target: &str, seeds: &[Vec<u8>]) -> Result<()> {
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    for (idx, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{idx}")), seed)?;
    }
    Ok(())
}

fn entry(name: &str, files: &[(&str, &[u8])]) -> Result<Entry> {
    let fields = KeyFields::new()
        .text("name", name)
        .text("options", "o".repeat(1025))
        .bytes("graph", name.as_bytes());
    let files = files
        .iter()
        .map(|(name, bytes)| ArtifactFile { name: (*name).to_owned(), bytes: bytes.to_vec() });
    let meta = EntryMeta {
        kind: "graph".to_owned(),
        note: "decode, 8 sequences".to_owned(),
        producer: "fuzz 1".to_owned(),
        created_unix_s: 1_700_000_000,
        compile_ms: 12,
        fields: Vec::new(),
        io: serde_json::json!({"inputs": [{"name": "x", "shape": [1, 2.5, null, true]}]}),
        log_tail: "a warning\n".to_owned(),
    };
    Ok(Entry::seal(&fields, Artifact::new(files.collect())?, meta))
}

fn full_entry() -> Result<Entry> {
    let entry = entry("full", &[("model.om", &[7; 700]), ("io_table.json", b"{}")])?;
    let line = fuzzing::trusted_signature(entry.manifest_json());
    Ok(entry.with_signatures(format!("{line}\n").into_bytes()))
}

fn archive_of(entries: &[&Entry]) -> Result<Vec<u8>> {
    let store = MemoryStore::new(u64::MAX);
    for entry in entries {
        store.put(entry)?;
    }
    let mut archive = Vec::new();
    export(&store, &store.list()?, &mut archive, &mut |_| {}).map_err(io::Error::other)?;
    Ok(archive)
}

/// A recipe for two entries of one file, and for one flipped bit at each of these places.
fn recipe(places: &[u32]) -> Vec<u8> {
    let mut bytes = vec![2, 2];
    let mut text = |text: &[u8]| {
        bytes.push(text.len() as u8);
        bytes.extend(text);
    };
    for name in [&b"one"[..], b"two"] {
        // Name and graph; no more files than one; its name and bytes; note, producer, io, log, signatures.
        text(name);
        text(b"graph");
        text(b"");
        for part in [&b"model.om"[..], b"bytes", b"note", b"fuzz 1", b"{\"x\": 1}", b"log", b"sig"]
        {
            text(part);
        }
    }
    for place in places {
        bytes.extend(&place.to_le_bytes()[..3]);
        bytes.push(1);
    }
    bytes
}

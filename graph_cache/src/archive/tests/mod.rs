//! What goes in comes out.

mod evil;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::entry::{Artifact, ArtifactFile, EntryMeta};
use crate::key::KeyFields;
use crate::store::Put;

/// A store for one thread, on which an entry can be exchanged behind the exporter's back.
#[derive(Debug, Default)]
struct Shelf {
    entries: Mutex<BTreeMap<CacheKey, Entry>>,
    /// What `get` gives instead.
    exchanged: Mutex<BTreeMap<CacheKey, Lookup>>,
}

impl Store for Shelf {
    fn place(&self) -> String {
        "a shelf".to_owned()
    }

    fn get(&self, key: &CacheKey) -> Lookup {
        if let Some(lookup) = self.exchanged.lock().unwrap().get(key) {
            return lookup.clone();
        }
        match self.entries.lock().unwrap().get(key) {
            Some(entry) => Lookup::Hit(Box::new(entry.clone())),
            None => Lookup::Miss(MissReason::Absent),
        }
    }

    fn manifest(&self, key: &CacheKey) -> Option<Manifest> {
        self.entries.lock().unwrap().get(key).map(|entry| entry.manifest().clone())
    }

    fn put(&self, entry: &Entry) -> Result<Put, StoreError> {
        self.entries.lock().unwrap().insert(*entry.key(), entry.clone());
        Ok(Put::Stored { bytes: 0 })
    }

    fn quarantine(&self, _: &CacheKey, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, key: &CacheKey) -> Result<bool, StoreError> {
        Ok(self.entries.lock().unwrap().remove(key).is_some())
    }

    fn list(&self) -> Result<Vec<CacheKey>, StoreError> {
        Ok(self.entries.lock().unwrap().keys().copied().collect())
    }
}

fn entry_of(name: &str, note: &str, files: &[(&str, &[u8])]) -> Entry {
    let fields = KeyFields::new().text("backend", "test").text("name", name);
    let files = files
        .iter()
        .map(|(name, bytes)| ArtifactFile { name: (*name).to_owned(), bytes: bytes.to_vec() });
    let meta = EntryMeta {
        kind: "graph".to_owned(),
        note: note.to_owned(),
        producer: "test 1".to_owned(),
        created_unix_s: 1_700_000_000,
        compile_ms: 12,
        fields: Vec::new(),
        io: serde_json::Value::Null,
        log_tail: String::new(),
    };
    Entry::seal(&fields, Artifact::new(files.collect()).unwrap(), meta)
}

fn small_entries() -> Vec<Entry> {
    let signed = entry_of("b", "signed", &[("model.om", &[7; 700]), ("io_table.json", b"{}")]);
    vec![
        entry_of("a", "", &[("model.om", b"")]),
        signed.with_signatures(b"ed25519 00 11\n".to_vec()),
        entry_of("c", "decode, 8 sequences", &[("0", &[1; 512])]),
    ]
}

fn shelf(entries: &[Entry]) -> Shelf {
    let shelf = Shelf::default();
    for entry in entries {
        shelf.put(entry).unwrap();
    }
    shelf
}

fn exported(store: &dyn Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    export(store, &store.list().unwrap(), &mut bytes, &mut |_| {}).unwrap();
    bytes
}

fn imported(bytes: &[u8]) -> Result<Vec<Entry>, ArchiveError> {
    let mut entries = Vec::new();
    import(bytes, &mut |entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok(entries)
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| *entry.key());
    entries
}

fn small_archive() -> Vec<u8> {
    exported(&shelf(&small_entries()))
}

fn unpacked(archive: &[u8]) -> Vec<u8> {
    zstd::decode_all(archive).unwrap()
}

fn packed(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).unwrap()
}

#[test]
fn entries_come_back_as_they_were_with_their_signatures() {
    let archive = small_archive();
    assert_eq!(imported(&archive).unwrap(), sorted(small_entries()));
    let index = read_index(&archive[..]).unwrap();
    let expected: Vec<_> =
        sorted(small_entries()).iter().map(|entry| ArchiveEntry::of(entry.manifest())).collect();
    assert_eq!(index, expected);
    let report = import(&archive[..], &mut |_| Ok(())).unwrap();
    assert_eq!(report, ArchiveReport { num_entries: 3, artifact_bytes: 700 + 2 + 512 });
}

#[test]
fn an_archive_is_a_tar_that_other_programs_list() {
    let mut expected = vec![INDEX.to_owned()];
    for entry in sorted(small_entries()) {
        expected.push(format!("entries/{}/record.bin", entry.key()));
        expected.push(format!("entries/{}/manifest.json", entry.key()));
        if !entry.signatures().is_empty() {
            expected.push(format!("entries/{}/manifest.sig", entry.key()));
        }
        let files = entry.artifact().files().iter();
        expected.extend(files.map(|file| format!("entries/{}/{}", entry.key(), file.name)));
    }
    let tar = unpacked(&small_archive());
    let mut listed = tar::Archive::new(&tar[..]);
    let listed = listed
        .entries()
        .unwrap()
        .map(|member| String::from_utf8(member.unwrap().path_bytes().into_owned()).unwrap());
    assert_eq!(listed.collect::<Vec<_>>(), expected);
}

#[test]
fn the_same_entries_make_the_same_bytes() {
    let store = shelf(&small_entries());
    let mut keys = store.list().unwrap();
    keys.reverse();
    keys.push(keys[0]);
    let mut shown = Vec::new();
    let mut bytes = Vec::new();
    let report = export(&store, &keys, &mut bytes, &mut |manifest| shown.push(manifest.key));
    assert_eq!(bytes, small_archive());
    assert_eq!(shown, store.list().unwrap());
    assert_eq!(report.unwrap().num_entries, 3);
}

#[test]
fn headers_are_the_ones_that_every_version_writes() {
    // Headers are compared byte for byte: should one of these change, so does the format.
    let key = CacheKey::from_bytes([0xab; 32]);
    for (path, bytes, expected) in [
        (
            INDEX.to_owned(),
            64 << 20,
            "143dd538ab55375b53de1670f14b407b93bc4199b8f1e467dfecb08a46f42870",
        ),
        (
            path_of(&key, "record.bin"),
            0,
            "c8c300ea4bda49e2b2327ddbf892aac1ec81d530b75f3f9f4405b094b4378dc9",
        ),
        (
            path_of(&key, &"n".repeat(64)),
            4 << 30,
            "1d765436bb34083fe19fdc6177754f3e5f1eec962bff36cbae59079c6c880fa3",
        ),
    ] {
        let header = write::header(&path, bytes);
        assert_eq!(crate::digest::Digest::of(&header).to_string(), expected, "{path}");
        assert_eq!(tar::Header::from_byte_slice(&header).path_bytes(), path.as_bytes());
        assert_eq!(tar::Header::from_byte_slice(&header).entry_size().unwrap(), bytes);
    }
}

#[test]
fn an_archive_of_nothing_is_an_archive() {
    assert_eq!(imported(&exported(&Shelf::default())).unwrap(), Vec::new());
}

#[test]
fn one_entry_is_an_archive_of_one() {
    let entries = small_entries();
    for entry in &entries {
        let bytes = encode_entry(entry).unwrap();
        assert_eq!(decode_entry(entry.key(), &bytes).unwrap(), *entry);
        assert_eq!(bytes, exported(&shelf(std::slice::from_ref(entry))));
        let other = KeyFields::new().key();
        let error = decode_entry(&other, &bytes).unwrap_err();
        assert!(error.to_string().contains("holds the entry of key"), "{error}");
    }
    let error = decode_entry(entries[0].key(), &small_archive()).unwrap_err();
    assert!(error.to_string().contains("lists 3 entries, expected one"), "{error}");
}

#[test]
fn a_missing_or_bad_entry_fails_the_export_and_is_named() {
    let entries = small_entries();
    let key = *entries[1].key();
    let try_export = |store: &Shelf| {
        let keys: Vec<_> = entries.iter().map(|entry| *entry.key()).collect();
        export(store, &keys, Vec::new(), &mut |_| {}).unwrap_err().to_string()
    };
    let store = shelf(&entries);
    store.remove(&key).unwrap();
    assert_eq!(
        try_export(&store),
        format!(
            "cannot export entry {key}: not in the cache; name it no longer, or compile it again"
        )
    );
    let store = shelf(&entries);
    let bad = MissReason::Bad("`model.om` does not match its digest".to_owned());
    store.exchanged.lock().unwrap().insert(key, Lookup::Miss(bad));
    assert!(try_export(&store).contains("bad entry: `model.om` does not match its digest"));
}

#[test]
fn an_entry_that_changes_while_it_is_exported_fails_the_export() {
    let entries = small_entries();
    let store = shelf(&entries);
    let other = entry_of("b", "another note", &[("model.om", &[7; 700])]);
    let key = *other.key();
    store.exchanged.lock().unwrap().insert(key, Lookup::Hit(Box::new(other)));
    let error = export(&store, &[key], Vec::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, ArchiveError::Changed { key: named } if named == key), "{error}");
}

#[test]
fn signatures_that_nobody_would_read_again_are_not_written() {
    let entry = entry_of("a", "", &[("0", b"")]).with_signatures(vec![b'x'; (16 << 10) + 1]);
    let error = encode_entry(&entry).unwrap_err();
    assert!(matches!(error, ArchiveError::Size { got: 16_385, max: 16_384, .. }), "{error}");
}

#[test]
fn a_full_disk_fails_the_export() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let store = shelf(&small_entries());
    let error = export(&store, &store.list().unwrap(), Full, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ArchiveError::Write(_)), "{error}");
}

#[test]
fn an_import_stops_where_an_entry_cannot_be_taken() {
    let mut num_taken = 0;
    let error = import(&small_archive()[..], &mut |_| {
        num_taken += 1;
        let place = "a shelf".to_owned();
        if num_taken < 2 { Ok(()) } else { Err(StoreError::ReadOnly { place }) }
    });
    assert_eq!(num_taken, 2);
    let key = sorted(small_entries())[1].key().to_string();
    assert_eq!(
        error.unwrap_err().to_string(),
        format!("cannot import entry {key}: a shelf is only read")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_exported_comes_back(
        entries in prop::collection::btree_map(
            "[a-z]{0,8}",
            (
                "\\PC{0,20}",
                prop::collection::btree_map(
                    "[b-z0-9][b-z0-9._-]{0,62}", prop::collection::vec(any::<u8>(), 0..2000), 1..4,
                ),
                prop::collection::vec(any::<u8>(), 0..100),
            ),
            0..6,
        ),
    ) {
        let entries: Vec<_> = entries.iter().map(|(name, (note, files, signatures))| {
            let files: Vec<_> =
                files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
            entry_of(name, note, &files).with_signatures(signatures.clone())
        }).collect();
        let archive = exported(&shelf(&entries));
        prop_assert_eq!(imported(&archive).unwrap(), sorted(entries));
    }
}

//! Whatever happens to the folder, the answer is the right bytes: from the cache when all of the
//! entry is as it was written, and otherwise compiled again, with a warning.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use cairn_graph_cache::{
    CacheKey, DiskStore, GraphCache, KeyFields, LoadFailure, Lookup, MissReason, Origin, Store as _,
};
use common::{ARTIFACT, ask, entry_folder, fields, open};

const FILES: [&str; 3] = ["artifact.bin", "manifest.json", "record.bin"];

fn new_root() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("cache");
    (folder, root)
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// After damage: one warning and one rebuild, then hits again.
fn assert_rebuilt_once(root: &Path, damage: &str) {
    let cache = open(root);
    let outcome = ask(&cache);
    assert_eq!(outcome.origin, Origin::Compiled, "{damage}");
    assert!(matches!(outcome.miss, Some(MissReason::Bad(_))), "{damage}: {outcome:?}");
    assert_eq!(outcome.warnings.len(), 1, "{damage}: {outcome:?}");
    assert_eq!(ask(&cache).origin, Origin::Cache, "{damage}");
    let stats = cache.stats().snapshot();
    assert_eq!((stats.compiles, stats.quarantined), (1, 1), "{damage}");
    assert_eq!((stats.hits, stats.misses), (1, 1), "{damage}");
    // Room for the next: only a few bad entries are kept of each key.
    fs::remove_dir_all(root.join("v1/quarantine")).unwrap();
}

#[test]
fn the_folder_looks_as_it_is_drawn() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let entry = entry_folder(&root);
    assert_eq!(fs::read(entry.join("artifact.bin")).unwrap(), ARTIFACT);
    let manifest = fs::read(entry.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["key"], fields().key().to_string());
    assert_eq!(manifest["fields"][0]["text"], "test");
    assert_eq!(manifest["fields"][1]["bytes"], 15);
    assert_eq!(manifest["artifact_bytes"], ARTIFACT.len());
    assert_eq!(manifest["producer"], "test 1.0");
    assert_eq!(manifest["note"], "a note");
    assert!(root.join("CACHEDIR.TAG").exists());
    for (path, mode) in [(&root, 0o700), (&entry, 0o700), (&entry.join("record.bin"), 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode);
    }
    for empty in ["v1/tmp", "v1/locks", "v1/quarantine"] {
        assert_eq!(fs::read_dir(root.join(empty)).unwrap().count(), 0, "{empty}");
    }
}

#[test]
fn every_flipped_bit_of_every_file_is_a_miss() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    for name in FILES {
        let path = entry_folder(&root).join(name);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fs::write(&path, &bad).unwrap();
                let found = store.get(&key);
                assert!(
                    matches!(found, Lookup::Miss(MissReason::Bad(_))),
                    "bit {bit} of byte {at} of {name}: {found:?}"
                );
            }
        }
        fs::write(&path, &good).unwrap();
        assert!(matches!(store.get(&key), Lookup::Hit(_)));
    }
}

#[test]
fn every_other_length_of_every_file_is_a_miss() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    for name in FILES {
        let path = entry_folder(&root).join(name);
        let good = fs::read(&path).unwrap();
        for length in (0..good.len()).chain([good.len() + 1, 1 << 30]) {
            fs::write(&path, &good).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(length as u64).unwrap();
            let found = store.get(&key);
            assert!(
                matches!(found, Lookup::Miss(MissReason::Bad(_))),
                "{name} of {length} bytes: {found:?}"
            );
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_damaged_file_is_quarantined_and_rebuilt_once() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    for name in FILES {
        let path = entry_folder(&root).join(name);
        for at in [0, 8, 20] {
            let mut bad = fs::read(&path).unwrap();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            assert_rebuilt_once(&root, &format!("byte {at} of {name}"));
        }
        fs::write(&path, b"").unwrap();
        assert_rebuilt_once(&root, &format!("{name} is empty"));
        fs::remove_file(&path).unwrap();
        assert_rebuilt_once(&root, &format!("{name} is missing"));
    }
}

#[test]
fn nothing_but_files_and_folders_is_opened_or_followed() {
    let (folder, root) = new_root();
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), b"precious").unwrap();
    ask(&open(&root));
    let entry = entry_folder(&root);
    let mut places: Vec<_> = FILES.iter().map(|name| entry.join(name)).collect();
    // The entry itself, and the folders above it up to `entries`.
    places.extend(entry.ancestors().take(4).map(Path::to_owned));
    for place in &places {
        let is_folder = !FILES.iter().any(|name| place.ends_with(name));
        for replacement in ["link to a folder", "link to a file", "fifo", "other"] {
            remove(place);
            match replacement {
                "link to a folder" => symlink(&victim, place).unwrap(),
                "link to a file" => symlink(victim.join("file"), place).unwrap(),
                "fifo" => make_fifo(place),
                _ if is_folder => fs::write(place, b"a file").unwrap(),
                _ => fs::create_dir(place).unwrap(),
            }
            assert_rebuilt_once(&root, &format!("{place:?} is a {replacement}"));
        }
    }
    assert_eq!(fs::read(victim.join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

#[test]
fn a_link_to_a_good_entry_is_not_followed_either() {
    let (folder, root) = new_root();
    ask(&open(&root));
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(entry_folder(&root), &elsewhere).unwrap();
    symlink(&elsewhere, entry_folder(&root)).unwrap();
    assert_rebuilt_once(&root, "linked entry");
    assert_eq!(fs::read(elsewhere.join("artifact.bin")).unwrap(), ARTIFACT);
}

#[test]
fn the_entry_of_another_key_is_not_used() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let load = |bytes: &[u8]| Ok::<_, LoadFailure<Infallible>>(bytes.to_vec());
    let other = KeyFields::new().text("backend", "other");
    let (_, outcome) =
        cache.get_or_compile(&other, "", load, || Ok(b"other bytes".to_vec())).unwrap();
    ask(&cache);
    let hex = outcome.key.to_string();
    let other = root.join("v1/entries").join(&hex[0..2]).join(&hex[2..4]).join(&hex);
    fs::remove_dir_all(entry_folder(&root)).unwrap();
    fs::rename(other, entry_folder(&root)).unwrap();
    let Lookup::Miss(reason) = cache.store().get(&fields().key()) else {
        panic!("the other key's entry was used");
    };
    assert!(reason.to_string().contains(&hex), "{reason}");
    drop(cache);
    assert_rebuilt_once(&root, "renamed entry");
}

#[test]
fn an_entry_of_another_format_says_so() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let record = entry_folder(&root).join("record.bin");
    let mut newer = fs::read(&record).unwrap();
    newer[8] = 9;
    fs::write(&record, newer).unwrap();
    let outcome = ask(&open(&root));
    assert!(
        outcome.warnings[0].contains("record format 9, but this version reads format 1"),
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn bad_entries_are_kept_with_the_reason_but_only_a_few() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    for _ in 0..10 {
        ask(&cache);
        fs::write(entry_folder(&root).join("artifact.bin"), b"bad").unwrap();
    }
    assert_eq!(cache.stats().snapshot().quarantined, 9);
    let quarantine = root.join("v1/quarantine");
    assert_eq!(fs::read_dir(&quarantine).unwrap().count(), 2 * 4);
    let key = fields().key();
    let reason = fs::read_to_string(quarantine.join(format!("{key}.0.reason.txt"))).unwrap();
    assert!(reason.contains("has 3 bytes, expected 25"), "{reason}");
}

#[test]
fn an_artifact_that_the_backend_refuses_is_rebuilt_once() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let cache = open(&root);
    let load = |bytes: &[u8]| match bytes {
        b"new" => Ok(()),
        _ => Err(LoadFailure::BadArtifact("version 1, expected 2")),
    };
    let ((), outcome) = cache.get_or_compile(&fields(), "", load, || Ok(b"new".to_vec())).unwrap();
    assert_eq!(outcome.origin, Origin::Compiled);
    assert!(outcome.warnings[0].contains("refused: version 1, expected 2"));
    let ((), outcome) = cache.get_or_compile(&fields(), "", load, || unreachable!()).unwrap();
    assert_eq!(outcome.origin, Origin::Cache);

    // What was just compiled and is refused is the caller's error, and is not stored.
    let other = KeyFields::new();
    let refused = cache.get_or_compile(&other, "", load, || Ok(b"old".to_vec()));
    assert_eq!(refused.unwrap_err(), "version 1, expected 2");
    let lookup = cache.store().get(&other.key());
    assert_eq!(lookup, Lookup::Miss(MissReason::Absent));
}

#[test]
fn a_failure_that_is_not_the_artifacts_fault_leaves_it_alone() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let cache = open(&root);
    let load = |_: &[u8]| Err::<(), _>(LoadFailure::Other("no memory"));
    let failed = cache.get_or_compile(&fields(), "", load, || unreachable!());
    assert_eq!(failed.unwrap_err(), "no memory");
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn a_failure_to_compile_is_not_remembered() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let load = |_: &[u8]| Ok::<_, LoadFailure<&str>>(());
    let failed = cache.get_or_compile(&fields(), "", load, || Err("no compiler"));
    assert_eq!(failed.unwrap_err(), "no compiler");
    assert_eq!(ask(&cache).origin, Origin::Compiled);
}

#[test]
fn the_folder_can_be_deleted_at_any_time() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    ask(&cache);
    fs::remove_dir_all(&root).unwrap();
    let outcome = ask(&cache);
    assert_eq!(outcome.miss, Some(MissReason::Absent));
    assert_eq!(outcome.warnings, [""; 0]);
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn without_a_usable_folder_graphs_are_kept_in_memory() {
    let (folder, _) = new_root();
    let file = folder.path().join("file");
    fs::write(&file, b"a file").unwrap();
    for root in [file.clone(), file.join("below"), PathBuf::from("/proc/cache")] {
        assert!(DiskStore::open(&root).is_err(), "{root:?}");
        let cache = GraphCache::open(&root, "test");
        assert_eq!(ask(&cache).origin, Origin::Compiled);
        assert_eq!(ask(&cache).origin, Origin::Cache);
    }
    assert_eq!(fs::read(&file).unwrap(), b"a file");
}

#[test]
fn a_store_that_cannot_write_still_serves_with_one_warning() {
    for broken in ["tmp", "quarantine", "locks"] {
        let (folder, root) = new_root();
        ask(&open(&root));
        let path = root.join("v1").join(broken);
        fs::remove_dir_all(&path).unwrap();
        symlink(folder.path(), &path).unwrap();
        let cache = open(&root);
        assert_eq!(ask(&cache).origin, Origin::Cache, "{broken}");
        fs::remove_dir_all(entry_folder(&root)).unwrap();
        let outcome = ask(&cache);
        assert_eq!(outcome.origin, Origin::Compiled, "{broken}");
        assert_eq!(outcome.warnings.len(), 1, "{broken}: {outcome:?}");
        assert!(outcome.warnings[0].contains(broken), "{outcome:?}");
        assert_eq!(ask(&cache).warnings, [""; 0], "{broken}");
        assert_eq!(cache.stats().snapshot().write_failures, 2);
        // Nothing was written through the link.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_linked_version_folder_is_neither_read_nor_written() {
    let (folder, root) = new_root();
    ask(&open(&root));
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(root.join("v1"), &elsewhere).unwrap();
    symlink(&elsewhere, root.join("v1")).unwrap();
    let before = fs::read_dir(&elsewhere).unwrap().count();
    let cache = GraphCache::open(&root, "test");
    let outcome = ask(&cache);
    assert_eq!(outcome.origin, Origin::Compiled);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), before);
    assert_eq!(fs::read_dir(elsewhere.join("quarantine")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(elsewhere.join("tmp")).unwrap().count(), 0);
}

#[test]
fn only_old_temporary_files_are_swept() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let tmp = root.join("v1/tmp");
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    for (name, modified) in [("old", now - day), ("new", now), ("future", now + day)] {
        fs::create_dir(tmp.join(name)).unwrap();
        fs::write(tmp.join(name).join("artifact.bin"), b"half").unwrap();
        let folder = File::open(tmp.join(name)).unwrap();
        folder.set_modified(modified).unwrap();
    }
    // An old entry is not temporary.
    let entry = File::open(entry_folder(&root)).unwrap();
    entry.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
    assert!(!tmp.join("old").exists());
    assert!(tmp.join("new").exists());
    assert!(tmp.join("future").exists());
}

#[test]
fn entries_are_listed_and_removed_and_strangers_are_not() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    assert_eq!(cache.store().list().unwrap(), []);
    ask(&cache);
    let key = fields().key();
    fs::create_dir_all(root.join("v1/entries/zz/zz/not a key")).unwrap();
    fs::create_dir_all(root.join("v1/entries/zz/zz").join(key.to_string())).unwrap();
    fs::write(root.join("v1/entries/file"), b"").unwrap();
    assert_eq!(cache.store().list().unwrap(), [key]);
    assert!(cache.store().remove(&key).unwrap());
    assert!(!cache.store().remove(&key).unwrap());
    assert!(!cache.store().remove(&CacheKey::from_bytes([0; 32])).unwrap());
    assert_eq!(cache.store().list().unwrap(), []);
    assert_eq!(fs::read_dir(root.join("v1/tmp")).unwrap().count(), 0);
}

#[test]
fn a_folder_that_others_can_write_to_works() {
    let (folder, root) = new_root();
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    // And through a link on the way, which is the user's choice.
    let link = folder.path().join("link");
    symlink(&root, &link).unwrap();
    ask(&open(&link));
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

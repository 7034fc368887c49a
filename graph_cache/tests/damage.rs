//! Whatever happens to an entry, the answer is the right bytes: from the cache when all of it is as
//! it was written, and otherwise compiled again, with a warning.
//!
//! # Where each fault of a cache is tested
//!
//! | | Fault | Test |
//! | --- | --- | --- |
//! | C1 | killed at any step | `fault_tests` in the crate (each operation), `tests/faults/cache_strace.sh` (each system call), `tests/kill.rs` (at random times) |
//! | C2 | no space, input errors, quota at any step | `fault_tests` in the crate, `tests/faults/cache_strace.sh` |
//! | C3 | a full disk, no more inodes | `tests/faults/cache_tmpfs.sh` |
//! | C4 | read-only, no permission to enter, somebody else's | `tests/folders.rs`, `tests/faults/cache_tmpfs.sh` (mounted read-only) |
//! | C5 | links, folders that others can write to | `tests/folders.rs`; links inside the store: here |
//! | C6 | any bit flipped, any length cut | here |
//! | C7 | other formats, other fields under the same name | here |
//! | C8 | a whole entry under another name | here |
//! | C9 | many compile one key | `tests/concurrency.rs`, `tests/many.rs` |
//! | C10 | the owner of a lock is stopped or killed | `tests/concurrency.rs` |
//! | C11 | `gc` while reading, the folder deleted under a living cache | `tests/folders.rs`, `tests/many.rs`, `tests/concurrency.rs` |
//! | C12 | clocks that jump | `tests/clocks.rs` |
//! | C13 | a compiler that is killed, hangs or fails | `tests/concurrency.rs`; that failing is not remembered: here |
//! | C14 | 100,000 entries, huge artifacts | `tests/large.rs` |
//! | C25 | what was not flushed is lost | here; that all of an entry is flushed before it appears: `tests/faults/cache_strace.sh` |

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use cairn_graph_cache::{
    CacheKey, CacheOptions, Compiled, DiskOptions, DiskStore, GetError, KeyFields, KeyRing,
    LoadFailure, Lookup, MissReason, Origin, SigningKey, Store as _, Trust,
};
use common::{
    ARTIFACT_FILES, CODE, FILES, artifact, ask, assert_bad, entry_folder, entry_of, fields, forge,
    names_in, new_root, new_root_in_memory, open, open_with, options, single, try_ask,
};

/// What is left of a file.
type Lost = fn(&[u8]) -> Option<Vec<u8>>;
/// What somebody makes of a manifest.
type Change = fn(&mut serde_json::Value);

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

/// All files of the entry.
fn content(root: &Path) -> [Vec<u8>; 4] {
    FILES.map(|name| fs::read(entry_folder(root).join(name)).unwrap())
}

/// Makes them what they were: a new entry was compiled at another time, and says so.
fn restore(root: &Path, files: &[Vec<u8>; 4]) {
    for (name, content) in FILES.iter().zip(files) {
        fs::write(entry_folder(root).join(name), content).unwrap();
    }
}

/// After damage: one warning and one rebuild, then hits again.
#[track_caller]
fn assert_rebuilt_once(root: &Path, damage: &str) {
    let cache = open(root);
    let outcome = ask(&cache);
    assert_eq!(outcome.origin, Origin::Compiled, "{damage}");
    assert!(matches!(outcome.miss, Some(MissReason::Bad(_))), "{damage}: {outcome:?}");
    assert_eq!(outcome.warnings.len(), 1, "{damage}: {outcome:?}");
    assert_eq!(ask(&cache).origin, Origin::Cache, "{damage}");
    let stats = cache.stats().snapshot();
    assert_eq!((stats.compiles, stats.quarantined), (1, 1), "{damage}");
    assert_eq!((stats.hits, stats.misses_bad), (1, 1), "{damage}");
    // Room for the next: only a few bad entries are kept of each key.
    fs::remove_dir_all(root.join("v2/quarantine")).unwrap();
}

#[test]
fn the_folder_looks_as_it_is_drawn() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let entry = entry_folder(&root);
    let mut names: Vec<_> =
        fs::read_dir(&entry).unwrap().map(|item| item.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "model.bin", "record.bin", "table.json"]);
    assert_eq!(fs::read(entry.join("model.bin")).unwrap(), CODE);
    let manifest = fs::read(entry.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["format"], 2);
    assert_eq!(manifest["key"], fields().key().to_string());
    assert_eq!(manifest["fields"][0]["text"], "test");
    assert_eq!(manifest["fields"][1]["bytes"], 15);
    assert_eq!(manifest["files"][0]["name"], "model.bin");
    assert_eq!(manifest["files"][0]["bytes"], CODE.len());
    assert_eq!(manifest["producer"], "test 1.0");
    assert_eq!(manifest["note"], "a note");
    assert!(root.join("CACHEDIR.TAG").exists());
    for (path, mode) in [(&root, 0o700), (&entry, 0o700), (&entry.join("record.bin"), 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode);
    }
    for empty in ["tmp", "locks", "leases", "quarantine", "starts", "pins"] {
        assert_eq!(names_in(&root, empty), [""; 0], "{empty}");
    }
}

#[test]
fn forged_records_are_like_those_that_are_written() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let read = |name| fs::read(entry_folder(&root).join(name)).unwrap();
    let forged = forge::record(2, &fields().key(), &read("manifest.json"), artifact().num_bytes());
    assert_eq!(forged, read("record.bin"));
}

#[test]
fn every_flipped_bit_of_every_file_is_a_miss() {
    let (_folder, root) = new_root_in_memory();
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    let files = content(&root);
    let mut num_flips = 0;
    for (name, good) in FILES.into_iter().zip(files.clone()) {
        let path = entry_folder(&root).join(name);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fs::write(&path, &bad).unwrap();
                assert_bad(&store, &key, &format_args!("bit {bit} of byte {at} of {name}"));
                num_flips += 1;
                if num_flips % 97 == 0 {
                    assert_rebuilt_once(&root, &format!("bit {bit} of byte {at} of {name}"));
                    restore(&root, &files);
                }
            }
        }
        fs::write(&path, &good).unwrap();
        assert!(matches!(store.get(&key), Lookup::Hit(_)), "{name}");
    }
}

#[test]
fn every_other_length_of_every_file_is_a_miss() {
    let (_folder, root) = new_root_in_memory();
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    let files = content(&root);
    let mut num_cuts = 0;
    for (name, good) in FILES.into_iter().zip(files.clone()) {
        let path = entry_folder(&root).join(name);
        for length in (0..good.len()).chain([good.len() + 1, 1 << 20, 1 << 40]) {
            fs::write(&path, &good).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(length as u64).unwrap();
            assert_bad(&store, &key, &format_args!("{name} of {length} bytes"));
            num_cuts += 1;
            if num_cuts % 97 == 0 {
                assert_rebuilt_once(&root, &format!("{name} of {length} bytes"));
                restore(&root, &files);
            }
        }
        fs::write(&path, &good).unwrap();
        assert!(matches!(store.get(&key), Lookup::Hit(_)), "{name}");
    }
}

/// The same, through the signature: what it does not cover is not trusted, whoever wrote it.
#[test]
fn every_flipped_bit_of_a_signed_entry_is_a_miss() {
    let (_folder, root) = new_root_in_memory();
    ask(&open(&root));
    let (key, signing_key) = (fields().key(), SigningKey::generate().unwrap());
    DiskStore::open(&root).unwrap().sign(&key, &signing_key).unwrap();
    let ring = KeyRing::parse(&signing_key.public().to_string()).unwrap();
    let options = DiskOptions { trust: Trust::Signed(ring), ..DiskOptions::default() };
    let store = DiskStore::open_with(&root, options).unwrap();
    assert!(matches!(store.get(&key), Lookup::Hit(_)));
    let path = entry_folder(&root).join("manifest.sig");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(&path, &bad).unwrap();
            match store.get(&key) {
                Lookup::Miss(MissReason::Untrusted(_)) => {}
                // White space around the line is not part of the signature.
                Lookup::Hit(_) if bad.trim_ascii() == good.trim_ascii() => {}
                found => panic!("bit {bit} of byte {at} of the signature: {found:?}"),
            }
        }
    }
    // A forger can put every digest right, but not the signature.
    fs::write(&path, &good).unwrap();
    let entry = entry_folder(&root);
    fs::write(entry.join("model.bin"), CODE.to_ascii_uppercase()).unwrap();
    forge::change_manifest(&entry, &key, |manifest| {
        let digest = cairn_graph_cache::Digest::of(&CODE.to_ascii_uppercase());
        manifest["files"][0]["sha256"] = digest.to_string().into();
    });
    let found = store.get(&key);
    assert!(matches!(found, Lookup::Miss(MissReason::Untrusted(_))), "{found:?}");
    assert!(matches!(DiskStore::open(&root).unwrap().get(&key), Lookup::Hit(_)));
}

#[test]
fn a_damaged_file_is_quarantined_and_rebuilt_once() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    for name in FILES {
        let path = entry_folder(&root).join(name);
        let mut bad = fs::read(&path).unwrap();
        bad[1] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        assert_rebuilt_once(&root, &format!("byte 1 of {name}"));
        fs::write(&path, b"").unwrap();
        assert_rebuilt_once(&root, &format!("{name} is empty"));
        fs::remove_file(&path).unwrap();
        assert_rebuilt_once(&root, &format!("{name} is missing"));
    }
    fs::write(entry_folder(&root).join("stranger"), b"").unwrap();
    assert_rebuilt_once(&root, "a file too many");
    fs::remove_dir_all(entry_folder(&root)).unwrap();
    fs::create_dir(entry_folder(&root)).unwrap();
    assert_rebuilt_once(&root, "nothing in it");
}

/// As after a power cut, on a disk that says that it has flushed what it has not: of each file of
/// the entry there is all, nothing, a half, zeros, or not even a name.
#[test]
fn whatever_a_power_cut_leaves_of_the_files_is_a_miss() {
    let (_folder, root) = new_root_in_memory();
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    let paths = FILES.map(|name| entry_folder(&root).join(name));
    let good = content(&root);
    let lost: [Lost; 5] = [
        |good| Some(good.to_vec()),
        |_| Some(Vec::new()),
        |good| Some(good[..good.len() / 2].to_vec()),
        |good| Some(vec![0; good.len()]),
        |_| None,
    ];
    for number in 0..lost.len().pow(4) {
        for (at, path) in paths.iter().enumerate() {
            match lost[number / lost.len().pow(at as u32) % lost.len()](&good[at]) {
                Some(content) => fs::write(path, content).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
        if number == 0 {
            assert!(matches!(store.get(&key), Lookup::Hit(_)));
        } else {
            assert_bad(&store, &key, &format_args!("combination {number}"));
        }
    }
    assert_rebuilt_once(&root, "all files lost");
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
    places.extend(entry.ancestors().take(3).map(Path::to_owned));
    for place in &places {
        let is_folder = !FILES.iter().any(|name| place.ends_with(name));
        for replacement in
            ["link to a folder", "link to a file", "link to nothing", "fifo", "other"]
        {
            remove(place);
            match replacement {
                "link to a folder" => symlink(&victim, place).unwrap(),
                "link to a file" => symlink(victim.join("file"), place).unwrap(),
                "link to nothing" => symlink(victim.join("nothing"), place).unwrap(),
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
    assert_eq!(fs::read(elsewhere.join("model.bin")).unwrap(), CODE);
}

#[test]
fn the_entry_of_another_key_is_not_used() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let other = KeyFields::new().text("backend", "other");
    let (_, outcome) = try_ask(&cache, &other, || single(b"other bytes")).unwrap();
    ask(&cache);
    fs::remove_dir_all(entry_folder(&root)).unwrap();
    fs::rename(entry_of(&root, &outcome.key), entry_folder(&root)).unwrap();
    let Lookup::Miss(reason) = cache.store().get(&fields().key()) else {
        panic!("the other key's entry was used");
    };
    assert!(reason.to_string().contains(&outcome.key.to_string()), "{reason}");
    assert_eq!(cache.store().manifest(&fields().key()), None);
    drop(cache);
    assert_rebuilt_once(&root, "renamed entry");
}

/// As when the model or the compiler's version changed, and somebody copied the old entry to the new
/// name, putting every digest right.
#[test]
fn an_entry_whose_fields_are_not_those_of_its_key_is_not_used() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let changes: [(&str, Change); 4] = [
        ("the model", |manifest| manifest["fields"][1]["sha256"] = "ab".repeat(32).into()),
        ("the backend", |manifest| manifest["fields"][0]["text"] = "other".into()),
        ("a field's name", |manifest| manifest["fields"][0]["name"] = "soc".into()),
        ("no fields", |manifest| manifest["fields"] = serde_json::json!([])),
    ];
    for (what, change) in changes {
        forge::change_manifest(&entry_folder(&root), &fields().key(), change);
        assert_rebuilt_once(&root, what);
    }
    // Proof that it is not the forging that is noticed.
    forge::change_manifest(&entry_folder(&root), &fields().key(), |manifest| {
        manifest["note"] = "another note".into();
    });
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

/// A newer version may use the folder, too: what it wrote is its own.
#[test]
fn an_entry_of_a_newer_format_is_left_alone_and_says_so() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let path = entry_folder(&root).join("record.bin");
    let record = forge::sealed(9, b"who knows");
    fs::write(&path, &record).unwrap();
    let cache = open(&root);
    for _ in 0..2 {
        let outcome = ask(&cache);
        assert_eq!(outcome.origin, Origin::Compiled);
        assert!(matches!(outcome.miss, Some(MissReason::OtherFormat(_))), "{outcome:?}");
        let warning = &outcome.warnings[0];
        assert!(warning.contains("format 9") && warning.contains("format 2"), "{warning}");
    }
    assert_eq!(cache.stats().snapshot().misses_other_format, 2);
    assert_eq!(fs::read(&path).unwrap(), record);
    assert_eq!(names_in(&root, "quarantine"), [""; 0]);
}

#[test]
fn an_entry_of_an_older_format_is_rebuilt() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    fs::write(entry_folder(&root).join("record.bin"), forge::sealed(1, b"old")).unwrap();
    assert_rebuilt_once(&root, "format 1");
}

#[test]
fn right_digests_around_nonsense_are_no_entry() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let key: CacheKey = fields().key();
    let path = entry_folder(&root).join("record.bin");
    for payload in [&[][..], &[0xff; 60], &[0; 105], &[7; 4000]] {
        fs::write(&path, forge::sealed(2, payload)).unwrap();
        assert_rebuilt_once(&root, &format!("a payload of {} bytes", payload.len()));
    }
    for manifest in [&b""[..], b"null", b"[]", b"{}", b"\xff", &b"[".repeat(200_000)] {
        fs::write(entry_folder(&root).join("manifest.json"), manifest).unwrap();
        fs::write(&path, forge::record(2, &key, manifest, 27)).unwrap();
        assert_rebuilt_once(&root, &format!("a manifest of {} bytes", manifest.len()));
    }
    let names: [serde_json::Value; 6] =
        ["../x".into(), "/etc/passwd".into(), "".into(), "record.bin".into(), 5.into(), "A".into()];
    for name in names {
        let what = format!("a file named {name}");
        forge::change_manifest(&entry_folder(&root), &key, |manifest| {
            manifest["files"][0]["name"] = name;
        });
        assert_rebuilt_once(&root, &what);
    }
}

#[test]
fn bad_entries_are_kept_with_the_reason_but_only_a_few() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    for _ in 0..10 {
        ask(&cache);
        fs::write(entry_folder(&root).join(ARTIFACT_FILES[0]), b"bad").unwrap();
    }
    assert_eq!(cache.stats().snapshot().quarantined, 9);
    assert_eq!(names_in(&root, "quarantine").len(), 2 * 4);
    let key = fields().key();
    let path = root.join(format!("v2/quarantine/{key}.0.reason.txt"));
    let reason = fs::read_to_string(path).unwrap();
    assert!(reason.contains("has 3 bytes, expected 25"), "{reason}");
}

#[test]
fn an_artifact_that_the_backend_refuses_is_rebuilt_once() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let cache = open(&root);
    let load = |artifact: &cairn_graph_cache::Artifact| match artifact.file("model.bin") {
        Some(b"new") => Ok(()),
        _ => Err(LoadFailure::BadArtifact("version 1, expected 2")),
    };
    let new = || Ok(Compiled::new(single(b"new")));
    let ((), outcome) = cache.get_or_compile(&fields(), "", load, new).unwrap();
    assert_eq!(outcome.origin, Origin::Compiled);
    assert!(outcome.warnings[0].contains("refused: version 1, expected 2"));
    let ((), outcome) = cache.get_or_compile(&fields(), "", load, || unreachable!()).unwrap();
    assert_eq!(outcome.origin, Origin::Cache);

    // What was just compiled and is refused is the caller's error, and is not stored.
    let other = KeyFields::new();
    let old = || Ok(Compiled::new(single(b"old")));
    let refused = cache.get_or_compile(&other, "", load, old);
    assert_eq!(refused.unwrap_err(), GetError::Caller("version 1, expected 2"));
    let lookup = cache.store().get(&other.key());
    assert_eq!(lookup, Lookup::Miss(MissReason::Absent));
}

#[test]
fn a_failure_that_is_not_the_artifacts_fault_leaves_it_alone() {
    let (_folder, root) = new_root();
    ask(&open(&root));
    let cache = open(&root);
    let load = |_: &cairn_graph_cache::Artifact| Err::<(), _>(LoadFailure::Other("no memory"));
    let failed = cache.get_or_compile(&fields(), "", load, || unreachable!());
    assert_eq!(failed.unwrap_err(), GetError::Caller("no memory"));
    assert_eq!(ask(&cache).origin, Origin::Cache);
}

#[test]
fn a_failure_to_compile_is_not_remembered() {
    let (_folder, root) = new_root();
    let cache = open(&root);
    let load = |_: &cairn_graph_cache::Artifact| Ok::<_, LoadFailure<&str>>(());
    let failed = cache.get_or_compile(&fields(), "", load, || Err("no compiler"));
    assert_eq!(failed.unwrap_err(), GetError::Caller("no compiler"));
    assert_eq!(names_in(&root, "locks"), [""; 0]);
    assert_eq!(ask(&cache).origin, Origin::Compiled);
}

/// In the modes that change nothing, what is bad stays, and is compiled each time.
#[test]
fn nothing_is_moved_away_where_nothing_may_be_changed() {
    use cairn_graph_cache::CacheMode;
    let (_folder, root) = new_root();
    ask(&open(&root));
    fs::write(entry_folder(&root).join("table.json"), b"[]").unwrap();
    let cache = open_with(CacheOptions { mode: CacheMode::ReadOnly, ..options(&root) });
    for _ in 0..2 {
        let outcome = ask(&cache);
        assert_eq!(outcome.origin, Origin::Compiled);
        assert!(matches!(outcome.miss, Some(MissReason::Bad(_))), "{outcome:?}");
    }
    assert_eq!(names_in(&root, "quarantine"), [""; 0]);
    assert_eq!(fs::read(entry_folder(&root).join("table.json")).unwrap(), b"[]");
    // Where nothing may be compiled, it is an error that says what is wrong.
    let required = open_with(CacheOptions { mode: CacheMode::Require, ..options(&root) });
    let error = try_ask(&required, &fields(), || unreachable!()).unwrap_err();
    assert!(error.to_string().contains("table.json"), "{error}");
}

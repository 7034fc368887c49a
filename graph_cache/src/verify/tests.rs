//! Damage of every kind, found and repaired, and good entries untouched.

mod damage;
mod random;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use damage::{LEFT_ALONE, REPAIRABLE, change, set_len, write};

use super::*;
use crate::disk::{DiskAccess, DiskOptions};
use crate::entry::codec;
use crate::entry::record::{FileDigest, Record};
use crate::entry::{Artifact, Entry, MANIFEST, Manifest, RECORD, SIGNATURES};
use crate::key::CacheKey;
use crate::lease::Lease;
use crate::store::{Lookup, MissReason};
use crate::testing::{entry, entry_of, fields, meta};
use crate::trust::{KeyRing, SigningKey, Trust};

const REPAIR: VerifyOptions<'static> = VerifyOptions { repair: true, progress: None };
const LOOK: VerifyOptions<'static> = VerifyOptions { repair: false, progress: None };

/// A store with three good entries, of which the tests damage the first.
struct Filled {
    folder: tempfile::TempDir,
    store: DiskStore,
    entries: Vec<Entry>,
}

impl Filled {
    fn new() -> Self {
        Self::with(DiskOptions::default())
    }

    fn with(options: DiskOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open_with(&folder.path().join("cache"), options).unwrap();
        let entries: Vec<_> = ["graph", "second", "third"].map(entry).into();
        for entry in &entries {
            store.put(entry).unwrap();
        }
        Self { folder, store, entries }
    }

    fn key(&self) -> CacheKey {
        *self.entries[0].key()
    }

    fn entry(&self) -> PathBuf {
        self.store.layout().entry(&self.key())
    }

    fn verify(&self, options: &VerifyOptions<'_>) -> VerifyReport {
        self.store.verify(options).unwrap()
    }

    fn picture(&self) -> Picture {
        picture(self.store.root())
    }

    fn assert_others_are_good(&self, what: &str) {
        for entry in &self.entries[1..] {
            assert_eq!(self.store.get(entry.key()), Lookup::Hit(Box::new(entry.clone())), "{what}");
        }
    }
}

type Picture = BTreeMap<PathBuf, String>;

/// Every path below and what is there; without the leases, which beat.
fn picture(folder: &Path) -> Picture {
    let mut all = Picture::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let what = if metadata.is_dir() {
            all.append(&mut picture(&path));
            "folder".to_owned()
        } else if metadata.is_file() && metadata.len() < 1 << 20 {
            format!("{:?}", fs::read(&path).unwrap())
        } else {
            format!("{:?} {}", metadata.file_type(), metadata.len())
        };
        if !path.parent().unwrap().ends_with("leases") {
            all.insert(path, what);
        }
    }
    all
}

#[test]
fn a_good_store_is_clean() {
    let filled = Filled::new();
    filled.store.pin(&filled.key()).unwrap();
    filled.store.gc(&gc::GcOptions::default()).unwrap();
    let before = filled.picture();
    for options in [LOOK, REPAIR] {
        let report = filled.verify(&options);
        assert!(report.is_clean() && report.problems.is_empty(), "{report:?}");
        assert_eq!((report.num_entries, report.num_good), (3, 3));
        let bytes: u64 = filled.entries.iter().map(num_bytes).sum();
        assert_eq!(report.bytes, bytes);
        assert_eq!(filled.picture(), before);
    }
}

fn num_bytes(entry: &Entry) -> u64 {
    (entry.record().len() + entry.manifest_json().len()) as u64 + entry.artifact().num_bytes()
}

#[test]
fn every_damage_is_found_and_repaired_and_the_rest_is_untouched() {
    for (what, kind, damage) in REPAIRABLE {
        let filled = Filled::new();
        let path = damage(&filled);
        let before = filled.picture();
        let report = filled.verify(&LOOK);
        assert_eq!(filled.picture(), before, "{what}: looking changes nothing");
        assert_eq!(report.problems.len(), 1, "{what}: {report:?}");
        let problem = &report.problems[0];
        assert_eq!((problem.kind, &problem.path), (*kind, &path), "{what}: {problem}");
        assert!(!report.is_clean() && !report.is_repaired(), "{what}");
        assert_eq!(problem.repaired, None, "{what}");

        let report = filled.verify(&REPAIR);
        assert!(report.is_repaired() && !report.is_clean(), "{what}: {report:?}");
        assert_eq!(report.problems.len(), 1, "{what}: {report:?}");
        assert_eq!(report.problems[0].kind, *kind, "{what}");
        let report = filled.verify(&LOOK);
        assert!(report.is_clean() && report.problems.is_empty(), "{what}: {report:?}");
        assert_eq!(report.num_entries, report.num_good, "{what}");
        filled.assert_others_are_good(what);
        let kept = filled.picture();
        let untouched = before.iter().filter(|(path, _)| {
            filled.entries[1..]
                .iter()
                .any(|entry| path.starts_with(filled.store.layout().entry(entry.key())))
        });
        assert!(untouched.clone().count() >= 10);
        for (path, content) in untouched {
            assert_eq!(kept.get(path), Some(content), "{what}");
        }
        // What was bad is either good again or gone, and can be stored again.
        let found = filled.store.get(&filled.key());
        assert!(matches!(found, Lookup::Hit(_) | Lookup::Miss(MissReason::Absent)), "{what}");
        filled.store.put(&filled.entries[0]).unwrap();
        assert!(matches!(filled.store.get(&filled.key()), Lookup::Hit(_)), "{what}");
    }
}

#[test]
fn what_no_repair_can_judge_is_left_alone_and_told_what_to_do_about() {
    for (what, kind, is_note, damage) in LEFT_ALONE {
        let filled = Filled::new();
        let path = damage(&filled);
        let before = filled.picture();
        for options in [LOOK, REPAIR] {
            let report = filled.verify(&options);
            assert_eq!(filled.picture(), before, "{what}");
            assert_eq!(report.problems.len(), 1, "{what}: {report:?}");
            let problem = &report.problems[0];
            assert_eq!((problem.kind, &problem.path), (*kind, &path), "{what}: {problem}");
            assert_eq!((problem.is_note, &problem.repaired), (*is_note, &None), "{what}");
            assert_eq!(report.is_clean(), *is_note, "{what}");
            assert_eq!(report.is_repaired(), *is_note, "{what}");
        }
        filled.assert_others_are_good(what);
    }
}

#[test]
fn all_damage_at_once_is_repaired_at_once() {
    let filled = Filled::new();
    let mut others = Vec::new();
    // Where there is no folder of locks, there is no bad lock either.
    let together = REPAIRABLE.iter().filter(|(what, _, _)| *what != "locks are a file");
    for (idx, (_, _, damage)) in together.enumerate() {
        // Each damages an entry of its own.
        let one = entry(&format!("graph {idx}"));
        filled.store.put(&one).unwrap();
        let entries = vec![one];
        let folder = tempfile::tempdir_in(filled.folder.path()).unwrap();
        let store = DiskStore::open(filled.store.root()).unwrap();
        let one = Filled { folder, store, entries };
        damage(&one);
        others.push(one);
    }
    let report = filled.verify(&LOOK);
    assert!(report.problems.len() >= REPAIRABLE.len() - 3, "{report:?}");
    let report = filled.verify(&REPAIR);
    assert!(report.is_repaired(), "{report:?}");
    assert!(filled.verify(&LOOK).is_clean());
    assert_eq!(filled.verify(&LOOK).problems, []);
    filled.assert_others_are_good("all at once");
    drop(others);
}

#[test]
fn the_quarantine_is_counted_and_says_why() {
    let filled = Filled::new();
    change(filled.entry().join("model.om"), |bytes| bytes[0] ^= 1);
    let report = filled.verify(&REPAIR);
    let text = report.problems[0].to_string();
    assert!(text.contains("damaged: `") && text.contains("; the entry was moved away"), "{text}");
    assert_eq!(report.problems[0].key, Some(filled.key()));
    assert_eq!(report.quarantined.count, 1);
    assert!(report.quarantined.bytes > num_bytes(&filled.entries[0]));
    let reason = filled.store.layout().quarantine().join(format!("{}.0.reason.txt", filled.key()));
    let reason = fs::read_to_string(reason).unwrap();
    assert!(reason.contains("model.om` does not match the digest"), "{reason}");
    let report = filled.verify(&LOOK);
    assert_eq!((report.quarantined.count, report.problems.len()), (1, 0));
}

#[test]
fn everything_wrong_with_an_entry_is_told() {
    let filled = Filled::new();
    change(filled.entry().join("model.om"), |bytes| bytes[0] ^= 1);
    fs::remove_file(filled.entry().join("io.json")).unwrap();
    write(filled.entry().join("extra"), b"x");
    let kinds = |report: &VerifyReport| -> Vec<_> {
        report.problems.iter().map(|problem| problem.kind).collect()
    };
    let expected = [ProblemKind::Foreign, ProblemKind::Torn, ProblemKind::Damaged];
    assert_eq!(kinds(&filled.verify(&LOOK)), expected);
    let report = filled.verify(&REPAIR);
    assert_eq!(kinds(&report), expected);
    assert!(report.is_repaired());
    assert_eq!(report.quarantined.count, 1, "moved as a whole");
}

#[test]
fn an_entry_is_good_again_without_what_lay_in_it() {
    let filled = Filled::new();
    write(filled.entry().join("extra"), b"x");
    assert!(matches!(filled.store.get(&filled.key()), Lookup::Miss(MissReason::Bad(_))));
    assert!(filled.verify(&REPAIR).is_repaired());
    let expected = Lookup::Hit(Box::new(filled.entries[0].clone()));
    assert_eq!(filled.store.get(&filled.key()), expected);
}

#[test]
fn signatures_are_checked_where_they_are_needed() {
    let (signer, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let keys = KeyRing::parse(&signer.public().to_string()).unwrap();
    let trust = Trust::Signed(keys);
    let filled = Filled::with(DiskOptions { trust, ..DiskOptions::default() });
    let report = filled.verify(&REPAIR);
    let kinds: Vec<_> = report.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [ProblemKind::Untrusted; 3]);
    assert!(report.problems.iter().all(|problem| problem.reason.contains("sign")), "{report:?}");
    for (entry, signer) in filled.entries.iter().zip([&signer, &other, &signer]) {
        let path = filled.store.layout().entry(entry.key()).join(SIGNATURES);
        write(path, signer.sign(entry.manifest_json()).as_bytes());
    }
    let report = filled.verify(&LOOK);
    assert_eq!((report.num_good, report.problems.len()), (2, 1), "{report:?}");
    assert_eq!(report.problems[0].key, Some(*filled.entries[1].key()));
    // Who can write does not matter then.
    fs::set_permissions(filled.entry(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(filled.verify(&LOOK).num_good, 2);
}

#[test]
fn under_trust_in_all_nobody_is_asked_who_can_write() {
    let filled = Filled::with(DiskOptions { trust: Trust::Any, ..DiskOptions::default() });
    fs::set_permissions(filled.entry(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(filled.verify(&LOOK).problems, []);
}

#[test]
fn a_missing_folder_is_an_empty_clean_store() {
    let filled = Filled::new();
    fs::remove_dir_all(filled.store.root()).unwrap();
    for options in [LOOK, REPAIR] {
        assert_eq!(filled.verify(&options), VerifyReport::default());
        assert!(!filled.store.root().exists());
    }
    let access = DiskAccess::ReadOnly;
    let missing = filled.folder.path().join("missing");
    let store =
        DiskStore::open_with(&missing, DiskOptions { access, ..DiskOptions::default() }).unwrap();
    assert!(store.verify(&LOOK).unwrap().is_clean());
    assert!(matches!(store.verify(&REPAIR), Err(StoreError::ReadOnly { .. })));
}

#[test]
fn what_the_living_use_is_not_orphaned() {
    let filled = Filled::new();
    let living = Lease::create(&filled.store.layout().leases()).unwrap();
    write(filled.store.layout().tmp().join(format!("{}.1-2-3/x", living.name())), b"x");
    let wait = Wait { at_most: Duration::ZERO, note: "", progress: &|_, _| {} };
    let lock = filled.store.lock(&filled.key(), &wait);
    assert!(matches!(lock, LockOutcome::Held(_)));
    assert_eq!(filled.verify(&REPAIR).problems, []);
    assert!(filled.store.layout().tmp().join(format!("{}.1-2-3/x", living.name())).exists());
}

#[test]
fn an_entry_that_somebody_is_compiling_is_left_to_them() {
    let filled = Filled::new();
    change(filled.entry().join("model.om"), |bytes| bytes[0] ^= 1);
    let wait = Wait { at_most: Duration::ZERO, note: "a graph", progress: &|_, _| {} };
    let lock = filled.store.lock(&filled.key(), &wait);
    let report = filled.verify(&REPAIR);
    assert!(!report.is_repaired());
    assert!(report.failed[0].contains("is compiling it"), "{report:?}");
    assert!(filled.entry().exists());
    drop(lock);
    assert!(filled.verify(&REPAIR).is_repaired());
}

#[test]
fn progress_is_told_per_entry() {
    let filled = Filled::new();
    let told = RefCell::new(Vec::new());
    let tell = |progress: &VerifyProgress| told.borrow_mut().push(*progress);
    let report = filled.verify(&VerifyOptions { repair: false, progress: Some(&tell) });
    let told = told.into_inner();
    assert_eq!(told.iter().map(|one| one.num_done).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(told.iter().all(|one| (one.num_entries, one.bytes) == (3, report.bytes)));
    assert_eq!(told[2].bytes_done, report.bytes);
}

#[test]
fn entries_that_come_and_go_meanwhile_are_no_problem() {
    let filled = Filled::new();
    let entries: Vec<_> = (0..20).map(|idx| entry(&format!("graph {idx}"))).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let store = DiskStore::open(filled.store.root()).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                for entry in &entries {
                    store.put(entry).unwrap();
                }
                for entry in &entries {
                    store.remove(entry.key()).unwrap();
                }
            }
        });
        for _ in 0..30 {
            let report = filled.verify(&REPAIR);
            assert!(report.problems.is_empty() && report.failed.is_empty(), "{report:?}");
            assert_eq!(report.num_entries, report.num_good);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(filled.verify(&LOOK).quarantined, gc::Tally::default());
}

#[test]
fn an_entry_of_many_chunks_is_digested_whole() {
    let filled = Filled::new();
    let content: Vec<u8> = (0..5_000_001_u32).map(|at| (at % 251) as u8).collect();
    let large = entry_of("large", &[("a", &content), ("b", b""), ("c", &content[..1 << 20])]);
    filled.store.put(&large).unwrap();
    assert_eq!(filled.verify(&LOOK).num_good, 4);
    let path = filled.store.layout().entry(large.key()).join("a");
    for at in [0, 1 << 20, 4_999_999, 5_000_000] {
        change(&path, |bytes| bytes[at] ^= 1);
        assert_eq!(filled.verify(&LOOK).num_good, 3, "{at}");
        change(&path, |bytes| bytes[at] ^= 1);
    }
    assert_eq!(filled.verify(&LOOK).num_good, 4);
}

#[test]
#[ignore = "digests four gibibytes"]
fn an_entry_of_any_size_takes_little_memory() {
    use sha2::{Digest as _, Sha256};
    const BYTES: u64 = 4 << 30;
    let filled = Filled::new();
    let zeros = vec![0; 1 << 20];
    let mut hasher = Sha256::new();
    (0..BYTES >> 20).for_each(|_| hasher.update(&zeros));
    let artifact = Artifact::single("model.om", Vec::new()).unwrap();
    let fields = fields("huge");
    let mut meta = meta("huge");
    meta.fields = fields.clear().to_vec();
    let mut manifest = Manifest::new(fields.key(), &artifact, meta);
    manifest.files[0].bytes = BYTES;
    manifest.files[0].sha256 = crate::digest::Digest::from_bytes(hasher.finalize().into());
    let json = manifest.to_json();
    let key = *fields.key().as_bytes();
    let record = Record { key, manifest: FileDigest::of(&json), artifact_bytes: BYTES };
    let folder = filled.store.layout().entry(&fields.key());
    write(folder.join(RECORD), &codec::encode(&record));
    write(folder.join(MANIFEST), &json);
    write(folder.join("model.om"), b"");
    set_len(folder.join("model.om"), BYTES);
    let report = filled.verify(&LOOK);
    assert_eq!((report.num_good, report.problems.len()), (4, 0), "{report:?}");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 200 << 10, "{peak_kb} kB");
}

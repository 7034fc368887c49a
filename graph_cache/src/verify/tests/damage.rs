//! Damage by its kind: what is done to a store, and what has to be found.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Filled, ProblemKind};
use crate::entry::codec::{self, FORMAT};
use crate::entry::record::{FileDigest, Record};
use crate::entry::{MANIFEST, Manifest, RECORD, SIGNATURES};
use crate::gc::GC_LOCK;
use crate::key::CacheKey;
use crate::testing::make_fifo;

/// What is done to a store; says where trouble is to be found.
pub(super) type Damage = fn(&Filled) -> PathBuf;

/// Trouble that a repair removes.
pub(super) const REPAIRABLE: &[(&str, ProblemKind, Damage)] = &[
    ("record missing", ProblemKind::Torn, |filled| {
        let path = filled.entry().join(RECORD);
        fs::remove_file(&path).unwrap();
        path
    }),
    ("record cut", ProblemKind::Torn, |filled| {
        let path = filled.entry().join(RECORD);
        set_len(&path, 60);
        path
    }),
    ("record empty", ProblemKind::Torn, |filled| {
        let path = filled.entry().join(RECORD);
        set_len(&path, 0);
        path
    }),
    ("manifest missing", ProblemKind::Torn, |filled| {
        let path = filled.entry().join(MANIFEST);
        fs::remove_file(&path).unwrap();
        path
    }),
    ("manifest cut", ProblemKind::Torn, |filled| {
        let path = filled.entry().join(MANIFEST);
        set_len(&path, 10);
        path
    }),
    ("file missing", ProblemKind::Torn, |filled| {
        let path = filled.entry().join("model.om");
        fs::remove_file(&path).unwrap();
        path
    }),
    ("file cut", ProblemKind::Torn, |filled| {
        let path = filled.entry().join("model.om");
        set_len(&path, 3);
        path
    }),
    ("entry empty", ProblemKind::Torn, |filled| {
        fs::remove_dir_all(filled.entry()).unwrap();
        fs::create_dir(filled.entry()).unwrap();
        filled.entry().join(RECORD)
    }),
    ("record flipped", ProblemKind::Damaged, |filled| {
        let path = filled.entry().join(RECORD);
        change(&path, |bytes| *bytes.last_mut().unwrap() ^= 1);
        path
    }),
    ("record zeroed", ProblemKind::Damaged, |filled| {
        let path = filled.entry().join(RECORD);
        change(&path, |bytes| bytes.fill(0));
        path
    }),
    ("manifest flipped", ProblemKind::Damaged, |filled| {
        let path = filled.entry().join(MANIFEST);
        change(&path, |bytes| bytes[20] ^= 1);
        path
    }),
    ("manifest claims another key's fields", ProblemKind::Damaged, |filled| {
        rewrite_manifest(&filled.entry(), |manifest| manifest.meta.fields.truncate(1));
        filled.entry().join(MANIFEST)
    }),
    ("manifest names a path", ProblemKind::Damaged, |filled| {
        rewrite_manifest(&filled.entry(), |manifest| {
            "../x".clone_into(&mut manifest.files[0].name);
        });
        filled.entry().join(MANIFEST)
    }),
    ("file flipped", ProblemKind::Damaged, |filled| {
        let path = filled.entry().join("model.om");
        change(&path, |bytes| bytes[0] ^= 0x80);
        path
    }),
    ("record too long", ProblemKind::Oversized, |filled| {
        let path = filled.entry().join(RECORD);
        set_len(&path, 1 << 40);
        path
    }),
    ("record longer than it says", ProblemKind::Oversized, |filled| {
        let path = filled.entry().join(RECORD);
        change(&path, |bytes| bytes.push(0));
        path
    }),
    ("record of a huge manifest", ProblemKind::Oversized, |filled| {
        rewrite_record(&filled.entry(), |record| record.manifest.bytes = 1 << 40);
        filled.entry().join(RECORD)
    }),
    ("manifest too long", ProblemKind::Oversized, |filled| {
        let path = filled.entry().join(MANIFEST);
        set_len(&path, 1 << 40);
        path
    }),
    ("manifest of a huge artifact", ProblemKind::Oversized, |filled| {
        rewrite_manifest(&filled.entry(), |manifest| manifest.files[0].bytes = 10 << 30);
        filled.entry().join(MANIFEST)
    }),
    ("file of ten gibibytes", ProblemKind::Oversized, |filled| {
        let path = filled.entry().join("model.om");
        set_len(&path, 10 << 30);
        path
    }),
    ("signatures too long", ProblemKind::Oversized, |filled| {
        let path = filled.entry().join(SIGNATURES);
        write(&path, &[b'x'; 1 << 15]);
        path
    }),
    ("entry under another's name", ProblemKind::Misplaced, |filled| {
        let other = filled.store.layout().entry(&CacheKey::from_bytes([7; 32]));
        fs::create_dir_all(other.parent().unwrap()).unwrap();
        fs::rename(filled.entry(), &other).unwrap();
        other.join(RECORD)
    }),
    ("entry in a wrong shard", ProblemKind::Misplaced, |filled| {
        let shard = filled.store.layout().entries().join("00");
        fs::create_dir_all(&shard).unwrap();
        let other = shard.join(filled.key().to_string());
        fs::rename(filled.entry(), &other).unwrap();
        other
    }),
    ("entry in no shard", ProblemKind::Misplaced, |filled| {
        let other = filled.store.layout().entries().join(filled.key().to_string());
        fs::rename(filled.entry(), &other).unwrap();
        other
    }),
    ("entry under a name of its own", ProblemKind::Misplaced, |filled| {
        let other = filled.entry().with_file_name("backup of my entry");
        fs::rename(filled.entry(), &other).unwrap();
        other
    }),
    ("record of an older format", ProblemKind::OldFormat, |filled| {
        record_of_format(&filled.entry(), FORMAT - 1);
        filled.entry().join(RECORD)
    }),
    ("file is a link", ProblemKind::Foreign, |filled| {
        let path = filled.entry().join("model.om");
        fs::rename(&path, filled.folder.path().join("elsewhere")).unwrap();
        symlink(filled.folder.path().join("elsewhere"), &path).unwrap();
        path
    }),
    ("file is a fifo", ProblemKind::Foreign, |filled| {
        let path = filled.entry().join("model.om");
        fs::remove_file(&path).unwrap();
        make_fifo(&path);
        path
    }),
    ("record is a folder", ProblemKind::Foreign, |filled| {
        let path = filled.entry().join(RECORD);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        path
    }),
    ("signatures are a link", ProblemKind::Foreign, |filled| {
        let path = filled.entry().join(SIGNATURES);
        symlink("/etc/passwd", &path).unwrap();
        path
    }),
    ("one file too many", ProblemKind::Foreign, |filled| {
        let path = filled.entry().join(".model.om.swp");
        write(&path, b"x");
        path
    }),
    ("entry is a file", ProblemKind::Foreign, |filled| {
        fs::remove_dir_all(filled.entry()).unwrap();
        write(filled.entry(), b"x");
        filled.entry()
    }),
    ("entry is a link to an entry", ProblemKind::Foreign, |filled| {
        let elsewhere = filled.folder.path().join("elsewhere");
        fs::rename(filled.entry(), &elsewhere).unwrap();
        symlink(elsewhere, filled.entry()).unwrap();
        filled.entry()
    }),
    ("foreign folder in a shard", ProblemKind::Foreign, |filled| {
        let path = filled.entry().with_file_name("a folder");
        write(path.join("deeper/file"), b"x");
        path
    }),
    ("foreign file among the shards", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().entries().join("README");
        write(&path, b"x");
        path
    }),
    ("shard is a link", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().entries().join("zz");
        symlink("/etc", &path).unwrap();
        path
    }),
    ("foreign name in tmp", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().tmp().join("my file");
        write(&path, b"x");
        path
    }),
    ("foreign file among the locks", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().locks().join("apt.lock");
        write(&path, b"x");
        path
    }),
    ("folder among the leases", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().leases().join("a folder");
        fs::create_dir_all(&path).unwrap();
        path
    }),
    ("foreign name among the starts", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().starts().join("first");
        write(&path, b"x");
        path
    }),
    ("pin of nothing that could be an entry", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().pins().join("qwen");
        write(&path, b"");
        path
    }),
    ("link in the folder of the format", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().version().join("current");
        symlink("entries", &path).unwrap();
        path
    }),
    ("locks are a file", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().locks();
        fs::remove_dir_all(&path).unwrap();
        write(&path, b"x");
        path
    }),
    ("collector's lock is a link", ProblemKind::Foreign, |filled| {
        let path = filled.store.layout().version().join(GC_LOCK);
        symlink("/etc/passwd", &path).unwrap();
        path
    }),
    ("draft of the dead", ProblemKind::Orphaned, |filled| {
        let path = filled.store.layout().tmp().join("host-1-2-3.4-5-6");
        write(path.join("model.om"), b"x");
        path
    }),
    ("lease of the dead", ProblemKind::Orphaned, |filled| {
        let path = filled.store.layout().leases().join("host-1-2-3");
        write(&path, b"beat 000000000042\n");
        path
    }),
    ("lock of the dead", ProblemKind::Orphaned, |filled| {
        let path = filled.store.layout().lock(&filled.key());
        write(&path, b"");
        let old = SystemTime::now() - Duration::from_hours(2);
        fs::File::open(&path).unwrap().set_modified(old).unwrap();
        path
    }),
    ("reason without its thing", ProblemKind::Orphaned, |filled| {
        let path = filled.store.layout().quarantine().join("x.0.reason.txt");
        write(&path, b"x");
        path
    }),
    ("folder of an older format", ProblemKind::OldFormat, |filled| {
        let path = filled.store.root().join("v1");
        write(path.join("entries/x"), b"x");
        path
    }),
];

/// What a repair leaves alone; and whether it is only a note.
pub(super) const LEFT_ALONE: &[(&str, ProblemKind, bool, Damage)] = &[
    ("folder of a newer format", ProblemKind::NewFormat, true, |filled| {
        let path = filled.store.root().join("v3");
        write(path.join("entries/x"), b"x");
        path
    }),
    ("record of a newer format", ProblemKind::NewFormat, true, |filled| {
        record_of_format(&filled.entry(), FORMAT + 1);
        filled.entry().join(RECORD)
    }),
    ("foreign file in the top folder", ProblemKind::Foreign, true, |filled| {
        let path = filled.store.root().join("thesis.tex");
        write(&path, b"x");
        path
    }),
    ("pin of an absent entry", ProblemKind::Orphaned, true, |filled| {
        let path = filled.store.layout().pin(&CacheKey::from_bytes([7; 32]));
        write(&path, b"");
        path
    }),
    ("file that others can write to", ProblemKind::Untrusted, false, |filled| {
        let path = filled.entry().join("model.om");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        path
    }),
    ("entry that others can write to", ProblemKind::Untrusted, false, |filled| {
        fs::set_permissions(filled.entry(), fs::Permissions::from_mode(0o770)).unwrap();
        filled.entry()
    }),
    ("store that others can write to", ProblemKind::Untrusted, false, |filled| {
        let path = filled.store.layout().tmp();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path
    }),
];

pub(super) fn write(path: impl AsRef<Path>, content: &[u8]) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(super) fn change(path: impl AsRef<Path>, how: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(&path).unwrap();
    how(&mut content);
    fs::write(path, content).unwrap();
}

pub(super) fn set_len(path: impl AsRef<Path>, bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Replaces a record by one that is right in itself.
fn rewrite_record(entry: &Path, how: impl FnOnce(&mut Record)) {
    let path = entry.join(RECORD);
    let mut record = codec::decode(&fs::read(&path).unwrap()).unwrap();
    how(&mut record);
    fs::write(path, codec::encode(&record)).unwrap();
}

/// Replaces a manifest by another one that the record vouches for.
fn rewrite_manifest(entry: &Path, how: impl FnOnce(&mut Manifest)) {
    let path = entry.join(MANIFEST);
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    how(&mut manifest);
    let json = manifest.to_json();
    fs::write(path, &json).unwrap();
    let artifact_bytes = manifest.num_artifact_bytes();
    rewrite_record(entry, |record| {
        *record = Record { manifest: FileDigest::of(&json), artifact_bytes, ..record.clone() };
    });
}

/// A record of another format, whole.
fn record_of_format(entry: &Path, format: u32) {
    use sha2::{Digest as _, Sha256};
    change(entry.join(RECORD), |bytes| {
        bytes[8..12].copy_from_slice(&format.to_le_bytes());
        let digest = Sha256::new().chain_update(&bytes[..16]).chain_update(&bytes[48..]).finalize();
        bytes[16..48].copy_from_slice(&digest);
    });
}

//! Stores with very many entries, and entries that say that they are huge.
//!
//! `CAIRN_LARGE_ENTRIES` says how many entries (20,000 by default).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use cairn_graph_cache::{DiskStore, GcOptions, KeyFields, MissReason, Origin, Store as _};
use common::{
    ARTIFACT_FILES, ask, assert_bad, childs_path, entry_folder, entry_of, fields, forge, new_root,
    new_root_in_memory, number_from, open, skipped, this_program,
};

const ROOT: &str = "CAIRN_LARGE_ROOT";
const ENTRIES: &str = "CAIRN_LARGE_ENTRIES";
/// System calls by which two runs of one program may differ, for reasons of their own.
const FEW: usize = 60;

#[test]
#[ignore = "run by another test as a process of its own, of which the system calls are counted"]
fn opening() {
    let Some(root) = childs_path(ROOT) else { return };
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

/// A store of the one entry that is asked for and as many others, of which nothing is looked at but
/// that they are there.
fn fill(root: &Path, num_entries: u64) {
    ask(&open(root));
    for number in 0..num_entries {
        let key = KeyFields::new().text("number", number.to_string()).key();
        let entry = entry_of(root, &key);
        let _ = fs::create_dir(entry.parent().unwrap());
        fs::create_dir(&entry).unwrap();
    }
}

/// The system calls of a process that opens the store and reads one entry; `None` where they cannot
/// be counted.
fn num_calls(root: &Path) -> Option<usize> {
    let trace = root.with_extension("trace");
    let program = this_program("opening");
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        // Those that have to do with files; how often threads wait for each other is chance.
        .args(["-e", "trace=%file,getdents64,read,pread64,write,close,flock"])
        .arg(program.get_program())
        .args(program.get_args())
        .env(ROOT, root)
        .output();
    let output = traced.ok()?;
    let was_traced =
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed");
    was_traced.then(|| fs::read_to_string(trace).unwrap().lines().count())
}

#[test]
fn opening_and_reading_take_as_many_steps_with_many_entries_as_with_few() {
    let num_entries = number_from(ENTRIES).unwrap_or(20_000);
    let ((_few, few), (_many, many)) = (new_root_in_memory(), new_root_in_memory());
    fill(&few, 10);
    fill(&many, num_entries);
    let (Some(of_few), Some(of_many)) = (num_calls(&few), num_calls(&many)) else {
        return skipped("system calls cannot be counted here, for want of strace");
    };
    assert!(of_few > 100, "{of_few} calls: that was not all of them");
    assert!(
        of_few.abs_diff(of_many) <= FEW,
        "{of_few} calls with 10 entries, {of_many} with {num_entries}"
    );
}

#[test]
fn many_entries_are_listed_and_evicted() {
    let num_entries = number_from(ENTRIES).unwrap_or(20_000);
    let (_folder, root) = new_root_in_memory();
    fill(&root, num_entries);
    let disk = DiskStore::open(&root).unwrap();
    let keys = disk.list().unwrap();
    assert_eq!(keys.len() as u64, num_entries + 1);
    assert!(keys.is_sorted());
    // Empty entries take no room, so the one that does is the one that is in the way of nothing.
    let report = disk.gc(&GcOptions { max_bytes: Some(1 << 20), dry_run: false }).unwrap();
    assert_eq!(report.num_entries as u64, num_entries + 1);
    assert_eq!(report.evicted, []);
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

/// Makes a file look as large as this, of which nothing is written.
fn stretch(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Says of the artifact's first file that it has so many bytes.
fn claim(root: &Path, bytes: u64) {
    forge::change_manifest(&entry_folder(root), &fields().key(), |manifest| {
        manifest["files"][0]["bytes"] = bytes.into();
    });
}

#[test]
#[ignore = "run by another test as a process of its own, which has little memory"]
fn with_little_memory() {
    const TERABYTE: u64 = 1 << 40;
    let Some(root) = childs_path(ROOT) else { return };
    ask(&open(&root));
    let store = DiskStore::open(&root).unwrap();
    let key = fields().key();
    let entry = entry_folder(&root);
    for name in ["record.bin", "manifest.json", ARTIFACT_FILES[0]] {
        let path = entry.join(name);
        let good = fs::read(&path).unwrap();
        for bytes in [1 << 31, TERABYTE] {
            stretch(&path, bytes);
            assert_bad(&store, &key, &format_args!("{name} of {bytes} bytes"));
        }
        fs::write(&path, good).unwrap();
    }
    // The manifest says so, too; what is there is short, or as long as it says, or something else.
    for claimed in [4 << 30, (4 << 30) - 2, (4 << 30) + 1, TERABYTE, 1 << 63, u64::MAX] {
        claim(&root, claimed);
        for bytes in [0, 25, TERABYTE] {
            stretch(&entry.join(ARTIFACT_FILES[0]), bytes);
            assert_bad(&store, &key, &format_args!("{claimed} bytes claimed, {bytes} there"));
        }
    }
    // A record of which the manifest is said to be huge.
    let manifest = vec![b' '; 17 << 20];
    fs::write(entry.join("manifest.json"), &manifest).unwrap();
    fs::write(entry.join("record.bin"), forge::record(2, &key, &manifest, 27)).unwrap();
    assert_bad(&store, &key, &"a manifest of 17 MiB");
    let outcome = ask(&open(&root));
    assert!(matches!(outcome.miss, Some(MissReason::Bad(_))), "{outcome:?}");
    assert_eq!(ask(&open(&root)).origin, Origin::Cache);
}

#[test]
fn nobody_believes_how_large_an_entry_says_that_it_is() {
    let (_folder, root) = new_root();
    let program = this_program("with_little_memory");
    // 1 GiB of addresses, for a process that needs a tenth of that.
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 1048576 && exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .env(ROOT, &root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{told}");
}

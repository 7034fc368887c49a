//! `cairn cache` from outside, with a tiny model: every subcommand, what it says and what it leaves.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `looking` | `ls`, `show`, `path`, `explain`: nothing changes |
//! | `order` | `verify`, `gc`, `rm`, `pin`, `unpin`, `quarantine` |
//! | `carrying` | `export`, `import`, `push`, `pull` |
//! | `remote` | an object store in all that (feature `remote`) |
//! | `trust` | `keygen`, `sign`, and who is believed |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "cache_cli/carrying.rs"]
mod carrying;
#[path = "common/deployment.rs"]
mod deployment;
#[path = "cache_cli/looking.rs"]
mod looking;
#[path = "cache_cli/order.rs"]
mod order;
#[cfg(feature = "remote")]
#[path = "cache_cli/remote.rs"]
mod remote;
#[path = "cache_cli/trust.rs"]
mod trust;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use deployment::{Deployment, Ended};
use serde_json::Value;

const GENERATE: [&str; 6] = ["generate", "model", "--prompt", "hello", "--max-tokens", "4"];

/// A deployment whose cache holds what its model needs: a graph, and the request that names it.
fn warm() -> Deployment {
    let deployment = Deployment::new();
    assert_eq!(deployment.run(&["warmup", "model"]).code, 0);
    deployment
}

/// The program's `cache` command.
fn cache(deployment: &Deployment, args: &[&str]) -> Ended {
    deployment.run(&[&["cache"], args].concat())
}

/// The same, which must succeed.
fn succeeds(deployment: &Deployment, args: &[&str]) -> Ended {
    let ended = cache(deployment, args);
    assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
    ended
}

/// The same, which must fail with these words.
fn fails(deployment: &Deployment, args: &[&str], words: &str) -> Ended {
    let ended = cache(deployment, args);
    assert_eq!(ended.code, 1, "{args:?}: {ended:?}");
    assert!(ended.stderr.contains(words), "{args:?}: {words}: {ended:?}");
    ended
}

/// The entries of a folder, as `ls` tells them.
fn entries(deployment: &Deployment, folder: &str) -> Vec<Value> {
    let listed = deployment.json(&["cache", "ls", "--json", "--cache-dir", folder]);
    listed["stores"][0]["entries"].as_array().unwrap().clone()
}

/// The keys of those of a kind.
fn keys(deployment: &Deployment, kind: &str) -> Vec<String> {
    let entries = entries(deployment, "cache/graphs");
    let of_kind = entries.iter().filter(|entry| entry["kind"] == kind);
    of_kind.map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
}

/// The one key of a graph.
fn graph_key(deployment: &Deployment) -> String {
    let mut keys = keys(deployment, "graph");
    assert_eq!(keys.len(), 1);
    keys.remove(0)
}

/// The folder of an entry.
fn folder_of(deployment: &Deployment, key: &str) -> PathBuf {
    PathBuf::from(succeeds(deployment, &["path", key]).stdout.trim_end())
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The artifact of an entry: whatever is no file of the entry's own.
fn artifact(entry: &Path) -> PathBuf {
    let own = ["record.bin", "manifest.json", "manifest.sig"];
    let files = fs::read_dir(entry).unwrap().map(|file| file.unwrap().path());
    let mut files =
        files.filter(|path| !own.contains(&path.file_name().unwrap().to_str().unwrap()));
    files.next().unwrap()
}

/// Everything below a folder: what it is, when it was changed, and what is in it.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).into_iter().flatten() {
            let path = item.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path.clone(), (metadata.modified().unwrap(), content));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

#[test]
fn the_bench_of_the_cache_measures_every_figure() {
    let deployment = Deployment::new();
    let args = ["bench", "cache", "--entries", "101", "--artifact-bytes", "64KiB", "--runs", "2"];
    let place = ["--cache-dir", ".", "--json"];
    let report = deployment.json(&[&args[..], &place].concat());
    let results = &report["results"];
    for figure in [
        &results["few"]["lookup_p50_seconds"],
        &results["many"]["lookup_p99_seconds"],
        &results["many"]["open_seconds"],
        &results["put_bytes_per_second"],
        &results["load_share_of_sha256"],
    ] {
        assert_eq!(figure["samples"].as_array().unwrap().len(), 2, "{report}");
        assert!(figure["median"].as_f64().unwrap() > 0.0, "{report}");
    }
    // Nothing of it is left, and nothing came into the user's cache.
    let left = fs::read_dir(deployment.path("")).unwrap().map(|item| item.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["model"]);
    let ended = deployment.run(&["bench", "cache", "--artifact-bytes", "5GiB"]);
    assert_eq!(ended.code, 2, "{ended:?}");
}

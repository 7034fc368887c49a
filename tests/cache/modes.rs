//! What may be done with the cache, and what lies below it: modes and layers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use super::deployment::Deployment;
use super::{GENERATE, entries};

/// Somebody who is neither this user nor root.
const SOMEBODY: u32 = 65_534;

/// Everything below a folder: kind and mode, size, and when it was changed.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (u32, u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let size = if metadata.is_dir() { 0 } else { metadata.len() };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (metadata.mode(), size, metadata.modified().unwrap()));
        }
    }
    found
}

fn generate(deployment: &Deployment, flags: &[&str]) -> super::deployment::Ended {
    deployment.run(&[&GENERATE[..], flags].concat())
}

const REQUIRE: [&str; 4] = ["--cache-mode", "require", "--log-level", "info"];

#[test]
fn require_fails_before_any_work_and_says_what_is_missing() {
    let deployment = Deployment::new();
    for command in [&GENERATE[..], &["warmup", "model"], &["bench", "latency", "model"]] {
        let args = [command, &REQUIRE].concat();
        let stderr = deployment.failure(&args);
        for words in [
            "error: 1 of 1 graphs are not in the cache, which is required to have them:",
            "  any size: not in the cache; there is no other entry to compare with",
            "hint: `cairn warmup --cache-mode rw` with the same model and settings",
        ] {
            assert!(stderr.contains(words), "{words}: {stderr}");
        }
        // Neither compiled, nor got as far as having placed the weights.
        assert!(!stderr.contains("compiling") && !stderr.contains("graph cache:"), "{stderr}");
    }
    assert_eq!(entries(&deployment.path("cache/graphs")).len(), 0);
}

#[test]
fn require_names_the_field_that_differs_with_both_values() {
    let deployment = Deployment::new();
    let is_static = ["--static-shapes", "--max-num-batched-tokens", "4", "--max-num-seqs", "2"];
    deployment.run(&[&["warmup", "model"], &is_static[..]].concat());
    let [0, num_graphs] = generate(&deployment, &[&is_static[..], &REQUIRE].concat()).graphs()
    else {
        panic!("all graphs are there");
    };
    assert!(num_graphs > 1);

    let flags = [&is_static[..], &REQUIRE, &["--dtype", "bf16"]].concat();
    let stderr = deployment.failure(&[&GENERATE[..], &flags].concat());
    let count = |words: &str| stderr.matches(words).count();
    assert_eq!(count(&format!("{num_graphs} of {num_graphs} graphs are not")), 1, "{stderr}");
    assert_eq!(count(" sequences: not in the cache; "), num_graphs, "{stderr}");
    let differs = "; graph.weights is bf16 f32, the nearest entry has f32; graph is ";
    assert_eq!(count(differs), num_graphs, "{stderr}");
}

#[test]
fn read_only_finds_what_is_there_compiles_what_is_not_and_writes_nothing() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model"]);
    let before = listing(deployment.path("cache").as_path());
    for (flags, graphs) in [
        (&["--cache-mode", "ro"][..], [0, 1]),
        (&["--cache-mode", "ro", "--dtype", "bf16"], [1, 0]),
        (&["--cache-mode", "ro", "--dtype", "bf16"], [1, 0]),
    ] {
        let ended = generate(&deployment, flags);
        assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, graphs, false), "{ended:?}");
        assert_eq!(listing(deployment.path("cache").as_path()), before, "{flags:?}");
    }
    // Looking for graphs changes nothing either, in any mode.
    deployment.run(&["warmup", "model", "--verify"]);
    assert_eq!(listing(deployment.path("cache").as_path()), before);
}

#[test]
fn read_only_makes_no_folder() {
    let deployment = Deployment::new();
    let ended = generate(&deployment, &["--cache-mode", "ro"]);
    assert_eq!((ended.code, ended.graphs()), (0, [1, 0]), "{ended:?}");
    assert!(!deployment.path("cache").exists());
}

#[test]
fn off_touches_nothing() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model"]);
    let before = listing(&deployment.path("cache"));
    for flag in [&["--cache-mode", "off"][..], &["--no-cache"]] {
        let ended = generate(&deployment, flag);
        assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [1, 0], false), "{ended:?}");
        assert_eq!(listing(&deployment.path("cache")), before);
    }
}

/// Makes a folder and all in it such that nobody can write to it, and, where this user may, such
/// that it belongs to somebody else.
fn seal(folder: &Path) {
    for (path, (mode, ..)) in listing(folder) {
        fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o7555 | 0o444)).unwrap();
        // Only root may give things away.
        let _ = chown(&path, Some(SOMEBODY), Some(SOMEBODY));
    }
    fs::set_permissions(folder, PermissionsExt::from_mode(0o555)).unwrap();
    let _ = chown(folder, Some(SOMEBODY), Some(SOMEBODY));
}

fn unseal(folder: &Path) {
    // Inner folders open only after the outer ones.
    fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            unseal(&path);
        }
    }
}

#[test]
fn what_an_image_brings_along_is_used_and_copied() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model", "--cache-dir", "image"]);
    let image = deployment.path("image");
    seal(&image);
    let before = listing(&image);

    let ended = generate(&deployment, &["--cache-layer", "image"]);
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [0, 1], false), "{ended:?}");
    assert_eq!(listing(&image), before);
    // It was copied, and is found without the image from now on.
    let ended = generate(&deployment, &[]);
    assert_eq!((ended.graphs(), ended.warns()), ([0, 1], false), "{ended:?}");
    // Also where nothing can be compiled or kept.
    let flags = ["--cache-layer", "image", "--cache-mode", "require", "--cache-dir", "empty"];
    assert_eq!(generate(&deployment, &flags).graphs(), [0, 1]);
    unseal(&image);
}

#[test]
fn the_first_layer_that_has_it_is_asked_and_one_that_is_of_no_use_is_left_out() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model", "--cache-dir", "image"]);
    fs::write(deployment.path("file"), "").unwrap();
    let ended = generate(&deployment, &["--cache-layer", "file,image"]);
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [0, 1], true), "{ended:?}");
}

#[test]
fn a_model_that_moved_asks_for_the_same() {
    let deployment = Deployment::new();
    let before = deployment.json(&["warmup", "model", "--json"]);
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    fs::rename(deployment.path("model"), deployment.path("elsewhere/renamed")).unwrap();
    let after = deployment.json(&["warmup", "elsewhere/renamed", "--json"]);
    assert_eq!(after["request"], before["request"]);
    assert_eq!(after["graphs"][0]["key"], before["graphs"][0]["key"]);
    assert_eq!(after["from_cache"], json!(1));
}

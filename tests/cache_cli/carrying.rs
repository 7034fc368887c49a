//! Commands that carry entries elsewhere.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::deployment::Deployment;
use super::{
    GENERATE, artifact, cache, entries, fails, flip, folder_of, graph_key, keys, succeeds, warm,
};

/// What a folder's entries are, but for when they were used.
fn identities(deployment: &Deployment, folder: &str) -> Vec<(Value, Value)> {
    let mut found: Vec<_> = entries(deployment, folder)
        .into_iter()
        .map(|entry| (entry["key"].clone(), entry["bytes"].clone()))
        .collect();
    found.sort_by_key(|(key, _)| key.to_string());
    found
}

#[test]
fn what_was_exported_is_imported_and_hits() {
    let deployment = warm();
    let ended = succeeds(&deployment, &["export", "one.tar.zst"]);
    assert!(ended.stderr.starts_with("2 entries, "), "{ended:?}");
    succeeds(&deployment, &["export", "two.tar.zst"]);
    let read = |name: &str| fs::read(deployment.path(name)).unwrap();
    assert_eq!(read("one.tar.zst"), read("two.tar.zst"));

    let to = ["--cache-dir", "new"];
    let report =
        deployment.json(&[&["cache", "import", "one.tar.zst", "--json"], &to[..]].concat());
    assert_eq!(
        (&report["files"][0]["new"], &report["files"][0]["already_there"]),
        (&2.into(), &0.into())
    );
    assert_eq!(identities(&deployment, "new"), identities(&deployment, "cache/graphs"));
    let ended = deployment.run(&[&GENERATE[..], &to].concat());
    assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{ended:?}");
    let ended = succeeds(&deployment, &[&["import", "two.tar.zst"], &to[..]].concat());
    assert!(ended.stderr.contains("0 new, 0 bytes; 2 there already"), "{ended:?}");
}

#[test]
fn an_export_holds_what_was_named() {
    let deployment = warm();
    let key = graph_key(&deployment);
    deployment.run(&["warmup", "model", "--dtype", "bf16"]);
    for (file, args, count) in [
        ("one.zst", &[&key[..8]][..], 1),
        ("needed.zst", &["--model", "model"], 2),
        ("all.zst", &[], 4),
    ] {
        succeeds(&deployment, &[&["export", file], args].concat());
        let folder = format!("from-{file}");
        succeeds(&deployment, &["import", file, "--cache-dir", &folder]);
        assert_eq!(entries(&deployment, &folder).len(), count, "{file}");
    }
    fails(&deployment, &["export", "x", "--model", "model", "--block-size", "32"], "cannot export");
    assert!(!deployment.path("x").exists());
}

#[test]
fn an_archive_goes_through_a_pipe() {
    let deployment = warm();
    let exported = deployment.process(&["cache", "export", "-"]).output().unwrap();
    assert!(exported.status.success());
    let mut import = deployment.command(&["cache", "import", "-", "--cache-dir", "new"]);
    let imported = import.write_stdin(exported.stdout).output().unwrap();
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(identities(&deployment, "new"), identities(&deployment, "cache/graphs"));
}

#[test]
fn a_bad_archive_is_refused_and_what_was_good_before_stays() {
    let deployment = warm();
    succeeds(&deployment, &["export", "good"]);
    let good = fs::read(deployment.path("good")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"this is no archive".to_vec()),
        ("cut", good[..good.len() / 2].to_vec()),
        ("flipped", flipped),
        ("longer", longer),
    ] {
        fs::write(deployment.path(name), bytes).unwrap();
        let to = format!("to-{name}");
        let args = ["import", name, "--cache-dir", &to];
        let ended = fails(&deployment, &args, &format!("importing `{name}`"));
        assert!(ended.stderr.contains("hint: "), "{ended:?}");
        succeeds(&deployment, &["verify", "--cache-dir", &to]);
    }
    fails(&deployment, &["import", "missing"], "importing `missing`");
    // The file after the bad one is not looked at, the one before it is in.
    let args = ["import", "good", "cut", "good", "--cache-dir", "new", "--json"];
    let ended = fails(&deployment, &args, "importing `cut`");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["files"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(entries(&deployment, "new").len(), 2);
}

#[test]
fn an_export_of_a_bad_entry_leaves_no_file() {
    let deployment = warm();
    flip(&artifact(&folder_of(&deployment, &graph_key(&deployment))));
    fs::create_dir(deployment.path("out")).unwrap();
    fs::write(deployment.path("out/file"), "before").unwrap();
    let ended = fails(&deployment, &["export", "out/file"], "cannot export entry");
    assert!(ended.stderr.contains("hint: `cairn cache verify --repair`"), "{ended:?}");
    assert_eq!(fs::read(deployment.path("out/file")).unwrap(), b"before");
    assert_eq!(fs::read_dir(deployment.path("out")).unwrap().count(), 1);
    fails(&deployment, &["export", "nowhere/file", &keys(&deployment, "request")[0]], "nowhere");
}

#[test]
fn a_folder_is_a_place_to_push_to_and_to_pull_from() {
    let deployment = warm();
    let report = deployment.json(&["cache", "push", "shared", "--json"]);
    assert_eq!((&report["new"], &report["already_there"]), (&2.into(), &0.into()), "{report}");
    let report = deployment.json(&["cache", "push", "shared", "--json"]);
    assert_eq!((&report["new"], &report["already_there"]), (&0.into(), &2.into()), "{report}");
    let report = deployment.json(&["cache", "push", "shared", "--json", "--again"]);
    assert_eq!(report["new"], 2, "{report}");
    assert_eq!(identities(&deployment, "shared"), identities(&deployment, "cache/graphs"));

    let key = graph_key(&deployment);
    let url = format!("file://{}", deployment.path("shared").display());
    let ended = succeeds(&deployment, &["pull", &url, &key[..6], "--cache-dir", "new"]);
    assert!(ended.stderr.starts_with("1 entry, "), "{ended:?}");
    succeeds(&deployment, &["pull", &url, "--cache-dir", "new"]);
    let ended = deployment.run(&[&GENERATE[..], &["--cache-dir", "new"]].concat());
    assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{ended:?}");
    fails(&deployment, &["pull", "shared", "000000"], "no entry has a key that begins");
}

#[test]
fn only_what_a_model_needs_is_pushed_and_bad_entries_are_not() {
    let deployment = warm();
    let key = graph_key(&deployment);
    deployment.run(&["warmup", "model", "--dtype", "bf16"]);
    succeeds(&deployment, &["push", "shared", "--model", "model"]);
    assert_eq!(entries(&deployment, "shared").len(), 2);
    flip(&artifact(&folder_of(&deployment, &key)));
    let ended = fails(&deployment, &["push", "elsewhere"], "does not match its digest");
    assert!(ended.stderr.contains(&key), "{ended:?}");
    // A bad entry at the place is replaced.
    let ended = succeeds(&deployment, &["pull", "shared"]);
    assert!(ended.stderr.starts_with("1 entry, "), "{ended:?}");
    succeeds(&deployment, &["verify"]);
}

#[test]
fn a_layer_is_pulled_from_as_it_is_needed() {
    let deployment = warm();
    let args = ["--cache-dir", "new", "--cache-layer", "cache/graphs"];
    let ended = deployment.run(&[&GENERATE[..], &args].concat());
    assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{ended:?}");
    assert!(entries(&deployment, "new").iter().any(|entry| entry["kind"] == "graph"));
}

#[test]
fn places_that_are_none_are_wrong_usage() {
    let deployment = warm();
    for command in ["push", "pull"] {
        let ended = cache(&deployment, &[command, "gs://bucket/prefix"]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("`s3://BUCKET/PREFIX`"), "{ended:?}");
    }
}

#[test]
#[cfg(not(feature = "remote"))]
fn a_build_without_object_stores_says_how_to_get_one() {
    let deployment = warm();
    let ended = fails(&deployment, &["push", "s3://bucket/prefix"], "this build can reach none");
    assert!(ended.stderr.contains("--features remote"), "{ended:?}");
    let args = [&GENERATE[..], &["--cache-layer", "s3://bucket/prefix"]].concat();
    assert_eq!(deployment.run(&args).code, 1);
}

#[test]
fn a_reader_that_leaves_makes_an_export_fail() {
    let deployment = warm();
    let mut child = deployment
        .process(&["cache", "export", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

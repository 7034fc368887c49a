//! Commands that only look.

use std::fs;

use serde_json::{Value, json};

use super::deployment::Deployment;
use super::{
    artifact, cache, entries, everything, fails, flip, folder_of, graph_key, keys, succeeds, warm,
};

#[test]
fn entries_are_listed_with_what_they_are() {
    let deployment = warm();
    let (graph, request) = (graph_key(&deployment), keys(&deployment, "request"));
    assert_eq!(request.len(), 1);
    let entries = entries(&deployment, "cache/graphs");
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        assert!(entry["bytes"].as_u64().unwrap() > 100, "{entry}");
        assert!(entry["last_used_unix_s"].as_u64().unwrap() > 1_000_000_000, "{entry}");
        assert!(entry["producer"].as_str().unwrap().starts_with("cairn "), "{entry}");
        assert_eq!((&entry["is_pinned"], &entry["is_in_use"]), (&json!(false), &json!(false)));
    }
    let ended = succeeds(&deployment, &["ls"]);
    let row = ended.stdout.lines().find(|line| line.starts_with(&graph[..12])).unwrap();
    assert!(row.contains("  graph  "), "{row}");
    assert!(ended.stderr.starts_with("2 entries, "), "{ended:?}");
}

#[test]
fn looking_changes_nothing() {
    let deployment = warm();
    let key = graph_key(&deployment);
    let before = everything(&deployment.path("cache"));
    for args in [
        &["ls"][..],
        &["show", &key],
        &["path", &key],
        &["explain", "model"],
        &["verify"],
        &["quarantine"],
        &["gc", "--max-bytes", "1", "--dry-run"],
        &["export", "-"],
    ] {
        let output = deployment.process(&[&["cache"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(everything(&deployment.path("cache")), before, "{args:?}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_empty_and_stays_away() {
    let deployment = Deployment::new();
    for args in [&["ls"][..], &["verify"], &["quarantine"], &["explain", "model"]] {
        succeeds(&deployment, args);
    }
    assert!(succeeds(&deployment, &["ls"]).stderr.starts_with("0 entries, 0 bytes in "));
    fails(&deployment, &["export", "file"], "there is nothing to export");
    assert!(!deployment.path("cache").exists());
    assert!(!deployment.path("file").exists());
}

#[test]
fn layers_are_listed_after_the_folder() {
    let deployment = warm();
    let args = ["cache", "ls", "--json", "--cache-dir", "new", "--cache-layer", "cache/graphs"];
    let listed = deployment.json(&args);
    let stores = listed["stores"].as_array().unwrap();
    let sizes = stores.iter().map(|store| store["entries"].as_array().unwrap().len());
    assert_eq!(sizes.collect::<Vec<_>>(), [0, 2]);
    assert!(stores[1]["place"].as_str().unwrap().ends_with("cache/graphs"), "{listed}");
    let key = graph_key(&deployment);
    let place = ["--cache-dir", "new", "--cache-layer", "cache/graphs"];
    let ended = succeeds(&deployment, &[&["show", &key[..8]], &place[..]].concat());
    assert!(ended.stdout.contains(&key), "{ended:?}");
}

#[test]
fn an_entry_says_what_it_is() {
    let deployment = warm();
    let key = graph_key(&deployment);
    let shown = succeeds(&deployment, &["show", &key[..6]]).stdout;
    for words in [&key, "producer", "fields of the key:", "  backend ", "files:"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let json = deployment.json(&["cache", "show", "--json", &key]);
    let manifest = fs::read(folder_of(&deployment, &key).join("manifest.json")).unwrap();
    assert_eq!(json, serde_json::from_slice::<Value>(&manifest).unwrap());
    // Capital letters are the same digits.
    succeeds(&deployment, &["show", &key[..10].to_uppercase()]);
}

#[test]
fn a_bad_entry_is_listed_as_one_and_not_shown() {
    let deployment = warm();
    let key = graph_key(&deployment);
    flip(&folder_of(&deployment, &key).join("manifest.json"));
    let ended = succeeds(&deployment, &["ls"]);
    let row = ended.stdout.lines().find(|line| line.starts_with(&key[..12])).unwrap();
    assert!(row.contains("  bad  "), "{ended:?}");
    assert!(ended.stderr.contains("1 not readable"), "{ended:?}");
    fails(&deployment, &["show", &key[..6]], "does not match its digest");
}

#[test]
fn keys_that_name_nothing_or_too_much_are_told() {
    let deployment = warm();
    let ended = fails(&deployment, &["show", "000000"], "no entry has a key that begins");
    assert!(ended.stderr.contains("hint: `cairn cache ls`"), "{ended:?}");
    let unknown = "0".repeat(64);
    fails(&deployment, &["show", &unknown], "not in the cache");
    fails(&deployment, &["path", &unknown], "no folder has the entry");
    for text in ["12345", "xyzxyz", &"0".repeat(65)] {
        let ended = cache(&deployment, &["show", text]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("expected 6 to 64 hexadecimal digits"), "{ended:?}");
    }
    // Two that begin alike.
    let shard = deployment.path("cache/graphs/v2/entries/ab");
    for last in ["0", "1"] {
        fs::create_dir_all(shard.join(format!("abcdef{}{last}", "0".repeat(57)))).unwrap();
    }
    let ended = fails(&deployment, &["path", "abcdef"], "2 entries have keys that begin");
    assert!(ended.stderr.contains("hint: give more digits"), "{ended:?}");
}

#[test]
fn explain_tells_hits_from_misses_and_names_what_differs() {
    let deployment = Deployment::new();
    let ended = succeeds(&deployment, &["explain", "model"]);
    assert!(ended.stdout.starts_with("miss  "), "{ended:?}");
    assert!(ended.stdout.contains("no other entry to compare with"), "{ended:?}");
    assert!(ended.stderr.contains("graphs: 0 of 1 in the cache"), "{ended:?}");
    assert!(ended.stderr.contains("was not made before"), "{ended:?}");
    let ended = fails(&deployment, &["explain", "model", "--check"], "1 of 1 graphs are missing");
    assert!(ended.stderr.contains("hint: `cairn warmup`"), "{ended:?}");

    deployment.run(&["warmup", "model"]);
    let ended = succeeds(&deployment, &["explain", "model", "--check"]);
    assert!(ended.stdout.starts_with("hit   "), "{ended:?}");
    assert!(ended.stderr.contains("names the same graphs"), "{ended:?}");
    let report = deployment.json(&["cache", "explain", "model", "--json"]);
    assert_eq!(report["graphs"][0]["key"], graph_key(&deployment));
    assert_eq!((&report["hits"], &report["request"]["agrees"]), (&json!(1), &json!(true)));

    let other = ["explain", "model", "--dtype", "bf16"];
    let shown = succeeds(&deployment, &other).stdout;
    assert!(shown.contains(&graph_key(&deployment)[..12]), "{shown}");
    assert!(shown.contains("graph.weights"), "{shown}");
    let report = deployment.json(&[&["cache"], &other[..], &["--json"]].concat());
    let differences = report["graphs"][0]["nearest"]["differences"].as_array().unwrap();
    let weights = differences.iter().find(|one| one["field"] == "graph.weights").unwrap();
    assert_eq!(weights["wanted"], json!({"text": "bf16 f32"}), "{weights}");
    assert_eq!(weights["nearest"], json!({"text": "f32"}), "{weights}");
    // The request, too, says in what it differs from the one that was made.
    let request = &report["request"]["explanation"]["nearest"]["differences"];
    assert!(request.as_array().is_some_and(|differences| !differences.is_empty()), "{report}");
}

#[test]
fn explain_says_that_an_entry_is_bad() {
    let deployment = warm();
    flip(&artifact(&folder_of(&deployment, &graph_key(&deployment))));
    let report = deployment.json(&["cache", "explain", "model", "--json"]);
    assert_eq!(report["graphs"][0]["reason"], "bad", "{report}");
}

//! Commands that keep the cache in order.

use std::fs;

use super::deployment::Deployment;
use super::{
    GENERATE, artifact, cache, entries, everything, fails, flip, folder_of, graph_key, keys,
    succeeds, warm,
};

#[test]
fn verify_finds_a_flipped_bit_and_repairs_it() {
    let deployment = warm();
    let key = graph_key(&deployment);
    succeeds(&deployment, &["verify"]);
    let entry = folder_of(&deployment, &key);
    flip(&artifact(&entry));

    let before = everything(&deployment.path("cache"));
    let ended = fails(&deployment, &["verify"], "hint: `cairn cache verify --repair`");
    assert!(ended.stdout.starts_with("damaged: "), "{ended:?}");
    assert!(ended.stderr.contains("2 entries, ") && ended.stderr.contains("1 good"), "{ended:?}");
    assert_eq!(everything(&deployment.path("cache")), before);
    let report = cache(&deployment, &["verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!((&report["ok"], &report["good"]), (&false.into(), &1.into()), "{report}");
    assert_eq!(report["problems"][0]["key"], key.as_str(), "{report}");

    let ended = succeeds(&deployment, &["verify", "--repair"]);
    assert!(ended.stdout.contains("the entry was moved away"), "{ended:?}");
    assert!(!entry.exists());
    succeeds(&deployment, &["verify"]);
    let ended = deployment.run(&GENERATE);
    assert_eq!((ended.code, ended.graphs()), (0, [1, 0]), "{ended:?}");
}

#[test]
fn verify_finds_what_does_not_belong_there() {
    let deployment = warm();
    fs::write(deployment.path("cache/graphs/v2/entries/mine"), "x").unwrap();
    fs::write(folder_of(&deployment, &graph_key(&deployment)).join("extra"), "x").unwrap();
    let ended = fails(&deployment, &["verify"], "2 problems left");
    let num_foreign = ended.stdout.lines().filter(|line| line.starts_with("foreign: ")).count();
    assert_eq!(num_foreign, 2, "{ended:?}");
    succeeds(&deployment, &["verify", "--repair"]);
    // The entry itself was good.
    assert_eq!(deployment.run(&GENERATE).graphs(), [0, 1]);
}

#[test]
fn the_quarantine_is_listed_with_reasons_and_cleared() {
    let deployment = warm();
    let key = graph_key(&deployment);
    assert!(succeeds(&deployment, &["quarantine"]).stderr.starts_with("0 things"));
    flip(&artifact(&folder_of(&deployment, &key)));
    succeeds(&deployment, &["verify", "--repair"]);
    let ended = succeeds(&deployment, &["quarantine"]);
    assert!(ended.stdout.contains(&key) && ended.stdout.contains("damaged"), "{ended:?}");
    let listed = deployment.json(&["cache", "quarantine", "--json"]);
    assert_eq!(listed["things"].as_array().unwrap().len(), 1);
    assert!(listed["things"][0]["bytes"].as_u64().unwrap() > 100, "{listed}");
    let ended = succeeds(&deployment, &["quarantine", "--clear"]);
    assert!(ended.stderr.starts_with("1 thing removed"), "{ended:?}");
    assert!(succeeds(&deployment, &["quarantine"]).stderr.starts_with("0 things"));
    let left = fs::read_dir(deployment.path("cache/graphs/v2/quarantine")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn gc_removes_what_was_used_least_recently_but_nothing_pinned() {
    let deployment = warm();
    let key = graph_key(&deployment);
    assert_eq!(deployment.run(&["warmup", "model", "--dtype", "bf16"]).code, 0);
    assert_eq!(entries(&deployment, "cache/graphs").len(), 4);
    assert_eq!(succeeds(&deployment, &["pin", &key[..6]]).stdout.trim_end(), key);

    let before = everything(&deployment.path("cache"));
    let args = ["gc", "--max-bytes", "1", "--dry-run"];
    let ended = cache(&deployment, &args);
    assert_eq!(ended.stdout.lines().count(), 1 + 3, "{ended:?}");
    assert!(ended.stderr.contains("would remove 3 entries"), "{ended:?}");
    assert_eq!(everything(&deployment.path("cache")), before);

    let ended = fails(&deployment, &["gc", "--max-bytes", "1"], "still too large by");
    assert!(ended.stderr.contains("1 pinned"), "{ended:?}");
    let left = entries(&deployment, "cache/graphs");
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0]["key"], &left[0]["is_pinned"]), (&key.clone().into(), &true.into()));

    succeeds(&deployment, &["unpin", &key]);
    let ended = succeeds(&deployment, &["gc", "--cache-max-bytes", "1", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["evicted"][0]["key"], key.as_str(), "{report}");
    assert_eq!(entries(&deployment, "cache/graphs").len(), 0);
    // Without a limit, no entry goes.
    deployment.run(&["warmup", "model"]);
    succeeds(&deployment, &["gc"]);
    assert_eq!(entries(&deployment, "cache/graphs").len(), 2);
}

#[test]
fn a_folder_of_an_older_format_goes_and_one_of_a_newer_stays() {
    let deployment = warm();
    for version in ["v1", "v99"] {
        fs::create_dir(deployment.path("cache/graphs").join(version)).unwrap();
    }
    let ended = succeeds(&deployment, &["gc"]);
    assert!(ended.stderr.contains("v99"), "{ended:?}");
    assert!(!deployment.path("cache/graphs/v1").exists());
    assert!(deployment.path("cache/graphs/v99").exists());
}

#[test]
fn entries_are_removed_by_key_and_by_model() {
    let deployment = warm();
    let key = graph_key(&deployment);
    assert_eq!(succeeds(&deployment, &["rm", &key[..6]]).stdout.trim_end(), key);
    fails(&deployment, &["rm", &key], "no entry ");
    assert_eq!(entries(&deployment, "cache/graphs").len(), 1);

    deployment.run(&["warmup", "model"]);
    deployment.run(&["warmup", "model", "--dtype", "bf16"]);
    let ended = succeeds(&deployment, &["rm", "--model", "model"]);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    assert_eq!(keys(&deployment, "graph").len(), 1);
    assert_eq!(deployment.run(&["warmup", "model", "--dtype", "bf16"]).graphs(), [0, 1]);
    // What is not there any more was meant as well.
    succeeds(&deployment, &["rm", "--model", "model"]);
}

#[test]
fn whoever_names_nothing_gets_nothing_removed() {
    let mut deployment = warm();
    for command in ["rm", "pin", "unpin"] {
        let ended = cache(&deployment, &[command]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.stderr.contains("expected KEY or `--model MODEL`"), "{ended:?}");
    }
    // A variable that other commands read names no model here.
    deployment.variables.push(("CAIRN_MODEL", "model".into()));
    assert_eq!(cache(&deployment, &["rm"]).code, 2);
    assert_eq!(entries(&deployment, "cache/graphs").len(), 2);
}

#[test]
fn a_model_is_pinned_with_its_request() {
    let deployment = warm();
    let ended = succeeds(&deployment, &["pin", "--model", "model"]);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    let is_pinned = |entry: &serde_json::Value| entry["is_pinned"] == true;
    assert!(entries(&deployment, "cache/graphs").iter().all(is_pinned));
    // Before its entry is there, too.
    let unknown = "5".repeat(64);
    assert_eq!(succeeds(&deployment, &["pin", &unknown]).stdout.trim_end(), unknown);
    assert_eq!(succeeds(&deployment, &["unpin", "555555"]).stdout.trim_end(), unknown);
}

#[test]
fn a_place_that_is_no_folder_is_told() {
    let deployment = Deployment::new();
    fs::write(deployment.path("file"), "").unwrap();
    for args in [&["ls"][..], &["verify", "--repair"], &["gc"]] {
        let ended = fails(&deployment, &[args, &["--cache-dir", "file"]].concat(), "error: ");
        assert!(ended.stderr.contains("file"), "{ended:?}");
    }
}

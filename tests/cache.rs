//! The graph cache from outside: what one process compiled, the next one finds, and whatever
//! happens to the cache's files, the answer stays the same.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | here | hits: who finds what |
//! | `damage` | files that are deleted, cut, changed or replaced, and folders of no use |
//! | `keys` | what gives a graph another key, and what does not |
//! | `modes` | what may be done with the cache, and what lies below it |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "cache/damage.rs"]
mod damage;
#[path = "common/deployment.rs"]
mod deployment;
#[path = "cache/keys.rs"]
mod keys;
#[path = "cache/modes.rs"]
mod modes;
#[path = "common/random_graph.rs"]
mod random_graph;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::{fs, thread};

// The name under which `random_graph` finds it.
use cairn::ir;
use deployment::{Deployment, graph_entries as entries};
use serde_json::json;

const GENERATE: [&str; 6] = ["generate", "model", "--prompt", "hello", "--max-tokens", "8"];

#[test]
fn what_warmup_compiled_the_others_find() {
    let deployment = Deployment::new();
    assert_eq!(deployment.run(&["warmup", "model"]).graphs(), [1, 0]);
    assert_eq!(deployment.run(&["warmup", "model"]).graphs(), [0, 1]);
    let with_embeddings = ["warmup", "model", "--embeddings", "auto"];
    assert_eq!(deployment.run(&with_embeddings).graphs(), [1, 1]);
    assert_eq!(deployment.run(&with_embeddings).graphs(), [0, 2]);
    let args = [&GENERATE[..], &["--json"]].concat();
    let graphs = &deployment.json(&args)["graphs"];
    assert_eq!(*graphs, json!({"compiled": 0, "from_cache": 1}));
    assert_eq!(entries(&deployment.path("cache/graphs")).len(), 2);
}

#[test]
fn what_warmup_compiled_serve_finds() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model"]);
    let mut child = deployment
        .process(&["serve", "model", "--port", "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said: Vec<String> =
        lines.map(Result::unwrap).take_while(|line| !line.contains("listening on")).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.iter().any(|line| line.ends_with("0 compiled, 1 from cache")), "{said:?}");
}

#[test]
fn verify_fails_while_something_is_missing_and_compiles_nothing() {
    let deployment = Deployment::new();
    let cache = deployment.path("cache/graphs");
    for verify in [
        &["warmup", "model", "--verify", "--max-compiles", "0"][..],
        &["warmup", "model", "--max-compiles", "0"],
    ] {
        let ended = deployment.run(verify);
        assert_eq!(ended.code, 1, "{ended:?}");
        let expected = "error: 1 of 1 graphs are not in `";
        assert!(ended.stderr.contains(expected), "{ended:?}");
        assert!(ended.stderr.contains("hint: "), "{ended:?}");
        assert_eq!(entries(&cache).len(), 0);
    }
    // Without a limit, it only reports.
    let report = deployment.json(&["warmup", "model", "--verify", "--json"]);
    assert_eq!(report["missing"], 1);
    assert_eq!(entries(&cache).len(), 0);

    deployment.run(&["warmup", "model"]);
    let ended = deployment.run(&["warmup", "model", "--verify", "--max-compiles", "0"]);
    assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{ended:?}");
}

#[test]
fn warmup_fails_when_nothing_is_kept() {
    let deployment = Deployment::new();
    std::fs::write(deployment.path("file"), "").unwrap();
    for place in [&["--no-cache"][..], &["--cache-dir", "file"]] {
        let ended = deployment.run(&[&["warmup", "model"], place].concat());
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.stderr.contains("the cache does not keep them"), "{ended:?}");
    }
}

#[test]
fn settings_that_the_graph_does_not_depend_on_share_it() {
    let deployment = Deployment::new();
    deployment.run(&["warmup", "model"]);
    for setting in [
        ["--max-model-len", "100"],
        ["--max-num-seqs", "3"],
        ["--max-num-batched-tokens", "7"],
        ["--threads", "1"],
        ["--kv-cache-bytes", "1MiB"],
    ] {
        let ended = deployment.run(&[&GENERATE[..], &setting].concat());
        assert_eq!((ended.code, ended.graphs()), (0, [0, 1]), "{setting:?}: {ended:?}");
    }
    // Nor does it depend on where the model lies and what it is called.
    fs::rename(deployment.path("model"), deployment.path("other")).unwrap();
    assert_eq!(deployment.run(&["warmup", "other"]).graphs(), [0, 1]);
}

#[test]
fn settings_that_the_graph_depends_on_have_one_each() {
    let deployment = Deployment::new();
    for (count, setting) in
        [&[][..], &["--dtype", "bf16"], &["--block-size", "32"], &["--backend", "null"]]
            .iter()
            .enumerate()
    {
        let args = [&["warmup", "model"], *setting].concat();
        assert_eq!(deployment.run(&args).graphs(), [1, 0], "{setting:?}");
        assert_eq!(deployment.run(&args).graphs(), [0, 1], "{setting:?}");
        assert_eq!(entries(&deployment.path("cache/graphs")).len(), count + 1);
    }
}

#[test]
fn one_graph_per_size_gives_the_same_text() {
    let deployment = Deployment::new();
    let expected = deployment.run(&GENERATE).stdout;
    let is_static = ["--static-shapes", "--max-num-batched-tokens", "16"];
    let [num_graphs, 0] = deployment.run(&[&["warmup", "model"], &is_static[..]].concat()).graphs()
    else {
        panic!("nothing of another kind fits");
    };
    assert!(num_graphs > 2, "{num_graphs}");
    let ended = deployment.run(&[&GENERATE[..], &is_static].concat());
    assert_eq!((ended.graphs(), ended.stdout), ([0, num_graphs], expected));
}

#[test]
fn processes_that_start_together_compile_once() {
    let deployment = Deployment::new();
    let args = ["warmup", "model", "--static-shapes", "--json"];
    let reports = thread::scope(|scope| {
        let run = || scope.spawn(|| deployment.json(&args));
        let running: Vec<_> = [(); 4].map(|()| run()).into();
        running.into_iter().map(|report| report.join().unwrap()).collect::<Vec<_>>()
    });
    let count =
        |name: &str| -> u64 { reports.iter().map(|report| report[name].as_u64().unwrap()).sum() };
    let num_graphs = reports[0]["graphs"].as_array().unwrap().len();
    assert_eq!(entries(&deployment.path("cache/graphs")).len(), num_graphs);
    assert_eq!(count("compiled"), num_graphs as u64, "{reports:?}");
    assert_eq!(count("from_cache"), 3 * num_graphs as u64, "{reports:?}");
}

#[test]
fn without_a_cache_nothing_is_written() {
    let deployment = Deployment::new();
    for _ in 0..2 {
        let ended = deployment.run(&[&GENERATE[..], &["--no-cache"]].concat());
        assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [1, 0], false), "{ended:?}");
    }
    assert!(!deployment.path("cache").exists());
}

#[test]
fn an_entry_can_be_read_by_a_person() {
    let deployment = Deployment::new();
    let report = deployment.json(&["warmup", "model", "--json"]);
    let entry = entries(&deployment.path("cache/graphs")).pop().unwrap();
    assert_eq!(entry.file_name().unwrap().to_str(), report["graphs"][0]["key"].as_str());
    let manifest = fs::read(entry.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["key"], report["graphs"][0]["key"]);
    assert!(manifest["producer"].as_str().unwrap().starts_with("cairn "), "{manifest}");
    let fields = manifest["fields"].to_string();
    assert!(fields.contains("backend") && fields.contains("cpu"), "{fields}");
    // Neither the weights nor where anything lies.
    let artifact = fs::read(entry.join("plan.json")).unwrap();
    assert!(artifact.len() < 100_000, "{}", artifact.len());
    let path = deployment.path("");
    let path = path.to_str().unwrap();
    assert!(!String::from_utf8_lossy(&artifact).contains(path.trim_end_matches('/')));
}

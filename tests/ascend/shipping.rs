//! A cache that is built where there is no device, and moved to where there is one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::deployment::Deployment;
use super::margins::{CLEAR_F16, Oracle};
use super::toolkit::Toolkit;
use super::{compiled_airs, ids, on, serve, tiny};

/// What all commands here have in common.
const SETTINGS: [&str; 8] = [
    "--backend",
    "ascend",
    "--max-num-seqs",
    "4",
    "--max-num-batched-tokens",
    "256",
    "--max-model-len",
    "512",
];
/// Sequences of 1, 2 and 4; prompts of 128 and 256 tokens.
const NUM_GRAPHS: usize = 5;

/// `command`, the model, the settings and more.
fn with_settings<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command, "model"], &SETTINGS[..], more].concat()
}

fn warmup<'a>(more: &[&'a str]) -> Vec<&'a str> {
    with_settings("warmup", more)
}

/// A deployment whose cache was warmed up for a chip, without a device; and the toolkit that did.
fn built_for(soc: &str) -> (Deployment, Toolkit) {
    let builder = Toolkit::install(&["--without", "lib"]);
    let deployment = tiny("llama", &builder, &[("max_position_embeddings", 512.into())]);
    let report = deployment.json(&warmup(&["--soc", soc, "--json"]));
    assert_eq!(report["compiled"], NUM_GRAPHS, "{report}");
    (deployment, builder)
}

/// Why each graph is missing, as `warmup --verify` says with those flags.
fn reasons(deployment: &Deployment, more: &[&str]) -> Vec<String> {
    let ended = deployment.run(&[&["warmup", "model", "--verify", "--json"], more].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let graphs = report["graphs"].as_array().unwrap();
    assert_eq!((graphs.len(), &report["compiled"]), (NUM_GRAPHS, &json!(0)));
    let missing = graphs.iter().filter(|graph| graph["state"] == "missing");
    let reasons: Vec<String> = missing
        .map(|graph| {
            let [bucket, reason] = ["bucket", "reason"].map(|key| graph[key].as_str().unwrap());
            let line = format!("{bucket}: {reason}");
            assert!(ended.stderr.lines().any(|said| said == line), "{line}: {ended:?}");
            reason.to_owned()
        })
        .collect();
    assert_eq!(report["missing"], reasons.len());
    let limited = [&["warmup", "model", "--verify", "--max-compiles", "0"], more].concat();
    assert_eq!(deployment.run(&limited).code, i32::from(!reasons.is_empty()), "{limited:?}");
    reasons
}

#[test]
fn a_cache_built_without_a_device_serves_elsewhere_and_compiles_nothing() {
    let (deployment, builder) = built_for("Ascend910B3");
    let keys: BTreeSet<String> = compiled_airs(&builder).into_iter().collect();
    assert_eq!((builder.num_compiles(), keys.len()), (NUM_GRAPHS, NUM_GRAPHS));
    assert!(!builder.file("calls.log").exists(), "there was a device");

    // To another folder, on a host with a device.
    let shipped = deployment.path("shipped");
    std::fs::rename(deployment.path("cache/graphs"), &shipped).unwrap();
    std::fs::remove_dir_all(deployment.path("cache")).unwrap();
    drop(builder);
    let host = Toolkit::new();
    let mut deployment = on(&host, deployment);
    let place = ["--cache-dir", shipped.to_str().unwrap()];
    let verify = ["--verify", "--max-compiles", "0", "--json"];
    for soc in [&[][..], &["--soc", "Ascend910B3"]] {
        let report = deployment.json(&warmup(&[&place[..], &verify, soc].concat()));
        let counts = [&report["compiled"], &report["from_cache"], &report["missing"]];
        assert_eq!(counts, [&json!(0), &json!(NUM_GRAPHS), &json!(0)]);
    }
    let clear = Oracle::open(&deployment.path("model"), 64).clear(20, 16, CLEAR_F16);
    let prompt = ["--raw", "--prompt", &clear.prompt, "--max-tokens", "16", "--json"];
    let json = deployment.json(&with_settings("generate", &[&place[..], &prompt].concat()));
    assert_eq!(json["graphs"], json!({"compiled": 0, "from_cache": NUM_GRAPHS}));
    assert_eq!(ids(&json), clear.tokens);

    // A host that only serves needs no compiler at all.
    let serving = Toolkit::install(&["--without", "atc"]);
    for toolkit in [&host, &serving] {
        deployment.variables = toolkit.variables();
        let mut server = serve(&deployment, &[&SETTINGS[..], &place].concat());
        server.assert_serves("moving its cache");
        assert!(server.metric("cairn_graphs_compiled_total").abs() < f64::EPSILON);
        server.terminate();
        assert!(server.ended().success());
        assert_eq!(toolkit.num_compiles(), 0, "atc ran");
        toolkit.assert_clean();
    }
}

#[test]
fn what_differs_from_the_cache_is_named() {
    let (mut deployment, builder) = built_for("Ascend910B3");
    let settings = |change: &[&'static str]| -> Vec<&str> {
        let mut all = [&SETTINGS[..], &["--soc", "Ascend910B3"]].concat();
        for pair in change.chunks(2) {
            match all.iter().position(|flag| *flag == pair[0]) {
                Some(at) => all[at + 1] = pair[1],
                None => all.extend(pair),
            }
        }
        all
    };
    assert_eq!(reasons(&deployment, &settings(&[])), Vec::<String>::new());

    // What the compiler is told and the graph's sizes and types are fields of their own; what else is in
    // the graph shows as its digest.
    for (change, named) in [
        (
            &["--soc", "Ascend910B4"][..],
            "backend.soc is Ascend910B4, the nearest entry has Ascend910B3",
        ),
        (&["--max-model-len", "384"], "graph.num_positions is 384, the nearest entry has "),
        (&["--dtype", "f16"], "graph.weights is f16, the nearest entry has f32"),
        (&["--block-size", "256"], "graph is "),
        (&["--kv-cache-bytes", "256KiB"], "graph.num_blocks is "),
    ] {
        let reasons = reasons(&deployment, &settings(change));
        assert_eq!(reasons.len(), NUM_GRAPHS, "{change:?}");
        assert!(reasons.iter().all(|reason| reason.contains(named)), "{change:?}: {reasons:?}");
    }

    let other = Toolkit::install(&["--cann", "8.5.0", "--without", "lib"]);
    deployment.variables = other.variables();
    let other_release = reasons(&deployment, &settings(&[]));
    assert_eq!(other_release.len(), NUM_GRAPHS);
    for reason in &other_release {
        let named = "backend.cann is 8.5, the nearest entry has 9.0; ";
        assert!(reason.contains(named) && reason.contains("backend.compiler is "), "{reason}");
    }
    // A change within a release counts as well.
    let patched = Toolkit::install(&["--cann", "9.0.1", "--without", "lib"]);
    deployment.variables = patched.variables();
    let other_patch = reasons(&deployment, &settings(&[]));
    assert_eq!(other_patch.len(), NUM_GRAPHS);
    assert!(
        other_patch.iter().all(|reason| reason.contains("version_dir=9.0.1")),
        "{other_patch:?}"
    );
    let compiles = [&builder, &other, &patched].map(Toolkit::num_compiles);
    assert_eq!(compiles, [NUM_GRAPHS, 0, 0]);
}

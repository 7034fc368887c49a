//! `cairn bench simulate` from outside: the same bytes for the same seed, figures that fit together,
//! a plot, and what is refused. No model, no device, no clock.

#![allow(clippy::float_cmp, reason = "these numbers are exact")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

/// Exit code, stdout and stderr.
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin("cairn"));
    command.env_clear().env("CAIRN_CACHE_DIR", folder).current_dir(folder);
    let output = command.args(["bench", "simulate", "--no-progress"]).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(folder.path(), &[args, &["--json"]].concat());
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    let value = serde_json::from_str(&stdout).unwrap();
    (stdout, value)
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {value:#}"))
}

/// A small run whose every number is known.
const GOLDEN: &[&str] = &[
    "--rates=2,20",
    "--requests=24",
    "--prompt-tokens=300",
    "--output-tokens=40",
    "--max-num-seqs=8",
    "--max-num-batched-tokens=512",
    "--prefix-share=0.5",
    "--num-prefixes=2",
    "--prefix-tokens=200",
    "--seed=7",
];

#[test]
fn a_small_run_gives_the_known_figures() {
    let (_, mut value) = json(GOLDEN);
    value.as_object_mut().unwrap().remove("build").unwrap();
    insta::assert_snapshot!("golden", serde_json::to_string_pretty(&value).unwrap());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |seed: &str| {
        let path = folder.path().join("plot.svg");
        let args = ["--rates=5,50", "--requests=40", "--batching=separate", "--json", "--svg"];
        let args = [&args[..], &[path.to_str().unwrap(), "--seed", seed]].concat();
        let (code, stdout, stderr) = run(folder.path(), &args);
        assert_eq!(code, 0, "{stderr}");
        (stdout, fs::read_to_string(path).unwrap())
    };
    let first = run("3");
    assert_eq!(first, run("3"));
    assert_ne!(first, run("4"));
    assert!(first.1.starts_with("<svg xmlns=") && first.1.ends_with("</svg>\n"));
}

#[test]
fn a_table_has_a_column_for_each_rate() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lengths"), "{\"prompt_tokens\": 64, \"output_tokens\": 8}\n")
        .unwrap();
    let args = ["--rates", "1,8", "--requests", "10", "--trace", "lengths", "--tp", "2"];
    let (code, stdout, stderr) = run(folder.path(), &args);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<Vec<&str>> =
        stdout.lines().map(|line| line.split_whitespace().rev().take(2).collect()).collect();
    assert_eq!(lines[0], ["8", "1"]);
    assert_eq!(lines.len(), 24);
    assert!(stderr.starts_with("a model, not a measurement: qwen3-8b on 2 ascend-910b; ragged"));
}

#[test]
fn sizes_come_from_a_config_as_well() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/qwen3/config.json");
    let (_, value) = json(&[
        "--model-config",
        config,
        "--rates=100",
        "--requests=10",
        "--prompt-tokens=60",
        "--output-tokens=20",
    ]);
    assert_eq!(number(&value, "/settings/model/vocab_size"), 256.0);
    assert_eq!(number(&value, "/settings/engine/max_model_len"), 256.0);
    assert_eq!(number(&value, "/results/0/num_requests"), 10.0);
    assert!(number(&value, "/settings/device/kv_bytes_per_token") == 512.0);
}

#[test]
fn other_buckets_change_the_padding() {
    let padding = |buckets: &[&str]| {
        let args = ["--rates=100", "--requests=30", "--prompt-tokens=500", "--output-tokens=20"];
        let (_, value) = json(&[&args, buckets].concat());
        number(&value, "/results/0/padding_share")
    };
    assert_eq!(padding(&["--batching=dynamic"]), 0.0);
    let (few, planned) = (padding(&["--buckets=2048"]), padding(&[]));
    assert!(few > planned && planned > 0.0, "{few} and {planned}");
}

#[test]
fn what_cannot_be_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let error = |args: &[&str]| {
        let (code, stdout, stderr) = run(folder.path(), args);
        assert_eq!(stdout, "");
        format!("{code} {stderr}")
    };
    let large = error(&["--model=qwen3-32b"]);
    assert!(large.starts_with("1 error: the model does not fit: a device has 68719476736 bytes"));
    assert!(large.contains("hint: split it over more devices with `--tp`"), "{large}");
    assert!(error(&["--rates=1,0"]).contains("expected a number above 0"));
    assert!(error(&["--rates=nan"]).starts_with("2 "));
    assert!(error(&["--prefix-share=1.5"]).contains("expected a number from 0 to 1"));
    assert!(error(&["--hbm-efficiency=0"]).contains("above 0 and at most 1"));
    assert!(error(&["--tp=3"]).contains("expected a divisor of 32 heads"));
    assert!(error(&["--max-model-len=50000"]).contains("the model's context is 40960"));
    assert!(error(&["--buckets=64"]).contains("no loaded graph holds a step of 2048 tokens"));
    assert!(error(&["--decode-buckets=64"]).contains("expected none with these graphs"));
    assert!(error(&["--model-config=nowhere"]).contains("hint: `--model-config` names"));
    fs::write(folder.path().join("trace"), "{\"prompt_tokens\": 4}\n").unwrap();
    let trace = error(&["--trace=trace"]);
    assert!(trace.contains("reading trace") && trace.contains("line 1: expected"), "{trace}");
}

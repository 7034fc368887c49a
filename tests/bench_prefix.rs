//! `bench prefix` from outside, with a tiny model: what the engine's prefix cache had, beside what
//! the best cache could have had.
//!
//! The two are worked out by code that shares nothing; with one request at a time and room for
//! everything they must say the same.
#![allow(clippy::float_cmp, reason = "these numbers are exact")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/deployment.rs"]
mod deployment;

use deployment::Deployment;
use serde_json::Value;

const SMALL: [&str; 19] = [
    "bench",
    "prefix",
    "model",
    "--json",
    "--sessions",
    "6",
    "--turns",
    "5",
    "--system-prompts",
    "2",
    "--system-tokens",
    "150",
    "--user-tokens",
    "11",
    "--answer-tokens",
    "13",
    "--runs",
    "1",
    "--no-progress",
];

fn bench(deployment: &Deployment, more: &[&str]) -> Value {
    deployment.json(&[&SMALL[..], more].concat())
}

fn median(json: &Value, name: &str) -> f64 {
    json["results"][name]["median"].as_f64().unwrap_or_else(|| panic!("{name}: {json}"))
}

#[test]
fn one_request_at_a_time_hits_exactly_what_unlimited_memory_could() {
    let deployment = Deployment::new();
    for (seed, block_size) in [("0", "16"), ("1", "16"), ("2", "8"), ("3", "5"), ("4", "32")] {
        let more = ["--concurrency", "1", "--seed", seed, "--block-size", block_size];
        let json = bench(&deployment, &more);
        assert_eq!(median(&json, "evicted_blocks"), 0.0, "{json}");
        let (hit, most) = (median(&json, "hit_tokens"), median(&json, "most_hit_tokens_unlimited"));
        assert!(hit > 0.0 && median(&json, "hit_rate") > 0.5, "{json}");
        assert_eq!(hit, most, "seed {seed}, blocks of {block_size}: {json}");
        assert_eq!(most, median(&json, "most_hit_tokens_bounded"));
    }
}

#[test]
fn a_small_pool_comes_near_the_least_recently_used_rule() {
    let deployment = Deployment::new();
    for (seed, sequences) in [("0", "1"), ("1", "1"), ("0", "2"), ("1", "2")] {
        let pool = ["--max-model-len", "350", "--max-num-seqs", sequences];
        let more = [&["--concurrency", "1", "--seed", seed], &pool[..]].concat();
        let json = bench(&deployment, &more);
        assert!(median(&json, "evicted_blocks") > 0.0, "{json}");
        let [unlimited, bounded] = ["most_hit_tokens_unlimited", "most_hit_tokens_bounded"]
            .map(|name| median(&json, name));
        assert!(bounded <= unlimited, "{json}");
        let share = median(&json, "share_of_most_bounded");
        assert!((0.95..=1.05).contains(&share), "seed {seed}, {sequences}: {share}: {json}");
    }
}

#[test]
fn many_at_once_share_system_prompts_that_are_still_computed() {
    let deployment = Deployment::new();
    let json = bench(&deployment, &["--concurrency", "4"]);
    let share = median(&json, "share_of_most_unlimited");
    assert!((0.9..=1.0).contains(&share), "{share}: {json}");
    for side in ["with", "without"] {
        for name in ["time_to_first_token_median_seconds", "time_to_first_token_p90_seconds"] {
            assert!(json["results"][side][name]["median"].as_f64().unwrap() > 0.0, "{json}");
        }
    }
}

#[test]
fn the_table_names_every_figure_and_what_does_not_fit_is_refused() {
    let deployment = Deployment::new();
    let args: Vec<&str> = SMALL.into_iter().filter(|&arg| arg != "--json").collect();
    let ended = deployment.run(&args);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 15, "{ended:?}");
    assert!(ended.summary().contains("6 sessions of 5 turns, 4 at once"), "{ended:?}");
    let error = deployment.failure(&["bench", "prefix", "model", "--system-tokens", "2048"]);
    assert!(error.starts_with("error: conversations are too long"), "{error}");
}

#[test]
fn a_fresh_engine_finds_the_system_prompt_in_the_folder() {
    let deployment = Deployment::new();
    let json = bench(&deployment, &["--prefix-cache-dir", "prefixes"]);
    let fresh = &json["fresh_engine"];
    // The system prompt's whole blocks; what the user says differs.
    assert_eq!(fresh["loaded_blocks"]["median"], 9.0, "{json}");
    for name in ["time_to_first_token_with_seconds", "time_to_first_token_without_seconds"] {
        assert!(fresh[name]["median"].as_f64().unwrap() > 0.0, "{json}");
    }
    assert_eq!(bench(&deployment, &[])["fresh_engine"], Value::Null);
}

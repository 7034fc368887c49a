//! `run-batch` from outside, with a tiny model: what is answered, what is refused, and what is left
//! after an end at any moment.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `answers` | results of good and of bad lines, against the server |
//! | `resume` | kills, torn lines, other inputs |
//! | `places` | where lines come from and results go |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "run_batch/answers.rs"]
mod answers;
#[path = "server/client.rs"]
mod client;
#[path = "common/deployment.rs"]
mod deployment;
#[path = "run_batch/places.rs"]
mod places;
#[path = "run_batch/resume.rs"]
mod resume;

use std::collections::BTreeMap;
use std::path::Path;

use deployment::{Deployment, Ended};
use serde_json::{Value, json};

/// What the model is served as: its folder's name.
const MODEL: &str = "model";

/// A line that asks for the continuation of a prompt.
fn completion(custom_id: &str, prompt: &str, max_tokens: usize) -> String {
    let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0});
    line(custom_id, client::COMPLETIONS, &body)
}

/// A line that asks for an answer.
fn chat(custom_id: &str, content: &str, max_tokens: usize) -> String {
    let messages = json!([{"role": "user", "content": content}]);
    let body = json!({"messages": messages, "max_tokens": max_tokens, "temperature": 0});
    line(custom_id, client::CHAT, &body)
}

fn line(custom_id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).to_string()
}

/// Lines as a file has them.
fn file_of(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// A deployment with `in.jsonl`.
fn with_lines(lines: &[String]) -> Deployment {
    let deployment = Deployment::new();
    std::fs::write(deployment.path("in.jsonl"), file_of(lines)).unwrap();
    deployment
}

/// The command on `in.jsonl` and `out.jsonl`, with more arguments.
fn batch<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["run-batch", "model", "-i", "in.jsonl", "-o", "out.jsonl"], more].concat()
}

fn run(deployment: &Deployment, more: &[&str]) -> Ended {
    deployment.run(&batch(more))
}

/// The results in a file, as they are.
fn results(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The results by custom id; each must be there once.
fn by_custom_id(path: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for result in results(path) {
        let custom_id = result["custom_id"].as_str().unwrap().to_owned();
        assert!(found.insert(custom_id, result).is_none(), "a line was answered twice");
    }
    found
}

/// The text of an answer's first choice.
fn text(result: &Value) -> &str {
    assert_eq!((&result["response"]["status_code"], &result["error"]), (&json!(200), &Value::Null));
    let choice = &result["response"]["body"]["choices"][0];
    choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap()
}

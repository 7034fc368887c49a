//! The Ascend backend from outside: the program under test finds the simulated toolkit of
//! `tests/cann_sim` as it would find a real one.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `models` | every architecture and option: the same tokens as on the CPU |
//! | `real_model` | the same of the default model |
//! | `batches` | many sequences at once, preempted and in chunks |
//! | `sampling` | choosing tokens on the device |
//! | `load` | five hundred requests of all kinds |
//! | `shipping` | caches built without a device, and what they miss |
//! | `inspect` | graphs without a toolkit; what is missing or unknown |
//! | `margins`, `checkpoint` | prompts without doubt; a checkpoint from a seed |
//!
//! What only a device can tell is not here: the simulator computes what the operators' definitions
//! say, and nothing else.
#![cfg(all(feature = "ascend", feature = "cpu"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "ascend/batches.rs"]
mod batches;
#[path = "ascend/checkpoint.rs"]
mod checkpoint;
#[path = "server/client.rs"]
mod client;
mod common;
#[path = "common/deployment.rs"]
mod deployment;
#[path = "ascend/inspect.rs"]
mod inspect;
#[path = "ascend/load.rs"]
mod load;
#[path = "ascend/margins.rs"]
mod margins;
#[path = "ascend/models.rs"]
mod models;
#[path = "ascend/real_model.rs"]
mod real_model;
#[path = "ascend/sampling.rs"]
mod sampling;
#[path = "ascend/shipping.rs"]
mod shipping;
#[path = "common/toolkit.rs"]
mod toolkit;

use std::thread;
use std::time::Duration;

use client::Server;
use deployment::Deployment;
use deployment::model::{Tiny, Tokens};
use serde_json::{Value, json};
use toolkit::Toolkit;

/// What a model is served as.
const MODEL: &str = "tiny";

/// Nothing may take this long on a simulated device.
const PATIENCE: Duration = Duration::from_mins(3);

/// A deployment that finds a toolkit.
fn on(toolkit: &Toolkit, mut deployment: Deployment) -> Deployment {
    deployment.variables = toolkit.variables();
    deployment
}

/// A golden model on a toolkit, with some settings changed. Nothing ends its answers, and their text
/// tells their tokens.
fn tiny(golden: &str, toolkit: &Toolkit, change: &[(&str, Value)]) -> Deployment {
    let config = [&[("eos_token_id", Value::Null)], change].concat();
    let tiny = Tiny { golden, tokens: Tokens::Characters, config: &config };
    on(toolkit, Deployment::with_model(|folder| tiny.write(folder)))
}

/// A server with the deployment's model.
fn serve(deployment: &Deployment, flags: &[&str]) -> Server {
    serve_model(deployment, "model", flags)
}

fn serve_model(deployment: &Deployment, model: &str, flags: &[&str]) -> Server {
    let args = ["serve", model, "--served-model-name", MODEL, "--port", "0"];
    let mut server = Server::start(deployment.process(&[&args[..], flags].concat()), None);
    server.patience = PATIENCE;
    server
}

/// A request for a continuation of that many tokens, always of the likeliest.
fn greedy(prompt: &str, num_tokens: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": true})
}

/// The text of a completion.
fn text(server: &Server, fields: &Value) -> String {
    texts(server, fields).swap_remove(0)
}

/// The texts of a completion of several prompts, which arrive at the same moment.
fn texts(server: &Server, fields: &Value) -> Vec<String> {
    let reply = server.complete(fields);
    assert_eq!(reply.status, 200, "{fields}: {reply:?}");
    let text = |choice: &Value| {
        assert_eq!(choice["finish_reason"], "length", "{fields}");
        choice["text"].as_str().unwrap().to_owned()
    };
    reply.json()["choices"].as_array().unwrap().iter().map(text).collect()
}

fn one_by_one(server: &Server, requests: &[Value]) -> Vec<String> {
    requests.iter().map(|fields| text(server, fields)).collect()
}

fn at_once(server: &Server, requests: &[Value]) -> Vec<String> {
    thread::scope(|scope| {
        let answers: Vec<_> =
            requests.iter().map(|fields| scope.spawn(|| text(server, fields))).collect();
        answers.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

/// The tokens of an answer as JSON.
fn ids(answer: &Value) -> Vec<u32> {
    numbers(&answer["token_ids"])
}

fn numbers(array: &Value) -> Vec<u32> {
    array.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

/// Digests of what the compiler was given, in the order in which it finished.
fn compiled_airs(toolkit: &Toolkit) -> Vec<String> {
    let log = std::fs::read_to_string(toolkit.file("atc.log")).unwrap_or_default();
    let digest = |line: &str| {
        let call: Value = serde_json::from_str(line).unwrap();
        assert_eq!(call["outcome"], "ok", "{call}");
        call["air_sha256"].as_str().unwrap().to_owned()
    };
    log.lines().map(digest).collect()
}

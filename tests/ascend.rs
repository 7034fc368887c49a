//! The Ascend backend from outside, on the simulated toolkit.
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
#[path = "ascend/margins.rs"]
mod margins;
#[path = "ascend/models.rs"]
mod models;
#[path = "ascend/shipping.rs"]
mod shipping;
#[path = "common/toolkit.rs"]
mod toolkit;

use client::Server;
use deployment::Deployment;
use serde_json::Value;
use toolkit::Toolkit;

/// What a model is served as.
const MODEL: &str = "tiny";

/// A deployment that finds a toolkit.
fn on(toolkit: &Toolkit, mut deployment: Deployment) -> Deployment {
    deployment.variables = toolkit.variables();
    deployment
}

/// A server with the deployment's model.
fn serve(deployment: &Deployment, flags: &[&str]) -> Server {
    let args = ["serve", "model", "--served-model-name", MODEL, "--port", "0"];
    Server::start(deployment.process(&[&args[..], flags].concat()), None)
}

/// The tokens of an answer as JSON.
fn ids(answer: &Value) -> Vec<u32> {
    let ids = answer["token_ids"].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
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

//! The server over real HTTP. Every test starts the program with a tiny random model on a free
//! port.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `shapes` | what answers look like |
//! | `choices` | several texts, beams, and what steers the sampler |
//! | `logprobs` | log probabilities of answers and prompts |
//! | `prefix_cache` | prompts that begin alike |
//! | `embeddings` | texts as vectors |
//! | `input` | bodies that are refused |
//! | `wire` | HTTP itself, well formed and not |
//! | `lifecycle` | clients that leave, wait or come in crowds; the way out |
//! | `page` | the web page, without a browser |
//! | `client` | a client in plain TCP |
//!
//! `tests/clients` holds what real clients do with a running server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "server/choices.rs"]
mod choices;
#[path = "server/client.rs"]
mod client;
#[path = "server/embeddings.rs"]
mod embeddings;
#[path = "server/input.rs"]
mod input;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/logprobs.rs"]
mod logprobs;
#[path = "common/model.rs"]
mod model;
#[path = "server/page.rs"]
mod page;
#[path = "server/prefix_cache.rs"]
mod prefix_cache;
#[path = "server/shapes.rs"]
mod shapes;
#[path = "server/wire.rs"]
mod wire;

use std::process::Command;

use client::Server;
use model::{CONTEXT, write_model};

/// What the model is served as.
const MODEL: &str = "tiny";

/// Starts the program with a tiny model and these flags, and waits until it answers. This is the
/// only place that knows how.
fn start_server(flags: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command
        .arg("serve")
        .arg(folder.path())
        .args(["--served-model-name", MODEL, "--port", "0", "--no-cache"])
        .args(flags);
    Server::start(command, Some(folder))
}

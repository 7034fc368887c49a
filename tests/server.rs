//! The server over real HTTP. Every test starts the program with a tiny random model on a free
//! port.
//!
//! | Part | What it holds |
//! | --- | --- |
//! | `shapes` | what answers look like |
//! | `batches` | files and batches |
//! | `choices` | several texts, beams, and what steers the sampler |
//! | `logprobs` | log probabilities of answers and prompts |
//! | `prefix_cache` | prompts that begin alike |
//! | `embeddings` | texts as vectors |
//! | `input` | bodies that are refused |
//! | `bad_inputs` | a table of what the outside world sends, and what comes back |
//! | `listeners` | ports, sockets in the file system, encryption |
//! | `tools` | calls of tools, forced and in the input |
//! | `structured` | answers that follow a schema, a regex, a choice or a grammar |
//! | `responses` | `/v1/responses` |
//! | `messages` | `/v1/messages` |
//! | `tokenize` | what a prompt is to the model, and small endpoints |
//! | `wire` | HTTP itself, well formed and not |
//! | `lifecycle` | clients that leave, wait or come in crowds; the way out |
//! | `keys`, `admin` | keys and limits; the admin API |
//! | `operations` | health, and the log of the service's life |
//! | `traces` | spans that a collector gets |
//! | `page` | the web page, without a browser |
//! | `client` | a client in plain TCP |
//!
//! `tests/clients` holds what real clients do with a running server.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "server/admin.rs"]
mod admin;
#[path = "server/bad_inputs/mod.rs"]
mod bad_inputs;
#[path = "server/batches.rs"]
mod batches;
#[path = "server/choices.rs"]
mod choices;
#[path = "server/client.rs"]
mod client;
#[path = "server/embeddings.rs"]
mod embeddings;
#[path = "server/input.rs"]
mod input;
#[path = "server/keys.rs"]
mod keys;
#[path = "server/lifecycle.rs"]
mod lifecycle;
#[path = "server/listeners.rs"]
mod listeners;
#[path = "server/logprobs.rs"]
mod logprobs;
#[path = "server/messages.rs"]
mod messages;
#[path = "common/model.rs"]
mod model;
#[path = "server/operations.rs"]
mod operations;
#[path = "server/page.rs"]
mod page;
#[path = "server/prefix_cache.rs"]
mod prefix_cache;
#[path = "server/responses.rs"]
mod responses;
#[path = "server/shapes.rs"]
mod shapes;
#[path = "server/structured.rs"]
mod structured;
#[path = "server/tokenize.rs"]
mod tokenize;
#[path = "server/tools.rs"]
mod tools;
#[path = "server/traces.rs"]
mod traces;
#[path = "server/wire.rs"]
mod wire;

use std::path::Path;
use std::process::Command;

use client::Server;
use model::{CONTEXT, write_model};

/// What the model is served as.
const MODEL: &str = "tiny";

/// Starts the program with a tiny model and these flags, and waits until it answers.
fn start_server(flags: &[&str]) -> Server {
    start_server_within(":", flags)
}

/// The same, after a line of shell that sets limits, as in `ulimit -n 64`.
fn start_server_within(limits: &str, flags: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let command = serve_command(limits, folder.path(), &[&["--port", "0"], flags].concat());
    Server::start(command, Some(folder))
}

/// The program with a tiny model, which lies in the folder.
fn tiny_command(flags: &[&str]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    (serve_command(":", folder.path(), &[&["--port", "0"], flags].concat()), folder)
}

/// The program with a model, after a line of shell. This is the only place that knows how.
fn serve_command(limits: &str, model: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        // The process of the shell becomes the program's.
        .args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_cairn"))
        .arg("serve")
        .arg(model)
        .args(["--served-model-name", MODEL, "--no-cache"])
        .env("CAIRN_STATE_DIR", model.join("state"))
        .args(flags);
    command
}

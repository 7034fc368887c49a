//! The Ascend backend when something goes wrong: every failure ends in the action that is documented
//! for it, without a hang, a leak or a wrong token.
//!
//! | Part | What fails |
//! | --- | --- |
//! | `calls` | each function of ACL that the program calls, with a code of every class |
//! | `steps` | work of the device: late, never, or by a graph that the runtime does not run |
//! | `loading` | graphs that the device refuses |
//! | `serving` | the device under a server with running requests |
//! | `compiler` | `atc`, in every way, and the program while `atc` runs |
//! | `cached` | what lies in the graph cache |
//! | `memory` | the device's memory, which is too small |
//! | `installation` | the toolkit, which is not there, not whole, or another one |
//! | `place` | one installation, one model, one cache; runs of the program in it |
//!
//! What fails is ordered from the simulated toolkit by environment variables. No test asks for a
//! time: what takes longer than a generous limit counts as a hang.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "ascend_faults/cached.rs"]
mod cached;
#[path = "ascend_faults/calls.rs"]
mod calls;
#[path = "server/client.rs"]
mod client;
#[path = "ascend_faults/compiler.rs"]
mod compiler;
#[path = "common/deployment.rs"]
mod deployment;
#[path = "ascend_faults/installation.rs"]
mod installation;
#[path = "ascend_faults/loading.rs"]
mod loading;
#[path = "ascend_faults/memory.rs"]
mod memory;
#[path = "ascend_faults/place.rs"]
mod place;
#[path = "ascend_faults/serving.rs"]
mod serving;
#[path = "ascend_faults/steps.rs"]
mod steps;
#[path = "common/toolkit.rs"]
mod toolkit;

/// What the model is served as.
const MODEL: &str = "tiny";

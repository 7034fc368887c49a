//! What the compiler takes and what it refuses, graph by graph.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod air;
mod broken;
mod good;
mod limits;
mod models;

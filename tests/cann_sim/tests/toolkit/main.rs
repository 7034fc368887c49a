//! The installed toolkit from outside: `atc` as a child process, and models from its files.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../ge/air.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests of the compiler's rules")]
mod air;
mod atc;
mod misbehaviour;
#[path = "../ge/models.rs"]
#[expect(dead_code, reason = "shared with the tests of the compiler's rules")]
mod models;
mod om;
mod toolkit;

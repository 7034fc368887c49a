//! Writes the tiny random model of the tests into a folder, for checks that are not written in Rust.
//!
//! ```text
//! cargo run --example tiny_model FOLDER
//! ```

#![allow(clippy::unwrap_used, reason = "it writes what tests use, and fails by panicking")]

#[path = "../common/model.rs"]
mod model;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("expected a folder to write into")?;
    std::fs::create_dir_all(&folder)?;
    model::write_model(folder.as_ref());
    Ok(())
}

//! `atc`: from an `.air` file to an offline model.

use std::ffi::OsString;
use std::process::ExitCode;

/// The program.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    drop(args);
    ExitCode::FAILURE
}

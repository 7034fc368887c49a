//! The `cairn` program: all of it is [`cairn::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cairn::cli::main()
}

//! `cann_sim install DIR`, and `atc` when it is called by that name.
//!
//! ```text
//! cann_sim install DIR [--cann VERSION] [--without lib|atc|ops] [--split] [--lib PATH]
//! ```

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ascendcl::install::{self, Options};

const USAGE: &str = "usage: cann_sim install DIR [--cann VERSION] [--without lib|atc|ops] \
                     [--split] [--lib PATH]";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "atc") {
        return ascendcl::atc::main(args);
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nothing is left to tell if that fails.
            let _ = writeln!(std::io::stderr(), "cann_sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(mut args: impl Iterator<Item = OsString>) -> Result<(), String> {
    if args.next().is_none_or(|command| command != "install") {
        return Err(USAGE.to_owned());
    }
    let dir = args.next().filter(|dir| !dir.to_string_lossy().starts_with('-'));
    let dir = dir.map(PathBuf::from).ok_or(USAGE)?;
    let mut options = Options::default();
    while let Some(flag) = args.next() {
        let flag = flag.to_string_lossy().into_owned();
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--cann" => options.cann = value()?.to_string_lossy().into_owned(),
            "--lib" => options.library = Some(value()?.into()),
            "--split" => options.is_split = true,
            "--without" => match value()?.to_str() {
                Some("lib") => options.has_lib = false,
                Some("atc") => options.has_atc = false,
                Some("ops") => options.has_ops = false,
                _ => return Err(USAGE.to_owned()),
            },
            _ => return Err(format!("unknown argument `{flag}`\n{USAGE}")),
        }
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    install::install(&dir, &program, &options).map_err(|error| error.to_string())
}

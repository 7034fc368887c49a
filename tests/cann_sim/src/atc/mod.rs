//! `atc`: from an `.air` file to an offline model.
//!
//! ```text
//! flags --> toolkit, folders --> .air --> ge::prepare --> memory --> OM
//! ```
//!
//! Verdicts and errors go to the standard output, as those of the real one; the reason why a shape
//! function fails only into the log. The module `mischief` makes it misbehave.

mod args;
mod mischief;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fs_err as fs;

use crate::ge::error::GeError;
use crate::ge::memory;
use crate::ge::prepare::{Prepared, Target, prepare};
use crate::ge::version::{CannVersion, Family};
use crate::install;
use crate::om::{self, OmParts};
use args::{Args, ArgsError};
use mischief::Mischief;
use report::{Call, FAILURE, Plog, fail, say};

/// From this version on the operators of a chip are a package of their own.
const OPS_PACKAGE_SINCE: CannVersion = CannVersion { major: 8, minor: 5 };

/// Why a call ends without a model.
enum Failure {
    /// A code of the error manager, and lines of its trace.
    Coded(String, String, Vec<String>),
    /// A line on the standard error.
    Line(String),
    /// The program dies.
    Crash,
}

impl Failure {
    fn coded(code: &str, message: impl Into<String>) -> Self {
        Self::Coded(code.to_owned(), message.into(), Vec::new())
    }
}

impl From<ArgsError> for Failure {
    fn from(error: ArgsError) -> Self {
        match error {
            ArgsError::Line(line) => Self::Line(line),
            ArgsError::Coded(code, message) => Self::coded(code, message),
        }
    }
}

/// The program: takes the arguments after its name.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut call = Call::begin();
    say("ATC start working now, please wait for a moment.");
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let (outcome, result) = run(&args, &mut call);
    match result {
        Ok(()) => {
            call.end(outcome);
            say("...");
            say("ATC run success, welcome to the next use.");
            say("");
            ExitCode::SUCCESS
        }
        Err(Failure::Crash) => {
            call.end("crash");
            fatal(&mischief::crash())
        }
        Err(Failure::Line(line)) => {
            call.end("failed");
            warn(&line);
            fail(None, "", &[]);
            ExitCode::from(FAILURE)
        }
        Err(Failure::Coded(code, message, trace)) => {
            call.end("failed");
            say("...");
            fail(Some(&code), &message, &trace);
            ExitCode::from(FAILURE)
        }
    }
}

fn warn(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "ERROR: {line}");
}

/// The shell that was to end the program could not be started.
fn fatal(error: &std::io::Error) -> ExitCode {
    warn(&error.to_string());
    ExitCode::from(139)
}

/// Runs a call; gives its name in the log of calls.
fn run(args: &[String], call: &mut Call) -> (&'static str, Result<(), Failure>) {
    let mischief = match Mischief::of_environment() {
        Ok(mischief) => mischief,
        Err(line) => return ("failed", Err(Failure::Line(line))),
    };
    let outcome = mischief.as_ref().map_or("ok", Mischief::name);
    (outcome, compile(args, mischief.as_ref(), call))
}

/// The toolkit that this program is part of.
struct Toolkit {
    version_text: String,
    version: CannVersion,
    opp: PathBuf,
}

fn toolkit() -> Result<Toolkit, Failure> {
    let program = std::env::current_exe().unwrap_or_default();
    let version_text = install::version_of_program(&program);
    let version = CannVersion::parse(&version_text).ok_or_else(|| {
        Failure::coded("E19999", format!("the toolkit's version is `{version_text}`"))
    })?;
    let opp = match std::env::var_os("ASCEND_OPP_PATH") {
        Some(path) => PathBuf::from(path),
        None => program.ancestors().nth(2).unwrap_or(Path::new("/")).join("opp"),
    };
    Ok(Toolkit { version_text, version, opp })
}

fn compile(args: &[String], mischief: Option<&Mischief>, call: &mut Call) -> Result<(), Failure> {
    let toolkit = toolkit()?;
    let cmdline = args.join(" ");
    let args = Args::parse(args, toolkit.version.major)?;
    args.check()?;
    let soc = args.get("soc_version");
    let invalid = |name: &str, reason: &str| {
        let value = args.get(name);
        let message =
            format!("Value [{value}] for parameter [--{name}] is invalid. Reason: {reason}");
        Failure::coded("E10001", message)
    };
    let family = Family::of(soc).ok_or_else(|| invalid("soc_version", "it is no chip"))?;
    let air = fs::read(args.get("model"))
        .map_err(|error| invalid("model", &format!("the file cannot be read: {error}")))?;
    let output = Path::new(args.get("output"));
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
    if output.file_name().is_none() || !parent.unwrap_or(Path::new(".")).is_dir() {
        return Err(invalid("output", "it names no file in a folder that exists"));
    }
    call.compiles(soc, &air);
    misbehave(mischief, call)?;

    check_toolkit(&toolkit, family)?;
    let plog = prepare_folders()?;
    let target = Target {
        cann: toolkit.version,
        family,
        sinks_tiling: args.get("tiling_schedule_optimize") == "1",
        keeps_dtypes: args.keeps_dtypes(),
    };
    let mut prepared = prepare(&air, &target).map_err(|error| explain(error, &args, &plog))?;
    for warning in &prepared.warnings {
        say(&format!("W11001: {warning}"));
    }
    prepared.is_dynamic |= matches!(mischief, Some(Mischief::Dynamic));
    let model = encode(&prepared, &args, &toolkit, &cmdline);
    let bytes = match mischief {
        Some(Mischief::Silent) => return Ok(()),
        Some(Mischief::Garbage) => mischief::garbage(),
        Some(Mischief::Truncate) => model[..model.len() / 2].to_vec(),
        _ => model,
    };
    let path = output_path(output, prepared.is_dynamic);
    fs::write(&path, bytes)
        .map_err(|error| Failure::coded("E19999", format!("the model is not written: {error}")))
}

/// `<prefix>.om`, with the system's name in it if the model brings host code along.
fn output_path(prefix: &Path, is_dynamic: bool) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    if is_dynamic {
        name.push(format!("_linux_{}", std::env::consts::ARCH));
    }
    name.push(".om");
    PathBuf::from(name)
}

fn encode(prepared: &Prepared, args: &Args, toolkit: &Toolkit, cmdline: &str) -> Vec<u8> {
    let memory = memory::plan(&prepared.graph);
    let prefix = Path::new(args.get("output")).file_name().unwrap_or_default();
    om::write(&OmParts {
        name: &prefix.to_string_lossy(),
        graph: &prepared.graph,
        soc: args.get("soc_version"),
        cann: &toolkit.version_text,
        memory_size: memory.total,
        zero_copy_memory_size: memory.zero_copy,
        weight_size: memory.weights,
        is_dynamic: prepared.is_dynamic,
        has_tiling_sink: prepared.has_tiling_sink && !prepared.is_dynamic,
        cmdline: &format!("atc {cmdline}"),
    })
}

/// What goes wrong before anything is compiled.
fn misbehave(mischief: Option<&Mischief>, call: &Call) -> Result<(), Failure> {
    match mischief {
        Some(Mischief::Slow(time)) => std::thread::sleep(*time),
        Some(Mischief::Fail(code)) => {
            return Err(Failure::coded(code, "simulator: the environment asks for a failure"));
        }
        Some(Mischief::Crash) => return Err(Failure::Crash),
        Some(Mischief::Hang) => {
            // There is no later chance.
            call.end("hang");
            let error = mischief::hang();
            return Err(Failure::Line(format!("cannot hang: {error}")));
        }
        Some(Mischief::Spam) => {
            if let Err(error) = mischief::spam() {
                return Err(Failure::Line(format!("cannot print: {error}")));
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_toolkit(toolkit: &Toolkit, family: Family) -> Result<(), Failure> {
    if !toolkit.opp.is_dir() {
        let message = format!("there is no folder {}: set ASCEND_OPP_PATH", toolkit.opp.display());
        return Err(Failure::coded("E19999", message));
    }
    let ops = install::ops_folder(&toolkit.opp, family);
    if toolkit.version >= OPS_PACKAGE_SINCE && !ops.is_dir() {
        let message = format!("the ops package of the chip is not installed: no {}", ops.display());
        return Err(Failure::coded("EZ3003", message));
    }
    Ok(())
}

/// What the compiler leaves in the current folder, and its log.
fn prepare_folders() -> Result<Plog, Failure> {
    let refused = |what: &str, error: std::io::Error| {
        Failure::coded("E19999", format!("{what} cannot be written: {error}"))
    };
    fs::create_dir_all("kernel_meta").map_err(|error| refused("the current folder", error))?;
    let report = "[{\"graph_fusion\":{}}]\n";
    fs::write("fusion_result.json", report)
        .map_err(|error| refused("the current folder", error))?;
    Plog::open().map_err(|error| refused("the log folder", error))
}

/// How the real one words what was found.
fn explain(error: GeError, args: &Args, plog: &Plog) -> Failure {
    let code = error.code();
    match error {
        GeError::Crash(what) => {
            plog.error("GE", &what);
            Failure::Crash
        }
        GeError::Load(what) => {
            plog.error("GE", &format!("ErrorNo: 4294967295 {code}: {what}"));
            let message = format!("Failed to load the model from [{}]", args.get("model"));
            Failure::Coded("E10041".to_owned(), message, vec![format!("{code}: {what}")])
        }
        GeError::Infer { node, op, reason } => {
            plog.error("OP", &format!("op[{node}], {reason}"));
            let message = format!("Call InferShapeAndType for node:{node}({op}) failed");
            plog.error("GE", &format!("{code}: {message}"));
            Failure::coded(code, message)
        }
        other => {
            let text = other.to_string();
            plog.error("GE", &text);
            Failure::coded(code, text.strip_prefix(code).map_or(&*text, |t| &t[2..]))
        }
    }
}

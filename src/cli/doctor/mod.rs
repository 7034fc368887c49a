//! `cairn doctor`: looks at everything that running a model depends on, and says what is wrong and
//! what can be done.
//!
//! | File | Holds |
//! | --- | --- |
//! | `check` | what a check says, and how all of them are told |
//! | `host` | processor and cache folder |
//! | `cann`, `devices` | toolkit, compiler, library, driver, devices, logs |
//! | `hardware` | questions that only a device can answer |
//! | `system` | what is asked of the operating system |
//!
//! What this module deliberately does not do: it repairs nothing, and leaves nothing behind.

#[cfg(feature = "ascend")]
mod cann;
mod check;
#[cfg(feature = "ascend")]
mod devices;
#[cfg(feature = "ascend")]
mod hardware;
mod host;
mod system;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::failure::Outcome;
#[cfg(feature = "ascend")]
use super::failure::Usage;
#[cfg(feature = "ascend")]
use super::progress::Amount;
use super::{Context, output};
#[cfg(feature = "ascend")]
use crate::backend::ascend::target::Soc;
use crate::config::BackendKind;
use check::Check;

const EXAMPLES: &str = "\
Examples:
  cairn doctor                                    what this machine can do
  cairn doctor --backend ascend                   fail unless models can run on an NPU
  cairn doctor --hardware-check --soc Ascend910B3
  cairn doctor --json | jq '.checks[] | select(.state == \"failed\")'";

/// Check what running models depends on, and say what is wrong and what can be done.
///
/// Ends with 1 when something failed that the backend needs. Without a CANN toolkit, and unless
/// `--backend ascend` asks for it, what only the Ascend backend needs is skipped.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {
    /// Which device is to run models.
    #[arg(long, value_name = "NAME", env = "CAIRN_BACKEND", value_enum, default_value_t)]
    backend: BackendKind,

    /// Folder of compiled graphs [default: `graphs` in the cache folder, see `cairn --help`].
    #[arg(long, value_name = "DIR", env = "CAIRN_GRAPH_CACHE_DIR")]
    cache_dir: Option<PathBuf>,

    /// Also ask the toolkit and the device, one by one, whether what is assumed about them holds;
    /// compiles small graphs.
    #[arg(long)]
    hardware_check: bool,

    /// The chip that `--hardware-check` compiles for, as in `Ascend910B3` [default: that of the
    /// device].
    #[arg(long, value_name = "NAME", env = "CAIRN_SOC")]
    soc: Option<String>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs, context: &Context) -> anyhow::Result<Outcome> {
    let folder = args.cache_dir.clone().or_else(|| context.environment.graphs_dir());
    let mut checks = vec![host::cpu()];
    checks.extend(host::cache(folder.as_deref()));
    let (cann, hardware) = ascend(args, context)?;
    checks.extend(cann);

    let num_failed = check::num_failed(&checks) + check::num_failed(&hardware);
    if args.json {
        let is_ok = num_failed == 0;
        let mut report = json!({ "ok": is_ok, "backend": args.backend.name(), "checks": checks });
        if args.hardware_check {
            report["hardware_checks"] = json!(hardware);
        }
        output::write_json(&report)?;
    } else {
        output::write(&check::table(&checks))?;
        if args.hardware_check {
            output::write(&format!("\n{}", check::table(&hardware)))?;
        }
    }
    match num_failed {
        0 => Ok(Outcome::Done),
        1 => Err(anyhow!("1 check failed")),
        _ => Err(anyhow!("{num_failed} checks failed")),
    }
}

/// The checks of the Ascend backend, and the answers to the questions about hardware.
#[cfg(feature = "ascend")]
fn ascend(args: &DoctorArgs, context: &Context) -> anyhow::Result<(Vec<Check>, Vec<Check>)> {
    let wanted = args.soc.as_deref().map(str::parse::<Soc>).transpose();
    let wanted = wanted.map_err(|error| Usage(error.to_string()))?;
    let environment = &context.environment;
    let is_wanted = args.backend == BackendKind::Ascend;
    let found = cann::look(environment, &cann::Places::usual(environment), is_wanted);
    if !args.hardware_check {
        return Ok((found.checks, Vec::new()));
    }
    let soc = wanted.or_else(|| found.soc?.parse().ok());
    let answers = match (found.atc, soc) {
        (None, _) => hardware::ask_all(&hardware::QUESTIONS, Err("there is no compiler that runs")),
        (Some(_), None) => hardware::ask_all(
            &hardware::QUESTIONS,
            Err("there is no known chip to compile for: name one with `--soc`"),
        ),
        (Some(atc), Some(soc)) => {
            let compile = |air: &[u8]| atc.compile(air, soc, &tempfile::env::temp_dir());
            let _task = context.progress.begin("compiling small graphs", Amount::Unknown);
            hardware::ask_all(&hardware::QUESTIONS, Ok(&hardware::Tools { compile: &compile }))
        }
    };
    Ok((found.checks, answers))
}

#[cfg(not(feature = "ascend"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as with the backend")]
fn ascend(args: &DoctorArgs, _context: &Context) -> anyhow::Result<(Vec<Check>, Vec<Check>)> {
    let why = "this build has no ascend backend: it was built without that feature";
    let is_wanted = args.backend == BackendKind::Ascend;
    let check = if is_wanted { Check::failed } else { Check::skipped };
    Ok((vec![check("toolkit", why.to_owned())], Vec::new()))
}

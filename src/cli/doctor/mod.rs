//! `cairn doctor`: looks at everything that running a model depends on, and says what is wrong and
//! what can be done.
//!
//! | File | Holds |
//! | --- | --- |
//! | `check` | what a check says, and how all of them are told |
//! | `host` | processor |
//! | `cache` | graph cache |
//! | `cann`, `devices` | toolkit, compiler, library, driver, devices, logs |
//! | `hardware` | questions that only a device can answer |
//! | `system` | what is asked of the operating system |
//!
//! What this module deliberately does not do: it repairs nothing, and leaves nothing behind.

mod cache;
#[cfg(feature = "ascend")]
mod cann;
mod check;
#[cfg(feature = "ascend")]
mod devices;
#[cfg(feature = "ascend")]
mod hardware;
mod host;
mod system;

#[cfg(feature = "ascend")]
use std::path::Path;

#[cfg(feature = "ascend")]
use anyhow::Context as _;
use anyhow::anyhow;
use clap::Args;
use serde_json::json;

#[cfg(feature = "ascend")]
use super::ascend;
use super::cache_args::CacheArgs;
use super::failure::Outcome;
#[cfg(feature = "ascend")]
use super::failure::Usage;
use super::model_args::MAX_DEVICE;
#[cfg(feature = "ascend")]
use super::progress::Amount;
use super::{Context, output, values};
#[cfg(feature = "ascend")]
use crate::backend::ascend::{AscendBackend, Purpose, hardware::Lab, target::Soc};
use crate::config::BackendKind;
#[cfg(feature = "ascend")]
use crate::config::{AscendConfig, Environment};
use check::Check;
#[cfg(feature = "ascend")]
use check::State;

const EXAMPLES: &str = "\
Examples:
  cairn doctor                                    what this machine can do
  cairn doctor --backend ascend                   fail unless models can run on an NPU
  cairn doctor --cache-layer s3://bucket/prefix   also look at a place that graphs come from
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

    /// Also ask the toolkit and the device, one by one, whether what is assumed about them holds;
    /// compiles and runs small graphs, which takes minutes.
    #[arg(long)]
    hardware_check: bool,

    /// The chip that `--hardware-check` compiles for, as in `Ascend910B3` [default: that of the
    /// device].
    #[arg(long, value_name = "NAME", env = "CAIRN_SOC")]
    soc: Option<String>,

    /// The device that `--hardware-check` asks, counted among those that are visible to this process.
    #[arg(long, value_name = "ID", env = "CAIRN_DEVICE", default_value_t = 0)]
    #[arg(value_parser = values::whole::<u32>(0..=MAX_DEVICE), allow_hyphen_values = true)]
    device: u32,

    /// Let `--hardware-check` also break a step on purpose, to see what becomes of it. Only for a
    /// device that nobody else uses: it may have to be reset.
    #[arg(long, requires = "hardware_check")]
    inject_faults: bool,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs, context: &Context) -> anyhow::Result<Outcome> {
    let mut checks = vec![host::cpu()];
    checks.extend(cache::look(&args.cache.config(&context.environment)));
    let (cann, hardware) = look_at_ascend(args, context)?;
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
fn look_at_ascend(
    args: &DoctorArgs,
    context: &Context,
) -> anyhow::Result<(Vec<Check>, Vec<Check>)> {
    let wanted = args.soc.as_deref().map(str::parse::<Soc>).transpose();
    let wanted = wanted.map_err(|error| Usage(error.to_string()))?;
    let environment = &context.environment;
    let is_wanted = args.backend == BackendKind::Ascend;
    let mut found = cann::look(environment, &cann::Places::usual(environment), is_wanted);
    if !args.hardware_check {
        return Ok((found.checks, Vec::new()));
    }
    // Kept until the backend has closed the device.
    let _runtime = found.runtime;
    let of_device: Option<Soc> = found.soc.and_then(|soc| soc.parse().ok());
    let scratch = tempfile::tempdir().context("making a folder for compiles")?;
    let opened = if found.compiles {
        open(args, environment, wanted, of_device, scratch.path())
    } else {
        Err(Check::skipped(BACKEND, "there is no compiler that runs"))
    };
    let lab = opened.as_ref().map(|backend| Lab::new(backend, args.inject_faults));
    let amount = Amount::Items(hardware::NUM_QUESTIONS as u64);
    let task = context.progress.begin("asking the compiler and the device", amount);
    let lab = lab.as_ref().map_err(|check| check.found.as_str());
    let answers = hardware::ask_all(lab, |idx| task.advance_to(idx as u64));
    // Nothing could be asked although there is somebody to ask.
    found.checks.extend(opened.err().filter(|check| check.state == State::Failed));
    Ok((found.checks, answers))
}

#[cfg(feature = "ascend")]
const BACKEND: &str = "backend";

/// The backend: with a device when that is the chip that is wanted. Else why there is none.
#[cfg(feature = "ascend")]
fn open(
    args: &DoctorArgs,
    environment: &Environment,
    wanted: Option<Soc>,
    of_device: Option<Soc>,
    scratch: &Path,
) -> Result<AscendBackend, Check> {
    let purpose = match (wanted, of_device) {
        (None, None) => {
            let why = "there is no known chip to compile for: name one with `--soc`";
            return Err(Check::skipped(BACKEND, why));
        }
        (Some(wanted), of_device) if of_device != Some(wanted) => Purpose::Compile,
        _ => Purpose::Run,
    };
    let soc = wanted.map(|soc| soc.to_string());
    let config = AscendConfig { soc, device: args.device, ..AscendConfig::default() };
    let opened = ascend::open_to_ask(&config, environment, purpose, scratch);
    opened.map_err(|error| Check::failed(BACKEND, format_args!("{:#}", anyhow::Error::new(error))))
}

#[cfg(not(feature = "ascend"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as with the backend")]
fn look_at_ascend(
    args: &DoctorArgs,
    _context: &Context,
) -> anyhow::Result<(Vec<Check>, Vec<Check>)> {
    let why = "this build has no ascend backend: it was built without that feature";
    let is_wanted = args.backend == BackendKind::Ascend;
    let check = if is_wanted { Check::failed } else { Check::skipped };
    Ok((vec![check("toolkit", why.to_owned())], Vec::new()))
}

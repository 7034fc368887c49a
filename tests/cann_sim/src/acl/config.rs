//! What the `CANN_SIM_*` variables say, read at `aclInit`.

use std::env;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::script::Script;
use super::version::Version;
use crate::install::{self, DEFAULT_CANN};

const DEFAULT_SOC: &str = "Ascend910B3";
const DEFAULT_HBM_BYTES: u64 = 8 << 30;
const DEFAULT_DELAY_US: u64 = 20;

/// How the simulated machine is set up.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// The device's name, as `aclrtGetSocName` gives it.
    pub(super) soc: String,
    /// The runtime's version, as text and understood.
    pub(super) cann: (String, Version),
    pub(super) num_devices: u32,
    /// Memory of each device.
    pub(super) hbm_bytes: u64,
    pub(super) seed: u64,
    /// The longest ordinary delay before a task; one in sixteen is up to eight times as long.
    pub(super) delay: Duration,
    /// Models run without computing.
    pub(super) skips_execution: bool,
    /// Loads take memory for inputs and outputs, whatever they are told.
    pub(super) ignores_mem_optimize: bool,
}

impl Config {
    /// # Errors
    /// The first variable that makes no sense.
    pub(super) fn from_env() -> Result<Self, String> {
        let cann = install::version_of_library();
        let version = Version::parse(&cann)
            .ok_or_else(|| format!("CANN_SIM_CANN: `{cann}` is no version such as `9.0.0`"))?;
        let num_devices = number("CANN_SIM_DEVICES", 1)?;
        if !(1..=64).contains(&num_devices) {
            return Err(format!("CANN_SIM_DEVICES: {num_devices} is not in 1..=64"));
        }
        let hbm_bytes = number("CANN_SIM_HBM_BYTES", DEFAULT_HBM_BYTES)?;
        if !(1 << 16..=1 << 40).contains(&hbm_bytes) {
            return Err(format!("CANN_SIM_HBM_BYTES: {hbm_bytes} is not within 64 KiB and 1 TiB"));
        }
        let delay_us = number("CANN_SIM_DELAY_US", DEFAULT_DELAY_US)?;
        if delay_us > 1_000_000 {
            return Err(format!("CANN_SIM_DELAY_US: {delay_us} is more than a second"));
        }
        let execute = text("CANN_SIM_EXECUTE").unwrap_or_default();
        let skips_execution = match execute.as_str() {
            "" | "interpret" => false,
            "noop" => true,
            _ => return Err(format!("CANN_SIM_EXECUTE: `{execute}` is not `interpret` or `noop`")),
        };
        let ignores_mem_optimize = match number("CANN_SIM_IGNORE_MEM_OPTIMIZE", 0)? {
            0 => false,
            1 => true,
            other => return Err(format!("CANN_SIM_IGNORE_MEM_OPTIMIZE: {other} is not 0 or 1")),
        };
        Ok(Self {
            soc: text("CANN_SIM_SOC").unwrap_or_else(|| DEFAULT_SOC.to_owned()),
            cann: (cann, version),
            num_devices,
            hbm_bytes,
            seed: number("CANN_SIM_SEED", 0)?,
            delay: Duration::from_micros(delay_us),
            skips_execution,
            ignores_mem_optimize,
        })
    }

    /// The ordered failures.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn script() -> Result<Script, String> {
        let script = text("CANN_SIM_FAIL").unwrap_or_default();
        Script::parse(&script).map_err(|reason| format!("CANN_SIM_FAIL: {reason}"))
    }
}

/// Where the call log goes.
pub(super) fn log_path() -> Option<PathBuf> {
    text("CANN_SIM_LOG").map(PathBuf::from)
}

/// The folder of the toolkit's own logs.
pub(super) fn process_log_folder() -> Option<PathBuf> {
    text("ASCEND_PROCESS_LOG_PATH")
        .map(PathBuf::from)
        .or_else(|| text("HOME").map(|home| Path::new(&home).join("ascend").join("log")))
}

fn text(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

fn number<T: FromStr>(variable: &str, default: T) -> Result<T, String> {
    let Some(value) = text(variable) else {
        return Ok(default);
    };
    value.parse().map_err(|_| format!("{variable}: `{value}` is no number that fits"))
}

impl Default for Config {
    fn default() -> Self {
        let version = Version::parse(DEFAULT_CANN);
        Self {
            soc: DEFAULT_SOC.to_owned(),
            cann: (
                DEFAULT_CANN.to_owned(),
                version.expect("invariant: the default version is a version"),
            ),
            num_devices: 1,
            hbm_bytes: DEFAULT_HBM_BYTES,
            seed: 0,
            delay: Duration::from_micros(DEFAULT_DELAY_US),
            skips_execution: false,
            ignores_mem_optimize: false,
        }
    }
}

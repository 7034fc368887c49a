//! The Ascend backend from a configuration: what it is opened with, and the way out when it cannot
//! be.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use fs_err as fs;

use super::boot::Purpose;
use super::failure::Hint as _;
use crate::backend::ascend::{self, AscendBackend, AscendOptions, OpenError, atc};
use crate::config::{EngineConfig, Environment};

/// Opens the backend; `cann` is the release to make graphs for where no toolkit is installed.
pub(super) fn open(
    config: &EngineConfig,
    purpose: Purpose,
    cann: Option<ascend::CannRelease>,
) -> anyhow::Result<AscendBackend> {
    let environment = Environment::of_process();
    let options = AscendOptions {
        homes: environment.ascend_homes.clone(),
        soc: config.ascend.soc.clone(),
        cann,
        device: config.ascend.device,
        purpose: match purpose {
            Purpose::Run => ascend::Purpose::Run,
            Purpose::Compile => ascend::Purpose::Compile,
            Purpose::Inspect => ascend::Purpose::Inspect,
        },
        scratch: scratch(config, &environment),
        custom_operators: environment.ascend_operators,
        environment: environment.ascend_compiler,
        compile_jobs: config.ascend.compile_jobs.unwrap_or_else(compile_jobs),
        compile_timeout: config.ascend.compile_timeout,
        device_timeout: config.ascend.device_timeout,
    };
    let opened = AscendBackend::open(options);
    let hint = opened.as_ref().err().map(remedy);
    let opened = opened.context("opening the ascend backend");
    match hint {
        Some(hint) => opened.hint(hint),
        None => opened,
    }
}

/// Beside the compiled graphs: the same disk, and kept as long.
fn scratch(config: &EngineConfig, environment: &Environment) -> PathBuf {
    let of_cache = config.graph_cache.as_deref().and_then(Path::parent);
    let root = of_cache.map(Path::to_owned).or_else(|| environment.cache_root.clone());
    root.unwrap_or_else(tempfile::env::temp_dir).join("atc")
}

fn compile_jobs() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    atc::compile_jobs(cores, memory_bytes())
}

/// Memory that compilers may take; where the system does not say, as much as one of them wants.
fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn remedy(error: &OpenError) -> &'static str {
    match error {
        OpenError::Library { .. } | OpenError::Toolkit(_) => {
            "set `ASCEND_HOME_PATH` to where CANN is installed, or use `--backend cpu`"
        }
        OpenError::Soc(_) | OpenError::OtherSoc { .. } => {
            "`--soc` takes the name that `cairn doctor` shows for the device"
        }
        _ => "`cairn doctor` says what is wrong with the device",
    }
}

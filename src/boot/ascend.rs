//! The Ascend backend from a configuration: what it is opened with, and the way out when it cannot
//! be.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use cairn_graph_cache::CacheMode;
use fs_err as fs;

use super::Purpose;
use super::failure;
use crate::backend::BackendError;
use crate::backend::ascend::logs::LogPlaces;
use crate::backend::ascend::{self, AscendBackend, AscendOptions, OpenError, atc};
use crate::config::{AscendConfig, EngineConfig, Environment};

/// Where CANN writes its logs.
pub(crate) fn log_places(environment: &Environment) -> LogPlaces {
    LogPlaces {
        process_log_path: environment.ascend_log_path.clone(),
        work_path: environment.ascend_work_path.clone(),
        home: environment.home.clone(),
    }
}

/// Opens the backend for small graphs, which are compiled in the folder `scratch`; with a device if
/// `purpose` says so.
pub(crate) fn open_to_ask(
    config: &AscendConfig,
    environment: &Environment,
    purpose: ascend::Purpose,
    scratch: &Path,
) -> Result<AscendBackend, OpenError> {
    AscendBackend::open(options(config, environment.clone(), purpose, scratch.to_owned()))
}

/// Opens the backend; `cann` is the release to make graphs for where no toolkit is installed.
pub(super) fn open(
    config: &EngineConfig,
    purpose: Purpose,
    cann: Option<ascend::CannRelease>,
) -> anyhow::Result<AscendBackend> {
    let environment = Environment::of_process();
    let purpose = match purpose {
        Purpose::Run => ascend::Purpose::Run,
        Purpose::Compile => ascend::Purpose::Compile,
        Purpose::Inspect => ascend::Purpose::Inspect,
    };
    let scratch = scratch(config, &environment);
    let options = options(&config.ascend, environment, purpose, scratch);
    let opened = AscendBackend::open(AscendOptions { cann, ..options });
    opened.map_err(|error| told(error, purpose)).context("opening the ascend backend")
}

fn options(
    config: &AscendConfig,
    environment: Environment,
    purpose: ascend::Purpose,
    scratch: PathBuf,
) -> AscendOptions {
    AscendOptions {
        logs: log_places(&environment),
        homes: environment.ascend_homes,
        soc: config.soc.clone(),
        cann: None,
        device: config.device,
        purpose,
        scratch,
        custom_operators: environment.ascend_operators,
        environment: environment.ascend_compiler,
        compile_jobs: config.compile_jobs.unwrap_or_else(compile_jobs),
        compile_timeout: config.compile_timeout,
        device_timeout: config.device_timeout,
    }
}

/// The error with the way out of it, and the exit code that it deserves.
fn told(error: OpenError, purpose: ascend::Purpose) -> anyhow::Error {
    if let Some(fate) = error.fate() {
        return BackendError::Device { what: error.to_string(), fate }.into();
    }
    let hint = remedy(&error, purpose);
    failure::hinted(error.into(), hint)
}

/// Beside the compiled graphs: the same disk, and kept as long.
fn scratch(config: &EngineConfig, environment: &Environment) -> PathBuf {
    let cache = Some(&config.graph_cache).filter(|cache| cache.mode != CacheMode::Off);
    let of_cache = cache.and_then(|cache| cache.folder.as_deref()?.parent());
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

fn remedy(error: &OpenError, purpose: ascend::Purpose) -> &'static str {
    match error {
        OpenError::Library { .. } | OpenError::Toolkit(_)
            if purpose == ascend::Purpose::Inspect =>
        {
            "with both `--soc` and `--cann`, neither a toolkit nor a device is needed"
        }
        OpenError::Library { .. } if purpose == ascend::Purpose::Compile => {
            "with `--soc`, no device is needed to compile; to learn its name from the device, set \
             `ASCEND_HOME_PATH` to where CANN is installed"
        }
        OpenError::Library { .. } | OpenError::Toolkit(_) => {
            "set `ASCEND_HOME_PATH` to where CANN is installed, or use `--backend cpu`"
        }
        OpenError::Soc(_) | OpenError::OtherSoc { .. } => {
            "`--soc` takes the name that `cairn doctor` shows for the device"
        }
        _ => "`cairn doctor` says what is wrong with the device",
    }
}

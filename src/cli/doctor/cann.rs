//! Checks of what the Ascend backend needs: toolkit, compiler, library, driver, device, logs.
//!
//! ```text
//! toolkit --found--> atc                        compiles
//! library --found--> driver --> devices         runs
//! ```
//!
//! On a machine without a toolkit, and unless the Ascend backend is asked for, all of this is
//! skipped.
//!
//! What this module deliberately does not do: it changes nothing on a device, and asks it for no
//! more than its name and its free memory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_ffi::{Acl, Runtime};
use fs_err as fs;

use super::check::{Check, State};
use super::devices::{self, DEVICES};
use super::system;
use crate::backend::ascend::atc::{Atc, AtcLimits};
use crate::backend::ascend::logs;
use crate::backend::ascend::target::CannRelease;
use crate::backend::ascend::toolkit::{Toolkit, ToolkitError};
use crate::cli::ascend::log_places;
use crate::config::Environment;

const TOOLKIT: &str = "toolkit";
const ATC: &str = "atc";
const LIBRARY: &str = "library";
const DRIVER: &str = "driver";
const DEVICE_FILES: &str = "device files";
const LOGS: &str = "cann logs";

/// The last release whose interface we have seen.
const NEWEST_KNOWN: CannRelease = CannRelease { major: 9, minor: 2 };
/// How long the compiler may take to print its help; it loads many libraries.
const HELP_TIMEOUT: Duration = Duration::from_mins(2);
const NO_TOOLKIT: &str = "no CANN toolkit";
/// Errors of CANN's logs that are shown.
const LOG_LINES: usize = 3;
const MAX_VERSION_BYTES: u64 = 64 << 10;
/// Devices on one machine; more are not shown.
const MAX_DEVICES: usize = 64;

/// Where things of the system lie, besides what the environment says.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Folders that toolkits are usually installed in.
    pub(super) toolkits: Vec<PathBuf>,
    /// `version.info` of the driver.
    pub(super) driver: PathBuf,
    /// The folder of device files.
    pub(super) devices: PathBuf,
}

impl Places {
    /// As CANN's installers have them.
    pub(super) fn usual(environment: &Environment) -> Self {
        let roots = environment.home.iter().map(|home| home.join("Ascend"));
        let roots = [PathBuf::from("/usr/local/Ascend")].into_iter().chain(roots);
        let toolkits =
            roots.flat_map(|root| [root.join("cann"), root.join("ascend-toolkit/latest")]);
        Self {
            toolkits: toolkits.collect(),
            driver: "/usr/local/Ascend/driver/version.info".into(),
            devices: "/dev".into(),
        }
    }
}

/// What was found of CANN.
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    /// The chip's name, if there is a device.
    pub(super) soc: Option<String>,
    /// Whether there is a compiler that runs.
    pub(super) compiles: bool,
    /// What CANN was asked through, while it is kept: it may not be finalised and initialised again.
    pub(super) runtime: Option<Arc<Runtime>>,
}

/// Everything that the Ascend backend needs. When it `is_wanted`, what is missing is a failure.
pub(super) fn look(environment: &Environment, places: &Places, is_wanted: bool) -> Found {
    let mut checks = Vec::new();
    let mut compiles = false;
    match Toolkit::find(&environment.ascend_homes) {
        Ok(toolkit) => {
            let toolkit = toolkit.with_custom_operators(&environment.ascend_operators);
            checks.push(described(&toolkit));
            let (check, runs) = look_at_compiler(&toolkit, environment);
            checks.push(check);
            compiles = runs;
        }
        Err(error) if is_wanted => {
            checks.push(missing(&error, places));
            checks.push(Check::skipped(ATC, NO_TOOLKIT));
        }
        // On most machines it is as it should be.
        Err(error) => {
            let missing = missing(&error, places);
            checks.push(Check { state: State::Skipped, ..missing });
            let names = [ATC, LIBRARY, DRIVER, DEVICE_FILES, DEVICES, LOGS];
            checks.extend(names.map(|name| Check::skipped(name, NO_TOOLKIT)));
            return Found { checks, soc: None, compiles: false, runtime: None };
        }
    }
    // Before anything is asked that CANN may log as an error.
    let logs = look_at_logs(environment);
    let (library, acl) = look_at_library(&environment.ascend_homes);
    let mut driver = [driver(&places.driver), device_files(&places.devices)];
    let devices = acl.map(devices::look);
    // A device that answers has a driver, wherever its files are.
    if devices.as_ref().is_some_and(|found| found.check.state != State::Failed) {
        driver = driver.map(Check::optional);
    }
    let (devices, soc, runtime) = match devices {
        Some(found) => (found.check, found.soc, found.runtime),
        None => (Check::skipped(DEVICES, "no library to ask"), None, None),
    };
    checks.push(library);
    checks.extend(driver);
    checks.extend([devices, logs]);
    if !is_wanted {
        checks = checks.into_iter().map(Check::optional).collect();
    }
    Found { checks, soc, compiles, runtime }
}

fn described(toolkit: &Toolkit) -> Check {
    let found = format!("{} at `{}`", toolkit.version(), toolkit.home().display());
    let check = if toolkit.release() > NEWEST_KNOWN {
        Check::warning(TOOLKIT, found).remedy(format_args!(
            "it is newer than {NEWEST_KNOWN}, the last that is known to work: if it does not, use \
             an older one"
        ))
    } else {
        Check::ok(TOOLKIT, found)
    };
    let line = |(name, versions): &(String, String)| format!("{name}: {versions}");
    toolkit.components().iter().map(line).fold(check, Check::detail)
}

fn missing(error: &ToolkitError, places: &Places) -> Check {
    let check = match error {
        ToolkitError::NotFound { attempts } => {
            let check = Check::failed(TOOLKIT, NO_TOOLKIT);
            attempts.iter().fold(check, Check::detail)
        }
        error => Check::failed(TOOLKIT, error),
    };
    let scripts = places.toolkits.iter().map(|toolkit| toolkit.join("set_env.sh"));
    match scripts.into_iter().find(|script| script.is_file()) {
        Some(script) => check.remedy(format_args!("`source {}`", script.display())),
        None => check.remedy(format_args!(
            "install CANN {} or later, and source its `set_env.sh`",
            CannRelease::OLDEST
        )),
    }
}

/// Whether graphs can be compiled here. Where not, those of a cache can still be run.
fn look_at_compiler(toolkit: &Toolkit, environment: &Environment) -> (Check, bool) {
    let Some(program) = toolkit.atc() else {
        let check = Check::warning(ATC, "this toolkit has no compiler").remedy(
            "graphs can be run that are in the cache; to compile, install the complete toolkit",
        );
        return (check, false);
    };
    let found = format!("`{}`", program.display());
    let is_executable =
        fs::metadata(program).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    if !is_executable {
        let check = Check::failed(ATC, format_args!("{found} is not executable"));
        let remedy = "let whoever installed the toolkit give this user access to it";
        return (check.remedy(remedy), false);
    }
    let limits = AtcLimits { timeout: HELP_TIMEOUT, ..AtcLimits::default() };
    let variables = environment.ascend_compiler.clone();
    let atc = Atc::new(program.to_owned(), toolkit.home().to_owned(), variables, limits);
    match atc.help(&tempfile::env::temp_dir()) {
        Ok(_) => (Check::ok(ATC, format_args!("{found} runs")), true),
        Err(error) => {
            let check = Check::failed(ATC, format_args!("{found}: {error}"));
            let remedies = error.remedies().join("; ");
            let usual = "source the toolkit's `set_env.sh`: its libraries may not be found";
            (check.remedy(if remedies.is_empty() { usual } else { &remedies }), false)
        }
    }
}

fn look_at_library(homes: &[PathBuf]) -> (Check, Option<Acl>) {
    match Acl::load(homes) {
        Ok(acl) => {
            let check = Check::ok(LIBRARY, format_args!("ACL {}", acl.version()));
            (acl.paths().iter().map(|path| path.display()).fold(check, Check::detail), Some(acl))
        }
        Err(error) => {
            let check = Check::failed(LIBRARY, "no CANN library can be used");
            let attempt = |attempt: &cairn_ffi::Attempt| {
                format!("`{}`: {}", attempt.library.display(), attempt.reason)
            };
            let check = error.attempts().iter().map(attempt).fold(check, Check::detail).remedy(
                "source the toolkit's `set_env.sh`; on a machine without a device, graphs can only \
                 be compiled: `cairn warmup --soc NAME`",
            );
            (check, None)
        }
    }
}

fn driver(version_info: &Path) -> Check {
    let version = read_start(version_info).and_then(|text| {
        let value = |line: &str| {
            let (key, value) = line.split_once('=')?;
            key.trim().eq_ignore_ascii_case("version").then(|| value.trim().to_owned())
        };
        text.lines().find_map(value)
    });
    match version {
        Some(version) => Check::ok(DRIVER, version),
        None => {
            Check::failed(DRIVER, format_args!("`{}` tells no version", version_info.display()))
                .remedy("install the driver of the device; in a container, mount it")
        }
    }
}

/// The beginning of a small text file.
fn read_start(path: &Path) -> Option<String> {
    // Looked at first: opening would wait for ever on a FIFO.
    let metadata = fs::metadata(path).ok()?;
    let is_small = metadata.is_file() && metadata.len() <= MAX_VERSION_BYTES;
    is_small
        .then(|| fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))?
}

/// The files through which a device is used, and whether this user may.
fn device_files(folder: &Path) -> Check {
    let devices = numbered_devices(folder);
    if devices.is_empty() {
        let found = format!("no `{}`", folder.join("davinci*").display());
        return Check::failed(DEVICE_FILES, found)
            .remedy("in a container, pass the devices on: `--device /dev/davinci0` and so on");
    }
    let needed = ["davinci_manager", "devmm_svm", "hisi_hdc"].map(|name| folder.join(name));
    let (there, absent): (Vec<_>, Vec<_>) = needed.into_iter().partition(|path| path.exists());
    let closed: Vec<_> = devices
        .iter()
        .chain(&there)
        .filter(|path| system::can_read_and_write(path) == Some(false))
        .collect();
    let names = |paths: &mut dyn Iterator<Item = &PathBuf>| {
        paths.map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
    };
    if !closed.is_empty() {
        let found = format!("no access to {}", names(&mut closed.into_iter()));
        return Check::failed(DEVICE_FILES, found)
            .remedy("add this user to the group of these files, usually `HwHiAiUser`");
    }
    let check = if absent.is_empty() { Check::ok } else { Check::warning };
    let check = check(DEVICE_FILES, names(&mut devices.iter()));
    if absent.is_empty() {
        return check;
    }
    check
        .detail(format_args!("missing: {}", names(&mut absent.iter())))
        .remedy("in a container, pass these on, too")
}

/// `davinci0`, `davinci1` and so on, in the order of their numbers.
fn numbered_devices(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let number = |path: &Path| -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix("davinci")?.parse().ok()
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut devices: Vec<_> = paths.filter_map(|path| Some((number(&path)?, path))).collect();
    devices.sort();
    devices.into_iter().map(|(_, path)| path).take(MAX_DEVICES).collect()
}

fn look_at_logs(environment: &Environment) -> Check {
    let Some(folder) = log_places(environment).folder() else {
        return Check::warning(LOGS, "there is no place for CANN's logs")
            .remedy("set `ASCEND_PROCESS_LOG_PATH`");
    };
    let found = format!("`{}`", folder.display());
    if !folder.is_dir() {
        return Check::ok(LOGS, format_args!("{found}, nothing there yet"));
    }
    logs::last_lines(&folder, None, LOG_LINES)
        .into_iter()
        .fold(Check::ok(LOGS, found), Check::detail)
}

#[cfg(test)]
mod tests;

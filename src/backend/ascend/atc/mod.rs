//! `atc`, CANN's offline compiler, as a child process: an `.air` file in, an offline model out.
//!
//! ```text
//! scratch/atc-XXXXXX/        fresh for each compile, 0700, removed on every way out
//!   g.air                    the graph
//!   out/g.om                 what is wanted; g_<os>_<cpu>.om when code for the host is packed in
//!   home/                    current folder and HOME: fusion_result.json, kernel_meta/
//!   log/                     ASCEND_PROCESS_LOG_PATH: quoted in errors
//!   tmp/                     TMPDIR
//! ```
//!
//! | File | Holds |
//! | --- | --- |
//! | `process`, `group` | a program, run to its end or ended with all that it has started |
//! | `codes` | the codes in its output, and what can be done |
//! | `error` | how a compile fails |
//! | `samples` | small graphs to try a compiler with |
//!
//! Nothing of this process's environment reaches the compiler but what the caller hands over: what
//! it makes of a graph must depend on nothing that is not in the cache's key.
//!
//! What this module deliberately does not do: it knows no graph, no cache and no other compiler.

mod codes;
mod error;
mod group;
pub mod process;
pub mod samples;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use tempfile::TempDir;

use super::target::Soc;
use super::{logs, om};
pub use error::{AtcError, Report};
use process::Finished;

/// Cores that one compiler keeps busy: it starts eight workers unless told otherwise.
const CORES_PER_JOB: usize = 8;
/// Memory that one compiler and its workers may take: an estimate, on the safe side.
const BYTES_PER_JOB: u64 = 8 << 30;
/// Lines of CANN's log that an error quotes.
const LOG_LINES: usize = 12;
/// For programs that need to find others, where the caller hands over no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a shell ends with that could not run a program, or a program that lacks a library.
const NOT_RUN: [i32; 2] = [126, 127];
/// Libraries that stand in for the driver's on machines without a device.
const DRIVER_STUBS: [&str; 2] = ["x86_64-linux/devlib", "aarch64-linux/devlib"];

/// How many graphs to compile at once on a machine: as many as its cores and its memory can take,
/// at least one.
///
/// One compiler spawns up to eight workers, and is reckoned with 8 GiB. Neither is exact: kernels
/// that come precompiled with the toolkit need no worker, a large graph needs more memory.
pub fn compile_jobs(cores: usize, memory_bytes: u64) -> usize {
    let by_memory = usize::try_from(memory_bytes / BYTES_PER_JOB).unwrap_or(usize::MAX);
    (cores / CORES_PER_JOB).min(by_memory).max(1)
}

/// How far a compile may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtcLimits {
    /// Longest time that a compile may take.
    pub timeout: Duration,
    /// Time to end in good order after that.
    pub patience: Duration,
    /// Largest offline model that is read. Weights are not part of it.
    pub max_om_bytes: u64,
}

impl Default for AtcLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_mins(45),
            patience: Duration::from_secs(5),
            max_om_bytes: 2 << 30,
        }
    }
}

/// What the compiler made of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineModel {
    /// The offline model.
    pub om: Vec<u8>,
    /// The end of what the compiler printed.
    pub tail: String,
}

/// CANN's offline compiler.
#[derive(Clone, Debug)]
pub struct Atc {
    program: PathBuf,
    toolkit_home: PathBuf,
    environment: Vec<(OsString, OsString)>,
    limits: AtcLimits,
    kernel_cache: Option<PathBuf>,
}

impl Atc {
    /// The compiler at `program`, which belongs to the toolkit at `toolkit_home`. It gets the
    /// variables of `environment` and no others: `PATH`, `LD_LIBRARY_PATH`, `PYTHONPATH`,
    /// `ASCEND_OPP_PATH` and the like, as the toolkit's `set_env.sh` sets them.
    pub fn new(
        program: PathBuf,
        toolkit_home: PathBuf,
        environment: Vec<(OsString, OsString)>,
        limits: AtcLimits,
    ) -> Self {
        Self { program, toolkit_home, environment, limits, kernel_cache: None }
    }

    /// Lets compiles share the kernels that they have built, in a folder that is made when it is
    /// missing. Several processes may use one.
    #[must_use]
    pub fn with_kernel_cache(self, folder: PathBuf) -> Self {
        Self { kernel_cache: Some(folder), ..self }
    }

    /// The arguments that decide what becomes of a graph: no paths, for keys of a cache.
    ///
    /// Without `precision_mode_v2` everything would be computed in f16, bf16 included. Without
    /// `tiling_schedule_optimize` a graph with attention over lengths that only a run knows would
    /// become dynamic.
    pub fn arguments(soc: Soc) -> Vec<String> {
        vec![
            "--mode=0".to_owned(),
            // An `.air` file.
            "--framework=1".to_owned(),
            format!("--soc_version={soc}"),
            "--precision_mode_v2=origin".to_owned(),
            "--tiling_schedule_optimize=1".to_owned(),
            "--deterministic=0".to_owned(),
            // Else nothing is logged that could be quoted.
            "--log=error".to_owned(),
        ]
    }

    /// Compiles a graph, an `.air` file's bytes, in a fresh folder inside `scratch`, which is made
    /// when it is missing, and checks the header of what comes out.
    ///
    /// # Errors
    /// [`AtcError`]; its `remedies` say what can be done where that is known.
    pub fn compile(&self, air: &[u8], soc: Soc, scratch: &Path) -> Result<OfflineModel, AtcError> {
        let place = Place::create(scratch)?;
        place.write_air(air).map_err(AtcError::folder(&place.path("g.air")))?;
        let mut command = self.command(&place);
        command.args(Self::arguments(soc));
        command.arg(flag("--model=", &place.path("g.air")));
        command.arg(flag("--output=", &place.path("out/g")));
        if let Some(folder) = &self.kernel_cache {
            create_private(folder).map_err(AtcError::folder(folder))?;
            command.arg("--op_compiler_cache_mode=enable");
            command.arg(flag("--op_compiler_cache_dir=", folder));
        }
        let finished = self.run(&mut command, &place)?;
        let report = || Box::new(place.report(&finished));
        match finished.status {
            None => {
                return Err(AtcError::Timeout { after: self.limits.timeout, report: report() });
            }
            Some(status) if !status.success() => {
                return Err(AtcError::Failed { status, report: report() });
            }
            Some(_) => {}
        }
        let found = place.offline_models().map_err(AtcError::folder(&place.path("out")))?;
        let [path] = found.as_slice() else {
            let name = |path: &PathBuf| {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            };
            return Err(AtcError::NoOutput {
                found: found.iter().map(name).collect(),
                report: report(),
            });
        };
        let om = self.read(path).map_err(AtcError::folder(path))?;
        match om::check(&om) {
            Ok(_) => Ok(OfflineModel { om, tail: finished.tail }),
            Err(source) => Err(AtcError::BadOm { source, report: report() }),
        }
    }

    /// Asks the compiler for its help, in a fresh folder inside `scratch`: proof that it can be
    /// started and finds its libraries. Returns what it printed.
    ///
    /// # Errors
    /// [`AtcError`]; never about what it answers with, as long as it answers.
    pub fn help(&self, scratch: &Path) -> Result<String, AtcError> {
        let place = Place::create(scratch)?;
        let finished = self.run(self.command(&place).arg("--help"), &place)?;
        let report = || Box::new(place.report(&finished));
        match finished.status {
            None => Err(AtcError::Timeout { after: self.limits.timeout, report: report() }),
            Some(status) if status.code().is_none_or(|code| NOT_RUN.contains(&code)) => {
                Err(AtcError::Failed { status, report: report() })
            }
            // Some releases end help with a failure.
            Some(_) => Ok(finished.tail),
        }
    }

    /// The program with its environment, without arguments.
    fn command(&self, place: &Place) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", DEFAULT_PATH);
        command.env("ASCEND_HOME_PATH", &self.toolkit_home);
        command.env("ASCEND_TOOLKIT_HOME", &self.toolkit_home);
        command.env("ASCEND_OPP_PATH", self.toolkit_home.join("opp"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("LD_LIBRARY_PATH", self.library_path());
        // Last, so that nobody's files are written or read but those of this compile.
        command.current_dir(place.path("home")).env("PWD", place.path("home"));
        command.env("HOME", place.path("home"));
        command.env("TMPDIR", place.path("tmp"));
        command.env("ASCEND_PROCESS_LOG_PATH", place.path("log"));
        command.env("ASCEND_WORK_PATH", place.path("home"));
        command
    }

    /// The caller's, then the toolkit's own. The stubs of the driver come last of all: where there
    /// is a driver, its libraries win.
    fn library_path(&self) -> OsString {
        let given = self.environment.iter().rfind(|(name, _)| name == "LD_LIBRARY_PATH");
        let mut path = given.map(|(_, value)| value.clone()).unwrap_or_default();
        for folder in ["lib64"].into_iter().chain(DRIVER_STUBS) {
            let folder = self.toolkit_home.join(folder);
            if folder.is_dir() {
                if !path.is_empty() {
                    path.push(":");
                }
                path.push(folder);
            }
        }
        path
    }

    fn run(&self, command: &mut Command, place: &Place) -> Result<Finished, AtcError> {
        let AtcLimits { timeout, patience, .. } = self.limits;
        let folder = Some(place.folder.path());
        process::run(command, timeout, patience, folder).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if !self.program.exists() => {
                AtcError::NotFound { program: self.program.clone() }
            }
            _ => AtcError::Spawn { program: self.program.clone(), source },
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let limit = self.limits.max_om_bytes;
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            let what = format!("it is larger than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        Ok(bytes)
    }
}

/// Makes a folder that nobody else can look into, unless there is one.
fn create_private(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

fn flag(name: &str, value: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(value);
    flag
}

/// The folder of one compile. Dropping it removes it.
#[derive(Debug)]
struct Place {
    folder: TempDir,
}

impl Place {
    fn create(scratch: &Path) -> Result<Self, AtcError> {
        create_private(scratch).map_err(AtcError::folder(scratch))?;
        let folder = tempfile::Builder::new()
            .prefix("atc-")
            .permissions(PermissionsExt::from_mode(0o700))
            .tempdir_in(scratch)
            .map_err(AtcError::folder(scratch))?;
        let place = Self { folder };
        for name in ["out", "home", "log", "tmp"] {
            let path = place.path(name);
            fs::create_dir(&path).map_err(AtcError::folder(&path))?;
        }
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_air(&self, air: &[u8]) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path("g.air"))?;
        file.write_all(air)
    }

    /// Every offline model that was written. One with a suffix holds code for the host; whether it
    /// is static nevertheless, its header says.
    fn offline_models(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path("out"))? {
            let entry = entry?;
            let path = entry.path();
            let is_om = path.extension() == Some(OsStr::new("om"));
            if is_om && entry.file_type()?.is_file() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    fn report(&self, finished: &Finished) -> Report {
        let log = logs::last_lines(&self.path("log"), None, LOG_LINES);
        Report::new(finished.tail.clone(), log)
    }
}

#[cfg(test)]
mod tests;

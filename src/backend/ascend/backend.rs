//! The backend itself: what it was opened for, and the way from a graph to an offline model.
//!
//! ```text
//! graph --lower--> GE graph --validate--> .air --atc--> offline model --check--> artifact
//! ```

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_ffi::{Acl, Device, Runtime, StatusClass};

use super::artifact::{self, CompiledGraph};
use super::atc::{Atc, AtcError, AtcLimits, OfflineModel};
use super::executable::AscendExecutable;
use super::logs::{LogPlaces, NewErrors};
use super::lower::{self, Lowered};
use super::memory::AscendMemory;
use super::om;
use super::session::Session;
use super::target::{CannRelease, Soc, Target};
use super::toolkit::Toolkit;
use super::validate::validate;
use crate::backend::artifact::io_of;
use crate::backend::{
    Artifact, Backend, BackendError, Capabilities, DeviceFate, Executable, Files, Memory,
    StateSpec, Weight,
};
use crate::ir::{Graph, Verified};

/// Raised when the same graph becomes another GE graph, or the same step other inputs.
const LOWERING_VERSION: &str = "1";
/// Attention over a paged cache takes blocks of a multiple of this many tokens.
const BLOCK_SIZE_MULTIPLE: usize = 128;
/// The pool's block count is part of every graph: it changes in steps.
const NUM_BLOCKS_STEP: usize = 64;

/// What a backend is opened with.
#[derive(Clone, Debug)]
pub struct AscendOptions {
    /// Where CANN may be installed, the first that is wins.
    pub homes: Vec<PathBuf>,
    /// The chip to compile for; `None`: that of the device.
    pub soc: Option<String>,
    /// The release to compile for where no toolkit is installed.
    pub cann: Option<CannRelease>,
    /// Which device runs graphs.
    pub device: u32,
    /// What is to be done.
    pub purpose: Purpose,
    /// Folder for the compiler's own files; kept, and shared by all compiles.
    pub scratch: PathBuf,
    /// Packages of operators that come before CANN's own.
    pub custom_operators: Vec<PathBuf>,
    /// What the compiler sees of the environment.
    pub environment: Vec<(OsString, OsString)>,
    /// How many graphs are compiled at once.
    pub compile_jobs: usize,
    /// How long one graph may take to compile.
    pub compile_timeout: Duration,
    /// How long one step may take.
    pub device_timeout: Duration,
    /// Where CANN writes its logs, whose last errors are quoted with a failure of the device.
    pub logs: LogPlaces,
}

/// What a backend is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Running graphs: needs a device.
    Run,
    /// Compiling graphs: needs a toolkit, and a device only to learn the chip's name.
    Compile,
    /// Looking at graphs: needs nothing when the chip and the release are given.
    Inspect,
}

/// Why the backend could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No library, or none that works.
    #[error("CANN's runtime is needed to {purpose}")]
    Library {
        /// What for.
        purpose: &'static str,
        /// What was tried.
        source: cairn_ffi::LoadError,
    },
    /// No toolkit, or one that cannot be used.
    #[error("a CANN toolkit is needed to compile graphs")]
    Toolkit(#[source] super::toolkit::ToolkitError),
    /// The device cannot be opened.
    #[error("device {id} cannot be opened: {error}{log}")]
    Device {
        /// Which.
        id: u32,
        /// What CANN said.
        error: cairn_ffi::AclError,
        /// What CANN has logged about it, as the end of a sentence.
        log: String,
    },
    /// The chip is not known.
    #[error(transparent)]
    Soc(#[from] super::target::UnknownSoc),
    /// The device's chip has no name.
    #[error("CANN does not say which chip device {0} is (`aclrtGetSocName` gave no name)")]
    NamelessSoc(u32),
    /// The device is another chip than the one asked for.
    #[error("graphs are wanted for {wanted}, but device {id} is {found}")]
    OtherSoc {
        /// Which device.
        id: u32,
        /// What was asked for.
        wanted: Soc,
        /// What it is.
        found: Soc,
    },
}

impl OpenError {
    /// What can be done about the device, where it is at fault.
    pub fn fate(&self) -> Option<DeviceFate> {
        let Self::Device { error, .. } = self else { return None };
        match error.class() {
            StatusClass::Restart => Some(DeviceFate::Restart),
            StatusClass::DeviceLost => Some(DeviceFate::Lost),
            _ => None,
        }
    }
}

/// Huawei Ascend through CANN.
#[derive(Debug)]
pub struct AscendBackend {
    target: Target,
    fingerprint: Vec<(Cow<'static, str>, String)>,
    /// Where the toolkit is.
    home: Option<PathBuf>,
    atc: Option<Atc>,
    scratch: PathBuf,
    compile_jobs: usize,
    session: Option<Arc<Session>>,
}

impl AscendBackend {
    /// Opens what the purpose needs.
    ///
    /// # Errors
    /// What is missing, with every place that was looked at.
    pub fn open(options: AscendOptions) -> Result<Self, OpenError> {
        let wanted = options.soc.as_deref().map(str::parse::<Soc>).transpose()?;
        let toolkit = match (Toolkit::find(&options.homes), options.purpose, options.cann) {
            (Ok(toolkit), _, _) => Some(toolkit.with_custom_operators(&options.custom_operators)),
            (Err(_), Purpose::Inspect, Some(_)) => None,
            (Err(error), _, _) => return Err(OpenError::Toolkit(error)),
        };
        let session = match (options.purpose, wanted) {
            (Purpose::Compile | Purpose::Inspect, Some(_)) => None,
            _ => Some(open_device(&options)?),
        };
        let soc = match (&session, wanted) {
            (Some(session), wanted) => soc_of(session, options.device, wanted)?,
            (None, Some(wanted)) => wanted,
            (None, None) => return Err(OpenError::NamelessSoc(options.device)),
        };
        let cann = options.cann.or(toolkit.as_ref().map(Toolkit::release));
        let cann = cann.unwrap_or(CannRelease::OLDEST);
        let atc = toolkit.as_ref().and_then(|toolkit| compiler(toolkit, &options));
        Ok(Self {
            target: Target { soc, cann },
            fingerprint: fingerprint(soc, cann, toolkit.as_ref()),
            home: toolkit.map(|toolkit| toolkit.home().to_owned()),
            atc,
            scratch: options.scratch,
            compile_jobs: options.compile_jobs,
            session,
        })
    }

    /// What graphs are compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The GE graph that a graph becomes, held against GE's rules.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] for a graph that cannot be lowered.
    pub fn lower(&self, graph: &Verified<Graph>) -> Result<Lowered, BackendError> {
        let lowered = lower::lower(graph, &self.target)?;
        validate(&lowered.model, &self.target).map_err(|violation| BackendError::Unsupported {
            backend: super::NAME,
            what: format!("the GE graph that this one becomes: {violation}"),
        })?;
        Ok(lowered)
    }

    /// The offline model of an `.air` file's bytes.
    pub(super) fn compile_air(&self, air: &[u8]) -> Result<OfflineModel, BackendError> {
        let Some(atc) = &self.atc else { return Err(no_compiler(self.home.as_deref())) };
        let om = atc.compile(air, self.target.soc, &self.scratch);
        om.map_err(|error| compile_error(&error))
    }

    /// The device.
    pub(super) fn session(&self) -> Result<&Arc<Session>, BackendError> {
        self.session.as_ref().ok_or_else(|| BackendError::Unsupported {
            backend: super::NAME,
            what: "running graphs when it was opened without a device".to_owned(),
        })
    }
}

impl Backend for AscendBackend {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn capabilities(&self, graph: &Graph) -> Capabilities {
        Capabilities {
            dynamic_shapes: false,
            batching: lower::batching(graph, &self.target),
            block_size_multiple: BLOCK_SIZE_MULTIPLE,
            num_blocks_step: NUM_BLOCKS_STEP,
            compile_jobs: self.compile_jobs,
        }
    }

    fn fingerprint(&self) -> Vec<(Cow<'static, str>, String)> {
        self.fingerprint.clone()
    }

    fn compile(&self, graph: &Verified<Graph>) -> Result<Artifact, BackendError> {
        let lowered = self.lower(graph)?;
        let OfflineModel { om, tail } = self.compile_air(&lowered.air())?;
        let files = artifact::files(&lowered.io, om)?;
        Ok(Artifact { files, io: io_of(graph), log_tail: tail })
    }

    fn load(&self, files: &Files<'_>) -> Result<Box<dyn Executable>, BackendError> {
        let session = Arc::clone(self.session()?);
        let loaded = AscendExecutable::load(Arc::clone(&session), files);
        Ok(Box::new(loaded.map_err(|error| session.with_log(error))?))
    }

    fn check(&self, files: &Files<'_>) -> Result<(), BackendError> {
        let compiled = CompiledGraph::read(files)?;
        let bad = |error: om::OmError| BackendError::BadArtifact {
            backend: super::NAME,
            what: error.to_string(),
        };
        om::check(compiled.om).map(drop).map_err(bad)
    }

    fn place(
        &self,
        weights: Vec<Weight>,
        states: &[StateSpec],
    ) -> Result<Box<dyn Memory>, BackendError> {
        let session = Arc::clone(self.session()?);
        let placed = AscendMemory::new(Arc::clone(&session), weights, states);
        Ok(Box::new(placed.map_err(|error| session.with_log(error))?))
    }
}

/// Everything besides the graph that changes what is compiled.
fn fingerprint(
    soc: Soc,
    cann: CannRelease,
    toolkit: Option<&Toolkit>,
) -> Vec<(Cow<'static, str>, String)> {
    let host = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    // The chip is a field of its own: twice would say twice that it differs.
    let mut options = Atc::arguments(soc);
    options.retain(|option| !option.starts_with("--soc_version="));
    let mut fields: Vec<(Cow<'static, str>, String)> = vec![
        ("soc".into(), soc.to_string()),
        ("cann".into(), cann.to_string()),
        ("options".into(), options.join(" ")),
        ("lowering".into(), LOWERING_VERSION.to_owned()),
        ("host".into(), host),
    ];
    let components = toolkit.map(Toolkit::components).unwrap_or_default().iter().cloned();
    fields.extend(components.map(|(name, version)| (name.into(), version)));
    fields
}

/// The toolkit's compiler. Compiles share their kernels, so that the second one is faster.
fn compiler(toolkit: &Toolkit, options: &AscendOptions) -> Option<Atc> {
    let program = toolkit.atc()?.to_owned();
    let limits = AtcLimits { timeout: options.compile_timeout, ..AtcLimits::default() };
    let home = toolkit.home().to_owned();
    let atc = Atc::new(program, home, options.environment.clone(), limits);
    Some(atc.with_kernel_cache(options.scratch.join("kernels")))
}

fn no_compiler(home: Option<&Path>) -> BackendError {
    let place = home.map_or_else(String::new, |home| format!(" at `{}`", home.display()));
    BackendError::Compile {
        what: format!("the graph is not in the cache, and the CANN toolkit{place} has no `atc`"),
        remedy: Some(
            "install a complete toolkit, or warm the cache up where there is one and copy it here"
                .to_owned(),
        ),
    }
}

fn compile_error(error: &AtcError) -> BackendError {
    let remedies = error.remedies();
    let remedy = (!remedies.is_empty()).then(|| remedies.join("; or "));
    BackendError::Compile { what: error.to_string(), remedy }
}

fn open_device(options: &AscendOptions) -> Result<Arc<Session>, OpenError> {
    let purpose = match options.purpose {
        Purpose::Run => "run graphs",
        Purpose::Compile | Purpose::Inspect => "learn which chip graphs are for",
    };
    let log = NewErrors::of(&options.logs, std::process::id());
    let acl = Acl::load(&options.homes).map_err(|source| OpenError::Library { purpose, source })?;
    let id = options.device;
    let failed = |error| OpenError::Device { id, error, log: log.quoted() };
    let runtime = Runtime::init(Arc::new(acl)).map_err(failed)?;
    let device = Device::open(runtime, id).map_err(failed)?;
    // Also when all goes well CANN logs some errors on the way.
    log.skip();
    Ok(Arc::new(Session::new(device, options.device_timeout, log)))
}

fn soc_of(session: &Session, id: u32, wanted: Option<Soc>) -> Result<Soc, OpenError> {
    let name = session.device().runtime().soc_name().ok_or(OpenError::NamelessSoc(id))?;
    let found: Soc = name.parse()?;
    match wanted {
        Some(wanted) if wanted != found => Err(OpenError::OtherSoc { id, wanted, found }),
        _ => Ok(found),
    }
}

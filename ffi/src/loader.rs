//! Finding and opening CANN's ACL library while the program runs.
//!
//! ```text
//! places, in order                         in each place, in order
//!   <home>/lib64             \               libascendcl.so                   CANN 8, and 9 for
//!   <home>/<arch>-linux/lib64 > per home                                      compatibility
//!   the system's loader      /               libacl_rt.so and libacl_mdl.so   CANN 9
//! ```
//!
//! The homes are what the user's `ASCEND_HOME_PATH` and `ASCEND_TOOLKIT_HOME` say; the caller reads
//! them. A set is taken when it answers `aclrtGetVersion`, is not too old ([`crate::version`]) and has
//! every function that we need; until then the search goes on, and [`LoadError`] tells of every step
//! of it. `libhccl.so`, for several devices together, is looked for beside it, and only when asked for.
//!
//! What this module deliberately does not do: it neither initialises ACL nor touches a device, and a
//! library that has been called is never unloaded, since CANN keeps threads and exit handlers in it.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::status::AclStatus;
use crate::sys::{self, HcclSymbols, Symbols, functions};
use crate::version::{self, AclVersion, CannVersion};

/// Sets of libraries of which each has all of ACL.
const LIBRARY_SETS: [&[&str]; 2] = [&["libascendcl.so"], &["libacl_rt.so", "libacl_mdl.so"]];

/// The part of the folder name that says for which processor.
const ARCH_FOLDER: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

/// The library for several devices together.
const HCCL: &str = "libhccl.so";

/// CANN's ACL library, opened and found to answer.
///
/// There is nothing to unload: the library stays open until the process ends.
pub struct Acl {
    paths: Vec<PathBuf>,
    version: AclVersion,
    cann_version: Option<CannVersion>,
    symbols: Symbols,
    place: Place,
    hccl: OnceLock<Option<HcclSymbols>>,
}

impl fmt::Debug for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Acl");
        f.field("paths", &self.paths).field("version", &self.version);
        f.field("cann_version", &self.cann_version).finish_non_exhaustive()
    }
}

/// Why there is no ACL library to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// None of the libraries is there.
    #[error("no CANN library found; tried {}", listed(attempts))]
    NotFound {
        /// Every library that was looked for, in order.
        attempts: Vec<Attempt>,
    },
    /// At least one is there, but none of them works.
    #[error("no CANN library is usable; tried {}", listed(attempts))]
    Unusable {
        /// Every library that was looked for, in order.
        attempts: Vec<Attempt>,
    },
}

impl LoadError {
    /// Every library that was looked for, in order.
    pub fn attempts(&self) -> &[Attempt] {
        match self {
            Self::NotFound { attempts } | Self::Unusable { attempts } => attempts,
        }
    }
}

/// One library that was looked for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its path; only a name where the system's loader was asked.
    pub library: PathBuf,
    /// Why it was not taken.
    pub reason: AttemptError,
}

/// Why a library was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The home is not an absolute path, so what would be loaded depended on the current folder.
    #[error("not an absolute path")]
    Relative,
    /// There is no such file, or the system's loader knows none of that name.
    #[error("not found")]
    Missing,
    /// There is something else of that name.
    #[error("not a regular file")]
    NotAFile,
    /// The loader refused it.
    #[error("cannot be opened: {0}")]
    Open(String),
    /// It opens, but is not the library it is named for.
    #[error("has no symbol `{symbol}`")]
    MissingSymbol {
        /// The missing function.
        symbol: &'static str,
    },
    /// It is of a release that we do not work with.
    #[error(
        "of CANN {found}, too old: at least {}.{} is needed", CannVersion::OLDEST.0, CannVersion::OLDEST.1
    )]
    TooOld {
        /// The release.
        found: CannVersion,
    },
    /// It is of a time when the interface has changed incompatibly.
    #[error("has version {found} of the interface, only {}.x is known", AclVersion::MAJOR)]
    Interface {
        /// The version of the interface.
        found: AclVersion,
    },
    /// It opens, but does not work.
    #[error("`{function}` failed: {status}")]
    Call {
        /// The function that was called.
        function: &'static str,
        /// Its answer.
        status: AclStatus,
    },
}

impl Acl {
    /// Opens the first ACL library that works: in the toolkits at `homes`, in that order, then
    /// wherever the system's loader looks.
    ///
    /// Opening a library runs its code: the homes are to come from the user who started the process.
    ///
    /// # Errors
    /// [`LoadError`], with every path that was tried and why it was not taken.
    pub fn load(homes: &[PathBuf]) -> Result<Self, LoadError> {
        Self::search(places(homes).into_iter().chain([Place::System]))
    }

    /// As [`Self::load`], without the system's loader: a library that `LD_LIBRARY_PATH` or the
    /// system's own folders have is not taken.
    ///
    /// # Errors
    /// As of [`Self::load`].
    pub fn load_from(homes: &[PathBuf]) -> Result<Self, LoadError> {
        Self::search(places(homes).into_iter())
    }

    fn search(places: impl Iterator<Item = Place>) -> Result<Self, LoadError> {
        let mut attempts = Vec::new();
        for place in places {
            for names in LIBRARY_SETS {
                match load_set(&place, names) {
                    Ok(acl) => return Ok(acl),
                    Err(attempt) => attempts.push(attempt),
                }
            }
        }
        let is_absent = |attempt: &Attempt| {
            use AttemptError::{Missing, Relative};
            matches!(attempt.reason, Missing | Relative)
        };
        if attempts.iter().all(is_absent) {
            Err(LoadError::NotFound { attempts })
        } else {
            Err(LoadError::Unusable { attempts })
        }
    }

    /// The libraries in use; only a name where the system's loader found it.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What `aclrtGetVersion` answered.
    pub fn version(&self) -> AclVersion {
        self.version
    }

    /// The release of CANN, where CANN can tell.
    pub fn cann_version(&self) -> Option<&CannVersion> {
        self.cann_version.as_ref()
    }

    /// Whether there is HCCL, for several devices together, with all that we need of it. The first
    /// call opens it.
    pub fn has_hccl(&self) -> bool {
        self.hccl().is_some()
    }

    /// The functions of ACL.
    pub(crate) fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The functions of HCCL, if it is there. The first call opens it.
    pub(crate) fn hccl(&self) -> Option<&HcclSymbols> {
        let find = || {
            let library = open_in(&self.place, HCCL).ok()?;
            // A library without the functions is closed again, nothing of it having been called.
            let libraries = [library];
            let symbols = HcclSymbols::resolve(&libraries).ok()?;
            let _: [(); 1] = libraries.map(std::mem::forget);
            Some(symbols)
        };
        self.hccl.get_or_init(find).as_ref()
    }
}

/// Where libraries are looked for.
#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    System,
}

/// The folders of the homes, each once.
fn places(homes: &[PathBuf]) -> Vec<Place> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for home in homes {
        for folder in [home.join("lib64"), home.join(ARCH_FOLDER).join("lib64")] {
            // The two variables usually name the same toolkit.
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders.into_iter().map(Place::Folder).collect()
}

impl Place {
    /// What a library is called there; only a name where the system's loader is asked.
    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::System => PathBuf::from(name),
        }
    }
}

fn load_set(place: &Place, names: &[&str]) -> Result<Acl, Attempt> {
    let mut libraries = Vec::new();
    for name in names {
        let opened = open_in(place, name);
        libraries.push(opened.map_err(|reason| Attempt { library: place.path(name), reason })?);
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| place.path(name)).collect();
    match examine(libraries) {
        Ok((version, cann_version, symbols)) => {
            let (place, hccl) = (place.clone(), OnceLock::new());
            Ok(Acl { paths, version, cann_version, symbols, place, hccl })
        }
        Err(reason) => Err(Attempt { library: place.path(names[0]), reason }),
    }
}

fn open_in(place: &Place, name: &str) -> Result<Library, AttemptError> {
    let path = place.path(name);
    match place {
        Place::Folder(_) => open_file(&path),
        Place::System => open(&path).map_err(|text| system_reason(name, text)),
    }
}

fn open_file(path: &Path) -> Result<Library, AttemptError> {
    if !path.is_absolute() {
        return Err(AttemptError::Relative);
    }
    // Looked at first: the loader would wait for ever on a FIFO.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => open(path).map_err(AttemptError::Open),
        Ok(_) => Err(AttemptError::NotAFile),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(AttemptError::Missing),
            _ => Err(AttemptError::Open(error.to_string())),
        },
    }
}

/// The system's loader has one error for everything; its words tell whether the library is missing,
/// or one that it needs.
fn system_reason(name: &str, text: String) -> AttemptError {
    if text.contains(name) && text.contains("No such file") {
        AttemptError::Missing
    } else {
        AttemptError::Open(text)
    }
}

/// All symbols are bound at once: a library that misses some is refused here, instead of ending the
/// process in the middle of a call.
#[expect(unsafe_code, reason = "opening a library runs its initialisers")]
fn open(path: &Path) -> Result<Library, String> {
    // SAFETY: `Library::open` asks that the library's initialisers and finalisers may run here. They
    // are those of CANN, or of what the user who started this process has put in its place, which
    // `Acl::load` documents as its condition. They run on this thread, which holds no lock.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    // The error itself only says that opening failed; why is in its source.
    opened.map_err(|error| match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    })
}

/// Asks the libraries for their version, the proof that they work, then looks for all functions.
/// Unless it is no ACL at all they stay open for ever.
fn examine(
    libraries: Vec<Library>,
) -> Result<(AclVersion, Option<CannVersion>, Symbols), AttemptError> {
    let get_version = sys::find!(libraries, aclrtGetVersion);
    let get_version = get_version.ok_or(AttemptError::MissingSymbol { symbol: GET_VERSION })?;
    let by_package = sys::find!(libraries, aclsysGetCANNVersion);
    let by_name = sys::find!(libraries, aclsysGetVersionStr);
    let symbols = Symbols::resolve(&libraries);
    // From here on there may be threads and exit handlers of CANN: never unloaded.
    libraries.into_iter().for_each(std::mem::forget);

    let version = interface_version(get_version)?;
    if version.major != AclVersion::MAJOR {
        return Err(AttemptError::Interface { found: version });
    }
    // Before the missing functions: that it is too old is why they are missing.
    let cann_version = by_package.and_then(version::by_package);
    let cann_version = match (cann_version, by_name) {
        (Some(found), None) if found.is_too_old() => return Err(AttemptError::TooOld { found }),
        (None, Some(by_name)) => version::by_name(by_name),
        (cann_version, _) => cann_version,
    };
    let symbols = symbols.map_err(|symbol| AttemptError::MissingSymbol { symbol })?;
    Ok((version, cann_version, symbols))
}

const GET_VERSION: &str = "aclrtGetVersion";

#[expect(unsafe_code, reason = "calls a function of a library")]
fn interface_version(get_version: functions::aclrtGetVersion) -> Result<AclVersion, AttemptError> {
    let [mut major, mut minor, mut patch] = [0; 3];
    // SAFETY: the function writes one `int32_t` through each of three pointers, which are valid for
    // that and distinct; its library is open for ever; it may be called before `aclInit`.
    let status = unsafe { get_version(&raw mut major, &raw mut minor, &raw mut patch) };
    let status = AclStatus(status);
    if !status.is_success() {
        return Err(AttemptError::Call { function: GET_VERSION, status });
    }
    Ok(AclVersion { major, minor, patch })
}

fn listed(attempts: &[Attempt]) -> String {
    let lines: Vec<_> = attempts
        .iter()
        .map(|attempt| format!("`{}`: {}", attempt.library.display(), attempt.reason))
        .collect();
    lines.join("; ")
}

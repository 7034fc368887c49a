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
//! them. A library is taken when it answers `aclrtGetVersion`; until then the search goes on, and
//! [`LoadError`] tells of every step of it.
//!
//! What this module deliberately does not do: it neither initialises ACL nor touches a device, and a
//! library that has been called is never unloaded, since CANN keeps threads and exit handlers in it.

use std::error::Error as _;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::status::AclStatus;

/// Sets of libraries of which each has all of ACL.
const LIBRARY_SETS: [&[&str]; 2] = [&["libascendcl.so"], &["libacl_rt.so", "libacl_mdl.so"]];

/// The part of the folder name that says for which processor.
const ARCH_FOLDER: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

/// `aclError aclrtGetVersion(int32_t *, int32_t *, int32_t *)`, `acl.h` or `acl_rt.h`.
type AclrtGetVersion = unsafe extern "C" fn(*mut i32, *mut i32, *mut i32) -> i32;

/// CANN's ACL library, opened and found to answer.
#[derive(Debug)]
pub struct Acl {
    paths: Vec<PathBuf>,
    version: AclVersion,
}

/// The version of the ACL interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AclVersion {
    /// Incompatible changes.
    pub major: i32,
    /// Additions.
    pub minor: i32,
    /// Corrections.
    pub patch: i32,
}

impl fmt::Display for AclVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
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
        let mut attempts = Vec::new();
        for place in places(homes) {
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
}

/// Where libraries are looked for.
#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    System,
}

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
    let folders = folders.into_iter().map(Place::Folder);
    folders.chain([Place::System]).collect()
}

fn load_set(place: &Place, names: &[&str]) -> Result<Acl, Attempt> {
    let mut libraries = Vec::new();
    let mut paths = Vec::new();
    for name in names {
        let path = match place {
            Place::Folder(folder) => folder.join(name),
            Place::System => PathBuf::from(name),
        };
        let opened = match place {
            Place::Folder(_) => open_file(&path),
            Place::System => open(&path).map_err(|text| system_reason(name, text)),
        };
        match opened {
            Ok(library) => libraries.push(library),
            Err(reason) => {
                return Err(Attempt { library: path, reason });
            }
        }
        paths.push(path);
    }
    match version(libraries) {
        Ok(version) => Ok(Acl { paths, version }),
        Err(reason) => Err(Attempt { library: paths.swap_remove(0), reason }),
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

const GET_VERSION: &str = "aclrtGetVersion";
const GET_VERSION_C: &CStr = c"aclrtGetVersion";

/// Asks the libraries for their version, the proof that they work. Unless the function is missing
/// they stay open for ever.
#[expect(unsafe_code, reason = "calls a function of a library")]
fn version(libraries: Vec<Library>) -> Result<AclVersion, AttemptError> {
    let symbol = libraries.iter().find_map(|library| {
        // SAFETY: `Library::get` asks that the type is that of the symbol: `AclrtGetVersion` is the
        // declaration of the function of this name in every header of CANN that we have seen.
        unsafe { library.get::<AclrtGetVersion>(GET_VERSION_C.to_bytes_with_nul()) }.ok()
    });
    let Some(symbol) = symbol else {
        return Err(AttemptError::MissingSymbol { symbol: GET_VERSION });
    };
    let get_version: AclrtGetVersion = *symbol;
    // From here on there may be threads and exit handlers of CANN: never unloaded.
    libraries.into_iter().for_each(std::mem::forget);

    let mut parts = [MaybeUninit::<i32>::zeroed(); 3];
    let [major, minor, patch] = &mut parts;
    // SAFETY: the function writes one `int32_t` through each of three pointers, which are valid for
    // that and distinct; its library is open for ever; it may be called before `aclInit`.
    let status = unsafe { get_version(major.as_mut_ptr(), minor.as_mut_ptr(), patch.as_mut_ptr()) };
    let status = AclStatus(status);
    if !status.is_success() {
        return Err(AttemptError::Call { function: GET_VERSION, status });
    }
    // SAFETY: all were zeroed above, and any bytes are an `i32`.
    let [major, minor, patch] = parts.map(|part| unsafe { part.assume_init() });
    Ok(AclVersion { major, minor, patch })
}

fn listed(attempts: &[Attempt]) -> String {
    let lines: Vec<_> = attempts
        .iter()
        .map(|attempt| format!("`{}`: {}", attempt.library.display(), attempt.reason))
        .collect();
    lines.join("; ")
}

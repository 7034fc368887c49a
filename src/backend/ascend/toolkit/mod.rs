//! An installed CANN toolkit: where it is, which release, and the versions of its parts.
//!
//! ```text
//! <home>                              8.1 .. 8.3                            8.5, 9.x
//!   <arch>-linux/ascend_toolkit_install.info    version=8.1.RC1             version=9.0.0
//!   <arch>-linux/ascend_ops_install.info        -                           kernels of a chip
//!   {compiler,opp,opp_kernel,...}/version.info  Version=, version_dir=      -, or links
//!   share/info/*/version.info                   -                           Version= of each package
//!   opp/vendors/config.ini                      operators of others and their order
//! ```
//!
//! The homes are what the user's `ASCEND_HOME_PATH` and `ASCEND_TOOLKIT_HOME` say; the caller reads
//! them. A home is a toolkit when one of these files says which release it is.
//!
//! What this module deliberately does not do: it opens no library and runs no program, so that a
//! graph cache can be served by a machine that has neither.

mod versions;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::target::{BadRelease, CannRelease};
use versions::InfoError;

/// Where `atc` lies, first come first.
const ATC: [&str; 4] =
    ["bin/atc", "x86_64-linux/bin/atc", "aarch64-linux/bin/atc", "compiler/bin/atc"];

/// An installed toolkit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolkit {
    home: PathBuf,
    release: CannRelease,
    version: String,
    components: Vec<(String, String)>,
    atc: Option<PathBuf>,
}

/// Why there is no toolkit to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolkitError {
    /// No place was named.
    #[error("no CANN toolkit: neither `ASCEND_HOME_PATH` nor `ASCEND_TOOLKIT_HOME` is set")]
    NoHome,
    /// Nothing at the places says that it is a toolkit.
    #[error("no CANN toolkit found; tried {}", listed(attempts))]
    NotFound {
        /// Every file that was looked for, in order.
        attempts: Vec<Attempt>,
    },
    /// There is one, but it is too old.
    #[error(
        "the CANN toolkit at `{}` is of release {release}, expected {} or later",
        home.display(), CannRelease::OLDEST
    )]
    TooOld {
        /// Where it is.
        home: PathBuf,
        /// Which it is.
        release: CannRelease,
    },
}

/// One file that was looked at in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The file.
    pub path: PathBuf,
    /// Why it did not tell the release.
    pub reason: AttemptError,
}

/// Why a file did not tell the release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The home is not an absolute path, so what it means depends on the current folder.
    #[error("not an absolute path")]
    Relative,
    /// The home is no folder.
    #[error("there is no such folder")]
    NoFolder,
    /// There is none.
    #[error("not found")]
    Missing,
    /// It cannot be read, or is not what its name says.
    #[error("{0}")]
    Bad(String),
    /// It says nothing of a release.
    #[error("it has no line with the release")]
    NoRelease,
    /// It says something else.
    #[error("{0}")]
    BadRelease(#[from] BadRelease),
}

impl From<InfoError> for AttemptError {
    fn from(error: InfoError) -> Self {
        match error {
            InfoError::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Self::Missing
            }
            error => Self::Bad(error.to_string()),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path.display(), self.reason)
    }
}

impl Toolkit {
    /// The first toolkit at `homes` that is new enough.
    ///
    /// # Errors
    /// [`ToolkitError`], with every file that was looked for, or with the toolkit that is too old.
    pub fn find(homes: &[PathBuf]) -> Result<Self, ToolkitError> {
        let mut attempts = Vec::new();
        let mut too_old = None;
        for home in homes {
            match Self::open(home) {
                Ok(toolkit) if toolkit.release >= CannRelease::OLDEST => return Ok(toolkit),
                Ok(toolkit) => {
                    let error =
                        ToolkitError::TooOld { home: home.clone(), release: toolkit.release };
                    too_old.get_or_insert(error);
                }
                // The two variables usually name the same toolkit.
                Err(tried) => tried.into_iter().for_each(|attempt| {
                    if !attempts.contains(&attempt) {
                        attempts.push(attempt);
                    }
                }),
            }
        }
        Err(match too_old {
            Some(error) => error,
            None if homes.is_empty() => ToolkitError::NoHome,
            None => ToolkitError::NotFound { attempts },
        })
    }

    fn open(home: &Path) -> Result<Self, Vec<Attempt>> {
        let attempt = |path: PathBuf, reason| Attempt { path, reason };
        if !home.is_absolute() {
            return Err(vec![attempt(home.to_owned(), AttemptError::Relative)]);
        }
        if !home.is_dir() {
            return Err(vec![attempt(home.to_owned(), AttemptError::NoFolder)]);
        }
        let mut attempts = Vec::new();
        for (path, keys) in versions::release_files() {
            let path = home.join(path);
            match versions::release(&path, keys) {
                Ok((release, version)) => {
                    let atc = ATC.iter().map(|path| home.join(path)).find(|path| path.is_file());
                    let components = versions::components(home);
                    let home = home.to_owned();
                    return Ok(Self { home, release, version, components, atc });
                }
                Err(reason) => attempts.push(attempt(path, reason)),
            }
        }
        Err(attempts)
    }

    /// Adds the packages of operators that `ASCEND_CUSTOM_OPP_PATH` names: they come before those
    /// of the toolkit when graphs are compiled.
    #[must_use]
    pub fn with_custom_operators(mut self, folders: &[PathBuf]) -> Self {
        self.components.extend(versions::custom_operators(folders));
        self.components.sort();
        self
    }

    /// Where it is.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Which release it is.
    pub fn release(&self) -> CannRelease {
        self.release
    }

    /// The release in its own words: `8.1.RC1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The versions of everything that takes part in compiling, sorted by name, for keys of a
    /// cache: the same on every machine with the same packages, wherever they are installed.
    pub fn components(&self) -> &[(String, String)] {
        &self.components
    }

    /// The compiler, if this is a toolkit with one.
    pub fn atc(&self) -> Option<&Path> {
        self.atc.as_deref()
    }
}

fn listed(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with these files.
    fn toolkit(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn find(folder: &tempfile::TempDir) -> Result<Toolkit, ToolkitError> {
        Toolkit::find(&[folder.path().to_owned()])
    }

    const INSTALL_INFO_8: &str = "package_name=Ascend-cann-toolkit\nversion=8.1.RC1\n\
         innerversion=V100R001C21SPC001B238\ncompatible_version=[V100R001C15]\narch=aarch64\n\
         os=linux\npath=/usr/local/Ascend/ascend-toolkit/8.1.RC1/aarch64-linux\n";
    const VERSION_INFO_8: &str = "Version=7.7.0.1.238\nversion_dir=8.1.RC1\n\
         timestamp=20250428_203017761\nrequired_opp_abi_version=\">=6.3, <=7.7\"\n";

    fn toolkit_8() -> tempfile::TempDir {
        toolkit(&[
            ("aarch64-linux/ascend_toolkit_install.info", INSTALL_INFO_8),
            ("compiler/version.info", VERSION_INFO_8),
            ("opp/version.info", VERSION_INFO_8),
            ("opp/vendors/config.ini", "load_priority=ours\n"),
            ("opp/vendors/ours/version.info", "custom_opp_compiler_version=7.7\n"),
            ("compiler/bin/atc", ""),
        ])
    }

    #[test]
    fn a_toolkit_of_8_1_tells_its_release_and_parts() {
        let folder = toolkit_8();
        let toolkit = find(&folder).unwrap();
        assert_eq!(toolkit.release(), CannRelease { major: 8, minor: 1 });
        assert_eq!(toolkit.version(), "8.1.RC1");
        assert_eq!(toolkit.atc(), Some(&*folder.path().join("compiler/bin/atc")));
        let compiler = "Version=7.7.0.1.238 version_dir=8.1.RC1 timestamp=20250428_203017761";
        let expected = [
            (
                "ascend_toolkit_install",
                "package_name=Ascend-cann-toolkit version=8.1.RC1 \
                 innerversion=V100R001C21SPC001B238 arch=aarch64",
            ),
            ("compiler", compiler),
            ("opp", compiler),
            ("opp/vendors", "load_priority=ours"),
            ("opp/vendors/ours", "custom_opp_compiler_version=7.7"),
        ];
        let components: Vec<_> =
            toolkit.components().iter().map(|(name, text)| (&**name, &**text)).collect();
        assert_eq!(components, expected);
    }

    #[test]
    fn a_toolkit_of_9_tells_its_release_and_packages() {
        let folder = toolkit(&[
            ("x86_64-linux/ascend_toolkit_install.info", "version=9.1.0\ninnerversion=V1\n"),
            (
                "x86_64-linux/ascend_ops_install.info",
                "package_name=Ascend-cann-910b-ops\nversion=9.1.0\n",
            ),
            ("share/info/ops_nn/version.info", "Version=9.1.0\ntimestamp=1\n"),
            ("share/info/runtime/version.info", "Version=9.1.0\n"),
            ("share/info/empty/readme", ""),
            ("bin/atc", ""),
        ]);
        let toolkit = find(&folder).unwrap();
        assert_eq!(toolkit.release().to_string(), "9.1");
        assert_eq!(toolkit.atc(), Some(&*folder.path().join("bin/atc")));
        let names: Vec<_> = toolkit.components().iter().map(|(name, _)| &**name).collect();
        let expected =
            ["ascend_ops_install", "ascend_toolkit_install", "info/ops_nn", "info/runtime"];
        assert_eq!(names, expected);
        assert!(toolkit.components()[0].1.contains("package_name=Ascend-cann-910b-ops"));
    }

    #[test]
    fn the_release_is_also_found_in_the_parts() {
        let folder = toolkit(&[("runtime/version.info", "Version=1.2\nversion_dir=cann-9.0.0\n")]);
        assert_eq!(find(&folder).unwrap().release(), CannRelease::PACKED_ATTENTION);
        // The internal number of 8.1 is 7.7: without a folder name it tells no release.
        let folder = toolkit(&[("runtime/version.info", "Version=7.7.0.1.238\n")]);
        assert!(find(&folder).is_err());
        let folder = toolkit(&[("share/info/runtime/version.info", "Version=9.2.0\n")]);
        assert_eq!(find(&folder).unwrap().version(), "9.2.0");
    }

    #[test]
    fn equal_packages_give_equal_components_wherever_they_lie() {
        let (one, other) = (toolkit_8(), toolkit_8());
        let (one, other) = (find(&one).unwrap(), find(&other).unwrap());
        assert_ne!(one.home(), other.home());
        assert_eq!(one.components(), other.components());
    }

    #[test]
    fn custom_operators_are_components() {
        let folder = toolkit_8();
        let custom = toolkit(&[("mine/version.info", "version=3\n")]);
        let folders = [custom.path().join("mine"), custom.path().join("missing")];
        let toolkit = find(&folder).unwrap().with_custom_operators(&folders);
        let found = |name: &str| {
            toolkit.components().iter().find(|(known, _)| known == name).map(|(_, text)| &**text)
        };
        assert_eq!(found("custom_opp/0/mine"), Some("version=3"));
        assert_eq!(found("custom_opp/1/missing"), Some(""));
        assert!(toolkit.components().is_sorted());
    }

    #[test]
    fn every_file_that_was_looked_for_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let homes = [empty.path().to_owned(), "relative".into(), empty.path().to_owned()];
        let error = Toolkit::find(&homes).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("aarch64-linux/ascend_toolkit_install.info`: not found"), "{text}");
        assert!(text.contains("`relative`: not an absolute path"), "{text}");
        assert_eq!(text.matches("/compiler/version.info").count(), 1, "{text}");
        assert_eq!(Toolkit::find(&[]), Err(ToolkitError::NoHome));
    }

    #[test]
    fn a_toolkit_that_is_too_old_is_told_apart() {
        let old = toolkit(&[("toolkit/version.info", "version_dir=7.0.RC1\n")]);
        let error = find(&old).unwrap_err();
        assert!(error.to_string().ends_with("is of release 7.0, expected 8.1 or later"), "{error}");
        let new = toolkit_8();
        let homes = [old.path().to_owned(), new.path().to_owned()];
        assert_eq!(Toolkit::find(&homes).unwrap().home(), new.path());
    }

    #[test]
    fn damaged_files_are_named_and_nothing_panics() {
        for (bytes, expected) in [
            (b"\xff\xfe\0\0".to_vec(), "no line with the release"),
            (b"version=\n".to_vec(), "no line with the release"),
            (b"version=abc\n".to_vec(), "`abc` is not a release of CANN"),
            (b"version=99999999999999999999.1\n".to_vec(), "is not a release"),
            (vec![b'x'; 1 << 20], "bytes are too many"),
        ] {
            let folder = toolkit(&[]);
            fs::create_dir(folder.path().join("x86_64-linux")).unwrap();
            let path = "x86_64-linux/ascend_toolkit_install.info";
            fs::write(folder.path().join(path), bytes).unwrap();
            let text = find(&folder).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
        let folder = toolkit(&[("compiler/version.info/file", "")]);
        assert!(find(&folder).unwrap_err().to_string().contains("not a regular file"));
    }
}

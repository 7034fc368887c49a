//! Writes a folder that looks like an installed toolkit, and finds the toolkit that a library or
//! program of the simulator lies in.
//!
//! ```text
//! DIR/lib64/libascendcl.so            or libacl_rt.so and libacl_mdl.so
//! DIR/bin/atc
//! DIR/{compiler,opp,opp_kernel,runtime,hccl,toolkit}/version.info
//! DIR/<arch>-linux/ascend_toolkit_install.info
//! DIR/opp/built-in/op_impl/ai_core/tbe/kernel/config/{ascend910b,ascend910_93}
//! DIR/set_env.sh
//! ```

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::ge::version::{CannVersion, Family};

/// The version that is simulated unless another one is named.
pub const DEFAULT_CANN: &str = "9.0.0";

const LIBRARY: &str = "libascendcl.so";
const SPLIT_LIBRARIES: [&str; 2] = ["libacl_rt.so", "libacl_mdl.so"];
const PACKAGES: [&str; 6] = ["compiler", "opp", "opp_kernel", "runtime", "hccl", "toolkit"];
/// Where the ops package of a chip lies below `opp`.
const OPS: &str = "built-in/op_impl/ai_core/tbe/kernel/config";

/// What is installed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Version, such as `8.1.RC1`.
    pub cann: String,
    /// Whether the runtime library is there.
    pub has_lib: bool,
    /// Whether the compiler is there.
    pub has_atc: bool,
    /// Whether the operators of the chips are there.
    pub has_ops: bool,
    /// Whether the runtime library is split in two, as newer toolkits may have it.
    pub is_split: bool,
    /// The runtime library; `None` looks beside the running program.
    pub library: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cann: DEFAULT_CANN.to_owned(),
            has_lib: true,
            has_atc: true,
            has_ops: true,
            is_split: false,
            library: None,
        }
    }
}

/// Installs into `dir`; `program` is the program that becomes `atc`.
///
/// # Errors
/// When a file cannot be written, or the library is not found.
pub fn install(dir: &Path, program: &Path, options: &Options) -> io::Result<()> {
    if CannVersion::parse(&options.cann).is_none() {
        let message = format!("`{}` is no version such as {DEFAULT_CANN}", options.cann);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if options.has_lib {
        let library = match &options.library {
            Some(library) => library.clone(),
            None => find_library(program)?,
        };
        install_library(&dir.join("lib64"), &library, options.is_split)?;
    }
    if options.has_atc {
        fs::create_dir_all(dir.join("bin"))?;
        place(program, &dir.join("bin/atc"))?;
        fs::set_permissions(dir.join("bin/atc"), std::fs::Permissions::from_mode(0o755))?;
    }
    for package in PACKAGES {
        let text = version_info(&options.cann);
        write(&dir.join(package).join("version.info"), &text)?;
    }
    let arch = std::env::consts::ARCH;
    let info = format!(
        "package_name=Ascend-cann-toolkit\nversion={0}\ninnerversion={1}\narch={arch}\nos=linux\n\
         path=/usr/local/Ascend/ascend-toolkit/{0}/{arch}-linux\n",
        options.cann,
        inner_version(&options.cann)
    );
    write(&dir.join(format!("{arch}-linux/ascend_toolkit_install.info")), &info)?;
    fs::create_dir_all(dir.join("opp").join(OPS))?;
    if options.has_ops {
        for family in [Family::Ascend910B, Family::Ascend910C] {
            fs::create_dir_all(ops_folder(&dir.join("opp"), family))?;
        }
    }
    write(&dir.join("set_env.sh"), SET_ENV)
}

const SET_ENV: &str = r#"here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export ASCEND_HOME_PATH="$here"
export ASCEND_TOOLKIT_HOME="$here"
export ASCEND_OPP_PATH="$here/opp"
export LD_LIBRARY_PATH="$here/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$here/bin:$PATH"
"#;

/// The folder of a chip's operators in an `opp` folder.
pub fn ops_folder(opp: &Path, family: Family) -> PathBuf {
    opp.join(OPS).join(family.ops_folder())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

/// 8.1.RC1 is the one release that counts itself in another way.
fn inner_version(cann: &str) -> &str {
    if cann == "8.1.RC1" { "V100R001C21SPC001B238" } else { cann }
}

fn version_info(cann: &str) -> String {
    let version = if cann == "8.1.RC1" { "7.7.0.1.238" } else { cann };
    format!("Version={version}\nversion_dir={cann}\ntimestamp=20250401_000000000\n")
}

/// Replaces `to` by a copy of `from`. A program that runs from `to` keeps running.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    // A hard link costs no space, but it only works within one file system.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

fn install_library(lib64: &Path, library: &Path, is_split: bool) -> io::Result<()> {
    fs::create_dir_all(lib64)?;
    let [runtime, models] = SPLIT_LIBRARIES;
    if !is_split {
        return copy(library, &lib64.join(LIBRARY));
    }
    copy(library, &lib64.join(runtime))?;
    // One file under two names: the loader maps it once, so that both share their state.
    let models = lib64.join(models);
    if models.exists() {
        fs::remove_file(&models)?;
    }
    fs::hard_link(lib64.join(runtime), models)
}

/// A copy of its own, so that a build does not change what was installed.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to).map(drop)
}

/// The library beside the program, where a build leaves it.
fn find_library(program: &Path) -> io::Result<PathBuf> {
    let folders = program.ancestors().skip(1).take(2);
    let places = folders.flat_map(|dir| [dir.join(LIBRARY), dir.join("deps").join(LIBRARY)]);
    let tried: Vec<PathBuf> = places.collect();
    tried.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
        let message = format!("no {LIBRARY}, tried {}", tried.join(", "));
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// The version that a file `version.info` names as its folder.
fn read_version(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("version_dir=")).map(|dir| dir.trim().to_owned())
}

/// The version of the toolkit in whose `bin` a program lies: `CANN_SIM_CANN` if it is set, else
/// that of its folder, else [`DEFAULT_CANN`].
pub(crate) fn version_of_program(program: &Path) -> String {
    let home = program.ancestors().nth(2).unwrap_or(Path::new("/"));
    std::env::var("CANN_SIM_CANN")
        .ok()
        .or_else(|| read_version(&home.join("compiler/version.info")))
        .unwrap_or_else(|| DEFAULT_CANN.to_owned())
}

/// The version of the toolkit that this library is part of: `CANN_SIM_CANN` if it is set, else
/// that of the folder it was loaded from, else [`DEFAULT_CANN`].
pub fn version_of_library() -> String {
    if let Ok(version) = std::env::var("CANN_SIM_CANN") {
        return version;
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    version_in_maps(&maps).unwrap_or_else(|| DEFAULT_CANN.to_owned())
}

fn version_in_maps(maps: &str) -> Option<String> {
    maps.lines().find_map(|line| {
        let path = Path::new(&line[line.find('/')?..]);
        let name = path.file_name()?.to_str()?;
        if name != LIBRARY && !SPLIT_LIBRARIES.contains(&name) {
            return None;
        }
        read_version(&path.parent()?.parent()?.join("runtime/version.info"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_is_laid_out_and_its_version_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("toolkit");
        let library = dir.path().join("some.so");
        std::fs::write(&library, b"library").unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, b"program").unwrap();
        let options = Options {
            cann: "8.1.RC1".to_owned(),
            library: Some(library),
            is_split: true,
            ..Options::default()
        };
        install(&home, &program, &options).unwrap();
        install(&home, &program, &options).unwrap();
        assert_eq!(version_of_program(&home.join("bin/atc")), "8.1.RC1");
        let maps = format!(
            "7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libc.so.6\n\
             7f02-7f03 r-xp 00000000 08:01 2 {}/lib64/libacl_mdl.so\n",
            home.display()
        );
        assert_eq!(version_in_maps(&maps).unwrap(), "8.1.RC1");
        assert!(!home.join("lib64/libascendcl.so").exists());
        let bad = Options { cann: "new".to_owned(), ..options };
        assert!(install(&home, &program, &bad).is_err());
    }

    #[test]
    fn a_missing_library_names_the_places() {
        let error = find_library(Path::new("/nowhere/bin/cann_sim")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/bin/deps/libascendcl.so"), "{error}");
    }
}

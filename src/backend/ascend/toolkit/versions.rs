//! Reads the small files in which CANN's packages say their versions: lines of `key=value`.
//!
//! What this module deliberately does not do: it compares nothing. Which lines of a file count is
//! written here, once, since they become part of cache keys.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::super::target::CannRelease;
use super::AttemptError;

/// These files have a few hundred bytes.
const MAX_INFO_BYTES: u64 = 64 << 10;
/// Packages in one folder.
const MAX_PACKAGES: usize = 512;

const ARCHITECTURES: [&str; 2] = ["x86_64-linux", "aarch64-linux"];
/// What was installed as a whole.
const INSTALL_INFO: [&str; 2] = ["ascend_toolkit_install", "ascend_ops_install"];
/// Packages of 8.x that have a folder each.
const PACKAGES: [&str; 6] = ["compiler", "opp", "opp_kernel", "runtime", "hccl", "toolkit"];
/// Packages of 9.x have a folder each in here.
const SHARED_INFO: &str = "share/info";
const VENDORS: &str = "opp/vendors";

/// The lines of an installation's file that count. Not the path: it differs from machine to
/// machine.
const INSTALL_KEYS: [&str; 4] = ["package_name", "version", "innerversion", "arch"];
/// The lines of a package's file that count.
const PACKAGE_KEYS: [&str; 4] = ["Version", "version_dir", "timestamp", "ops_version"];

/// Why a file has nothing to say.
#[derive(Debug, thiserror::Error)]
pub(super) enum InfoError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("{0} bytes are too many for a file with versions")]
    TooLong(u64),
}

/// Files that may tell the release, surest first, and the lines that do.
pub(super) fn release_files() -> Vec<(String, &'static [&'static str])> {
    let install = ARCHITECTURES.map(|arch| format!("{arch}/{}.info", INSTALL_INFO[0]));
    let install = install.into_iter().map(|path| (path, ["version"].as_slice()));
    // In 8.x `Version` is a number of the package's own, 7.7 for the release 8.1.
    let packages =
        PACKAGES.map(|name| (format!("{name}/version.info"), ["version_dir"].as_slice()));
    let shared = ["runtime", "ge-compiler", "ge-executor"].map(|name| {
        (format!("{SHARED_INFO}/{name}/version.info"), ["version_dir", "Version"].as_slice())
    });
    install.chain(packages).chain(shared).collect()
}

/// The release that a file tells, and in which words.
pub(super) fn release(path: &Path, keys: &[&str]) -> Result<(CannRelease, String), AttemptError> {
    let info = read(path)?;
    let words = keys.iter().find_map(|key| value(&info, key)).ok_or(AttemptError::NoRelease)?;
    // Folders are called `8.1.RC1`, later `cann-9.0.0`.
    let words = words.strip_prefix("cann-").unwrap_or(words);
    Ok((words.parse()?, words.to_owned()))
}

/// Every version of the toolkit at `home`, sorted.
pub(super) fn components(home: &Path) -> Vec<(String, String)> {
    let mut components = Vec::new();
    let mut add = |name: String, path: PathBuf, keys: &[&str]| {
        if let Ok(info) = read(&path) {
            components.push((name, selected(&info, keys)));
        }
    };
    for arch in ARCHITECTURES {
        for name in INSTALL_INFO {
            let path = home.join(arch).join(format!("{name}.info"));
            add(name.to_owned(), path, &INSTALL_KEYS);
        }
    }
    for name in PACKAGES {
        add(name.to_owned(), home.join(name).join("version.info"), &PACKAGE_KEYS);
    }
    for name in folders(&home.join(SHARED_INFO)) {
        let path = home.join(SHARED_INFO).join(&name).join("version.info");
        add(format!("info/{name}"), path, &PACKAGE_KEYS);
    }
    let vendors = home.join(VENDORS);
    if let Ok(config) = read(&vendors.join("config.ini")) {
        components.push((VENDORS.to_owned(), all(&config)));
    }
    for name in folders(&vendors) {
        components.push((format!("{VENDORS}/{name}"), operators(&vendors.join(&name))));
    }
    // One toolkit may be installed for both architectures.
    components.sort();
    components
}

/// The versions of packages of operators, in the order in which they are looked through.
pub(super) fn custom_operators(folders: &[PathBuf]) -> Vec<(String, String)> {
    let name = |folder: &Path| {
        folder.file_name().unwrap_or_else(|| OsStr::new("")).to_string_lossy().into_owned()
    };
    let component = |(idx, folder): (usize, &PathBuf)| {
        (format!("custom_opp/{idx}/{}", name(folder)), operators(folder))
    };
    folders.iter().enumerate().map(component).collect()
}

/// What a package of operators says of itself. Its format is up to who made it: every line counts.
fn operators(folder: &Path) -> String {
    read(&folder.join("version.info")).map_or_else(|_| String::new(), |info| all(&info))
}

/// Names of the folders in a folder, sorted.
fn folders(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let entries = entries.take(MAX_PACKAGES).filter_map(Result::ok);
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A file's text. What is not UTF-8 in it is replaced: no line that counts has any.
fn read(path: &Path) -> Result<String, InfoError> {
    // Looked at first: opening would wait for ever on a FIFO.
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(InfoError::NotAFile);
    }
    if metadata.len() > MAX_INFO_BYTES {
        return Err(InfoError::TooLong(metadata.len()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_INFO_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of the first line with that key; none where it is empty.
fn value<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once('='));
    let (_, value) = lines.find(|(found, _)| found.trim() == key)?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then_some(value)
}

fn selected(info: &str, keys: &[&str]) -> String {
    let line = |key: &&str| Some(format!("{key}={}", value(info, key)?));
    keys.iter().filter_map(line).collect::<Vec<_>>().join(" ")
}

fn all(info: &str) -> String {
    let lines = info.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

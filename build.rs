//! The build stamp: git revision, target, profile and features, handed to `src/build_info.rs` as
//! variables of the compiler.
//!
//! It holds no date and no path, so the same sources give the same bytes. It reads `.git` itself
//! instead of asking the git program: nothing needs to be installed, a folder of another owner is
//! no obstacle, and outside of git (a source archive, a vendored copy) the revision is `unknown`.
//! `CAIRN_BUILD_REVISION` overrides it for packagers.

use std::path::{Path, PathBuf};
use std::{env, fs};

const REVISION_OVERRIDE: &str = "CAIRN_BUILD_REVISION";

fn main() {
    // Naming any file turns off the default of running again when any file of the package changes.
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={REVISION_OVERRIDE}");

    let revision = variable(REVISION_OVERRIDE).or_else(revision_of_git);
    stamp("CAIRN_BUILD_GIT_REVISION", revision.as_deref().unwrap_or("unknown"));
    stamp("CAIRN_BUILD_TARGET", &variable("TARGET").unwrap_or_default());
    stamp("CAIRN_BUILD_PROFILE", &variable("PROFILE").unwrap_or_default());
    stamp("CAIRN_BUILD_FEATURES", &features());
}

fn stamp(name: &str, value: &str) {
    // A line break would end the instruction to cargo and begin another.
    let value: String = value.chars().filter(|c| !c.is_control()).collect();
    println!("cargo::rustc-env={name}={value}");
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The features that are on, in the manifest's spelling, sorted and separated by commas.
fn features() -> String {
    let mut names: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter_map(|name| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .map(|name| name.replace('_', "-"))
        .filter(|name| name != "default")
        .collect();
    names.sort();
    names.join(",")
}

/// The commit that is checked out, 12 digits of it, when this package is the root of a repository.
fn revision_of_git() -> Option<String> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let git_dir = git_dir(&package.join(".git"))?;
    // Branches of a linked worktree are kept in the main repository.
    let common_dir = match fs::read_to_string(git_dir.join("commondir")) {
        Ok(path) => git_dir.join(path.trim_end()),
        Err(_) => git_dir.clone(),
    };

    let head = fs::read_to_string(git_dir.join("HEAD")).ok()?;
    rerun_if_exists(&git_dir.join("HEAD"));
    // One line for each commit and checkout; HEAD itself stays the same when its branch moves.
    rerun_if_exists(&git_dir.join("logs/HEAD"));

    let Some(reference) = head.strip_prefix("ref: ").map(str::trim_end) else {
        return short_hash(&head);
    };
    rerun_if_exists(&common_dir.join(reference));
    rerun_if_exists(&common_dir.join("packed-refs"));
    let loose = fs::read_to_string(common_dir.join(reference)).ok();
    loose.as_deref().and_then(short_hash).or_else(|| {
        let packed = fs::read_to_string(common_dir.join("packed-refs")).ok()?;
        let line = packed.lines().find(|line| line.split(' ').nth(1) == Some(reference))?;
        short_hash(line)
    })
}

/// `.git` is the folder itself, or a file that names it (linked worktrees and submodules).
fn git_dir(dot_git: &Path) -> Option<PathBuf> {
    if dot_git.is_dir() {
        return Some(dot_git.to_path_buf());
    }
    let text = fs::read_to_string(dot_git).ok()?;
    let path = text.strip_prefix("gitdir: ")?.trim_end();
    Some(dot_git.parent()?.join(path))
}

/// The first 12 digits of a line that begins with a hash.
fn short_hash(line: &str) -> Option<String> {
    let hash = line.get(..12)?;
    hash.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| hash.to_owned())
}

/// A path that does not exist would make cargo run this again at every build.
fn rerun_if_exists(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

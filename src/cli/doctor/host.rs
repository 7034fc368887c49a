//! Checks of what every backend needs: the processor, and the folder of compiled graphs.
//!
//! What this module deliberately does not do: it leaves nothing behind. Whether a folder can be
//! written shows by a file without a name.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use fs_err as fs;

use super::check::Check;
use super::system;
use crate::cli::values::display_bytes;

const CPU: &str = "cpu";
const CACHE: &str = "cache";
const TRUST: &str = "cache trust";

/// Below this, a model's graphs and a few logs may not fit.
const LITTLE_SPACE: u64 = 1 << 30;
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// The processor, as the CPU backend sees it.
pub(super) fn cpu() -> Check {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let found = format!("{}, {threads} threads", std::env::consts::ARCH);
    match vector_instructions() {
        Some(names) => Check::ok(CPU, format!("{found}, {names}")),
        None => {
            Check::warning(CPU, format!("{found}, no vector instructions that are made use of"))
                .remedy("the cpu backend will be slow: on x86_64 it uses AVX2, FMA and F16C")
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_instructions() -> Option<&'static str> {
    let is_avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    match (is_avx2, is_x86_feature_detected!("avx512f")) {
        (true, true) => Some("AVX-512"),
        (true, false) => Some("AVX2, FMA, F16C"),
        (false, _) => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_instructions() -> Option<&'static str> {
    None
}

/// The folder of compiled graphs, or the one that it would be made in; and who else can write it.
pub(super) fn cache(folder: Option<&Path>) -> [Check; 2] {
    let Some(folder) = folder else {
        let check = Check::warning(CACHE, "there is no place for compiled graphs");
        let check = check.remedy("set `CAIRN_CACHE_DIR`, or `HOME`");
        return [check, Check::skipped(TRUST, "there is no cache folder")];
    };
    let existing = folder.ancestors().find(|ancestor| !is_absent(ancestor));
    // A relative path with nothing of it there yet.
    let existing = existing.filter(|path| !path.as_os_str().is_empty());
    let existing = existing.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let owner = match owner_of_new_files(&existing) {
        Ok(owner) => owner,
        Err(error) => {
            let found = format!("`{}` cannot be written: {error}", existing.display());
            let check = Check::failed(CACHE, found);
            let check =
                check.remedy("choose another folder with `--cache-dir`, or with `CAIRN_CACHE_DIR`");
            return [check, Check::skipped(TRUST, "the cache folder cannot be written")];
        }
    };
    if existing != folder {
        let found = format!("`{}` will be created", folder.display());
        let trust = Check::ok(TRUST, "will be this user's alone");
        return [with_space(CACHE, found, &existing), trust];
    }
    [with_space(CACHE, format!("`{}`", folder.display()), folder), trust(folder, owner)]
}

fn is_absent(path: &Path) -> bool {
    path.as_os_str().is_empty()
        || matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Writes a file without a name into a folder. Its owner is this process's user.
fn owner_of_new_files(folder: &Path) -> io::Result<u32> {
    Ok(tempfile::tempfile_in(folder)?.metadata()?.uid())
}

fn with_space(name: &'static str, found: String, folder: &Path) -> Check {
    let free = system::free_bytes(folder);
    let check = match free {
        Some(free) if free < LITTLE_SPACE => {
            let found = format!("{found}, only {} free", display_bytes(free));
            Check::warning(name, found).remedy("make room, or choose another folder")
        }
        Some(free) => Check::ok(name, format!("{found}, {} free", display_bytes(free))),
        None => Check::ok(name, found),
    };
    let temporary = tempfile::env::temp_dir();
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    match (device(folder), device(&temporary)) {
        (Ok(own), Ok(other)) if own != other => {
            check.detail(format_args!("`{}` is another file system", temporary.display()))
        }
        _ => check,
    }
}

/// A cached graph is code that a device runs: whoever can write the folder decides what that is.
fn trust(folder: &Path, owner: u32) -> Check {
    let metadata = match fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) => return Check::failed(TRUST, error),
    };
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let found = format!("owner {uid}, mode {mode:04o}");
    if uid != owner && uid != 0 {
        let check = Check::warning(TRUST, format!("{found}: it belongs to another user"));
        return check.remedy("use a cache folder of your own: its owner decides what is run");
    }
    if mode & OTHERS_WRITE != 0 {
        let check = Check::warning(TRUST, format!("{found}: others can write to it"));
        let remedy =
            format!("`chmod go-w {}`: who can write decides what is run", folder.display());
        return check.remedy(remedy);
    }
    Check::ok(TRUST, found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::doctor::check::State;

    fn states(folder: &Path) -> [State; 2] {
        cache(Some(folder)).map(|check| check.state)
    }

    #[test]
    fn a_folder_of_ones_own_is_good_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(states(folder.path()), [State::Ok, State::Ok]);
        let missing = folder.path().join("a/b");
        assert_eq!(states(&missing), [State::Ok, State::Ok]);
        assert!(cache(Some(&missing))[0].found.contains("will be created"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_can_write_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let [_, trust] = cache(Some(folder.path()));
        assert_eq!(trust.state, State::Warning);
        assert!(trust.found.ends_with("mode 0777: others can write to it"), "{}", trust.found);
        assert!(trust.remedy.unwrap().starts_with("`chmod go-w "));
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(states(&file), [State::Failed, State::Skipped]);
        assert_eq!(states(&file.join("below")), [State::Failed, State::Skipped]);
        assert_eq!(cache(None).map(|check| check.state), [State::Warning, State::Skipped]);
    }

    #[test]
    fn the_processor_is_named() {
        assert!(cpu().found.contains(std::env::consts::ARCH));
    }
}

//! Checks of the graph cache: its folder, who can write it, the disk below it, and its layers.
//!
//! | Check | Looks at |
//! | --- | --- |
//! | `cache` | is it there, or can it be made; can it be written; space and inodes |
//! | `cache trust` | owner, mode, links, by `--cache-trust` |
//! | `cache disk` | kind of file system, locks, renames, one file system for all, the clock |
//! | `cache layer` | can each layer be read; of an object store, what is allowed there |
//!
//! What this module deliberately does not do: it leaves nothing behind, and it looks at no entry;
//! `cairn cache verify` does.

use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cairn_graph_cache::{DiskAccess, Store as _, Trust};
use fs_err as fs;

use super::check::Check;
use super::system;
use crate::cli::graph_cache::{self, Place};
use crate::cli::values::display_bytes;
use crate::config::{CacheTrust, GraphCacheConfig};

const CACHE: &str = "cache";
const TRUST: &str = "cache trust";
const DISK: &str = "cache disk";
const LAYER: &str = "cache layer";

/// Below this, a model's graphs and a few logs may not fit.
const LITTLE_SPACE: u64 = 1 << 30;
/// Below this, there may be no names left for a few entries.
const FEW_FILES: u64 = 1000;
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// Clocks that differ by more than this are not the same one.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// All checks of what was asked for.
pub(super) fn look(config: &GraphCacheConfig) -> Vec<Check> {
    let mut checks = folder(config);
    checks.extend(config.layers.iter().map(|text| layer(text, config)));
    checks
}

/// The folder, or the one that it would be made in.
fn folder(config: &GraphCacheConfig) -> Vec<Check> {
    let Some(folder) = config.folder.as_deref() else {
        let check = Check::warning(CACHE, "there is no place for compiled graphs");
        let check = check.remedy("set `CAIRN_CACHE_DIR`, or `HOME`");
        return with_skipped(check, "there is no cache folder");
    };
    let existing = existing(folder);
    let scratch = match tempfile::tempdir_in(&existing) {
        Ok(scratch) => scratch,
        Err(error) => {
            let found = format!("`{}` cannot be written: {error}", existing.display());
            let check = Check::failed(CACHE, found).remedy(
                "choose another folder with `--cache-dir`, or with `CAIRN_CACHE_DIR`; one that is \
                 only to be read is a `--cache-layer`",
            );
            return with_skipped(check, "the cache folder cannot be written");
        }
    };
    let is_new = existing != folder;
    let found = if is_new {
        format!("`{}` will be created", folder.display())
    } else {
        format!("`{}`", folder.display())
    };
    let trust = match (is_new, graph_cache::trust(config)) {
        (_, Err(error)) => Check::failed(TRUST, format!("{error:#}")),
        (true, Ok(_)) => Check::ok(TRUST, "will be this user's alone"),
        (false, Ok(_)) => trust(folder, scratch.path(), config.trust),
    };
    vec![space(found, &existing, config.max_bytes), trust, disk(&existing, scratch.path())]
}

fn with_skipped(check: Check, why: &str) -> Vec<Check> {
    vec![check, Check::skipped(TRUST, why), Check::skipped(DISK, why)]
}

/// The folder itself, or the nearest one above it that is there.
fn existing(folder: &Path) -> PathBuf {
    let existing = folder.ancestors().find(|ancestor| !is_absent(ancestor));
    // A relative path with nothing of it there yet.
    let existing = existing.filter(|path| !path.as_os_str().is_empty());
    existing.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn is_absent(path: &Path) -> bool {
    path.as_os_str().is_empty()
        || matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn space(found: String, folder: &Path, max_bytes: Option<u64>) -> Check {
    let (free, files) = (system::free_bytes(folder), system::free_files(folder));
    let mut check = match free {
        Some(free) if free < LITTLE_SPACE => {
            let found = format!("{found}, only {} free", display_bytes(free));
            Check::warning(CACHE, found).remedy("make room, or choose another folder")
        }
        Some(free) => Check::ok(CACHE, format!("{found}, {} free", display_bytes(free))),
        None => Check::ok(CACHE, found),
    };
    if let (Some(max), Some(free)) = (max_bytes, free)
        && max > free
    {
        check = check.warn().detail(format_args!(
            "`--cache-max-bytes` allows {}, more than is free now",
            display_bytes(max)
        ));
    }
    if let Some(files @ ..FEW_FILES) = files {
        check = check.warn().detail(format_args!("only {files} more files can be created"));
        check = check.remedy("remove files there, or choose another folder");
    }
    check
}

/// A cached graph is code that a device runs: whoever can write the folder decides what that is.
fn trust(folder: &Path, scratch: &Path, trust: CacheTrust) -> Check {
    let look = || {
        Ok::<_, io::Error>((
            fs::symlink_metadata(folder)?,
            fs::metadata(folder)?,
            fs::metadata(scratch)?,
        ))
    };
    let (link, metadata, own) = match look() {
        Ok(found) => found,
        Err(error) => return Check::failed(TRUST, error),
    };
    let (uid, mode, shown) = (metadata.uid(), metadata.mode() & 0o7777, folder.display());
    let found = format!("owner {uid}, mode {mode:04o}");
    if trust == CacheTrust::Any {
        return Check::ok(TRUST, format!("{found}; `--cache-trust any` asks no questions"));
    }
    if link.is_symlink() {
        let check = Check::failed(TRUST, format!("`{shown}` is a symbolic link: it is not used"));
        return check.remedy("name the folder that it leads to");
    }
    let check = if uid != own.uid() && uid != 0 {
        let check = Check::failed(TRUST, format!("{found}: it belongs to another user"));
        check.remedy("use a folder of your own, or name this one with `--cache-layer`")
    } else if mode & OTHERS_WRITE != 0 {
        let check = Check::failed(TRUST, format!("{found}: others can write to it"));
        check.remedy(format_args!("`chmod -R go-w {shown}`: who can write decides what is run"))
    } else {
        return Check::ok(TRUST, found);
    };
    if trust == CacheTrust::Signed {
        // Who can write does not matter then.
        return Check::ok(TRUST, format!("{found}; signatures decide"));
    }
    check
}

/// The file system: whether it does what the cache relies on, and whether it lasts.
fn disk(folder: &Path, scratch: &Path) -> Check {
    let kind = system::file_system(folder);
    let name = kind.map_or("unknown file system", |kind| kind.name);
    let mut check = Check::ok(DISK, name);
    if let Some(loss) = kind.and_then(|kind| kind.loss) {
        check = check.warn().detail(loss).remedy(
            "compiled graphs are gone with it: mount a volume there, or choose another folder with \
             `--cache-dir`",
        );
    }
    if let Err(error) = try_rename(scratch) {
        let check = Check::failed(DISK, format!("{name}: folders cannot be renamed: {error}"));
        return check.remedy("choose a folder on another file system");
    }
    match try_lock(scratch) {
        Ok(true) => {}
        Ok(false) => check = without_locks(check, "a lock keeps nobody out"),
        Err(error) => check = without_locks(check, &format!("no locks: {error}")),
    }
    if let Some(other) = other_file_system(folder) {
        check = check.warn().detail(format_args!("`{}` is another file system", other.display()));
        check = check.remedy("the folder of the cache and all in it must be on one");
    }
    match clock_difference(scratch) {
        Some(difference) if difference > CLOCK_TOLERANCE => check.warn().detail(format_args!(
            "its clock differs from that of this machine by {} s: what was used last is not known \
             exactly",
            difference.as_secs()
        )),
        _ => check,
    }
}

fn without_locks(check: Check, what: &str) -> Check {
    check.warn().detail(format_args!("{what}; processes may compile the same graph"))
}

/// A folder with a file in it, to another name: as an entry appears.
fn try_rename(scratch: &Path) -> io::Result<()> {
    let (from, to) = (scratch.join("from"), scratch.join("to"));
    fs::create_dir(&from)?;
    fs::write(from.join("file"), "content")?;
    fs::rename(&from, &to)?;
    fs::File::open(&to)?.sync_all()?;
    fs::read(to.join("file")).map(|_| ())
}

/// Whether a lock keeps a second one out.
fn try_lock(scratch: &Path) -> io::Result<bool> {
    let path = scratch.join("lock");
    let open = || std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let (first, second) = (open()?, open()?);
    let locked = |result| match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    };
    if !locked(first.try_lock())? {
        return Ok(false);
    }
    locked(second.try_lock()).map(|second| !second)
}

/// Something in the store's folder that is on another file system than the folder: nothing could be
/// renamed from the one to the other.
fn other_file_system(folder: &Path) -> Option<PathBuf> {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    let own = device(folder)?;
    let inside = |folder: PathBuf| {
        let listed = fs::read_dir(folder).into_iter().flatten().flatten();
        listed.map(|item| item.path()).collect::<Vec<_>>()
    };
    let versions = inside(folder.to_owned());
    let below = versions.iter().filter(|path| path.is_dir()).cloned().flat_map(inside);
    let mut all = versions.iter().cloned().chain(below.collect::<Vec<_>>());
    all.find(|path| device(path).is_some_and(|other| other != own))
}

fn clock_difference(scratch: &Path) -> Option<Duration> {
    let path = scratch.join("clock");
    fs::write(&path, "now").ok()?;
    let theirs = fs::metadata(&path).ok()?.modified().ok()?;
    let ours = SystemTime::now();
    Some(ours.duration_since(theirs).unwrap_or_else(|error| error.duration()))
}

/// A layer, and whether it can be read.
fn layer(text: &str, config: &GraphCacheConfig) -> Check {
    let looked = graph_cache::trust(config).and_then(|trust| match Place::parse(text)? {
        Place::Folder(path) => Ok(folder_layer(&path, &trust)),
        Place::Remote(url) => remote_layer(&url, config, &trust),
    });
    looked.unwrap_or_else(|error| {
        let what = format!("{error:#}");
        let what = if what.contains(text) { what } else { format!("`{text}`: {what}") };
        let check = Check::failed(LAYER, what);
        match crate::cli::failure::hint(&error) {
            Some(hint) => check.remedy(hint),
            None => check,
        }
    })
}

fn folder_layer(path: &Path, trust: &Trust) -> Check {
    let shown = path.display();
    if is_absent(path) {
        let check = Check::warning(LAYER, format!("`{shown}` is not there"));
        return check.remedy("mount it, or leave `--cache-layer` out");
    }
    let read = graph_cache::disk(path, trust, DiskAccess::Layer);
    match read.and_then(|store| Ok(store.list()?)) {
        Ok(keys) if keys.is_empty() => Check::warning(LAYER, format!("`{shown}` has no entries")),
        Ok(keys) => Check::ok(LAYER, format!("`{shown}`, {} entries", keys.len())),
        Err(error) => Check::failed(LAYER, format!("`{shown}` cannot be read: {error:#}")),
    }
}

/// What is allowed in an object store. Reading is what a layer needs; the rest is for `push`.
#[cfg(feature = "remote")]
fn remote_layer(url: &str, config: &GraphCacheConfig, trust: &Trust) -> anyhow::Result<Check> {
    use super::check::State;

    const TO_READ: [&str; 2] = ["s3:GetObject", "s3:ListBucket"];
    let store = graph_cache::remote_store(url, config, trust)?;
    let answers = store.probe();
    let refused = |permission: &str| {
        answers.iter().any(|(name, answer)| *name == permission && answer.is_err())
    };
    let place = store.place();
    let mut check = if TO_READ.into_iter().any(refused) {
        Check::failed(LAYER, format!("{place} cannot be read"))
    } else if answers.iter().all(|(_, answer)| answer.is_ok()) {
        Check::ok(LAYER, format!("{place}, can be read and written"))
    } else {
        Check::ok(LAYER, format!("{place}, can only be read"))
    };
    for (permission, answer) in &answers {
        if let Err(error) = answer {
            check = check.detail(format_args!("{permission}: {error}"));
        }
    }
    if check.state == State::Failed {
        check = check.remedy(
            "give these permissions to whoever `AWS_ACCESS_KEY_ID` is; `AWS_ENDPOINT_URL` and \
             `AWS_REGION` say where the service is",
        );
    }
    Ok(check)
}

#[cfg(not(feature = "remote"))]
fn remote_layer(url: &str, config: &GraphCacheConfig, trust: &Trust) -> anyhow::Result<Check> {
    // Says what is missing.
    let place = Place::Remote(url.to_owned());
    let store = place.open(config, trust, DiskAccess::Layer)?;
    Ok(Check::ok(LAYER, store.place()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::cli::doctor::check::State;

    fn checks(folder: &Path) -> Vec<Check> {
        look(&GraphCacheConfig::in_folder(folder))
    }

    fn states(folder: &Path) -> [State; 2] {
        let checks = checks(folder);
        [checks[0].state, checks[1].state]
    }

    #[test]
    fn a_folder_of_ones_own_is_good_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(states(folder.path()), [State::Ok, State::Ok]);
        let missing = folder.path().join("a/b");
        assert_eq!(states(&missing), [State::Ok, State::Ok]);
        assert!(checks(&missing)[0].found.contains("will be created"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused_unless_it_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let trust = &checks(folder.path())[1];
        assert_eq!(trust.state, State::Failed);
        assert!(trust.found.ends_with("mode 0777: others can write to it"), "{}", trust.found);
        assert!(trust.remedy.as_ref().unwrap().starts_with("`chmod -R go-w "));
        let config = GraphCacheConfig {
            trust: CacheTrust::Any,
            ..GraphCacheConfig::in_folder(folder.path())
        };
        assert_eq!(look(&config)[1].state, State::Ok);
    }

    #[test]
    fn a_link_to_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
        symlink(&real, &link).unwrap();
        assert_eq!(states(&real), [State::Ok, State::Ok]);
        assert_eq!(states(&link), [State::Ok, State::Failed]);
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(states(&file), [State::Failed, State::Skipped]);
        assert_eq!(states(&file.join("below")), [State::Failed, State::Skipped]);
        let nowhere = look(&GraphCacheConfig::default());
        assert_eq!([nowhere[0].state, nowhere[1].state], [State::Warning, State::Skipped]);
    }

    #[test]
    fn more_than_is_free_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let config = GraphCacheConfig {
            max_bytes: Some(u64::MAX),
            ..GraphCacheConfig::in_folder(folder.path())
        };
        let check = &look(&config)[0];
        assert_eq!(check.state, State::Warning);
        assert!(check.details[0].contains("more than is free now"), "{:?}", check.details);
    }

    #[test]
    fn the_disk_of_this_test_has_locks_and_renames() {
        let folder = tempfile::tempdir().unwrap();
        try_rename(folder.path()).unwrap();
        assert!(try_lock(folder.path()).unwrap());
        assert!(clock_difference(folder.path()).unwrap() < Duration::from_mins(1));
        assert_eq!(other_file_system(folder.path()), None);
        let scratch = tempfile::tempdir().unwrap();
        assert_ne!(disk(folder.path(), scratch.path()).state, State::Failed);
    }

    #[test]
    fn a_layer_is_read_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let state = |text: &str| layer(text, &GraphCacheConfig::default()).state;
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        assert_eq!(state(&text(folder.path())), State::Warning);
        assert_eq!(state(&text(&folder.path().join("missing"))), State::Warning);
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(state(&text(&file)), State::Failed);
        assert_eq!(state("gs://bucket"), State::Failed);
    }
}

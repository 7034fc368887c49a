//! Whatever happens to the files of the cache: the same text, exit code 0, a warning, and a hit
//! again the next time.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::deployment::{Deployment, skip};
use super::{GENERATE, entries};

/// Byte offsets per file at which a bit is flipped.
const NUM_FLIPS: usize = 8;

/// A deployment whose cache holds one entry, and the text that it generates.
struct Warm {
    deployment: Deployment,
    text: String,
}

impl Warm {
    fn new() -> Self {
        let deployment = Deployment::new();
        let text = deployment.run(&GENERATE).stdout;
        Self { deployment, text }
    }

    /// Applies a damage to the entry, and checks that it is noticed and repaired.
    fn survives(&self, damage: &str, apply: impl FnOnce(&Path)) {
        let entry = entries(&self.deployment.path("cache/graphs")).pop().unwrap();
        apply(&entry);
        let ended = self.deployment.run(&GENERATE);
        assert_eq!((ended.code, &ended.stdout), (0, &self.text), "{damage}: {ended:?}");
        assert_eq!((ended.graphs(), ended.warns()), ([1, 0], true), "{damage}: {ended:?}");
        self.finds_it(damage);
    }

    /// Checks that the entry is there, and that nothing is wrong with it.
    fn finds_it(&self, after: &str) {
        let ended = self.deployment.run(&GENERATE);
        assert_eq!((ended.code, &ended.stdout), (0, &self.text), "after {after}: {ended:?}");
        assert_eq!((ended.graphs(), ended.warns()), ([0, 1], false), "after {after}: {ended:?}");
    }
}

const FILES: [&str; 3] = ["manifest.json", "plan.json", "record.bin"];

#[test]
fn the_files_of_an_entry_are_those_that_are_damaged_here() {
    let warm = Warm::new();
    let entry = entries(&warm.deployment.path("cache/graphs")).pop().unwrap();
    let mut names: Vec<String> = fs::read_dir(entry)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, FILES);
}

#[test]
fn a_flipped_bit_is_noticed() {
    let warm = Warm::new();
    for name in FILES {
        for flip in 0..NUM_FLIPS {
            warm.survives(&format!("flip {flip} in {name}"), |entry| {
                let path = entry.join(name);
                let mut bytes = fs::read(&path).unwrap();
                // From the first byte to the last, each time another bit.
                let at = (bytes.len() - 1) * flip / (NUM_FLIPS - 1);
                bytes[at] ^= 1 << flip;
                fs::write(&path, bytes).unwrap();
            });
        }
    }
}

#[test]
fn a_file_of_another_length_is_noticed() {
    let warm = Warm::new();
    for name in FILES {
        for (damage, change) in [
            ("emptied", (|_| 0) as fn(u64) -> u64),
            ("cut in the middle", |len| len / 2),
            ("cut by a byte", |len| len - 1),
            ("longer by a byte", |len| len + 1),
        ] {
            warm.survives(&format!("{name} {damage}"), |entry| {
                let file = OpenOptions::new().write(true).open(entry.join(name)).unwrap();
                file.set_len(change(file.metadata().unwrap().len())).unwrap();
            });
        }
    }
}

#[test]
fn what_is_no_file_is_not_taken_for_one() {
    let warm = Warm::new();
    for name in FILES {
        warm.survives(&format!("{name} deleted"), |entry| {
            fs::remove_file(entry.join(name)).unwrap();
        });
        warm.survives(&format!("{name} is a folder"), |entry| {
            fs::remove_file(entry.join(name)).unwrap();
            fs::create_dir(entry.join(name)).unwrap();
        });
        warm.survives(&format!("{name} is a named pipe"), |entry| {
            fs::remove_file(entry.join(name)).unwrap();
            make_pipe(&entry.join(name));
        });
        warm.survives(&format!("{name} is a link to itself, moved"), |entry| {
            let elsewhere = warm.deployment.path("elsewhere");
            fs::rename(entry.join(name), &elsewhere).unwrap();
            symlink(&elsewhere, entry.join(name)).unwrap();
        });
        warm.survives(&format!("{name} is a link to nothing"), |entry| {
            fs::remove_file(entry.join(name)).unwrap();
            symlink("nowhere", entry.join(name)).unwrap();
        });
    }
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn an_entry_that_is_no_folder_is_replaced() {
    let warm = Warm::new();
    warm.survives("emptied", |entry| {
        fs::remove_dir_all(entry).unwrap();
        fs::create_dir(entry).unwrap();
    });
    warm.survives("a file", |entry| {
        fs::remove_dir_all(entry).unwrap();
        fs::write(entry, "").unwrap();
    });
    warm.survives("a named pipe", |entry| {
        fs::remove_dir_all(entry).unwrap();
        make_pipe(entry);
    });
    warm.survives("a link to itself, moved", |entry| {
        let elsewhere = warm.deployment.path("elsewhere");
        fs::rename(entry, &elsewhere).unwrap();
        symlink(&elsewhere, entry).unwrap();
    });
    warm.survives("the folder around it is a file", |entry| {
        let around = entry.parent().unwrap();
        fs::remove_dir_all(around).unwrap();
        fs::write(around, "").unwrap();
    });
}

#[test]
fn an_entry_of_another_key_is_not_used() {
    let warm = Warm::new();
    let cache = warm.deployment.path("cache/graphs");
    let before = entries(&cache);
    warm.deployment.run(&["warmup", "model", "--dtype", "bf16"]);
    let other = entries(&cache).into_iter().find(|entry| !before.contains(entry)).unwrap();
    fs::remove_dir_all(&before[0]).unwrap();
    fs::rename(other, &before[0]).unwrap();
    let ended = warm.deployment.run(&GENERATE);
    assert_eq!((ended.code, &ended.stdout), (0, &warm.text), "{ended:?}");
    assert_eq!((ended.graphs(), ended.warns()), ([1, 0], true), "{ended:?}");
    warm.finds_it("the swap");
}

#[test]
fn all_of_it_can_be_deleted_at_any_time() {
    let warm = Warm::new();
    for deleted in ["cache", "cache/graphs", "cache/graphs/v2", "cache/graphs/v2/entries"] {
        fs::remove_dir_all(warm.deployment.path(deleted)).unwrap();
        let ended = warm.deployment.run(&GENERATE);
        assert_eq!((ended.code, &ended.stdout), (0, &warm.text), "{deleted}: {ended:?}");
        assert_eq!((ended.graphs(), ended.warns()), ([1, 0], false), "{deleted}: {ended:?}");
        warm.finds_it(deleted);
    }
}

#[test]
fn a_cache_folder_of_no_use_is_a_warning() {
    let warm = Warm::new();
    let path = |name: &str| warm.deployment.path(name);
    fs::write(path("file"), "mine").unwrap();
    make_pipe(&path("pipe"));
    symlink("nowhere", path("link")).unwrap();
    for folder in ["file", "file/below", "pipe", "link", "/dev/null", "/proc/self/fd"] {
        let ended = warm.deployment.run(&[&GENERATE[..], &["--cache-dir", folder]].concat());
        assert_eq!((ended.code, &ended.stdout), (0, &warm.text), "{folder}: {ended:?}");
        assert_eq!((ended.graphs(), ended.warns()), ([1, 0], true), "{folder}: {ended:?}");
    }
    assert_eq!(fs::read_to_string(path("file")).unwrap(), "mine");
}

#[test]
fn a_cache_that_can_only_be_read_is_read() {
    let warm = Warm::new();
    let cache = warm.deployment.path("cache");
    set_mode_of_folders(&cache, 0o500);
    if fs::write(cache.join("probe"), "").is_ok() {
        return skip("a_cache_that_can_only_be_read_is_read", "this user may write everywhere");
    }
    warm.finds_it("the folders became read-only");
    let ended = warm.deployment.run(&[&GENERATE[..], &["--dtype", "bf16"]].concat());
    assert_eq!((ended.code, ended.graphs(), ended.warns()), (0, [1, 0], true), "{ended:?}");
    set_mode_of_folders(&cache, 0o700);
}

fn set_mode_of_folders(folder: &Path, mode: u32) {
    // Writable until all below is done.
    fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            set_mode_of_folders(&path, mode);
        }
    }
    fs::set_permissions(folder, PermissionsExt::from_mode(mode)).unwrap();
}

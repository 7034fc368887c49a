//! The search for CANN's library, in toolkits that are put together here: the libraries are a few
//! lines of C, compiled by the system's compiler.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_ffi::{Acl, AclStatus, AttemptError, LoadError};

const WORKING: &str = "#include <stdint.h>
    int aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
        *major = 1; *minor = 15; *patch = 2; return 0;
    }";
const FAILING: &str = "#include <stdint.h>
    int aclrtGetVersion(int32_t *a, int32_t *b, int32_t *c) { return 507899; }";
const ANOTHER: &str = "int something_else(void) { return 0; }";
const UNBOUND: &str = "void nowhere(void); void f(void) { nowhere(); }";

/// Compiles C into a shared library; `false` where there is no compiler.
fn compile(source: &str, library: &Path) -> bool {
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    let file = library.with_extension("c");
    fs::write(&file, source).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([library, &file]).status();
    match status {
        Ok(status) => {
            assert!(status.success());
            true
        }
        Err(error) => {
            eprintln!("skipped: no C compiler: {error}");
            false
        }
    }
}

fn reasons(error: &LoadError, home: &Path) -> Vec<(PathBuf, AttemptError)> {
    error
        .attempts()
        .iter()
        .filter_map(|attempt| {
            let path = attempt.library.strip_prefix(home).ok()?;
            Some((path.to_owned(), attempt.reason.clone()))
        })
        .collect()
}

#[test]
fn without_a_library_every_path_that_was_tried_is_named() {
    let home = tempfile::tempdir().unwrap();
    let homes = [home.path().to_owned(), home.path().to_owned()];
    let error = Acl::load(&homes).unwrap_err();
    assert!(matches!(error, LoadError::NotFound { .. }), "{error}");
    let tried = reasons(&error, home.path());
    assert_eq!(tried.len(), 4, "each place is tried once: {tried:?}");
    assert_eq!(
        tried[..2],
        [
            ("lib64/libascendcl.so".into(), AttemptError::Missing),
            ("lib64/libacl_rt.so".into(), AttemptError::Missing),
        ]
    );
    assert_eq!(error.attempts().len(), 6, "the system's loader is asked last");
    let message = error.to_string();
    let path = home.path().join("lib64/libascendcl.so");
    assert!(message.contains(&format!("`{}`: not found", path.display())));
    assert!(message.contains("`libacl_rt.so`: not found"), "{message}");
}

#[test]
fn a_library_that_answers_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64/libascendcl.so");
    if !compile(WORKING, &library) {
        return;
    }
    let acl = Acl::load(&["/nonexistent".into(), home.path().to_owned()]).unwrap();
    assert_eq!(acl.version().to_string(), "1.15.2");
    assert_eq!(acl.paths(), [library]);
}

#[test]
fn the_two_libraries_of_later_releases_are_taken_together() {
    let home = tempfile::tempdir().unwrap();
    let runtime = home.path().join("lib64/libacl_rt.so");
    let model = home.path().join("lib64/libacl_mdl.so");
    if !compile(WORKING, &runtime) {
        return;
    }
    let homes = [home.path().to_owned()];
    let error = Acl::load(&homes).unwrap_err();
    assert!(
        reasons(&error, home.path())
            .contains(&("lib64/libacl_mdl.so".into(), AttemptError::Missing))
    );
    compile(ANOTHER, &model);
    let acl = Acl::load(&homes).unwrap();
    assert_eq!(acl.paths(), [runtime, model]);
}

#[test]
fn a_library_that_does_not_work_is_passed_over_and_the_reason_is_typed() {
    // A home for each: the system's loader does not look again at a path that it has loaded.
    let homes = [ANOTHER, FAILING, UNBOUND, WORKING].map(|source| {
        let home = tempfile::tempdir().unwrap();
        let compiled = compile(source, &home.path().join("lib64/libascendcl.so"));
        compiled.then_some(home)
    });
    let Some(homes) = homes.into_iter().collect::<Option<Vec<_>>>() else {
        return;
    };
    let [another, failing, unbound, working] = [0, 1, 2, 3].map(|idx| homes[idx].path().to_owned());
    let first_reason = |home: &PathBuf| {
        let error = Acl::load(std::slice::from_ref(home)).unwrap_err();
        assert!(matches!(error, LoadError::Unusable { .. }), "{error}");
        error.attempts()[0].reason.clone()
    };
    let symbol = "aclrtGetVersion";
    assert_eq!(first_reason(&another), AttemptError::MissingSymbol { symbol });
    assert_eq!(
        first_reason(&failing),
        AttemptError::Call { function: symbol, status: AclStatus(507_899) }
    );
    let reason = first_reason(&unbound).to_string();
    assert!(reason.contains("nowhere"), "{reason}");
    // The next place that works is taken.
    let library = working.join("lib64/libascendcl.so");
    let acl = Acl::load(&[another, failing, unbound, working]).unwrap();
    assert_eq!(acl.paths(), [library]);
}

#[test]
fn what_is_no_library_is_not_opened() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64/libascendcl.so");
    let homes = [home.path().to_owned()];
    let first_reason = || {
        let error = Acl::load(&homes).unwrap_err();
        reasons(&error, home.path())[0].1.clone()
    };
    fs::create_dir_all(&library).unwrap();
    assert_eq!(first_reason(), AttemptError::NotAFile);
    fs::remove_dir(&library).unwrap();
    assert!(Command::new("mkfifo").arg(&library).status().unwrap().success());
    assert_eq!(first_reason(), AttemptError::NotAFile);
    fs::remove_file(&library).unwrap();
    fs::write(&library, b"no library").unwrap();
    assert!(matches!(first_reason(), AttemptError::Open(_)));
}

#[test]
fn a_relative_home_is_not_searched() {
    let error = Acl::load(&["".into(), "toolkit".into()]).unwrap_err();
    let relative = error.attempts().iter().take(8);
    assert_eq!(relative.len(), 8);
    for attempt in error.attempts().iter().take(8) {
        assert_eq!(attempt.reason, AttemptError::Relative);
    }
}

//! The search for CANN's library, in toolkits that are put together here: the libraries are a few
//! lines of C, compiled by the system's compiler.

mod stub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_ffi::{Acl, AclStatus, AclVersion, AttemptError, CannVersion, LoadError};

use stub::{Stub, compile, definitions};

const INCLUDE: &str = "#include \"acl_min.h\"\n";
const ANSWERING: &str = "
    int aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
        *major = 1; *minor = 15; *patch = 2; return 0;
    }";
const FAILING: &str = "#include <stdint.h>
    int aclrtGetVersion(int32_t *a, int32_t *b, int32_t *c) { return 507899; }";
const LATER: &str = "#include <stdint.h>
    int aclrtGetVersion(int32_t *a, int32_t *b, int32_t *c) { *a = 2; *b = 0; *c = 1; return 0; }";
const ANOTHER: &str = "int something_else(void) { return 0; }";
const UNBOUND: &str = "void nowhere(void); void f(void) { nowhere(); }";

/// Needed, and then there is no toolkit older than 8.1 but by its own word.
const VERSION_STRINGS: [&str; 2] = ["aclsysGetVersionStr", "aclsysGetVersionNum"];

/// A library that answers and has every function that `is_wanted`.
fn working(is_wanted: impl Fn(&str) -> bool) -> String {
    let others =
        |name: &str| is_wanted(name) && name != "aclrtGetVersion" && name != "aclsysGetCANNVersion";
    INCLUDE.to_owned() + ANSWERING + "\n" + &definitions("0L", others)
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
    let error = Acl::load_from(&homes).unwrap_err();
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
    let message = error.to_string();
    let path = home.path().join("lib64/libascendcl.so");
    assert!(message.contains(&format!("`{}`: not found", path.display())));
}

#[test]
fn the_systems_loader_is_asked_last() {
    let home = tempfile::tempdir().unwrap();
    // There may be a CANN, or the simulated one of this repository.
    match Acl::load(&[home.path().to_owned()]) {
        Ok(acl) => assert!(acl.paths().iter().all(|path| path.parent() == Some(Path::new("")))),
        Err(error) => {
            let attempts = error.attempts();
            assert_eq!(attempts.len(), 6);
            assert_eq!(attempts[5].library, Path::new("libacl_rt.so"));
            assert!(attempts[..4].iter().all(|attempt| attempt.library.starts_with(home.path())));
        }
    }
}

#[test]
fn a_library_that_answers_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64/libascendcl.so");
    if !compile(&working(|name| !name.starts_with("Hccl")), &library) {
        return;
    }
    let acl = Acl::load_from(&["/nonexistent".into(), home.path().to_owned()]).unwrap();
    assert_eq!(acl.version().to_string(), "1.15.2");
    assert_eq!(acl.paths(), [library]);
    assert_eq!(acl.cann_version(), None, "the string is empty");
    assert!(!acl.has_hccl());
}

#[test]
fn the_two_libraries_of_later_releases_are_taken_together() {
    let home = tempfile::tempdir().unwrap();
    let runtime = home.path().join("lib64/libacl_rt.so");
    let model = home.path().join("lib64/libacl_mdl.so");
    if !compile(&working(|name| !name.starts_with("aclmdl")), &runtime) {
        return;
    }
    let homes = [home.path().to_owned()];
    let error = Acl::load_from(&homes).unwrap_err();
    assert!(
        reasons(&error, home.path())
            .contains(&("lib64/libacl_mdl.so".into(), AttemptError::Missing))
    );
    let models = INCLUDE.to_owned() + &definitions("0L", |name| name.starts_with("aclmdl"));
    compile(&models, &model);
    let acl = Acl::load_from(&homes).unwrap();
    assert_eq!(acl.paths(), [runtime, model]);
}

#[test]
fn a_library_that_does_not_work_is_passed_over_and_the_reason_is_typed() {
    // A home for each: the system's loader does not look again at a path that it has loaded.
    let working = working(|name| !name.starts_with("Hccl"));
    let homes = [ANOTHER, FAILING, UNBOUND, LATER, &working].map(|source| {
        let home = tempfile::tempdir().unwrap();
        let compiled = compile(source, &home.path().join("lib64/libascendcl.so"));
        compiled.then_some(home)
    });
    let Some(homes) = homes.into_iter().collect::<Option<Vec<_>>>() else {
        return;
    };
    let [another, failing, unbound, later, working] =
        [0, 1, 2, 3, 4].map(|idx| homes[idx].path().to_owned());
    let first_reason = |home: &PathBuf| {
        let error = Acl::load_from(std::slice::from_ref(home)).unwrap_err();
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
    let found = AclVersion { major: 2, minor: 0, patch: 1 };
    assert_eq!(first_reason(&later), AttemptError::Interface { found });
    // The next place that works is taken.
    let library = working.join("lib64/libascendcl.so");
    let acl = Acl::load_from(&[another, failing, unbound, later, working]).unwrap();
    assert_eq!(acl.paths(), [library]);
}

#[test]
fn what_is_no_library_is_not_opened() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64/libascendcl.so");
    let homes = [home.path().to_owned()];
    let first_reason = || {
        let error = Acl::load_from(&homes).unwrap_err();
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
    let error = Acl::load_from(&["".into(), "toolkit".into()]).unwrap_err();
    let relative = error.attempts().iter().take(8);
    assert_eq!(relative.len(), 8);
    for attempt in error.attempts().iter().take(8) {
        assert_eq!(attempt.reason, AttemptError::Relative);
    }
}

#[test]
fn a_library_without_a_function_that_we_need_is_not_taken() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("lib64/libascendcl.so");
    let is_there = |name: &str| name != "aclmdlLoadWithConfig" && !name.starts_with("Hccl");
    if !compile(&working(is_there), &library) {
        return;
    }
    let error = Acl::load_from(&[home.path().to_owned()]).unwrap_err();
    let symbol = "aclmdlLoadWithConfig";
    assert_eq!(error.attempts()[0].reason, AttemptError::MissingSymbol { symbol });
    let message = format!("`{}`: has no symbol `aclmdlLoadWithConfig`", library.display());
    assert!(error.to_string().contains(&message), "{error}");
}

#[test]
fn a_toolkit_that_is_too_old_is_named_also_when_it_lacks_functions() {
    for missing in [&[][..], &["aclrtSetStreamFailureMode"]] {
        let missing = [&VERSION_STRINGS[..], missing].concat();
        let Some(stub) = Stub::new(&["CANN_VERSION \"8.0.RC3\""], &missing) else { return };
        let error = Acl::load_from(&[stub.home().to_owned()]).unwrap_err();
        assert!(matches!(error, LoadError::Unusable { .. }));
        let found = CannVersion::new("8.0.RC3");
        assert_eq!(error.attempts()[0].reason, AttemptError::TooOld { found });
        let message = "libascendcl.so`: of CANN 8.0.RC3, too old: at least 8.1 is needed";
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn the_oldest_release_and_a_later_one_that_says_its_version_otherwise_are_taken() {
    let Some(stub) = Stub::new(&["CANN_VERSION \"8.1.RC1\""], &VERSION_STRINGS) else { return };
    assert_eq!(stub.acl().cann_version(), Some(&CannVersion::new("8.1.RC1")));

    let by_name = "aclError aclsysGetVersionStr(char *name, char *version) { \
        if (strcmp(name, \"runtime\")) return 100003; strcpy(version, \"9.1.0\"); return 0; }";
    let by_name = format!("EXTRA {by_name}");
    let missing = ["aclsysGetVersionStr", "aclsysGetCANNVersion"];
    let stub = Stub::new(&[&by_name], &missing).unwrap();
    assert_eq!(stub.acl().cann_version(), Some(&CannVersion::new("9.1.0")));
    // The function is proof enough, whatever the other one read from another installation.
    let stub = Stub::new(&["CANN_VERSION \"8.0.0\""], &[]).unwrap();
    assert_eq!(stub.acl().cann_version(), Some(&CannVersion::new("8.0.0")));
}

#[test]
fn hccl_is_opened_when_asked_for_and_only_with_all_that_we_need() {
    let Some(stub) = Stub::new(&[], &[]) else { return };
    let library = stub.home().join("lib64/libhccl.so");
    assert!(!stub.acl().has_hccl());
    let without = |missing: &'static str| {
        let is_wanted = move |name: &str| name.starts_with("Hccl") && name != missing;
        INCLUDE.to_owned() + &definitions("0L", is_wanted)
    };
    compile(&without("HcclAllReduce"), &library);
    assert!(!stub.acl().has_hccl());
    fs::remove_file(&library).unwrap();
    compile(&without("HcclCommInitRootInfoConfig"), &library);
    let acl = stub.acl();
    assert!(acl.has_hccl());
    fs::remove_file(&library).unwrap();
    assert!(acl.has_hccl(), "it stays open");
}

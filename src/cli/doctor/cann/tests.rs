//! Toolkits and systems made of files.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::*;

/// A folder that plays the system, with a toolkit in `toolkit/`.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Copied by another process: a file that this one has open for writing while another test
    /// forks could not be executed.
    fn with_program(self, path: &str, script: &str) -> Self {
        std::fs::write(self.path("text"), script).unwrap();
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        let copied = Command::new("cp").args([self.path("text"), self.path(path)]).status();
        assert!(copied.unwrap().success());
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path(path), mode).unwrap();
        self
    }

    fn look(&self, is_wanted: bool) -> Found {
        let environment = Environment {
            ascend_homes: vec![self.path("toolkit")],
            home: Some(self.path("home")),
            ..Environment::default()
        };
        let places = Places {
            toolkits: vec![self.path("elsewhere")],
            driver: self.path("driver/version.info"),
            devices: self.path("dev"),
        };
        look(&environment, &places, is_wanted)
    }
}

fn check<'a>(found: &'a Found, name: &str) -> &'a Check {
    found.checks.iter().find(|check| check.name == name).unwrap()
}

const INSTALL_INFO: (&str, &str) =
    ("toolkit/x86_64-linux/ascend_toolkit_install.info", "version=9.0.0\n");

#[test]
fn without_a_toolkit_everything_is_skipped_unless_it_is_wanted() {
    let machine = Machine::new(&[("elsewhere/set_env.sh", "")]);
    let found = machine.look(false);
    assert!(found.checks.iter().all(|check| check.state == State::Skipped));
    let remedy = check(&found, TOOLKIT).remedy.clone().unwrap();
    assert_eq!(remedy, format!("`source {}`", machine.path("elsewhere/set_env.sh").display()));

    let found = machine.look(true);
    assert_eq!(check(&found, TOOLKIT).state, State::Failed);
    assert!(check(&found, TOOLKIT).details[0].ends_with("no such folder"));
    assert_eq!(check(&found, ATC).state, State::Skipped);
}

#[test]
fn the_same_checks_are_told_in_the_same_order_whatever_is_found() {
    let names = |found: Found| found.checks.iter().map(|check| check.name).collect::<Vec<_>>();
    let (none, some) = (Machine::new(&[]), Machine::new(&[INSTALL_INFO]));
    let expected = names(none.look(false));
    assert_eq!(expected, [TOOLKIT, ATC, LIBRARY, DRIVER, DEVICE_FILES, DEVICES, LOGS]);
    assert_eq!(names(none.look(true)), expected);
    assert_eq!(names(some.look(true)), expected);
}

#[test]
fn a_toolkit_and_its_compiler_are_described() {
    let machine = Machine::new(&[INSTALL_INFO])
        .with_program("toolkit/bin/atc", "#!/bin/sh\n[ \"$1\" = --help ] && echo usage; exit 1\n");
    let found = machine.look(false);
    let toolkit = check(&found, TOOLKIT);
    assert_eq!(toolkit.state, State::Ok);
    assert!(toolkit.found.starts_with("9.0.0 at `"), "{}", toolkit.found);
    assert_eq!(toolkit.details, ["ascend_toolkit_install: version=9.0.0"]);
    assert_eq!(check(&found, ATC).state, State::Ok);
    assert!(found.compiles);
    // Nobody asked for the backend: what is missing of it is no failure.
    assert!(found.checks.iter().all(|check| check.state != State::Failed));
}

#[test]
fn toolkits_of_the_wrong_age_are_told() {
    let too_new = [("toolkit/x86_64-linux/ascend_toolkit_install.info", "version=10.0.0\n")];
    assert_eq!(check(&Machine::new(&too_new).look(true), TOOLKIT).state, State::Warning);
    let too_old = [("toolkit/compiler/version.info", "version_dir=7.0.RC1\n")];
    let found = Machine::new(&too_old).look(true);
    assert_eq!(check(&found, TOOLKIT).state, State::Failed);
    assert!(check(&found, TOOLKIT).found.contains("expected 8.1 or later"));
}

#[test]
fn a_compiler_that_does_not_run_says_why() {
    let machine = Machine::new(&[INSTALL_INFO, ("toolkit/bin/atc", "")]);
    assert!(check(&machine.look(true), ATC).found.ends_with("is not executable"));
    let machine = Machine::new(&[INSTALL_INFO]).with_program(
        "toolkit/bin/atc",
        "#!/bin/sh\necho 'libge_compiler.so: cannot open shared object file' >&2; exit 127\n",
    );
    let found = machine.look(true);
    let atc = check(&found, ATC);
    assert_eq!(atc.state, State::Failed);
    assert!(atc.found.contains("libge_compiler.so"), "{}", atc.found);
    assert!(atc.remedy.as_deref().unwrap().contains("set_env.sh"));
    assert!(!found.compiles);
    assert_eq!(check(&Machine::new(&[INSTALL_INFO]).look(true), ATC).state, State::Warning);
}

#[test]
fn driver_and_devices_are_found() {
    let machine = Machine::new(&[
        INSTALL_INFO,
        ("driver/version.info", "Version=25.5.0\nascendhal_version=7\n"),
        ("dev/davinci10", ""),
        ("dev/davinci2", ""),
        ("dev/davinci_manager", ""),
        ("dev/devmm_svm", ""),
    ]);
    let found = machine.look(true);
    assert_eq!(check(&found, DRIVER).found, "25.5.0");
    let files = check(&found, DEVICE_FILES);
    assert_eq!(files.state, State::Warning);
    let (first, second) = (machine.path("dev/davinci2"), machine.path("dev/davinci10"));
    assert_eq!(files.found, format!("`{}`, `{}`", first.display(), second.display()));
    assert!(files.details[0].contains("hisi_hdc"));

    // By themselves: a library that is found beside the test program might have a device that answers.
    let machine = Machine::new(&[("driver/version.info", "?")]);
    assert_eq!(driver(&machine.path("driver/version.info")).state, State::Failed);
    assert_eq!(device_files(&machine.path("dev")).state, State::Failed);
}

#[test]
fn errors_of_canns_logs_are_shown() {
    let log = "[INFO] GE(1,x): a\n[ERROR] GE(1,x): b\n";
    let machine = Machine::new(&[INSTALL_INFO, ("home/ascend/log/debug/plog/plog-1_1.log", log)]);
    let found = machine.look(false);
    assert_eq!(check(&found, LOGS).details, ["[ERROR] GE(1,x): b"]);
    let found = Machine::new(&[INSTALL_INFO]).look(false);
    assert!(check(&found, LOGS).found.ends_with("nothing there yet"));
}

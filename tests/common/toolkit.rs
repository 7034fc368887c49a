//! The simulated CANN toolkit, installed into a folder of its own, as the program under test finds
//! a real one.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// An installed toolkit.
pub(crate) struct Toolkit {
    folder: TempDir,
}

impl Toolkit {
    /// The newest release, complete.
    pub(crate) fn new() -> Self {
        Self::install(&[])
    }

    /// With more arguments to the simulator's `install`.
    pub(crate) fn install(args: &[&str]) -> Self {
        Self::install_in(&std::env::temp_dir(), args)
    }

    /// The same, within another folder.
    pub(crate) fn install_in(parent: &Path, args: &[&str]) -> Self {
        let folder = tempfile::tempdir_in(parent).unwrap();
        let output = Command::new(simulator())
            .arg("install")
            .arg(folder.path().join("cann"))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { folder }
    }

    /// What `ASCEND_HOME_PATH` names.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("cann")
    }

    /// A file of this toolkit's own: logs of calls and of compiles.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The environment in which a program finds this toolkit and writes its logs into it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("ASCEND_HOME_PATH", self.home().into()),
            ("CANN_SIM_LOG", self.file("calls.log").into()),
            ("CANN_SIM_ATC_LOG", self.file("atc.log").into()),
            // Delays are for finding races; those of every single task would only add up here.
            ("CANN_SIM_DELAY_US", "2".into()),
            // The compiler is an ordinary program that needs the system's own folders.
            ("PATH", "/usr/bin:/bin".into()),
            ("HOME", self.folder.path().into()),
        ]
    }

    /// How often `atc` ran.
    pub(crate) fn num_compiles(&self) -> usize {
        lines(&self.file("atc.log")).len()
    }

    /// The last line of the runtime's log that begins so: `leaks: ` or `violations: `.
    pub(crate) fn summary(&self, prefix: &str) -> Option<String> {
        let lines = lines(&self.file("calls.log"));
        lines.into_iter().rev().find(|line| line.starts_with(prefix))
    }

    /// Asserts that every process so far gave everything back and broke no rule.
    pub(crate) fn assert_clean(&self) {
        let lines = lines(&self.file("calls.log"));
        for prefix in ["leaks: ", "violations: "] {
            let mut found = lines.iter().filter_map(|line| line.strip_prefix(prefix)).peekable();
            assert!(found.peek().is_some(), "the log has no `{prefix}`");
            for rest in found {
                assert!(rest.split(' ').next() == Some("0"), "{prefix}{rest}");
            }
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The simulator, built once for each test program: its library is no dependency that cargo would
/// build by itself.
fn simulator() -> &'static Path {
    static SIMULATOR: OnceLock<PathBuf> = OnceLock::new();
    SIMULATOR.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--package", "cairn-cann-sim"])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "building the simulator failed:\n{stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let messages =
            stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let executable = messages
            .filter(|message| message["target"]["name"] == "cann_sim")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from));
        executable.expect("cargo names what it built")
    })
}

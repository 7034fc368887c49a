//! The program with a tiny model and folders of its own, run to its end.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

// The folder of this file holds it, wherever this file is included from.
pub(crate) mod model;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use model::write_model;

/// Nothing that these tests run may take this long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder in which the program runs: `model` in it is MODEL, `cache` the cache folder.
pub(crate) struct Deployment {
    folder: TempDir,
    /// What the program's environment holds besides.
    pub(crate) variables: Vec<(&'static str, OsString)>,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Deployment {
    pub(crate) fn new() -> Self {
        Self::with_model(write_model)
    }

    /// With a model that `write` writes into its folder.
    pub(crate) fn with_model(write: impl FnOnce(&Path)) -> Self {
        let deployment = Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        let model = deployment.path("model");
        std::fs::create_dir(&model).unwrap();
        write(&model);
        deployment
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with these arguments: offline, and with an environment that holds nothing that
    /// was not asked for.
    pub(crate) fn process(&self, args: &[&str]) -> process::Command {
        let mut command = process::Command::new(env!("CARGO_BIN_EXE_cairn"));
        command.env_clear().env("CAIRN_OFFLINE", "1").env("CAIRN_CACHE_DIR", self.path("cache"));
        // One graph in all, so that counts say what became of it; what wants more says so.
        command.env("CAIRN_EMBEDDINGS", "off");
        command.env("CAIRN_STATE_DIR", self.path("state"));
        command.envs(self.variables.iter().cloned());
        command.current_dir(self.folder.path()).args(args);
        command
    }

    /// The same, to be run to its end within a time limit.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::from_std(self.process(args));
        command.timeout(PATIENCE);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        finish(&mut self.command(args))
    }

    /// What a command that must succeed prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// The stderr of a command that must fail without a word to stdout.
    pub(crate) fn failure(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{args:?}: {ended:?}");
        ended.stderr
    }
}

/// The folders of the graphs in a folder of compiled graphs, sorted. What else is kept there, such as
/// which graphs somebody asked for, is left out.
pub(crate) fn graph_entries(root: &Path) -> Vec<PathBuf> {
    let list = |folder: PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let is_request = |entry: &PathBuf| {
        let manifest = std::fs::read(entry.join("manifest.json")).unwrap_or_default();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
        manifest["kind"] == "request"
    };
    let mut entries: Vec<PathBuf> =
        list(root.join("v2/entries")).into_iter().flat_map(list).collect();
    entries.retain(|entry| !is_request(entry));
    entries.sort();
    entries
}

/// Says that a test did not run, past the capture of its output.
pub(crate) fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap_or_else(|| panic!("{command:?} ended by a signal")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ended {
    /// The last line of stderr.
    pub(crate) fn summary(&self) -> &str {
        self.stderr.lines().next_back().unwrap_or_default()
    }

    /// Graphs compiled and graphs from the cache, as the summary says.
    pub(crate) fn graphs(&self) -> [usize; 2] {
        let (_, counts) =
            self.summary().rsplit_once("graphs: ").unwrap_or_else(|| panic!("{self:?}"));
        let (compiled, rest) = counts.split_once(" compiled, ").unwrap();
        let (from_cache, _) = rest.split_once(" from cache").unwrap();
        [compiled, from_cache].map(|count| count.parse().unwrap())
    }

    pub(crate) fn warns(&self) -> bool {
        self.stderr.contains("WARN")
    }
}

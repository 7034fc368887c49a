//! An installed toolkit in a fresh folder, and calls of its compiler.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::air::Air;

/// A toolkit, a folder to work in, and a home.
pub(crate) struct Toolkit {
    dir: tempfile::TempDir,
}

impl Toolkit {
    pub(crate) fn new(cann: &str) -> Self {
        Self::with(&["--cann", cann])
    }

    /// With arguments for `cann_sim install`. A child process installs: this one forks all the
    /// time, and a program that some fork still holds open for writing cannot be started.
    pub(crate) fn with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("library");
        std::fs::write(&library, b"stands for the library").unwrap();
        let mut install = Command::new(env!("CARGO_BIN_EXE_cann_sim"));
        install.arg("install").arg(dir.path().join("toolkit")).args(args);
        assert!(install.arg("--lib").arg(library).status().unwrap().success());
        for name in ["work", "home"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, air: &Air) {
        std::fs::write(self.path("work/g.air"), air.bytes()).unwrap();
    }

    /// The compiler without arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.path("toolkit/bin/atc"));
        command.current_dir(self.path("work")).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.path("home"));
        command
    }

    /// The compiler with good arguments.
    pub(crate) fn atc(&self) -> Command {
        let mut command = self.command();
        command.args([
            "--mode=0",
            "--framework=1",
            "--model=g.air",
            "--output=g",
            "--soc_version=Ascend910B3",
            "--precision_mode_v2=origin",
            "--tiling_schedule_optimize=1",
            "--deterministic=0",
            "--log=error",
        ]);
        command
    }

    /// The text of the compiler's own log.
    pub(crate) fn plog(&self) -> String {
        let folder = self.path("home/ascend/log/debug/plog");
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

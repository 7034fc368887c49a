//! Libraries for tests, in C, compiled by the system's compiler: the functions of the header that a
//! source does not define are added, each doing nothing, so that every symbol is there.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cairn_ffi::{Acl, Device, Runtime};
use tempfile::TempDir;

/// The header's folder.
fn include() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// Compiles C into a shared library; `false` where there is no compiler.
pub(crate) fn compile(source: &str, library: &Path) -> bool {
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    let file = library.with_extension("c");
    fs::write(&file, source).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-Wall", "-Werror", "-Wno-format-truncation"]);
    match command.arg("-I").arg(include()).arg("-o").args([library, &file]).status() {
        Ok(status) => {
            assert!(status.success());
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: no C compiler: {error}");
            false
        }
    }
}

/// Definitions of the functions that `is_wanted`; each returns `value`, in which `NAME` is its name.
pub(crate) fn definitions(value: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let header = fs::read_to_string(include().join("acl_min.h")).unwrap();
    let (_, functions) = header.split_once("/* ---- initialisation").unwrap();
    let mut definitions = String::new();
    for declaration in functions.split_terminator(");") {
        // What stands before it may be a comment.
        let declaration = declaration.rsplit("*/").next().unwrap().trim();
        let Some((head, parameters)) = declaration.split_once('(') else { continue };
        let at = head.rfind([' ', '*', '\n']).unwrap() + 1;
        let (returns, name) = head.split_at(at);
        if is_wanted(name) {
            let value = value.replace("NAME", name);
            writeln!(
                definitions,
                "{returns} {name}({parameters}) {{ return ({returns}){value}; }}"
            )
            .unwrap();
        }
    }
    definitions
}

/// A toolkit with the library of `acl_stub.c`.
pub(crate) struct Stub {
    home: TempDir,
}

impl Stub {
    /// Compiles it, with `defines` as in `-D`, and without the functions in `missing`; nothing where
    /// there is no compiler.
    pub(crate) fn new(defines: &[&str], missing: &[&str]) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let mut source = format!("#define STUB_DIR \"{}\"\n", home.path().display());
        for define in defines {
            writeln!(source, "#define {define}").unwrap();
        }
        let stub = include_str!("acl_stub.c");
        source += stub;
        source += &definitions("(long)enter(\"NAME\", \"\")", |name| {
            !stub.contains(&format!(" {name}("))
                && !stub.contains(&format!("*{name}("))
                && !missing.contains(&name)
                && !name.starts_with("Hccl")
        });
        let library = home.path().join("lib64/libascendcl.so");
        compile(&source, &library).then_some(Self { home })
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn acl(&self) -> Arc<Acl> {
        Arc::new(Acl::load_from(&[self.home.path().to_owned()]).unwrap())
    }

    pub(crate) fn runtime(&self) -> Arc<Runtime> {
        Runtime::init(self.acl()).unwrap()
    }

    pub(crate) fn device(&self) -> Arc<Device> {
        Device::open(self.runtime(), 0).unwrap()
    }

    /// Lets the `number`-th call of a function from now on fail.
    pub(crate) fn fail(&self, function: &str, number: u32, code: i32) {
        let file = self.home.path().join("fail");
        let mut script = fs::read_to_string(&file).unwrap_or_default();
        writeln!(script, "{function} {number} {code}").unwrap();
        fs::write(file, script).unwrap();
    }

    /// The calls since the last time, each as "function context details"; without the loader's.
    pub(crate) fn calls(&self) -> Vec<String> {
        let file = self.home.path().join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, "").unwrap();
        let lines = calls.lines().filter(|line| !line.starts_with("aclsysGetVersion"));
        let calls: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
        for call in &calls {
            assert!(!call.contains("WRONG") && !call.contains("BUSY"), "{call} in {calls:#?}");
        }
        calls
    }

    /// The names of these calls.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |call: String| call.split(' ').next().unwrap().to_owned();
        self.calls().into_iter().map(name).collect()
    }
}

/// How often a call is among the calls.
pub(crate) fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|call| *call == name).count()
}

/// Where the only call of this name is.
pub(crate) fn position(names: &[String], name: &str) -> usize {
    assert_eq!(count(names, name), 1, "{name} in {names:#?}");
    names.iter().position(|call| call == name).unwrap()
}

//! What a C compiler makes of the headers, ours and the real ones.
//!
//! A file is written that includes the headers, declares every function once more as the data has it,
//! and asserts every number, size and offset as Rust has it. A declaration that differs from the
//! header's does not compile.
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::data::{Data, Field};
use super::{constants, header, layouts};

/// A C file in the making; what the headers do not have is left out.
struct Check<'a> {
    source: String,
    /// The text of the headers.
    headers: &'a str,
}

impl<'a> Check<'a> {
    fn new(includes: &[&str], headers: &'a str) -> Self {
        let mut source = "#include <stddef.h>\n#include <stdint.h>\n".to_owned();
        for include in includes {
            writeln!(source, "#include <{include}>").unwrap();
        }
        Self { source, headers }
    }

    fn is_declared(&self, name: &str) -> bool {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        self.headers.split(|character| !is_word(character)).any(|word| word == name)
    }

    /// Declares the functions once more; returns how many.
    fn functions(&mut self, data: &Data) -> usize {
        let declared = data.functions.iter().filter(|function| self.is_declared(&function.name));
        let lines = declared.map(|function| {
            let parameters: Vec<_> = function.parameters.iter().map(|(_, kind)| &**kind).collect();
            let parameters =
                if parameters.is_empty() { "void".to_owned() } else { parameters.join(", ") };
            format!("{} {}({parameters});\n", function.returns, function.name)
        });
        let lines: Vec<_> = lines.collect();
        self.source.extend(lines.iter().map(String::as_str));
        lines.len()
    }

    /// Asserts the numbers and layouts that Rust has.
    fn asserts(&mut self) {
        for (name, value) in constants() {
            if self.is_declared(name) {
                writeln!(self.source, "_Static_assert((long long){name} == {value}, \"{name}\");")
                    .unwrap();
            }
        }
        for layout in layouts() {
            // HCCL's configuration grows from release to release, and says its size itself.
            if !self.is_declared(layout.name) || layout.name == "HcclCommConfig" {
                continue;
            }
            let (name, bytes) = (layout.name, layout.bytes);
            writeln!(self.source, "_Static_assert(sizeof({name}) == {bytes}, \"{name}\");")
                .unwrap();
            for (field, offset) in layout.fields {
                let message = format!("{name}.{field}");
                let condition = format!("offsetof({name}, {field}) == {offset}");
                writeln!(self.source, "_Static_assert({condition}, \"{message}\");").unwrap();
            }
        }
    }

    /// Asserts that a struct of ours is laid out as one with these fields.
    fn same_layout(&mut self, name: &str, fields: &[Field]) {
        let source = &mut self.source;
        writeln!(source, "struct data_{name} {{").unwrap();
        for Field { name, kind, count } in fields {
            let count = count.map(|count| format!("[{count}]")).unwrap_or_default();
            writeln!(source, "    {kind} {name}{count};").unwrap();
        }
        writeln!(source, "}};").unwrap();
        let same = format!("sizeof(struct data_{name}) == sizeof({name})");
        writeln!(source, "_Static_assert({same}, \"{name}\");").unwrap();
        for Field { name: field, .. } in fields {
            let same =
                format!("offsetof(struct data_{name}, {field}) == offsetof({name}, {field})");
            writeln!(source, "_Static_assert({same}, \"{name}.{field}\");").unwrap();
        }
    }

    /// What the compiler says against it; nothing where there is no compiler.
    fn compile(&self, folders: &[&Path]) -> Option<Result<(), String>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("check.c");
        fs::write(&file, &self.source).unwrap();
        let mut command = Command::new("cc");
        command.args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only"]);
        for folder in folders {
            command.arg("-isystem").arg(folder);
        }
        match command.arg(&file).output() {
            Ok(output) if output.status.success() => Some(Ok(())),
            Ok(output) => Some(Err(String::from_utf8_lossy(&output.stderr).into_owned())),
            Err(error) => {
                eprintln!("SKIPPED: no C compiler: {error}");
                None
            }
        }
    }
}

#[test]
fn our_header_declares_what_the_data_says_and_rust_agrees_with_c() {
    let (header, data) = (header(), Data::read());
    let text = fs::read_to_string(&header).unwrap();
    let mut check = Check::new(&["acl_min.h"], &text);
    assert_eq!(check.functions(&data), data.functions.len());
    check.asserts();
    let config = layouts().into_iter().find(|layout| layout.name == "HcclCommConfig").unwrap();
    writeln!(check.source, "_Static_assert(sizeof(HcclCommConfig) == {}, \"\");", config.bytes)
        .unwrap();
    for (name, fields) in &data.structs {
        check.same_layout(name, fields);
    }
    if let Some(result) = check.compile(&[header.parent().unwrap()]) {
        result.unwrap();
    }
}

/// Compares with the headers of the toolkit at `home`; nothing where there is no compiler.
fn compare_with_toolkit(home: &Path) -> Option<Result<usize, String>> {
    let include = home.join("include");
    let names = ["acl/acl.h", "acl/acl_rt.h", "acl/acl_mdl.h", "hccl/hccl.h"];
    let present: Vec<_> = names.into_iter().filter(|name| include.join(name).is_file()).collect();
    let mut text = String::new();
    for folder in ["acl", "hccl"] {
        let files = fs::read_dir(include.join(folder)).into_iter().flatten();
        for file in files.map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "h") {
                text += &String::from_utf8_lossy(&fs::read(file).unwrap());
            }
        }
    }
    let mut check = Check::new(&present, &text);
    let functions = check.functions(&Data::read());
    check.asserts();
    check.compile(&[&include]).map(|result| result.map(|()| functions))
}

#[test]
fn the_real_headers_agree_where_there_are_some() {
    let Some(home) = env::var_os("ASCEND_HOME_PATH").map(PathBuf::from) else {
        eprintln!("SKIPPED: ASCEND_HOME_PATH is not set, so there are no headers to compare with");
        return;
    };
    if !home.join("include/acl/acl.h").is_file() {
        eprintln!("SKIPPED: {} has no include/acl/acl.h", home.display());
        return;
    }
    let Some(result) = compare_with_toolkit(&home) else { return };
    let functions = result.unwrap();
    assert!(functions > 70, "only {functions} of our functions are declared there");
}

#[test]
fn headers_that_differ_are_noticed() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("include/acl");
    fs::create_dir_all(&folder).unwrap();
    let text = fs::read_to_string(header()).unwrap();
    let compare = |text: &str| {
        fs::write(folder.join("acl.h"), text).unwrap();
        compare_with_toolkit(home.path())
    };
    let Some(same) = compare(&text) else { return };
    assert_eq!(same, Ok(Data::read().functions.len()));
    for (from, to, name) in [
        (
            "aclrtStream stream, int32_t timeout",
            "aclrtStream stream, int64_t timeout",
            "aclrtSynchronizeStreamWithTimeout",
        ),
        (
            "ACL_MDL_WORKSPACE_MEM_OPTIMIZE = 13",
            "ACL_MDL_WORKSPACE_MEM_OPTIMIZE = 14",
            "ACL_MDL_WORKSPACE_MEM_OPTIMIZE",
        ),
        ("int64_t dims[", "int32_t dims[", "aclmdlIODims"),
    ] {
        assert!(text.contains(from));
        let error = compare(&text.replace(from, to)).unwrap().unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}

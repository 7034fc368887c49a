//! The rules of the house that no compiler checks: who may import whom, and what belongs into a few
//! files only.
//!
//! [`TABLE`] is the plan of the house; the documentation of the crate draws the same. What only
//! tests compile is not looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "architecture/source.rs"]
mod source;
#[path = "architecture/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use source::{Names, Token, paths, tokens, without_tests};
use table::{Row, TABLE};

/// Parts of `std` that reach out of the process, or that something of ours replaces.
const GUARDED: &[&str] =
    &["std::env", "std::fs", "std::io", "std::net", "std::os", "std::process", "std::thread"];

/// Where `unsafe` may be written, tests included.
const UNSAFE: &[&str] = &[
    "ffi/",
    "src/weights/mmap.rs",
    "kernels/src/fast/simd/",
    "kernels/src/pool.rs",
    "tests/cann_sim/src/acl/",
    "tests/cann_sim/tests/acl/",
    // Counts what is allocated.
    "tests/benches/src/allocations.rs",
];

/// Who may name the process's own streams, and which.
const STREAMS: &[(&str, &[&str])] = &[
    ("src/cli/output.rs", &["stdout", "stderr"]),
    ("src/cli/cache/import.rs", &["stdin"]),
    ("src/cli/generate.rs", &["stdin"]),
    ("src/cli/keys.rs", &["stdin"]),
    ("src/batch/source.rs", &["stdin"]),
    ("src/telemetry/log.rs", &["stderr"]),
];

/// Macros that are nowhere called, with what to do instead.
const FORBIDDEN_MACROS: &[(&str, &str)] = &[
    ("todo", "write it"),
    ("unimplemented", "return an error that says so"),
    ("dbg", "log it"),
    ("print", "data goes through `cli::output`"),
    ("println", "data goes through `cli::output`"),
    ("eprint", "talk goes through `cli::output`"),
    ("eprintln", "talk goes through `cli::output`"),
];

/// A longer file has more than one idea.
const MAX_LINES: usize = 600;
/// Files that are longer for a reason, with that reason.
const LONG_FILES: &[(&str, &str)] = &[];
const MAX_FILE_BYTES: u64 = 1_000_000;
const LICENSE: &str = "Apache-2.0";

#[test]
fn every_import_is_in_the_table() {
    let files = files();
    let modules = modules(&files);
    let packages = packages();
    let mut broken = Vec::new();
    for source in sources(&files) {
        let package = packages.iter().find(|package| package.folder == source.file.package());
        let package = package.unwrap();
        let names = Names { package: &package.name, crates: &package.crates, modules: &modules };
        for path in paths(&source.tokens) {
            let Some(import) = names.resolve(&path, source.module) else { continue };
            if !is_allowed(source.module, &import) {
                let allowance = allowance(source.module);
                broken.push(format!("{}: `{import}`; {allowance}", source.place(path.line)));
            }
        }
    }
    assert_none(&broken, "the table in tests/architecture.rs does not allow these imports");
}

#[test]
fn the_table_refuses_what_the_house_forbids() {
    for (module, import) in [
        ("ir::graph", "weights::Tensor"),
        ("ir::graph", "std::fs::read"),
        ("ir::text::print", "tracing::info"),
        ("weights::gguf", "model::Model"),
        ("weights::gguf", "memmap2::Mmap"),
        ("text::tokenizer", "engine::Request"),
        ("model::llama", "backend::Backend"),
        ("backend::cpu::plan", "graph_cache::CacheKey"),
        ("backend::cpu::plan", "std::env::var"),
        ("backend::null", "rayon::join"),
        ("kernels::fast", "ir::Graph"),
        ("backend::compile", "ffi::loader"),
        ("backend::ascend", "graph_cache"),
        ("engine::core", "backend::cpu::CpuBackend"),
        ("engine::core", "tokio::net::TcpStream"),
        ("server::routes", "backend::Backend"),
        ("cli::serve", "axum::Router"),
        ("boot::plan", "clap::Args"),
        ("boot::plan", "cli::output"),
        ("cli::serve", "std::env::var"),
        ("graph_cache::disk", "bincode::config"),
        ("graph_cache::disk", "ffi::loader"),
        ("build_info", "config::EngineConfig"),
    ] {
        assert!(!is_allowed(module, import), "`{module}` may import `{import}`");
    }
    for (module, import) in [
        ("ir::graph", "ir::shape::Shape"),
        ("ir::graph", "std::collections::HashMap"),
        ("weights::mmap", "memmap2::Mmap"),
        ("weights::mmap", "ir::DType"),
        ("engine::core", "tokio::sync::mpsc"),
        ("boot::open", "backend::cpu::CpuBackend"),
    ] {
        assert!(is_allowed(module, import), "`{module}` may not import `{import}`");
    }
}

/// What the one half gets wrong, the other one notices only if they have nothing in common.
#[test]
fn the_simulated_toolkit_shares_no_code_with_the_house() {
    let packages = packages();
    let simulator = packages.iter().find(|package| package.name == "cann_sim").unwrap();
    let ours = |name: &str| packages.iter().any(|package| package.name == name);
    let shared = simulator.crates.iter().filter(|(_, name)| name != "cann_sim" && ours(name));
    assert_eq!(shared.count(), 0, "{:?}", simulator.crates);
}

#[test]
fn every_row_has_a_module_and_every_module_a_row() {
    let files = files();
    let modules = modules(&files);
    for row in TABLE {
        assert!(modules.contains(row.module), "the row of `{}` has no module", row.module);
    }
    for module in modules.iter().filter(|module| !module.is_empty()) {
        assert!(rows(module).next().is_some(), "the module `{module}` has no row");
    }
}

#[test]
fn the_documentation_draws_the_same_table() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut num_rows = 0;
    for line in text.lines().filter(|line| line.starts_with("//! | [`")) {
        let cells: Vec<&str> = line.split('|').collect();
        let quoted = |cell: &str| -> BTreeSet<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let module = quoted(cells[1]).pop_first().unwrap();
        let rows = TABLE.iter().filter(|row| is_within(row.module, &module));
        let top_level = |name: &str| name.split("::").next().unwrap().to_owned();
        let expected: BTreeSet<String> =
            rows.flat_map(|row| row.ours.split_whitespace()).map(top_level).collect();
        let drawn = match cells[3].trim() {
            "everything" => BTreeSet::from(["*".to_owned()]),
            cell => quoted(cell),
        };
        assert_eq!(drawn, expected, "the row of `{module}` in src/lib.rs");
        num_rows += 1;
    }
    assert_eq!(num_rows, 11, "the table of src/lib.rs was not found");
}

#[test]
fn unsafe_code_stays_in_its_files() {
    let mut broken = Vec::new();
    for file in files() {
        if UNSAFE.iter().any(|place| file.path.starts_with(place)) {
            continue;
        }
        let tokens = tokens(&file.text);
        let found = tokens.iter().filter(|token| token.text == "unsafe");
        broken.extend(found.map(|token| format!("{}:{}", file.path, token.line)));
    }
    assert_none(&broken, &format!("`unsafe` belongs to {}", UNSAFE.join(", ")));
}

#[test]
fn no_code_calls_a_forbidden_macro() {
    let files = files();
    let mut broken = Vec::new();
    for source in sources(&files) {
        for pair in source.tokens.windows(2).filter(|pair| pair[1].text == "!") {
            let found = FORBIDDEN_MACROS.iter().find(|(name, _)| *name == pair[0].text);
            broken.extend(found.map(|(name, instead)| {
                format!("{}: `{name}!`: {instead}", source.place(pair[0].line))
            }));
        }
    }
    assert_none(&broken, "forbidden macros");
}

#[test]
fn the_streams_of_the_process_stay_in_their_files() {
    let files = files();
    let mut broken = Vec::new();
    for source in sources(&files) {
        let allowed = STREAMS.iter().find(|(path, _)| *path == source.file.path);
        for path in paths(&source.tokens) {
            let [.., "io", stream @ ("stdin" | "stdout" | "stderr")] = path.segments[..] else {
                continue;
            };
            if !allowed.is_some_and(|(_, streams)| streams.contains(&stream)) {
                broken.push(format!("{}: `{stream}`", source.place(path.line)));
            }
        }
    }
    assert_none(&broken, "data and talk go through `src/cli/output.rs`, logs through `tracing`");
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for file in files() {
        let num_lines = file.text.lines().count();
        let reason = LONG_FILES.iter().find(|(path, _)| *path == file.path);
        match reason {
            None if num_lines > MAX_LINES => {
                broken.push(format!("{}: {num_lines} lines", file.path));
            }
            Some((path, _)) if num_lines <= MAX_LINES => {
                broken.push(format!("{path}: needs no exception any more"));
            }
            _ => {}
        }
    }
    assert_none(&broken, &format!("files have up to {MAX_LINES} lines: split at the ideas"));
}

#[test]
fn no_large_file_is_tracked() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|output| output.status.success()) else {
        // Past the capture of a test's output.
        let mut stderr = io::stderr();
        let _ = writeln!(stderr, "SKIPPED no_large_file_is_tracked: this is no repository of git");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut broken = Vec::new();
    for path in listed.split_terminator('\0') {
        // What was deleted but not committed is still listed.
        let bytes = fs::symlink_metadata(root().join(path)).map_or(0, |metadata| metadata.len());
        if bytes > MAX_FILE_BYTES {
            broken.push(format!("{path}: {bytes} bytes"));
        }
    }
    assert_none(&broken, "large files do not belong into the repository");
}

#[test]
fn every_manifest_and_the_readme_name_the_license() {
    for package in packages() {
        assert_eq!(package.license.as_deref(), Some(LICENSE), "of `{}/`", package.folder);
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    let line = format!("SPDX-License-Identifier: {LICENSE}");
    assert!(readme.contains(&line), "README.md does not say `{line}`");
}

/// The rows of a module and of those around it.
fn rows(module: &str) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |row| is_within(module, row.module))
}

fn is_within(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_allowed(module: &str, import: &str) -> bool {
    if is_within(import, "std") && !GUARDED.iter().any(|guarded| is_within(import, guarded)) {
        return true;
    }
    let is_ours = TABLE.iter().any(|row| is_within(import, row.module));
    let is_in = |list: &str| {
        list.split_whitespace().any(|name| is_within(import, name) || (name == "*" && is_ours))
    };
    let is_never = rows(module).any(|row| is_in(row.never));
    !is_never
        && rows(module)
            .any(|row| is_within(import, row.module) || is_in(row.ours) || is_in(row.others))
}

/// What a module may import, in words.
fn allowance(module: &str) -> String {
    let all = |list: fn(&Row) -> &'static str| {
        let names: Vec<&str> = rows(module).flat_map(|row| list(row).split_whitespace()).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let innermost = rows(module).map(|row| row.module).max_by_key(|module| module.len());
    format!(
        "`{}` may import of ours {}, of others {}, and never {}",
        innermost.unwrap_or(module),
        all(|row| row.ours),
        all(|row| row.others),
        all(|row| row.never)
    )
}

/// Fails with every line, if there are any.
fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}\n", broken.join("\n  "));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of Rust.
struct File {
    /// From the root of the repository.
    path: String,
    text: String,
    /// Its name in the table; only of the sources of a package.
    module: Option<String>,
}

impl File {
    /// The folder of its package; nothing for the root package.
    fn package(&self) -> &str {
        self.path.split_once("/src/").map_or("", |(folder, _)| folder)
    }
}

/// Every file of Rust in the repository.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    for folder in ["src", "ffi", "graph_cache", "kernels", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "only {} files were found", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // What was built is not ours.
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            files.push(File { module: module_of(&path), path, text });
        }
    }
}

/// `src/ir/mod.rs` is `ir`, `ffi/src/loader.rs` is `ffi::loader`. What is in `tests`, the simulated
/// toolkit included, is a test.
fn module_of(path: &str) -> Option<String> {
    if path.starts_with("tests/") {
        return None;
    }
    let (package, file) = match path.strip_prefix("src/") {
        Some(file) => ("", file),
        None => path.split_once("/src/")?,
    };
    let file = file.strip_suffix(".rs")?;
    let file = file.strip_suffix("/mod").unwrap_or(file).replace('/', "::");
    let segments = [package, if file == "lib" { "" } else { &file }];
    Some(segments.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>().join("::"))
}

fn modules(files: &[File]) -> BTreeSet<String> {
    files.iter().filter_map(|file| file.module.clone()).collect()
}

/// A file's part that is compiled without tests.
struct Source<'a> {
    file: &'a File,
    module: &'a str,
    tokens: Vec<Token<'a>>,
}

impl Source<'_> {
    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.file.path)
    }
}

/// The sources of every package, without what only tests compile.
fn sources(files: &[File]) -> Vec<Source<'_>> {
    let mut test_modules = BTreeSet::new();
    let mut sources = Vec::new();
    for file in files {
        let Some(module) = file.module.as_deref() else { continue };
        let (tokens, tests) = without_tests(&tokens(&file.text));
        let name = |test: &&str| {
            if module.is_empty() { (*test).to_owned() } else { format!("{module}::{test}") }
        };
        test_modules.extend(tests.iter().map(name));
        sources.push(Source { file, module, tokens });
    }
    let is_test =
        |source: &Source<'_>| test_modules.iter().any(|test| is_within(source.module, test));
    sources.retain(|source| !is_test(source));
    sources
}

/// A package of the workspace.
struct Package {
    /// From the root of the repository.
    folder: String,
    /// As in the table.
    name: String,
    license: Option<String>,
    /// Crates by the name that code calls them, with the name in the table.
    crates: Vec<(String, String)>,
}

fn packages() -> Vec<Package> {
    let args = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

fn package(metadata: &Value) -> Package {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let folder = Path::new(metadata["manifest_path"].as_str().unwrap()).parent().unwrap();
    let folder = folder.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let name = text(&metadata["name"]).unwrap();
    let mut crates: Vec<(String, String)> = metadata["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dependency| {
            let name = text(&dependency["name"]).unwrap();
            let called = text(&dependency["rename"]).unwrap_or_else(|| name.clone());
            (called.replace('-', "_"), table_name(&name))
        })
        .collect();
    // Its programs call its library by name.
    crates.push((name.replace('-', "_"), table_name(&name)));
    Package { folder, name: table_name(&name), license: text(&metadata["license"]), crates }
}

fn table_name(package: &str) -> String {
    let name = package.replace('-', "_");
    if name == "cairn" {
        return String::new();
    }
    name.strip_prefix("cairn_").unwrap_or(&name).to_owned()
}

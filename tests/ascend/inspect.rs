//! Graphs without a toolkit: what `inspect` writes is what the compiler gets, the same bytes each
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use cairn::backend::ascend::lower::lower;
use cairn::backend::ascend::target::Target;
use cairn::ir::{text, verify};

use super::deployment::Deployment;
use super::toolkit::Toolkit;
use super::{compiled_airs, on, tiny};

const TARGET: [&str; 4] = ["--backend", "ascend", "--soc", "Ascend910B3"];
/// Sequences of 1, 2 and 4; prompts of 128 and 256 tokens.
const SIZES: [&str; 6] =
    ["--max-num-seqs", "4", "--max-num-batched-tokens", "256", "--max-model-len", "256"];
const FILES: [&str; 5] =
    ["decode-1.air", "decode-2.air", "decode-4.air", "prefill-128.air", "prefill-256.air"];

fn inspect<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["inspect", "model"], &TARGET[..], &SIZES, more].concat()
}

/// What `--air` writes for that release, by name of the file.
fn airs(deployment: &Deployment, cann: &str, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let ended = deployment.run(&inspect(&["--cann", cann, "--air", folder]));
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:?}");
    let files: BTreeMap<_, _> = std::fs::read_dir(deployment.path(folder))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        })
        .collect();
    for (name, bytes) in &files {
        let line = ended.stdout.lines().find(|line| line.contains(name.as_str())).unwrap();
        assert!(line.contains(&format!(" {} ", bytes.len())), "{line}");
    }
    assert_eq!(ended.stdout.lines().count(), files.len() + 1, "{}", ended.stdout);
    files
}

/// A deployment of that golden model on a host without any toolkit.
fn bare(golden: &str) -> Deployment {
    let mut deployment = tiny(golden, &Toolkit::new(), &[]);
    deployment.variables.clear();
    deployment
}

#[test]
fn a_file_for_every_graph_needs_no_toolkit_and_is_the_same_each_time() {
    for golden in ["llama", "qwen2", "qwen3"] {
        let deployment = bare(golden);
        for cann in ["8.1", "9.0"] {
            let first = airs(&deployment, cann, &format!("first-{cann}"));
            assert_eq!(first.keys().collect::<Vec<_>>(), FILES.iter().collect::<Vec<_>>());
            let again = airs(&deployment, cann, &format!("again-{cann}"));
            assert!(first == again, "{golden} for {cann}: not the same bytes");
            let all: BTreeSet<&Vec<u8>> = first.values().collect();
            assert_eq!(all.len(), FILES.len(), "two sizes are the same graph");
        }
        assert!(!deployment.path("cache").exists(), "looking writes nothing else");
    }
}

#[test]
fn names_of_values_do_not_change_a_byte() {
    let deployment = bare("qwen2");
    let airs = airs(&deployment, "9.0", "airs");
    let printed = deployment.run(&inspect(&["--cann", "9.0"])).stdout;
    // `%7 "name": type = ...`
    let renamed_line = |line: &str| {
        let (id, rest) = line.strip_prefix('%')?.split_once(" \"")?;
        let (_, rest) = rest.split_once('"')?;
        Some(format!("%{id} \"value {id}\"{rest}\n"))
    };
    let lines = printed.lines();
    let renamed: String =
        lines.map(|line| renamed_line(line).unwrap_or_else(|| format!("{line}\n"))).collect();
    assert!(renamed.matches("\"value ").count() > 20, "{renamed}");
    let target = Target { soc: "Ascend910B3".parse().unwrap(), cann: "9.0".parse().unwrap() };
    for listing in [&printed, &renamed] {
        let graph = verify(text::parse(listing).unwrap()).unwrap();
        let air = lower(&graph, &target).unwrap().air();
        assert!(air == airs["prefill-256.air"], "not what was written");
    }
}

#[test]
fn the_compiler_accepts_every_file_and_gets_the_same_from_warmup() {
    for (cann, installed) in [("8.1", "8.1.RC1"), ("9.0", "9.0.0")] {
        for golden in ["llama", "llama-bias", "qwen3"] {
            let deployment = bare(golden);
            airs(&deployment, cann, "airs");
            let toolkit = Toolkit::install(&["--cann", installed]);
            for file in FILES {
                compile(&toolkit, &deployment.path("airs").join(file));
            }
            let by_hand: BTreeSet<String> = compiled_airs(&toolkit).into_iter().collect();
            assert_eq!(by_hand.len(), FILES.len());

            let toolkit = Toolkit::install(&["--cann", installed]);
            let deployment = on(&toolkit, deployment);
            let ended = deployment.run(&[&["warmup", "model"], &TARGET[..], &SIZES].concat());
            assert_eq!(ended.graphs(), [FILES.len(), 0], "{ended:?}");
            let by_warmup: BTreeSet<String> = compiled_airs(&toolkit).into_iter().collect();
            assert_eq!(by_warmup, by_hand, "{golden} for {cann}");
        }
    }
}

/// Runs the toolkit's compiler as its manual says.
fn compile(toolkit: &Toolkit, air: &Path) {
    let folder = toolkit.file("by-hand");
    std::fs::create_dir_all(&folder).unwrap();
    let output = folder.join(air.file_stem().unwrap());
    let output_flag = format!("--output={}", output.display());
    let ended = Command::new(toolkit.home().join("bin/atc"))
        .arg(format!("--model={}", air.display()))
        .args([output_flag.as_str(), "--framework=1", "--soc_version=Ascend910B3"])
        .args(["--precision_mode_v2=origin", "--tiling_schedule_optimize=1"])
        .env_clear()
        .envs(toolkit.variables())
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
    let model = std::fs::read(output.with_extension("om")).unwrap();
    assert!(model.starts_with(b"IMOD"), "{}", air.display());
}

#[test]
fn the_listing_has_a_line_for_every_node() {
    let deployment = bare("llama");
    let listing = deployment.run(&inspect(&["--cann", "8.1", "--graph"]));
    assert_eq!((listing.code, listing.stderr.as_str()), (0, ""));
    let mut lines = listing.stdout.lines();
    assert_eq!(lines.next(), Some("layout prefill"));
    for operator in ["FusedInferAttentionScore", "ScatterNdUpdate", "RefData", "ArgMaxV2", "TopKV2"]
    {
        let call = format!(" = {operator}");
        assert!(listing.stdout.contains(&call), "no {operator}: {}", listing.stdout);
    }
    let (last, nodes) = {
        let nodes: Vec<&str> = lines.collect();
        (*nodes.last().unwrap(), nodes)
    };
    assert!(nodes.iter().all(|line| line.contains(" = ")), "{}", listing.stdout);
    assert!(last.ends_with("// result, argmax, top values, top indices"), "{last}");
}

#[test]
fn what_is_missing_or_unknown_is_said() {
    let mut deployment = bare("llama");
    let failure = |deployment: &Deployment, args: &[&str], expected: &[&str]| {
        let error = deployment.failure(args);
        assert!(error.starts_with("error: "), "{error}");
        for part in expected {
            assert!(error.contains(part), "`{part}` is not in {error}");
        }
    };
    let inspect =
        |more: &[&'static str]| [&["inspect", "model", "--backend", "ascend"], more].concat();
    let unknown = inspect(&["--soc", "Ascend910B9", "--cann", "9.0"]);
    failure(
        &deployment,
        &unknown,
        &["unknown chip `Ascend910B9`: expected one of Ascend910B1, ", "hint: "],
    );
    let release = inspect(&["--soc", "Ascend910B3", "--cann", "nine"]);
    failure(&deployment, &release, &["`nine` is not a release of CANN"]);
    let no_release = inspect(&["--soc", "Ascend910B3"]);
    failure(
        &deployment,
        &no_release,
        &["no CANN toolkit: neither `ASCEND_HOME_PATH` nor", "hint: "],
    );
    let no_chip = inspect(&["--cann", "9.0"]);
    failure(
        &deployment,
        &no_chip,
        &["learn which chip graphs are for: no CANN library found", "hint: "],
    );
    let usage = deployment.run(&["inspect", "model", "--air", "folder"]);
    assert_eq!((usage.code, usage.stdout.as_str()), (2, ""));
    assert!(usage.stderr.contains("belong to `--backend ascend`"), "{usage:?}");

    let warmup = [&["warmup", "model"], &TARGET[..], &SIZES].concat();
    failure(&deployment, &warmup, &["a CANN toolkit is needed to compile graphs: no CANN toolkit"]);
    let nowhere = deployment.path("nowhere");
    deployment.variables = vec![("ASCEND_HOME_PATH", nowhere.clone().into())];
    let tried = nowhere.display().to_string();
    failure(&deployment, &warmup, &["no CANN toolkit found; tried ", &tried]);

    let without = |what| Toolkit::install(&["--without", what]);
    let no_atc = without("atc");
    deployment.variables = no_atc.variables();
    failure(&deployment, &warmup, &["has no `atc`"]);
    let no_ops = without("ops");
    deployment.variables = no_ops.variables();
    failure(&deployment, &warmup, &["atc failed", "EZ3003", "ops package of the chip"]);
    let no_lib = without("lib");
    deployment.variables = no_lib.variables();
    let generate = ["generate", "model", "--backend", "ascend", "--prompt", "a"];
    let tried = no_lib.home().join("lib64/libascendcl.so").display().to_string();
    failure(&deployment, &generate, &["CANN's runtime is needed to run graphs", &tried]);

    let toolkit = Toolkit::new();
    let deployment = on(&toolkit, deployment);
    let with = |more: &[&'static str]| [&generate[..], more].concat();
    let other = with(&["--soc", "Ascend910B4"]);
    failure(&deployment, &other, &["wanted for Ascend910B4, but device 0 is Ascend910B3"]);
    let absent = with(&["--device", "3"]);
    failure(&deployment, &absent, &["device 3 cannot be opened", "107001"]);
    let blocks = with(&["--block-size", "16"]);
    failure(&deployment, &blocks, &["takes multiples of 128", "hint: "]);
    assert_eq!(toolkit.num_compiles(), 0);
}

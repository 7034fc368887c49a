//! Tiny random models of every architecture and option against Transformers: logits and greedy
//! tokens. `golden/make.py` made them; `golden/versions.json` says with what.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use cairn::backend::cpu::KernelSet;
use cairn::model::WeightPolicy;
use common::{Runner, Setup, golden, max_difference, read_f32s};
use serde_json::Value;

/// Largest difference of a logit, absolute.
const TOLERANCE: f32 = 1e-4;
const MAX_LEN: usize = 96;

struct Prompt {
    ids: Vec<u32>,
    /// Logits after some of the prompt's tokens.
    logits: Vec<(usize, Vec<f32>)>,
    greedy: Vec<u32>,
}

fn models() -> Vec<PathBuf> {
    let mut models: Vec<PathBuf> =
        fs::read_dir(golden("models")).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    assert!(models.len() >= 17, "{models:?}");
    models
}

fn prompts(model: &Path) -> Vec<Prompt> {
    let reference: Value =
        serde_json::from_slice(&fs::read(model.join("reference.json")).unwrap()).unwrap();
    let logits = read_f32s(&model.join("logits.bin"));
    let numbers = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts = reference["prompts"].as_array().unwrap();
    let num_rows: usize = prompts.iter().map(|p| p["positions"].as_array().unwrap().len()).sum();
    let mut rows = logits.chunks_exact(logits.len() / num_rows);
    prompts
        .iter()
        .map(|prompt| Prompt {
            ids: numbers(&prompt["ids"]),
            logits: numbers(&prompt["positions"])
                .into_iter()
                .map(|position| (position as usize, rows.next().unwrap().to_vec()))
                .collect(),
            greedy: numbers(&prompt["greedy"]),
        })
        .collect()
}

/// Runs every prompt of a model and compares.
fn check(model: &Path, setup: Setup) {
    let mut runner = Runner::open(model, MAX_LEN, setup);
    for prompt in prompts(model) {
        runner.reset();
        let logits = runner.logits(&prompt.ids);
        for (position, expected) in &prompt.logits {
            let difference = max_difference(&logits[*position], expected);
            let name = model.display();
            assert!(difference < TOLERANCE, "{name} at {position}: {difference} with {setup:?}");
        }
        runner.reset();
        assert_eq!(
            runner.greedy(&prompt.ids, prompt.greedy.len()),
            prompt.greedy,
            "{}",
            model.display()
        );
    }
}

#[test]
fn every_model_equals_the_reference() {
    for model in models() {
        check(&model, Setup::default());
    }
}

#[test]
fn the_reference_kernels_equal_the_reference_too() {
    for model in models() {
        check(&model, Setup { kernels: KernelSet::Reference, ..Setup::default() });
    }
}

#[test]
fn a_prompt_in_chunks_gives_the_same_bits() {
    for model in models() {
        let prompt = prompts(&model).pop().unwrap();
        let mut whole = Runner::open(&model, MAX_LEN, Setup { threads: 1, ..Setup::default() });
        let expected = whole.logits(&prompt.ids);
        for (chunk, is_static) in [(1, false), (7, false), (16, true), (33, true)] {
            let setup = Setup { chunk, is_static, ..Setup::default() };
            let mut chunked = Runner::open(&model, MAX_LEN, setup);
            assert!(chunked.logits(&prompt.ids) == expected, "{} by {chunk}", model.display());
        }
    }
}

#[test]
fn weights_converted_to_f32_change_nothing() {
    for name in ["llama-bf16", "llama-f16", "qwen3"] {
        check(
            &golden("models").join(name),
            Setup { policy: WeightPolicy::F32, ..Setup::default() },
        );
    }
}

#[test]
fn configs_in_both_key_styles_build_the_same_graph() {
    let mut checked = 0;
    for model in models() {
        let old_style = model.join("config.v4.json");
        if !old_style.exists() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&model).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        fs::copy(&old_style, folder.path().join("config.json")).unwrap();
        check(folder.path(), Setup::default());
        checked += 1;
    }
    assert!(checked >= 8);
}

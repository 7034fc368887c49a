//! Every architecture and option: the greedy tokens of `generate` equal the CPU backend's.

use serde_json::Value;

use super::deployment::Deployment;
use super::margins::{CLEAR_ALL_F16, CLEAR_BF16, CLEAR_F16, Greedy, Oracle};
use super::toolkit::Toolkit;
use super::{ids, tiny};

const NUM_TOKENS: usize = 64;
const MAX_LEN: usize = 192;
/// Lengths of prompts, in tokens.
const LENGTHS: [usize; 3] = [1, 19, 120];

/// What `generate` makes of a prompt.
fn generated(deployment: &Deployment, prompt: &str, more: &[&str]) -> Vec<u32> {
    let num_tokens = NUM_TOKENS.to_string();
    let args = ["generate", "model", "--raw", "--json", "--prompt", prompt, "--max-tokens"];
    ids(&deployment.json(&[&args[..], &[num_tokens.as_str()], more].concat()))
}

/// One graph for decoding and one or two for prompts.
const ASCEND: [&str; 4] = ["--backend", "ascend", "--max-num-seqs", "1"];

/// Runs clear prompts of all lengths on both backends.
fn check(golden: &str, toolkit: &Toolkit, change: &[(&str, Value)], flags: &[&str]) {
    let deployment = tiny(golden, toolkit, change);
    let mut oracle = Oracle::open(&deployment.path("model"), MAX_LEN);
    for len in LENGTHS {
        let num_tokens = NUM_TOKENS.min(MAX_LEN - len);
        let Greedy { prompt, tokens, .. } = oracle.clear(len, num_tokens, CLEAR_F16);
        let cpu = generated(&deployment, &prompt, &[]);
        assert_eq!(cpu, tokens, "{golden} on the cpu after {prompt:?}");
        let ascend = generated(&deployment, &prompt, &[&ASCEND[..], flags].concat());
        assert_eq!(ascend, cpu, "{golden} after {prompt:?}");
    }
}

#[test]
fn llamas_with_every_option_equal_the_cpu() {
    let toolkit = Toolkit::new();
    for golden in
        ["llama", "llama-tied", "llama-head-dim", "llama-mha", "llama-bias", "llama-sharded"]
    {
        check(golden, &toolkit, &[], &[]);
    }
    toolkit.assert_clean();
}

#[test]
fn every_scaling_of_positions_equals_the_cpu() {
    let toolkit = Toolkit::new();
    for golden in ["llama-rope-linear", "llama-rope-llama3", "llama-rope-yarn"] {
        check(golden, &toolkit, &[], &[]);
    }
}

#[test]
fn mistral_and_qwen_equal_the_cpu() {
    let toolkit = Toolkit::new();
    for golden in ["mistral", "qwen2", "qwen3-wide"] {
        check(golden, &toolkit, &[], &[]);
    }
}

#[test]
fn checkpoints_in_16_bits_equal_the_cpu_when_computed_in_f32() {
    let toolkit = Toolkit::new();
    for golden in ["llama-f16", "llama-bf16", "qwen3"] {
        check(golden, &toolkit, &[], &["--dtype", "f32"]);
    }
}

/// The CPU backend computes in f32 whatever the weights are, Ascend in the type of the weights: in
/// bf16 a logit moves by up to a tenth. Up to the first doubt the tokens are still the same.
#[test]
fn checkpoints_in_16_bits_equal_the_cpu_in_their_own_type_as_long_as_there_is_no_doubt() {
    let toolkit = Toolkit::new();
    for (golden, clear) in
        [("llama-f16", CLEAR_ALL_F16), ("llama-bf16", CLEAR_BF16), ("qwen3", CLEAR_BF16)]
    {
        let deployment = tiny(golden, &toolkit, &[]);
        let mut oracle = Oracle::open(&deployment.path("model"), MAX_LEN);
        let mut num_compared = 0;
        for len in [1, 5, 9, 19, 40, 60, 90, 120] {
            let prompt = oracle.prompt(len);
            let Greedy { tokens, num_clear, .. } = oracle.greedy(&prompt, NUM_TOKENS, clear);
            let ascend = generated(&deployment, &prompt, &ASCEND);
            assert_eq!(ascend.len(), NUM_TOKENS);
            assert_eq!(ascend[..num_clear], tokens[..num_clear], "{golden} after {prompt:?}");
            num_compared += num_clear;
        }
        assert!(num_compared >= 24, "{golden}: only {num_compared} tokens were beyond doubt");
    }
}

#[test]
fn the_oldest_toolkit_and_a_runtime_in_two_files_do_the_same() {
    for installed in [&["--cann", "8.1.RC1"][..], &["--cann", "8.5.0", "--split"]] {
        let toolkit = Toolkit::install(installed);
        check("llama", &toolkit, &[], &[]);
        toolkit.assert_clean();
    }
}

#[test]
fn a_sliding_window_is_refused_unless_everything_fits_into_it() {
    let toolkit = Toolkit::new();
    for golden in ["mistral-window", "qwen2-window"] {
        let deployment = tiny(golden, &toolkit, &[]);
        let args = ["generate", "model", "--raw", "--prompt", "hello"];
        let error = deployment.failure(&[&args[..], &ASCEND].concat());
        let expected = "the ascend backend does not support a sliding window of 16 tokens for \
                        sequences of up to 256: limit the model's length to the window";
        assert!(error.starts_with("error: ") && error.contains(expected), "{error}");
        assert_eq!(toolkit.num_compiles(), 0);
    }
    for golden in ["mistral-window", "qwen2-window"] {
        let change = [("sliding_window", 128.into())];
        let deployment = tiny(golden, &toolkit, &change);
        let mut oracle = Oracle::open(&deployment.path("model"), 128);
        let Greedy { prompt, tokens, .. } = oracle.clear(40, NUM_TOKENS, CLEAR_F16);
        let flags = [&ASCEND[..], &["--max-model-len", "128"]].concat();
        assert_eq!(generated(&deployment, &prompt, &flags), tokens, "{golden} after {prompt:?}");
    }
}

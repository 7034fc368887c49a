//! The default model, block-quantised in its file and computed in f32: prompts of
//! `golden/smollm2`, which come with the gap of every step.

use serde_json::{Value, json};

use super::common::{default_model, golden};
use super::deployment::Deployment;
use super::margins::CLEAR_F16;
use super::toolkit::Toolkit;
use super::{at_once, numbers, on, serve_model};

/// The model has thirty layers, in which more differences come together than in two.
const CLEAR: f64 = 3.0 * CLEAR_F16 as f64;
const NUM_TOKENS: usize = 64;
const NUM_SHORT: usize = 7;
/// Tokens of the long prompt that are used: four steps. The smallest gap after them is 0.16.
const LONG: usize = 410;

const ASCEND: [&str; 8] = [
    "--backend",
    "ascend",
    "--max-num-seqs",
    "8",
    "--max-num-batched-tokens",
    "128",
    "--max-model-len",
    "512",
];

/// The beginning of the long prompt, and others whose every step is clear, from all over the file.
fn prompts() -> Vec<Vec<u32>> {
    let text = std::fs::read(golden("smollm2/reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&text).unwrap();
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for prompt in reference["prompts"].as_array().unwrap() {
        let ids = numbers(&prompt["ids"]);
        if prompt["name"] == "long" {
            long.push(ids[..LONG].to_vec());
        } else if prompt["min_gap"].as_f64().unwrap() >= CLEAR {
            short.push(ids);
        }
    }
    let step = short.len() / NUM_SHORT;
    long.extend(short.into_iter().step_by(step).take(NUM_SHORT));
    assert_eq!(long.len(), 1 + NUM_SHORT);
    long
}

#[test]
fn the_default_model_equals_the_cpu() {
    let Some(model) = default_model("the_default_model_equals_the_cpu") else { return };
    let model = model.to_str().unwrap();
    let toolkit = Toolkit::new();
    let deployment = on(&toolkit, Deployment::with_model(|_| {}));
    let request = |prompt: &Vec<u32>| json!({"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": true});
    let requests: Vec<Value> = prompts().iter().map(request).collect();
    let expected = at_once(&serve_model(&deployment, model, &[]), &requests);
    let mut server = serve_model(&deployment, model, &ASCEND);
    for (idx, answer) in at_once(&server, &requests).iter().enumerate() {
        assert_eq!(answer, &expected[idx], "{}", requests[idx]["prompt"]);
    }
    server.terminate();
    assert!(server.ended().success());
    toolkit.assert_clean();
}

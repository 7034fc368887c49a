//! The default model, block-quantised in its file and computed in f32: the prompts of
//! `golden/smollm2`, which come with the gap of every step.

use serde_json::{Value, json};

use super::common::{default_model, golden};
use super::deployment::Deployment;
use super::margins::CLEAR_F16;
use super::toolkit::Toolkit;
use super::{at_once, numbers, on, one_by_one, serve_model};

/// The model has thirty layers, in which more differences come together than in two.
const CLEAR: f64 = 2.5 * CLEAR_F16 as f64;
const NUM_TOKENS: usize = 64;
const NUM_SHORT: usize = 7;

/// Prompts whose every step is clear: the long one, and some others.
fn prompts() -> Vec<Value> {
    let text = std::fs::read(golden("smollm2/reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&text).unwrap();
    let prompts = reference["prompts"].as_array().unwrap().iter();
    let clear: Vec<&Value> =
        prompts.filter(|prompt| prompt["min_gap"].as_f64().unwrap() >= CLEAR).collect();
    let (long, short): (Vec<&Value>, Vec<&Value>) =
        clear.into_iter().partition(|prompt| numbers(&prompt["ids"]).len() > 1000);
    assert_eq!(long.len(), 1);
    let num_steps = short.len() / NUM_SHORT;
    long.into_iter().chain(short.into_iter().step_by(num_steps).take(NUM_SHORT)).cloned().collect()
}

#[test]
fn the_default_model_equals_the_cpu() {
    let Some(model) = default_model("the_default_model_equals_the_cpu") else { return };
    let model = model.to_str().unwrap();
    let toolkit = Toolkit::new();
    let deployment = on(&toolkit, Deployment::with_model(|_| {}));
    let requests: Vec<Value> = prompts()
        .iter()
        .map(|prompt| {
            json!({"prompt": prompt["ids"], "max_tokens": NUM_TOKENS, "temperature": 0,
                   "ignore_eos": true})
        })
        .collect();
    let start = std::time::Instant::now();
    let expected = one_by_one(&serve_model(&deployment, model, &[]), &requests);
    let flags = ["--backend", "ascend", "--max-num-batched-tokens", "128", "--max-model-len", "2048", "--max-num-seqs", "8"];
    eprintln!("cpu {:?}", start.elapsed());
    let mut server = serve_model(&deployment, model, &flags);
    for (idx, answer) in at_once(&server, &requests).iter().enumerate() {
        assert_eq!(answer, &expected[idx], "{}", requests[idx]["prompt"]);
    }
    eprintln!("ascend {:?}", start.elapsed());
    server.terminate();
    assert!(server.ended().success());
    toolkit.assert_clean();
}

//! Against other implementations: `tests/golden/sampling/make.py` says which and how.

use serde_json::Value;

use super::*;

const STEPS: &str = include_str!("../../../../tests/golden/sampling/steps.json");
const BEAMS: &str = include_str!("../../../../tests/golden/sampling/beams.json");

fn cases(json: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(json).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn f64s(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn f32s(value: &Value) -> Vec<f32> {
    f64s(value).into_iter().map(|number| number as f32).collect()
}

fn u32s(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

fn params_of(case: &Value) -> SamplingParams {
    let mut params = SamplingParams::default();
    for (name, value) in case["params"].as_object().unwrap() {
        let number = || value.as_f64().unwrap() as f32;
        match name.as_str() {
            "allowed_token_ids" => params.allowed_token_ids = Some(u32s(value)),
            "bad_words" => params.bad_words = value.as_array().unwrap().iter().map(u32s).collect(),
            "min_tokens" => params.min_tokens = value.as_u64().unwrap() as usize,
            "logit_bias" => {
                let pair = |pair: &Value| (pair[0].as_u64().unwrap() as u32, f32s(pair)[1]);
                params.logit_bias = value.as_array().unwrap().iter().map(pair).collect();
            }
            "repetition_penalty" => params.repetition_penalty = number(),
            "frequency_penalty" => params.frequency_penalty = number(),
            "presence_penalty" => params.presence_penalty = number(),
            "temperature" => params.temperature = number(),
            "min_p" => params.min_p = number(),
            "top_k" => params.top_k = Some(value.as_u64().unwrap() as u32),
            "top_p" => params.top_p = number(),
            other => panic!("no such parameter: {other}"),
        }
    }
    params
}

/// Calls the test with each case, its logits, parameters and history.
fn for_each_step(test: impl Fn(usize, &Value, &[f32], SamplingParams, History<'_>)) {
    let cases = cases(STEPS);
    assert!(cases.len() > 60);
    for (idx, case) in cases.iter().enumerate() {
        let (prompt, output) = (u32s(&case["prompt"]), u32s(&case["output"]));
        let stop_token_ids = u32s(&case["stop_token_ids"]);
        let history = History {
            prompt: &prompt,
            output: &output,
            counts: None,
            stop_token_ids: &stop_token_ids,
            mask: None,
        };
        let params = params_of(case);
        params.validate_for(f32s(&case["logits"]).len()).unwrap();
        test(idx, &case["expected"], &f32s(&case["logits"]), params, history);
    }
}

#[test]
fn probabilities_are_those_of_the_reference() {
    for_each_step(|idx, expected, logits, params, history| {
        let mut got = vec![0.0; logits.len()];
        let distribution =
            Sampler::default().distribution(Row::Logits(logits), &params, history).unwrap();
        for (token_id, probability) in distribution {
            got[token_id as usize] = probability;
        }
        // Below this a weight is zero.
        let is_kept = |probability: f64| probability > 1e-36;
        for (token_id, (expected, got)) in
            f64s(&expected["probabilities"]).iter().zip(&got).enumerate()
        {
            assert!(
                (expected - got).abs() < 1e-6 && is_kept(*expected) == is_kept(*got),
                "case {idx}, token {token_id}: expected {expected}, got {got}, {params:?}"
            );
        }
    });
}

#[test]
fn the_greedy_token_is_that_of_the_reference() {
    for_each_step(|idx, expected, logits, params, history| {
        let params = SamplingParams { temperature: 0.0, ..params };
        let row = Row::Logits(logits);
        let sampled = Sampler::default().sample(row, &params, history, || 0.5).unwrap();
        assert_eq!(u64::from(sampled.token_id), expected["greedy"], "case {idx}, {params:?}");
    });
}

#[test]
fn log_probabilities_and_ranks_are_those_of_the_reference() {
    for_each_step(|idx, expected, logits, params, history| {
        let (logprobs, ranks) = (f64s(&expected["logprobs"]), u32s(&expected["ranks"]));
        let top = u32s(&expected["top"]);
        let check = |got: &TokenLogprobs| {
            let id = got.token_id as usize;
            assert!((f64::from(got.logprob) - logprobs[id]).abs() < 2e-6, "case {idx}");
            assert_eq!(got.rank, ranks[id], "case {idx}");
            assert_eq!(got.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), top, "case {idx}");
            for (id, logprob) in &got.top {
                assert!((f64::from(*logprob) - logprobs[*id as usize]).abs() < 2e-6, "case {idx}");
            }
        };
        let mut sampler = Sampler::default();
        for token_id in 0..logits.len() as u32 {
            check(&sampler.logprobs_of(logits, token_id, top.len()).unwrap());
        }
        let params = SamplingParams { logprobs: Some(top.len()), ..params };
        let sampled = sampler.sample(Row::Logits(logits), &params, history, || 0.7).unwrap();
        check(&sampled.logprob.unwrap());
    });
}

/// Runs a whole search as the engine does.
fn search(case: &Value) -> Vec<Hypothesis> {
    let number = |name: &str| case[name].as_u64().unwrap() as usize;
    let table: Vec<Vec<f32>> = case["table"].as_array().unwrap().iter().map(f32s).collect();
    let prompt = u32s(&case["prompt"]);
    let beam = BeamParams {
        width: number("width"),
        length_penalty: case["length_penalty"].as_f64().unwrap() as f32,
        early_stopping: case["early_stopping"].as_bool().unwrap(),
    };
    let params = SamplingParams { beam: Some(beam), ..SamplingParams::default() };
    let stop_token_ids = u32s(&case["stop_token_ids"]);
    let mut search = BeamSearch::new(beam, &stop_token_ids, prompt.len(), number("max_tokens"));
    let mut sampler = Sampler::default();
    let mut texts: Vec<Vec<u32>> = vec![Vec::new()];
    while search.num_live() > 0 {
        for (beam_idx, text) in texts.iter().enumerate() {
            let last = *text.last().or(prompt.last()).unwrap() as usize;
            let row = Row::Logits(&table[last]);
            let k = search.num_candidates();
            let candidates = sampler.beam_candidates(row, &params, History::default(), k).unwrap();
            search.offer(beam_idx, candidates);
        }
        let steps = search.advance();
        texts =
            steps.iter().map(|step| [&texts[step.parent][..], &[step.token_id]].concat()).collect();
    }
    search.finish(beam.width)
}

#[test]
fn beams_are_those_of_the_reference() {
    let cases = cases(BEAMS);
    assert!(cases.len() > 20);
    for (idx, case) in cases.iter().enumerate() {
        let found = search(case);
        let expected = case["expected"].as_array().unwrap();
        let reference = &case["reference"];
        assert!(found.len() >= expected.len(), "case {idx}, {reference}");
        for (rank, (found, expected)) in found.iter().zip(expected).enumerate() {
            let place = format!("case {idx}, {reference}, text {rank}");
            assert_eq!(found.token_ids, u32s(&expected["token_ids"]), "{place}");
            let score = expected["score"].as_f64().unwrap();
            assert!(
                (found.score - score).abs() < 1e-5 * score.abs(),
                "{place}: {found:?}, {score}"
            );
        }
    }
}

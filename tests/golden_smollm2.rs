//! The real model against Transformers in f32 with the same dequantised weights: token ids, chat
//! prompts, logits, greedy tokens. `golden/make_smollm2.py` and `golden/make_text.py` made the
//! references.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::{self, Write as _};

use cairn::backend::cpu::Arithmetic;
use cairn::boot::{self, Booted};
use cairn::config::{DTypeChoice, EngineConfig};
use cairn::engine::{Output, Request, ResponseStream, SamplingParams};
use cairn::model::WeightPolicy;
use cairn::text::{ChatMessage, Conversation};
use common::{Runner, Setup, default_model, golden, max_difference, read_f32s};
use serde_json::Value;

/// Largest difference of a logit, absolute.
const TOLERANCE: f32 = 2e-3;

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn booted(test: &str, change: impl FnOnce(&mut EngineConfig)) -> Option<Booted> {
    let mut config = EngineConfig::new(default_model(test)?);
    config.max_model_len = Some(2048);
    change(&mut config);
    Some(boot::start(&config).unwrap())
}

fn params(max_tokens: u64) -> SamplingParams {
    let max_tokens = Some(max_tokens);
    SamplingParams { max_tokens, temperature: 0.0, ignore_eos: true, ..SamplingParams::default() }
}

fn submit(booted: &Booted, prompt_token_ids: Vec<u32>, params: SamplingParams) -> ResponseStream {
    booted.engine.submit(Request::new(prompt_token_ids, params)).unwrap()
}

/// All tokens and the text of a response.
fn finish(mut stream: ResponseStream) -> (Vec<u32>, String) {
    let (mut tokens, mut all) = (Vec::new(), String::new());
    loop {
        match stream.blocking_recv().expect("a last message") {
            Output::PromptLogprobs(_) | Output::Embedding(_) => {}
            Output::Delta(delta) => {
                tokens.extend(delta.token_ids);
                all.push_str(&delta.text);
            }
            Output::Finished(_) => return (tokens, all),
            Output::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn token_ids_equal_the_reference() {
    let Some(booted) = booted("token_ids_equal_the_reference", |_| {}) else { return };
    let corpus = json("text/smollm2_ids.json");
    let cases = corpus.as_array().or_else(|| corpus["cases"].as_array()).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let got = booted.tokenizer.encode(text, true).unwrap();
        assert_eq!(got, ids(&case["ids"]), "{text:?}");
    }
    for prompt in json("smollm2/reference.json")["prompts"].as_array().unwrap() {
        if let Some(text) = prompt["text"].as_str() {
            assert_eq!(
                booted.tokenizer.encode(text, true).unwrap(),
                ids(&prompt["ids"]),
                "{text:?}"
            );
        }
    }
}

#[test]
fn chat_prompts_equal_the_reference() {
    let Some(booted) = booted("chat_prompts_equal_the_reference", |_| {}) else { return };
    let template = booted.chat_template.unwrap();
    let conversations = json("text/smollm2_chat.json");
    let cases = conversations.as_array().or_else(|| conversations["cases"].as_array()).unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let messages: Vec<ChatMessage> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| {
                let text = |key: &str| message[key].as_str().unwrap();
                ChatMessage::new(text("role"), text("content"))
            })
            .collect();
        let generation = case["add_generation_prompt"].as_bool().unwrap_or(true);
        let expected = ["rendered", "text", "prompt"].iter().find_map(|key| case[key].as_str());
        let conversation =
            Conversation { add_generation_prompt: generation, ..Conversation::new(&messages) };
        assert_eq!(template.render(&conversation).unwrap(), expected.unwrap());
    }
}

/// Natural logarithms of the probabilities of all tokens.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &logit| max.max(f64::from(logit)));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - max - sum.ln()).collect()
}

#[test]
fn rounded_products_cost_little_accuracy() {
    let Some(model) = default_model("rounded_products_cost_little_accuracy") else { return };
    let reference = json("smollm2/reference.json");
    let prompts = reference["prompts"].as_array().unwrap();
    let text = prompts.iter().map(|prompt| ids(&prompt["ids"])).max_by_key(Vec::len).unwrap();
    let text = &text[..512];
    let log_probabilities = |arithmetic| -> Vec<Vec<f64>> {
        let setup = Setup { arithmetic, chunk: 128, ..Setup::default() };
        let logits = Runner::open(&model, 512, setup).logits(text);
        logits.iter().map(|logits| log_softmax(logits)).collect()
    };
    let perplexity = |rows: &[Vec<f64>]| {
        let of_next = rows.iter().zip(&text[1..]).map(|(row, &next)| row[next as usize]);
        (-of_next.sum::<f64>() / (text.len() - 1) as f64).exp()
    };
    let exact = log_probabilities(Arithmetic::F32);
    for (arithmetic, most_divergence, most_perplexity) in
        [(Arithmetic::Bf16, 2e-3, 1.01), (Arithmetic::Int8, 5e-2, 1.05)]
    {
        let rounded = log_probabilities(arithmetic);
        // Kullback-Leibler, from the exact distribution, in nats; the mean over the text.
        let divergences = exact.iter().zip(&rounded).map(|(exact, rounded)| {
            exact.iter().zip(rounded).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
        });
        let divergence = divergences.sum::<f64>() / text.len() as f64;
        let (before, after) = (perplexity(&exact), perplexity(&rounded));
        let figures = format!("{arithmetic:?}: {divergence:.2e} nats, {before:.3} -> {after:.3}");
        writeln!(io::stderr(), "{figures}").unwrap();
        assert!(divergence > 0.0 && divergence < most_divergence, "{figures}");
        assert!(after < before * most_perplexity, "{figures}");
    }
}

#[test]
fn logits_equal_the_reference() {
    let Some(model) = default_model("logits_equal_the_reference") else { return };
    let reference = json("smollm2/reference.json");
    let fixed_ids = ids(&reference["fixed_ids"]);
    for policy in [WeightPolicy::AsStored, WeightPolicy::F32] {
        let mut runner =
            Runner::open(&model, 2048, Setup { policy, chunk: 256, ..Setup::default() });
        for prompt in reference["prompts"].as_array().unwrap() {
            let prompt_ids = ids(&prompt["ids"]);
            // The long one once: it is the same arithmetic after dequantising.
            if prompt_ids.len() > 500 && policy == WeightPolicy::F32 {
                continue;
            }
            runner.reset();
            let logits = runner.logits(&prompt_ids).pop().unwrap();
            let at = |ids: &[u32]| ids.iter().map(|&id| logits[id as usize]).collect::<Vec<_>>();
            let name = &prompt["name"];
            for (ids, expected) in [
                (ids(&prompt["top_ids"]), floats(&prompt["top_logits"])),
                (fixed_ids.clone(), floats(&prompt["fixed_logits"])),
            ] {
                let difference = max_difference(&at(&ids), &expected);
                assert!(difference < TOLERANCE, "{name}: {difference} with {policy:?}");
            }
            if let Some(file) = prompt["full_logits"].as_str() {
                let expected = read_f32s(&golden("smollm2").join(file));
                let difference = max_difference(&logits, &expected);
                assert!(difference < TOLERANCE, "{name}: {difference} with {policy:?}");
            }
        }
    }
}

#[test]
fn greedy_tokens_equal_the_reference_when_all_prompts_run_together() {
    let test = "greedy_tokens_equal_the_reference_when_all_prompts_run_together";
    let Some(booted) = booted(test, |_| {}) else { return };
    let reference = json("smollm2/reference.json");
    let prompts = reference["prompts"].as_array().unwrap();
    assert!(prompts.len() >= 20);
    let streams: Vec<ResponseStream> =
        prompts.iter().map(|prompt| submit(&booted, ids(&prompt["ids"]), params(64))).collect();
    for (prompt, stream) in prompts.iter().zip(streams) {
        let (tokens, _) = finish(stream);
        assert_eq!(tokens, ids(&prompt["greedy"]), "{}", prompt["name"]);
    }
}

#[test]
fn weights_in_f32_give_the_same_tokens() {
    let test = "weights_in_f32_give_the_same_tokens";
    let Some(booted) = booted(test, |config| config.dtype = DTypeChoice::F32) else { return };
    let reference = json("smollm2/reference.json");
    for prompt in reference["prompts"].as_array().unwrap().iter().step_by(9) {
        let (tokens, _) = finish(submit(&booted, ids(&prompt["ids"]), params(16)));
        assert_eq!(tokens, ids(&prompt["greedy"])[..16], "{}", prompt["name"]);
    }
}

#[test]
fn a_seeded_request_gives_the_same_text_alone_and_in_a_crowd() {
    let test = "a_seeded_request_gives_the_same_text_alone_and_in_a_crowd";
    let small = |config: &mut EngineConfig| {
        // Few blocks and small steps, so that the crowd is chunked and preempted.
        config.max_model_len = Some(256);
        config.max_num_batched_tokens = 48;
        config.kv_cache_bytes = Some(24 * 16 * 46_080);
    };
    let Some(booted) = booted(test, small) else { return };
    let request = |seed: u64| {
        let prompt = booted.tokenizer.encode("Once upon a time, there was", true).unwrap();
        let params = SamplingParams {
            temperature: 1.0,
            top_p: 0.95,
            min_p: 0.02,
            seed: Some(seed),
            ..params(24)
        };
        submit(&booted, prompt, params)
    };
    let alone: Vec<_> = (0..8).map(|seed| finish(request(seed))).collect();
    let crowd: Vec<_> = (0..8).map(request).collect();
    let crowd: Vec<_> = crowd.into_iter().map(finish).collect();
    assert_eq!(crowd, alone);
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn graphs_of_fixed_sizes_give_the_same_tokens() {
    let test = "graphs_of_fixed_sizes_give_the_same_tokens";
    let small = |config: &mut EngineConfig| {
        config.static_shapes = true;
        config.max_model_len = Some(128);
        config.max_num_seqs = 4;
        config.max_num_batched_tokens = 32;
    };
    let Some(booted) = booted(test, small) else { return };
    assert!(booted.report.graphs_compiled > 1);
    let reference = json("smollm2/reference.json");
    let prompts = reference["prompts"].as_array().unwrap().iter();
    let short: Vec<_> = prompts.filter(|prompt| ids(&prompt["ids"]).len() < 100).take(6).collect();
    let streams: Vec<_> =
        short.iter().map(|prompt| submit(&booted, ids(&prompt["ids"]), params(16))).collect();
    for (prompt, stream) in short.iter().zip(streams) {
        assert_eq!(finish(stream).0, ids(&prompt["greedy"])[..16], "{}", prompt["name"]);
    }
}

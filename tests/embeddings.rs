//! Hidden states of texts, by the engine, against Transformers: what a model's output projection
//! makes of them are the logits that the reference has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/model.rs"]
mod model;

use std::fs;
use std::path::Path;

use cairn::boot::{self, Booted};
use cairn::config::{EmbeddingsChoice, EngineConfig};
use cairn::engine::{Output, Pooling, Request, RequestError, SamplingParams, SubmitError};
use cairn::model::{Model, WeightPolicy};
use model::{Tiny, Tokens};
use serde_json::Value;

/// Largest difference of a logit, absolute.
const TOLERANCE: f32 = 1e-3;

fn start(folder: &Path, change: impl FnOnce(&mut EngineConfig)) -> Booted {
    let mut config = EngineConfig::new(folder);
    config.embeddings = EmbeddingsChoice::On;
    config.threads = Some(2);
    change(&mut config);
    boot::start(&config).unwrap()
}

fn request(ids: &[u32], pooling: Pooling) -> Request {
    let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
    Request { pooling: Some(pooling), ..Request::new(ids.to_vec(), params) }
}

fn embed_all(booted: &Booted, requests: &[Request]) -> Vec<Vec<f32>> {
    let streams: Vec<_> =
        requests.iter().map(|request| booted.engine.submit(request.clone()).unwrap()).collect();
    let vector = |mut stream: cairn::engine::ResponseStream| {
        let mut vector = None;
        loop {
            match stream.blocking_recv().expect("a last message") {
                Output::Embedding(embedding) => vector = Some(embedding),
                Output::Finished(usage) => {
                    assert_eq!(usage.completion_tokens, 0);
                    return vector.expect("a vector before the end");
                }
                other => panic!("{other:?}"),
            }
        }
    };
    streams.into_iter().map(vector).collect()
}

fn embed(booted: &Booted, ids: &[u32], pooling: Pooling) -> Vec<f32> {
    embed_all(booted, &[request(ids, pooling)]).remove(0)
}

/// The output projection `[vocab_size, hidden_size]` of a model.
fn output_projection(folder: &Path) -> Vec<f32> {
    let model = Model::open(folder, WeightPolicy::F32).unwrap();
    let is_tied = model.config().tie_word_embeddings;
    let name = if is_tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
    model.checkpoint().tensor(name).unwrap().to_f32_vec()
}

fn logits(hidden: &[f32], projection: &[f32]) -> Vec<f32> {
    let dot = |row: &[f32]| row.iter().zip(hidden).map(|(a, b)| a * b).sum();
    projection.chunks_exact(hidden.len()).map(dot).collect()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Prompts of the reference, and its logits after some of their tokens.
fn reference(name: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name);
    let reference: Value =
        serde_json::from_slice(&fs::read(folder.join("reference.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("logits.bin")).unwrap();
    let numbers: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts = reference["prompts"].as_array().unwrap();
    let prefixes = prompts.iter().flat_map(|prompt| {
        let all = ids(&prompt["ids"]);
        ids(&prompt["positions"]).into_iter().map(move |end| all[..=end as usize].to_vec())
    });
    let prefixes: Vec<_> = prefixes.collect();
    let row_len = numbers.len() / prefixes.len();
    prefixes.into_iter().zip(numbers.chunks_exact(row_len).map(<[f32]>::to_vec)).collect()
}

#[test]
fn hidden_states_are_those_of_the_reference() {
    for name in ["llama", "llama-bf16", "mistral", "qwen2", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        Tiny { golden: name, tokens: Tokens::Characters, config: &[] }.write(folder.path());
        let booted = start(folder.path(), |_| {});
        let projection = output_projection(folder.path());
        let mut num_checked = 0;
        for (ids, expected) in reference(name) {
            let hidden = embed(&booted, &ids, Pooling::Last);
            assert_eq!(hidden.len(), booted.engine.hidden_size());
            let got = logits(&hidden, &projection);
            let difference = max_difference(&got, &expected);
            assert!(difference < TOLERANCE, "{name} after {} tokens: {difference}", ids.len());
            num_checked += 1;
        }
        assert!(num_checked >= 5, "{name}: {num_checked}");
    }
}

fn tiny() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model::write_model(folder.path());
    folder
}

fn text(num_tokens: u32, start: u32) -> Vec<u32> {
    (0..num_tokens).map(|idx| 3 + (idx * 7 + start * 31) % 90).collect()
}

#[test]
fn the_mean_is_that_of_every_token() {
    let folder = tiny();
    let booted = start(folder.path(), |config| config.scheduling.is_prefix_cache_on = false);
    let ids = text(37, 1);
    let mut sum = vec![0.0_f64; booted.engine.hidden_size()];
    for end in 1..=ids.len() {
        let hidden = embed(&booted, &ids[..end], Pooling::Last);
        sum.iter_mut().zip(&hidden).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let expected: Vec<f32> = sum.iter().map(|sum| (sum / ids.len() as f64) as f32).collect();
    assert!(max_difference(&embed(&booted, &ids, Pooling::Mean), &expected) < 1e-6);
}

#[test]
fn a_crowd_in_chunks_with_little_memory_gets_the_same_bits_as_one_alone() {
    let folder = tiny();
    let texts: Vec<_> = (0..40).map(|idx| text(1 + idx * 3, idx / 4)).collect();
    let pooling = |idx: usize| if idx.is_multiple_of(3) { Pooling::Mean } else { Pooling::Last };
    let requests: Vec<_> =
        texts.iter().enumerate().map(|(idx, ids)| request(ids, pooling(idx))).collect();
    let alone = start(folder.path(), |config| config.scheduling.is_prefix_cache_on = false);
    let expected: Vec<_> = requests
        .iter()
        .map(|request| embed_all(&alone, std::slice::from_ref(request)).remove(0))
        .collect();
    let block_bytes = alone.report.kv_block_bytes;
    for (has_cache, is_static) in [(false, false), (true, false), (true, true)] {
        let crowd = start(folder.path(), |config| {
            config.max_model_len = Some(256);
            config.max_num_seqs = 6;
            config.max_num_batched_tokens = 48;
            config.kv_cache_bytes = Some(block_bytes * 20);
            config.static_shapes = is_static;
            config.scheduling.is_prefix_cache_on = has_cache;
        });
        // Texts that are generated run beside them.
        let params = SamplingParams { max_tokens: Some(20), ..SamplingParams::default() };
        let others: Vec<_> = (0..8)
            .map(|idx| crowd.engine.submit(Request::new(text(20, idx), params.clone())).unwrap())
            .collect();
        assert!(embed_all(&crowd, &requests) == expected, "cache {has_cache}, static {is_static}");
        for mut stream in others {
            while let Some(output) = stream.blocking_recv() {
                assert!(!matches!(output, Output::Failed(_) | Output::Embedding(_)), "{output:?}");
            }
        }
    }
}

#[test]
fn an_engine_without_graphs_for_it_says_so() {
    let folder = tiny();
    let booted = start(folder.path(), |config| config.embeddings = EmbeddingsChoice::Off);
    let error = booted.engine.submit(request(&[5], Pooling::Last)).unwrap_err();
    let SubmitError::Invalid(invalid) = error else { panic!("{error}") };
    assert_eq!(invalid.param, "pooling");
}

#[test]
fn a_prompt_that_is_dropped_halfway_leaves_nothing_behind() {
    let folder = tiny();
    let booted = start(folder.path(), |config| config.max_num_batched_tokens = 8);
    drop(booted.engine.submit(request(&text(400, 2), Pooling::Mean)).unwrap());
    let mut limited = request(&text(1500, 3), Pooling::Mean);
    limited.timeout = Some(std::time::Duration::from_nanos(1));
    let mut stream = booted.engine.submit(limited).unwrap();
    match stream.blocking_recv() {
        Some(Output::Failed(RequestError::TimedOut(_))) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(embed(&booted, &text(9, 1), Pooling::Last).len(), booted.engine.hidden_size());
    assert_eq!(booted.engine.num_unfinished(), 0);
}

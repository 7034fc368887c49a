//! On the CPU backend, a request gets the same tokens alone and in a crowd: with and without the
//! prefix cache, in chunks, preempted, padded, and with guesses checked along the way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/model.rs"]
mod model;

use std::path::Path;

use cairn::boot::{self, Booted};
use cairn::config::{EngineConfig, SpeculationConfig, SpeculationMethod};
use cairn::engine::{
    BeamParams, ChoiceDelta, EngineStats, Output, Request, ResponseStream, SamplingParams,
};

const NUM_REQUESTS: u64 = 200;
/// The first token that stands for text.
const FIRST: u64 = 3;

/// Numbers below a limit.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn tokens(&mut self, num: u64, limit: u64) -> Vec<u32> {
        (0..num).map(|_| (FIRST + self.below(limit)) as u32).collect()
    }
}

/// Prompts of 1 to 90 tokens, many of which begin alike, and every way of sampling.
fn requests() -> Vec<Request> {
    let mut dice = Dice(7);
    let common = [40, 60, 25].map(|num| dice.tokens(num, 90));
    (0..NUM_REQUESTS).map(|idx| request(&mut dice, &common, idx)).collect()
}

fn request(dice: &mut Dice, common: &[Vec<u32>; 3], idx: u64) -> Request {
    let mut prompt = common[dice.below(3) as usize].clone();
    prompt.truncate(dice.below(61) as usize);
    let num_own = 1 + dice.below(30);
    // Few different ones, so that texts repeat themselves.
    prompt.extend(dice.tokens(num_own, 4));
    let mut params = SamplingParams {
        max_tokens: Some(1 + dice.below(20)),
        temperature: if dice.below(2) == 0 { 0.0 } else { 0.9 },
        seed: Some(idx),
        ignore_eos: dice.below(2) == 0,
        ..SamplingParams::default()
    };
    match dice.below(9) {
        0 => params.top_k = Some(1 + dice.below(40) as u32),
        1 => (params.top_p, params.min_p) = (0.8, 0.02),
        2 => (params.presence_penalty, params.repetition_penalty) = (0.5, 1.2),
        3 => params.logprobs = Some(3),
        4 => params.prompt_logprobs = Some(1),
        5 => params.n = 3,
        6 => (params.n, params.best_of) = (1, Some(3)),
        7 => {
            params.n = 2;
            params.beam = Some(BeamParams { width: 3, length_penalty: 1.0, early_stopping: true });
        }
        _ => params.logit_bias = vec![(5, 3.0)],
    }
    Request::new(prompt, params)
}

fn finish(mut stream: ResponseStream, num_choices: usize) -> Vec<ChoiceDelta> {
    let mut choices = vec![ChoiceDelta::default(); num_choices];
    loop {
        match stream.blocking_recv().expect("a last message") {
            Output::PromptLogprobs(told) => choices[0].logprobs.extend(told.into_iter().flatten()),
            Output::Delta(delta) => {
                let choice = &mut choices[delta.index];
                choice.text.push_str(&delta.text);
                choice.token_ids.extend(delta.token_ids);
                choice.logprobs.extend(delta.logprobs);
                choice.end = delta.end;
            }
            Output::Finished(_) => return choices,
            other @ (Output::Failed(_) | Output::Embedding(_)) => panic!("{other:?}"),
        }
    }
}

fn start(folder: &Path, change: impl FnOnce(&mut EngineConfig)) -> Booted {
    let mut config = EngineConfig::new(folder);
    config.max_model_len = Some(256);
    config.max_num_queued_reqs = NUM_REQUESTS as usize;
    config.threads = Some(2);
    change(&mut config);
    boot::start(&config).unwrap()
}

/// Bytes of that many KV blocks of 16 tokens: two layers, K and V, two heads of 16 numbers.
fn blocks(booted: &Booted, num_blocks: u64) -> u64 {
    booted.report.kv_block_bytes * num_blocks
}

#[test]
fn two_hundred_requests_get_the_same_tokens_alone_and_in_a_crowd() {
    let folder = tempfile::tempdir().unwrap();
    model::write_model(folder.path());
    let requests = requests();
    let (expected, kv_block_bytes) = {
        let alone = start(folder.path(), |config| config.scheduling.is_prefix_cache_on = false);
        let run = |request: &Request| {
            finish(alone.engine.submit(request.clone()).unwrap(), request.params.n)
        };
        (requests.iter().map(run).collect::<Vec<_>>(), blocks(&alone, 1))
    };
    let speculation = |method| Some(SpeculationConfig { num_tokens: 3, method });
    let ngram = || speculation(SpeculationMethod::Ngram { min: 1, max: 3 });
    let draft = || speculation(SpeculationMethod::Draft { model: folder.path().to_owned() });
    let mut seen = EngineStats::default();
    for (is_prefix_cache_on, num_blocks, max_num_batched_tokens, static_shapes, speculation) in [
        (false, 400, 512, false, None),
        (true, 400, 512, false, None),
        (false, 40, 48, false, None),
        (true, 40, 48, false, None),
        (true, 30, 64, true, None),
        (true, 60, 64, false, ngram()),
        (false, 40, 64, false, ngram()),
        (true, 40, 64, false, draft()),
    ] {
        let booted = start(folder.path(), |config| {
            config.max_num_seqs = 16;
            config.max_num_batched_tokens = max_num_batched_tokens;
            config.kv_cache_bytes = Some(kv_block_bytes * num_blocks);
            config.static_shapes = static_shapes;
            config.scheduling.is_prefix_cache_on = is_prefix_cache_on;
            config.speculation.clone_from(&speculation);
        });
        let streams: Vec<_> =
            requests.iter().map(|r| booted.engine.submit(r.clone()).unwrap()).collect();
        for (idx, (stream, expected)) in streams.into_iter().zip(&expected).enumerate() {
            let got = finish(stream, expected.len());
            let setting = (is_prefix_cache_on, num_blocks, max_num_batched_tokens, &speculation);
            assert_eq!(&got, expected, "request {idx} with {setting:?}: {:?}", requests[idx]);
        }
        let stats = booted.engine.stats();
        assert_eq!(is_prefix_cache_on, stats.prefix_hit_tokens > 0);
        assert_eq!(speculation.is_some(), stats.num_accepted_tokens > 0, "{stats:?}");
        seen.num_preemptions += stats.num_preemptions;
        seen.num_block_copies += stats.num_block_copies;
        seen.padded_tokens += stats.padded_tokens;
        seen.prefix_evictions_capacity += stats.prefix_evictions_capacity;
        booted.engine.shutdown();
    }
    assert!(seen.num_preemptions > 20 && seen.padded_tokens > 100, "{seen:?}");
    assert!(seen.num_block_copies > 50 && seen.prefix_evictions_capacity > 50, "{seen:?}");
}

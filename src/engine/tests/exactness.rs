//! Whatever else runs, and however, a request gets the answer that it gets alone.

use super::*;

/// Numbers from a seed, below a limit.
fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |limit| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    }
}

/// Requests of all kinds. Many prompts begin alike.
fn requests(num: u64) -> Vec<Request> {
    (0..num).map(|idx| request_of(idx, &mut dice(idx + 1))).collect()
}

fn request_of(idx: u64, dice: &mut impl FnMut(u64) -> u64) -> Request {
    let common = [(40..60).collect::<Vec<u32>>(), (70..75).collect(), Vec::new()];
    let mut prompt = common[dice(3) as usize].clone();
    prompt.truncate(dice(21) as usize);
    prompt.extend((0..=dice(12)).map(|_| 32 + dice(3) as u32));
    let mut params = SamplingParams {
        max_tokens: Some(1 + dice(24)),
        temperature: if dice(2) == 0 { 0.0 } else { 0.8 },
        seed: Some(idx),
        ..SamplingParams::default()
    };
    match dice(12) {
        0 => params.top_k = Some(1 + dice(30) as u32),
        1 => params.top_p = 0.7,
        2 => params.min_p = 0.1,
        3 => (params.presence_penalty, params.frequency_penalty) = (0.9, 0.4),
        4 => params.repetition_penalty = 1.3,
        5 => params.logit_bias = vec![(40, 5.0), (EOS, -100.0)],
        6 => params.logprobs = Some(dice(4) as usize),
        7 => params.prompt_logprobs = Some(2),
        8 => params.n = 1 + dice(4) as usize,
        9 => (params.n, params.best_of) = (2, Some(4)),
        10 => {
            let width = 1 + dice(3) as usize;
            params.n = width;
            let length_penalty = 1.0;
            params.beam = Some(BeamParams { width, length_penalty, early_stopping: false });
        }
        _ => {
            params.stop = vec!["ab".into(), "(".into()];
            params.min_tokens = 1;
            params.include_stop_str_in_output = dice(2) == 0;
            params.max_tokens = Some(30);
        }
    }
    let mut request = request(&prompt, params);
    request.priority = dice(3) as i32;
    request.cache_salt = (dice(5) == 0).then(|| "tenant".to_owned());
    request
}

/// All that a request gave.
#[derive(Debug, PartialEq)]
pub(super) struct Whole {
    pub(super) choices: Vec<ChoiceDelta>,
    prompt_logprobs: Option<Vec<Option<TokenLogprobs>>>,
    usage: (usize, usize),
}

pub(super) fn whole(mut stream: ResponseStream, num_choices: usize) -> Whole {
    let mut choices: Vec<ChoiceDelta> =
        (0..num_choices).map(|index| ChoiceDelta { index, ..ChoiceDelta::default() }).collect();
    let mut prompt_logprobs = None;
    loop {
        match stream.blocking_recv().expect("a last message") {
            Output::PromptLogprobs(told) => prompt_logprobs = Some(told),
            Output::Embedding(_) => panic!("nobody asked for one"),
            Output::Delta(delta) => {
                let choice = &mut choices[delta.index];
                assert!(choice.end.is_none(), "nothing follows a choice's end");
                choice.text.push_str(&delta.text);
                choice.token_ids.extend(delta.token_ids);
                choice.logprobs.extend(delta.logprobs);
                choice.end = delta.end;
            }
            Output::Finished(usage) => {
                assert!(choices.iter().all(|choice| choice.end.is_some()), "{choices:?}");
                assert!(usage.cached_tokens < usage.prompt_tokens);
                let usage = (usage.prompt_tokens, usage.completion_tokens);
                return Whole { choices, prompt_logprobs, usage };
            }
            Output::Failed(error) => panic!("{error}"),
        }
    }
}

fn alone(requests: &[Request]) -> Vec<Whole> {
    let options = EngineOptions { is_prefix_cache_on: false, ..options() };
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options);
    let run = |request: &Request| whole(engine.submit(request.clone()).unwrap(), request.params.n);
    requests.iter().map(run).collect()
}

#[test]
fn two_hundred_requests_get_the_same_crowded_and_alone() {
    let requests = requests(200);
    let expected = alone(&requests);
    let mut seen = EngineStats::default();
    let ngram = Speculation { num_tokens: 3, method: SpeculativeMethod::Ngram { min: 1, max: 3 } };
    for (is_prefix_cache_on, num_blocks, max_num_batched_tokens, speculation, capabilities) in [
        (false, 400, 256, None, DYNAMIC),
        (true, 400, 256, None, DYNAMIC),
        (true, 400, 9, None, DYNAMIC),
        (false, 40, 64, None, STATIC),
        (true, 40, 64, None, STATIC),
        (true, 40, 64, None, SEPARATE),
        (true, 17, 30, Some(ngram), DYNAMIC),
        (false, 60, 64, Some(ngram), STATIC),
        (true, 60, 64, Some(ngram), SEPARATE),
    ] {
        let options = EngineOptions {
            max_num_seqs: 24,
            max_num_batched_tokens,
            num_blocks,
            is_prefix_cache_on,
            speculation,
            policy: SchedulingPolicy::Priority,
            max_num_queued_reqs: 400,
            ..options()
        };
        let (engine, _) = engine(&capabilities, &Script::Hash, &options);
        let streams: Vec<_> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        for (idx, (stream, expected)) in streams.into_iter().zip(&expected).enumerate() {
            let got = whole(stream, expected.choices.len());
            assert_eq!(&got, expected, "request {idx}: {:?}, {options:?}", requests[idx]);
        }
        wait_until("everything is free", || is_empty(&engine));
        let stats = engine.stats();
        assert_eq!(is_prefix_cache_on, stats.prefix_hit_tokens > 0, "{options:?}");
        assert_eq!(speculation.is_some(), stats.num_accepted_tokens > 0, "{options:?}");
        seen.num_preemptions += stats.num_preemptions;
        seen.num_block_copies += stats.num_block_copies;
        seen.prefix_evictions_capacity += stats.prefix_evictions_capacity;
        seen.num_accepted_tokens += stats.num_accepted_tokens;
        engine.shutdown();
    }
    assert!(seen.num_preemptions > 100, "{seen:?}");
    assert!(seen.num_block_copies > 100 && seen.prefix_evictions_capacity > 100, "{seen:?}");
    assert!(seen.num_accepted_tokens > 20, "{seen:?}");
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    let params = SamplingParams { ignore_eos: true, ..greedy_params(10) };
    let first: Vec<u32> = (40..60).collect();
    let answer = read(engine.submit(request(&first, params.clone())).unwrap());
    let second = [first, answer.token_ids, vec![33, 34]].concat();
    let mut stream = engine.submit(request(&second, params)).unwrap();
    let usage = loop {
        match stream.blocking_recv().unwrap() {
            Output::Finished(usage) => break usage,
            Output::Failed(error) => panic!("{error}"),
            _ => {}
        }
    };
    // All but the last token of the answer, which was never computed, and what is new.
    assert_eq!((usage.prompt_tokens, usage.cached_tokens), (32, 29));
    engine.reset_prefix_cache();
    wait_until("it is empty", || engine.stats().num_kv_blocks_cached == 0);
    assert!(engine.stats().prefix_evictions_reset >= 7);
}

//! The engine as a whole, over the fake model.

mod death;
mod exactness;
mod grammar;
mod host_cost;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::fake::{DYNAMIC, EOS, POISON, SEPARATE, SPECIAL, STATIC, Script, engine, greedy};
use super::*;

fn options() -> EngineOptions {
    EngineOptions {
        max_model_len: 64,
        max_num_seqs: 8,
        max_num_batched_tokens: 32,
        block_size: 4,
        num_blocks: 64,
        max_num_queued_reqs: 64,
        ..EngineOptions::default()
    }
}

fn request(prompt: &[u32], params: SamplingParams) -> Request {
    Request::new(prompt.to_vec(), params)
}

fn greedy_params(max_tokens: u64) -> SamplingParams {
    SamplingParams { temperature: 0.0, max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

/// Everything that one request gave.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    token_ids: Vec<u32>,
    end: Result<FinishReason, RequestError>,
}

impl Answer {
    fn ended(text: &str, reason: FinishReason) -> Self {
        Self { text: text.into(), token_ids: Vec::new(), end: Ok(reason) }
    }

    fn without_tokens(mut self) -> Self {
        self.token_ids.clear();
        self
    }
}

fn read(mut stream: ResponseStream) -> Answer {
    let (mut text, mut token_ids, mut reason) = (String::new(), Vec::new(), None);
    let end = loop {
        match stream.blocking_recv().expect("a last message") {
            Output::PromptLogprobs(_) | Output::Embedding(_) => {}
            Output::Delta(delta) => {
                text.push_str(&delta.text);
                token_ids.extend(delta.token_ids);
                reason = delta.end.map(|end| end.reason).or(reason);
            }
            Output::Finished(usage) => {
                assert_eq!(usage.completion_tokens, token_ids.len());
                assert!(usage.queue_time <= usage.time_to_first_token);
                assert!(usage.time_to_first_token <= usage.total_time);
                break Ok(reason.expect("a choice ends before its request"));
            }
            Output::Failed(error) => break Err(error),
        }
    };
    assert!(stream.blocking_recv().is_none(), "nothing follows the last message");
    Answer { text, token_ids, end }
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    for _ in 0..5000 {
        if is_true() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}");
}

fn is_empty(engine: &EngineHandle) -> bool {
    let stats = engine.stats();
    engine.num_unfinished() == 0
        && stats.num_kv_blocks_used + stats.num_requests_running + stats.num_requests_waiting == 0
}

/// Requests of all kinds: lengths, greedy and seeded.
fn many_requests() -> Vec<Request> {
    (0..24_u32)
        .map(|idx| {
            let prompt: Vec<u32> = (0..=idx * 7 % 40).map(|i| 32 + (i * 5 + idx) % 90).collect();
            let sampled = SamplingParams {
                seed: Some(u64::from(idx)),
                max_tokens: Some(5 + u64::from(idx * 11 % 30)),
                top_k: (idx % 4 == 1).then_some(20),
                top_p: if idx % 3 == 1 { 0.8 } else { 1.0 },
                ..SamplingParams::default()
            };
            let temperature = if idx % 2 == 0 { 0.0 } else { 0.9 };
            request(&prompt, SamplingParams { temperature, ..sampled })
        })
        .collect()
}

#[test]
fn greedy_output_is_what_the_model_says() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    for prompt in [&[65_u32][..], &[72, 101, 108, 108, 111], &[40; 60]] {
        let answer = read(engine.submit(request(prompt, greedy_params(1000))).unwrap());
        assert_eq!(answer.token_ids, greedy(&Script::Hash, prompt, 64 - prompt.len()));
        assert!(matches!(answer.end, Ok(FinishReason::Length | FinishReason::Stop)));
    }
    assert!(is_empty(&engine));
}

#[test]
fn load_preemption_chunks_and_padding_change_no_answer() {
    let alone: Vec<Answer> = {
        let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
        many_requests().into_iter().map(|r| read(engine.submit(r).unwrap())).collect()
    };
    for (request, answer) in many_requests().iter().zip(&alone) {
        if request.params.temperature <= 0.0 {
            let max_tokens = request.params.max_tokens.unwrap() as usize;
            let max_tokens = max_tokens.min(64 - request.prompt_token_ids.len());
            let expected = greedy(&Script::Hash, &request.prompt_token_ids, max_tokens);
            assert_eq!(answer.token_ids, expected);
        }
    }
    let (mut num_preemptions, mut padded_tokens, mut num_more_launches) = (0, 0, 0);
    for (max_num_seqs, max_num_batched_tokens, block_size, num_blocks) in
        [(8, 32, 4, 64), (24, 64, 4, 17), (5, 7, 3, 22), (1, 1, 64, 1), (24, 3, 1, 70)]
    {
        for capabilities in [DYNAMIC, STATIC, SEPARATE] {
            let options = EngineOptions {
                max_num_seqs,
                max_num_batched_tokens,
                block_size,
                num_blocks,
                ..options()
            };
            let (engine, control) = engine(&capabilities, &Script::Hash, &options);
            let streams: Vec<ResponseStream> =
                many_requests().into_iter().map(|r| engine.submit(r).unwrap()).collect();
            for (idx, (stream, expected)) in streams.into_iter().zip(&alone).enumerate() {
                assert_eq!(&read(stream), expected, "request {idx}, {options:?}");
            }
            assert!(is_empty(&engine), "{options:?}");
            let stats = engine.stats();
            num_preemptions += stats.num_preemptions;
            padded_tokens += stats.padded_tokens;
            num_more_launches += stats.num_launches - stats.num_steps;
            let prompts: u64 =
                many_requests().iter().map(|r| r.prompt_token_ids.len() as u64).sum();
            assert_eq!(stats.prompt_tokens, prompts, "recomputed tokens are not counted twice");
            let generated: usize = alone.iter().map(|answer| answer.token_ids.len()).sum();
            assert_eq!(stats.generation_tokens, generated as u64);
            assert!(!capabilities.dynamic_shapes || stats.padded_tokens == 0);
            let num_top_rows = control.num_top_rows.load(Ordering::SeqCst);
            if capabilities == SEPARATE {
                assert!(stats.num_launches >= stats.num_steps && num_top_rows > 0);
            } else {
                assert_eq!((stats.num_launches, num_top_rows), (stats.num_steps, 0));
            }
        }
    }
    assert!(num_preemptions > 10 && padded_tokens > 10, "{num_preemptions} {padded_tokens}");
    assert!(num_more_launches > 10, "no step held decodes and prefills: {num_more_launches}");
}

#[test]
fn special_tokens_are_shown_where_that_is_asked_for_and_the_end_never_is() {
    let script = Script::Text(vec![b'a', SPECIAL as u8, b'b']);
    let (engine, _) = engine(&DYNAMIC, &script, &options());
    let text = |skip_special_tokens, include_stop_str_in_output, stop_token_ids| {
        let params = SamplingParams {
            include_stop_str_in_output,
            skip_special_tokens,
            stop_token_ids,
            ..greedy_params(10)
        };
        read(engine.submit(request(&[65], params)).unwrap()).text
    };
    assert_eq!(text(true, false, vec![]), "ab");
    assert_eq!(text(false, false, vec![]), "a\u{2}b");
    assert_eq!(text(false, true, vec![]), "a\u{2}b");
    assert_eq!(text(false, true, vec![SPECIAL]), "a\u{2}");
    assert_eq!(text(false, false, vec![SPECIAL]), "a");
}

#[test]
fn a_request_without_a_seed_gets_a_new_one_each_time() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    let params = SamplingParams { max_tokens: Some(30), ignore_eos: true, ..Default::default() };
    let answer = || read(engine.submit(request(&[65], params.clone())).unwrap()).token_ids;
    assert_ne!(answer(), answer());
}

#[test]
fn a_reader_that_goes_away_returns_its_blocks_within_one_step() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    let gate = control.gate();
    let params = SamplingParams { ignore_eos: true, ..greedy_params(60) };
    let stays = engine.submit(request(&[65], params.clone())).unwrap();
    let mut leaves = engine.submit(request(&[66], params.clone())).unwrap();
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    // The second request has a token, so both run, and a step hangs in the gate or soon will.
    assert!(leaves.blocking_recv().is_some());
    assert_eq!(engine.stats().num_requests_running, 2);
    drop(leaves);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    wait_until("one request less", || engine.num_unfinished() == 1);
    wait_until("its block is free", || engine.stats().num_kv_blocks_used <= 2);
    assert!(engine.stats().num_steps <= 4);
    drop(gate);
    assert_eq!(read(stays).end, Ok(FinishReason::Length));
    assert!(is_empty(&engine));
}

#[test]
fn a_request_that_waits_can_be_cancelled_too() {
    let options = EngineOptions { max_num_seqs: 1, ..options() };
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options);
    let gate = control.gate();
    let runs = engine.submit(request(&[65], greedy_params(20))).unwrap();
    drop(engine.submit(request(&[66], greedy_params(20))).unwrap());
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    wait_until("the waiting one is gone", || engine.num_unfinished() == 1);
    drop(gate);
    assert!(read(runs).end.is_ok());
}

#[test]
fn a_reader_that_does_not_read_stops_nobody_and_loses_nothing() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    let params = SamplingParams { ignore_eos: true, ..greedy_params(60) };
    let slow = engine.submit(request(&[65], params.clone())).unwrap();
    let fast = engine.submit(request(&[65], params)).unwrap();
    let fast = read(fast);
    wait_until("the slow one has ended as well", || is_empty(&engine));
    assert_eq!(read(slow), fast);
    assert_eq!(fast.token_ids.len(), 60);
}

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    control.fails.store(true, Ordering::SeqCst);
    let answer = read(engine.submit(request(&[65], greedy_params(5))).unwrap());
    assert_eq!(answer.end.unwrap_err().to_string(), "the step failed: the device is on fire");
    assert!(is_empty(&engine));
    control.fails.store(false, Ordering::SeqCst);
    let answer = read(engine.submit(request(&[65], greedy_params(5))).unwrap());
    assert_eq!(answer.token_ids, greedy(&Script::Hash, &[65], 5));
}

#[test]
fn logits_that_are_no_numbers_fail_their_own_request_only() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    let gate = control.gate();
    let good = engine.submit(request(&[65, 66], greedy_params(20))).unwrap();
    let bad = engine.submit(request(&[65, POISON], greedy_params(20))).unwrap();
    drop(gate);
    assert_eq!(
        read(bad).end.unwrap_err().to_string(),
        "the model produced logits that are not finite numbers: NaN for token 7"
    );
    assert_eq!(read(good).token_ids, greedy(&Script::Hash, &[65, 66], 20));
    assert!(is_empty(&engine));
}

#[test]
fn a_panic_fails_everyone_and_the_engine_says_that_it_is_not_healthy() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    let gate = control.gate();
    let streams: Vec<_> =
        (0..12).map(|_| engine.submit(request(&[65], greedy_params(20))).unwrap()).collect();
    assert!(engine.is_healthy());
    control.panics.store(true, Ordering::SeqCst);
    drop(gate);
    for stream in streams {
        assert_eq!(read(stream).end, Err(RequestError::Stopped));
        assert!(!engine.is_healthy(), "whoever is told finds an engine that says so");
        assert_eq!(engine.death(), Some(Death::of_panic()));
    }
    assert_eq!(engine.num_unfinished(), 0);
    let refused = engine.submit(request(&[65], greedy_params(1)));
    assert_eq!(refused.unwrap_err(), SubmitError::Stopped);
    engine.shutdown();
}

#[test]
fn shutdown_tells_everyone_and_may_be_called_again() {
    let options = EngineOptions { max_num_seqs: 2, ..options() };
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options);
    let gate = control.gate();
    let streams: Vec<_> =
        (0..5).map(|_| engine.submit(request(&[65], greedy_params(50))).unwrap()).collect();
    gate.send(()).unwrap();
    let stopping = {
        let engine = engine.clone();
        thread::spawn(move || engine.shutdown())
    };
    wait_until("the engine is stopping", || {
        matches!(engine.submit(request(&[65], greedy_params(1))), Err(SubmitError::Stopped))
    });
    drop(gate);
    engine.shutdown();
    stopping.join().unwrap();
    engine.shutdown();
    assert!(!engine.is_healthy());
    for stream in streams {
        assert_eq!(read(stream).end, Err(RequestError::Stopped));
    }
    assert_eq!(engine.num_unfinished(), 0);
}

#[test]
fn an_idle_engine_can_be_shut_down() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    engine.shutdown();
    assert!(!engine.is_healthy());
}

#[test]
fn draining_refuses_new_requests_and_finishes_old_ones() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    let gate = control.gate();
    let stream = engine.submit(request(&[65], greedy_params(10))).unwrap();
    engine.begin_drain();
    let refused = engine.submit(request(&[65], greedy_params(1)));
    assert_eq!(refused.unwrap_err(), SubmitError::Draining);
    assert_eq!(engine.num_unfinished(), 1);
    drop(gate);
    assert_eq!(read(stream).token_ids, greedy(&Script::Hash, &[65], 10));
    assert_eq!(engine.num_unfinished(), 0);
    assert!(engine.is_healthy());
}

#[test]
fn the_last_handle_lets_the_engine_finish_and_go() {
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options());
    let gate = control.gate();
    let stream = engine.submit(request(&[65], greedy_params(10))).unwrap();
    drop(engine);
    drop(gate);
    assert_eq!(read(stream).token_ids, greedy(&Script::Hash, &[65], 10));
    // The engine's own share of the model goes with its thread.
    wait_until("the thread is gone", || std::sync::Arc::strong_count(&control) == 1);
}

#[test]
fn one_request_more_than_the_queue_holds_is_refused() {
    let options = EngineOptions { max_num_seqs: 2, max_num_queued_reqs: 3, ..options() };
    let (engine, control) = engine(&DYNAMIC, &Script::Hash, &options);
    let gate = control.gate();
    let submit = || engine.submit(request(&[65], greedy_params(4)));
    // Many callers at once: exactly as many get in as there is room for.
    let streams: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..20).map(|_| scope.spawn(submit)).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let (taken, refused): (Vec<_>, Vec<_>) = streams.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), engine.num_unfinished()), (5, 5));
    for refusal in refused {
        assert!(
            matches!(refusal, Err(SubmitError::Overloaded { num_requests: 5, .. })),
            "{refusal:?}"
        );
    }
    drop(gate);
    for stream in taken {
        assert!(read(stream.unwrap()).end.is_ok());
        // Its place is free before its last message is sent.
        drop(submit().unwrap());
    }
}

#[test]
fn requests_that_can_never_be_served_are_refused() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    let refusal = |prompt: &[u32], params| engine.submit(request(prompt, params)).unwrap_err();
    assert_eq!(
        refusal(&[], greedy_params(1)).to_string(),
        "invalid prompt: expected at least one token, got none"
    );
    assert_eq!(
        refusal(&[65, 256], greedy_params(1)).to_string(),
        "invalid prompt: expected token ids below 256, got 256 at 1"
    );
    assert_eq!(
        refusal(&[65; 64], greedy_params(1)),
        SubmitError::PromptTooLong { prompt_tokens: 64, max_model_len: 64 }
    );
    let nan = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
    assert!(matches!(refusal(&[65], nan), SubmitError::Invalid(_)));
    assert_eq!(engine.num_unfinished(), 0);
    assert_eq!(engine.stats().num_steps, 0);
}

/// What a model that writes `text` is heard to say.
fn say(text: &str, params: SamplingParams) -> Answer {
    let (engine, _) = engine(&DYNAMIC, &Script::Text(text.as_bytes().to_vec()), &options());
    read(engine.submit(request(&[65], params)).unwrap())
}

#[test]
fn text_ends_before_a_stop_string() {
    let params = |stop: &[&str]| SamplingParams {
        stop: stop.iter().map(ToString::to_string).collect(),
        ..greedy_params(40)
    };
    let stop = FinishReason::Stop;
    let heard = |text, stop: &[&str]| say(text, params(stop)).without_tokens();
    assert_eq!(heard("one</s>two", &["</s>"]), Answer::ended("one", stop));
    assert_eq!(heard("one</b>two", &["</s>"]), Answer::ended("one</b>two", stop));
    assert_eq!(heard("né中é!", &["中"]), Answer::ended("né", stop));
    assert_eq!(heard("abc</", &["</s>"]), Answer::ended("abc</", stop));
    let answer = say("one</s>two", params(&["</s>"]));
    assert_eq!(answer.token_ids.len(), 7, "the tokens of the stop string were generated");
}

#[test]
fn stop_tokens_end_the_text_and_are_not_part_of_it() {
    let params = SamplingParams { stop_token_ids: vec![b'x'.into()], ..greedy_params(40) };
    let answer = say("abxcd", params);
    assert_eq!(answer.token_ids, [97, 98, 120]);
    assert_eq!(answer.without_tokens(), Answer::ended("ab", FinishReason::Stop));
    let answer = say("ab", greedy_params(40));
    assert_eq!((answer.text.as_str(), answer.token_ids.last()), ("ab", Some(&EOS)));
}

#[test]
fn the_end_of_text_token_may_be_ignored() {
    let answer = say("ab", SamplingParams { ignore_eos: true, ..greedy_params(6) });
    assert_eq!(answer.token_ids, [97, 98, 0, 0, 0, 0]);
    assert_eq!(answer.end, Ok(FinishReason::Length));
}

#[test]
fn text_ends_at_max_tokens_or_with_the_context() {
    let text = "x".repeat(100);
    let (length, forever) =
        (FinishReason::Length, SamplingParams { max_tokens: None, ..greedy_params(1) });
    assert_eq!(say(&text, greedy_params(7)).without_tokens(), Answer::ended("xxxxxxx", length));
    assert_eq!(say(&text, forever).text.len(), 63);
    assert_eq!(say(&text, greedy_params(u64::MAX)).text.len(), 63);
}

#[test]
fn deltas_never_cut_a_character_and_the_rest_comes_at_the_end() {
    let (engine, _) = engine(&DYNAMIC, &Script::Text("a中🙂".as_bytes().to_vec()), &options());
    let mut stream = engine.submit(request(&[65], greedy_params(6))).unwrap();
    let mut text = String::new();
    while let Some(output) = stream.blocking_recv() {
        if let Output::Delta(ChoiceDelta { text: more, .. }) = output {
            text.push_str(&more);
        }
    }
    // Two bytes of the last character were generated: they show as one replacement at the end.
    assert!(text.starts_with("a中") && !text.contains('🙂'), "{text}");
    assert_eq!(text.trim_end_matches('\u{fffd}'), "a中");
}

#[test]
fn graphs_are_counted_for_whoever_loads_them() {
    let (engine, _) = engine(&DYNAMIC, &Script::Hash, &options());
    engine.count_graphs(2, 3);
    let stats = engine.stats();
    assert_eq!((stats.graphs_compiled, stats.graphs_from_cache), (2, 3));
    assert_eq!((stats.num_kv_blocks, stats.compiles_after_ready), (64, 0));
    engine.count_late_compile();
    assert_eq!(engine.stats().compiles_after_ready, 1);
}

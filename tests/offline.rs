//! The engine as a library, with a tiny model.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/deployment.rs"]
mod deployment;

use cairn::engine::FinishReason;
use cairn::offline::Error;
use cairn::{ChatMessage, Engine, EngineBuilder, SamplingParams};
use deployment::Deployment;
use deployment::model::CONTEXT;

fn builder(deployment: &Deployment) -> EngineBuilder {
    Engine::builder(deployment.path("model")).cache_dir(deployment.path("graphs"))
}

fn greedy(max_tokens: u64) -> SamplingParams {
    SamplingParams { temperature: 0.0, max_tokens: Some(max_tokens), ..SamplingParams::default() }
}

#[test]
fn what_the_library_makes_is_what_the_command_line_makes() {
    let deployment = Deployment::new();
    let engine = builder(&deployment).build().unwrap();
    let generate = |prompt: &str, raw: &[&str]| {
        let args = ["generate", "model", "--prompt", prompt, "--max-tokens", "8"];
        deployment.run(&[&args[..], raw].concat()).stdout
    };
    let prompts = ["hello", "bye", "é"];
    let completions = engine.generate(&prompts, &greedy(8)).unwrap();
    assert_eq!(completions.len(), prompts.len());
    for (prompt, completion) in prompts.iter().zip(&completions) {
        assert_eq!(format!("{}\n", completion.text()), generate(prompt, &["--raw"]));
        let [choice] = &completion.choices[..] else { panic!("{completion:?}") };
        assert_eq!((choice.token_ids.len(), choice.finish_reason), (8, FinishReason::Length));
        assert_eq!(engine.detokenize(&choice.token_ids).unwrap(), choice.text);
        assert_eq!(completion.usage.completion_tokens, 8);
        assert_eq!(completion.prompt_token_ids, engine.tokenize(prompt).unwrap());
    }
    let tokens: Vec<Vec<u32>> = prompts.iter().map(|text| engine.tokenize(text).unwrap()).collect();
    let again = engine.generate_tokens(&tokens, &greedy(8)).unwrap();
    assert!(again.iter().zip(&completions).all(|(a, b)| a.choices == b.choices));

    let answer = engine.chat(&[ChatMessage::new("user", "hello")], &greedy(8)).unwrap();
    assert_eq!(format!("{}\n", answer.text()), generate("hello", &[]));
    assert_eq!(engine.max_model_len(), CONTEXT);
    assert_eq!((engine.report().graphs_compiled, engine.report().graphs_from_cache), (1, 0));
}

#[test]
fn a_stream_is_the_same_text_in_pieces() {
    let deployment = Deployment::new();
    let engine = builder(&deployment).build().unwrap();
    let whole = engine.generate(&["hello"], &greedy(24)).unwrap().remove(0);
    let mut stream = engine.stream("hello", &greedy(24)).unwrap();
    let (mut text, mut token_ids, mut num_ends) = (String::new(), Vec::new(), 0);
    for delta in stream.by_ref() {
        let delta = delta.unwrap();
        assert_eq!((delta.index, num_ends), (0, 0));
        text.push_str(&delta.text);
        token_ids.extend(delta.token_ids);
        num_ends += usize::from(delta.end.is_some());
    }
    assert_eq!(
        (text.as_str(), &token_ids, num_ends),
        (whole.text(), &whole.choices[0].token_ids, 1)
    );
    assert_eq!(stream.usage().unwrap().completion_tokens, 24);
    assert!(stream.next().is_none());

    // One that is dropped ends, and so gives its place back.
    drop(engine.stream_chat(&[ChatMessage::new("user", "a")], &greedy(1000)).unwrap());
    let start = std::time::Instant::now();
    while engine.handle().num_unfinished() > 0 {
        assert!(start.elapsed().as_secs() < 30, "it goes on");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn more_prompts_than_the_queue_holds_are_all_continued() {
    let deployment = Deployment::new();
    let engine =
        builder(&deployment).max_num_seqs(2).max_num_queued_reqs(1).threads(1).build().unwrap();
    let prompts: Vec<String> = (0..20).map(|i| format!("prompt {i}")).collect();
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| engine.generate(&[prompt], &greedy(4)).unwrap().remove(0).choices)
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let together = engine.generate(&prompts, &greedy(4)).unwrap();
                assert!(together.iter().map(|completion| &completion.choices).eq(&alone));
            });
        }
    });
}

#[test]
fn what_cannot_be_is_an_error_that_says_where() {
    let deployment = Deployment::new();
    let missing = Engine::builder(deployment.path("missing")).build().unwrap_err();
    assert!(matches!(&missing, Error::Start { .. }) && missing.hint().is_some(), "{missing:?}");
    let too_long = builder(&deployment).max_model_len(CONTEXT + 1).build().unwrap_err();
    assert!(too_long.hint().unwrap().contains("trained"), "{too_long:?}");

    let engine = builder(&deployment).max_model_len(32).build().unwrap();
    let long = "x".repeat(32);
    let error = engine.generate(&["a", &long, "b"], &greedy(4)).unwrap_err();
    assert!(matches!(error, Error::Refused { prompt: 1, .. }), "{error:?}");
    let wrong = SamplingParams { top_p: 2.0, ..greedy(4) };
    assert!(matches!(engine.stream("a", &wrong).unwrap_err(), Error::Refused { .. }));
    assert_eq!(engine.generate::<&str>(&[], &greedy(4)).unwrap(), []);

    engine.handle().shutdown();
    assert!(matches!(engine.generate(&["a"], &greedy(4)), Err(Error::Refused { .. })));
}

//! `generate`, `bench`, `inspect` and `warmup` from outside, with a tiny model: what goes to which
//! stream, and what becomes of models and prompts that are none.
//!
//! The weights are random, so the text makes no sense; but it is the same each time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

#[path = "common/deployment.rs"]
mod deployment;
#[path = "generate/models.rs"]
mod models;

use std::io::Read;
use std::process::Stdio;

use deployment::model::CONTEXT;
use deployment::{Deployment, finish, skip};
use serde_json::{Value, json};

/// `generate`, a prompt and more arguments.
fn generate<'a>(prompt: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["generate", "model", "--prompt", prompt], more].concat()
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0 && number.is_finite())
}

#[test]
fn the_text_goes_to_stdout_and_one_line_to_stderr() {
    let deployment = Deployment::new();
    let ended = deployment.run(&generate("hello", &["--max-tokens", "8"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.len() > 1 && ended.stdout.ends_with('\n'), "{ended:?}");
    assert!(!ended.stdout.contains("hello"), "the prompt is no output: {ended:?}");
    assert_eq!(ended.stderr, format!("{}\n", ended.summary()));
    let (tokens, rest) = ended.summary().split_once(", first after ").unwrap();
    let (_, rest) = rest.split_once(" s, ").unwrap();
    let (_, graphs) = rest.split_once(" tokens/s; ").unwrap();
    assert_eq!((tokens, graphs), ("8 tokens", "graphs: 1 compiled, 0 from cache"));
    let again = deployment.run(&generate("hello", &["--max-tokens", "8"]));
    assert_eq!((again.stdout.as_str(), again.graphs()), (ended.stdout.as_str(), [0, 1]));
}

#[test]
fn json_holds_the_same_text_and_the_counts() {
    let deployment = Deployment::new();
    let text = deployment.run(&generate("hello", &["--max-tokens", "8"])).stdout;
    let ended = deployment.run(&generate("hello", &["--max-tokens", "8", "--json"]));
    assert_eq!(ended.graphs(), [0, 1]);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(format!("{}\n", json["text"].as_str().unwrap()), text);
    assert_eq!(json["model"], "model");
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 8);
    assert_eq!(json["finish_reason"], "length");
    // A token is a byte, and the template is `<user>hello\n<assistant>`.
    let usage = json!({"prompt_tokens": 23, "completion_tokens": 8, "total_tokens": 31,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(json["usage"], usage);
    assert_eq!(json["graphs"], json!({"compiled": 0, "from_cache": 1}));
    let timings = &json["timings"];
    for name in ["time_to_first_token_seconds", "total_seconds", "tokens_per_second"] {
        assert!(is_positive(&timings[name]), "{name}: {timings}");
    }
    let phases = timings["startup_seconds"].as_object().unwrap();
    assert!(!phases.is_empty() && phases.values().all(Value::is_f64), "{phases:?}");
}

#[test]
fn the_template_is_applied_unless_raw() {
    let deployment = Deployment::new();
    let prompt_tokens = |more: &[&str]| {
        let more = [&["--max-tokens", "1", "--json"], more].concat();
        deployment.json(&generate("hello", &more))["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(prompt_tokens(&["--raw"]), "hello".len() as u64);
    assert_eq!(prompt_tokens(&[]), "<user>hello\n<assistant>".len() as u64);
    let with_system = "<system>be brief\n<user>hello\n<assistant>";
    assert_eq!(prompt_tokens(&["--system", "be brief"]), with_system.len() as u64);

    // A model without a template gets the prompt as it is.
    std::fs::write(deployment.path("model/tokenizer_config.json"), "{}").unwrap();
    assert_eq!(prompt_tokens(&[]), "hello".len() as u64);
    let refused = deployment.failure(&generate("hello", &["--system", "be brief"]));
    assert!(refused.contains("the model has no chat template"), "{refused}");
}

#[test]
fn a_dash_reads_the_prompt_from_stdin_without_its_last_line_break() {
    let deployment = Deployment::new();
    let prompt = "two\nlines: é 🦀";
    let expected = deployment.run(&generate(prompt, &["--max-tokens", "8"])).stdout;
    for end in ["", "\n"] {
        let mut command = deployment.command(&generate("-", &["--max-tokens", "8"]));
        let ended = finish(command.write_stdin(format!("{prompt}{end}")));
        assert_eq!((ended.code, &ended.stdout), (0, &expected), "{ended:?}");
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let deployment = Deployment::new();
    let whole = deployment.json(&generate("hello", &["--max-tokens", "40", "--json"]));
    let whole = whole["text"].as_str().unwrap();
    let is_new = |(at, c): &(usize, char)| c.is_ascii_graphic() && !whole[..*at].contains(*c);
    let (at, stop) = whole.char_indices().skip(3).find(is_new).unwrap();
    let stop = stop.to_string();
    let more = ["--max-tokens", "40", "--stop", "never in there", "--stop", &stop];
    let ended = deployment.run(&generate("hello", &more));
    assert_eq!(ended.stdout, format!("{}\n", &whole[..at]));
    let json = deployment.json(&generate("hello", &[&more[..], &["--json"]].concat()));
    assert_eq!((&json["finish_reason"], &json["text"]), (&json!("stop"), &json!(whole[..at])));
}

#[test]
fn several_texts_come_one_after_the_other_and_all_in_json() {
    let deployment = Deployment::new();
    let more = ["--n", "2", "--temperature", "1", "--seed", "3", "--max-tokens", "8"];
    let json =
        deployment.json(&generate("hello", &[&more[..], &["--json", "--logprobs", "2"]].concat()));
    let choices = json["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &json["usage"]["completion_tokens"]), (2, &json!(16)));
    let [one, two] = [0, 1].map(|choice: usize| choices[choice]["text"].as_str().unwrap());
    assert_ne!(one, two);
    assert_eq!(json["text"], *one);
    for choice in choices {
        let logprobs = choice["logprobs"].as_array().unwrap();
        assert_eq!(logprobs.len(), 8);
        assert_eq!(logprobs[0]["token_id"], choice["token_ids"][0]);
        assert_eq!(logprobs[0]["top"].as_array().unwrap().len(), 2);
    }
    let ended = deployment.run(&generate("hello", &more));
    assert_eq!(ended.stdout, format!("--- 1 of 2 ---\n{one}\n--- 2 of 2 ---\n{two}\n"));
}

#[test]
fn beams_and_penalties_are_flags() {
    let deployment = Deployment::new();
    let text = |more: &[&str]| {
        deployment.run(&generate("hello", &[&["--max-tokens", "24"], more].concat())).stdout
    };
    let beams = text(&["--beam-width", "3", "--n", "2", "--length-penalty", "0.5"]);
    assert!(beams.contains("--- 2 of 2 ---"), "{beams}");
    assert_ne!(text(&[]), text(&["--repetition-penalty", "5", "--frequency-penalty", "2"]));
    let too_many = deployment.run(&generate("hello", &["--beam-width", "2", "--n", "3"]));
    assert_eq!(too_many.code, 2, "{too_many:?}");
    assert!(too_many.stderr.contains("at most the beam width"), "{too_many:?}");
}

#[test]
fn guessing_ahead_changes_no_text() {
    let deployment = Deployment::new();
    let more = ["--max-tokens", "60", "--ignore-eos", "--temperature", "0.5", "--seed", "1"];
    let plain = deployment.run(&generate("hello hello hello", &more)).stdout;
    let guessing = ["--speculative-method", "ngram", "--prompt-lookup-min", "1"];
    let guessed = deployment.run(&generate("hello hello hello", &[&more[..], &guessing].concat()));
    assert_eq!((guessed.code, guessed.stdout), (0, plain));
}

#[test]
fn rounding_has_graphs_of_its_own_and_is_repeatable() {
    let deployment = Deployment::new();
    for flags in [&[][..], &["--dtype", "bf16"], &["--quantization", "int8"]] {
        let flags = [&["--max-tokens", "8"], flags].concat();
        let first = deployment.run(&generate("hello", &flags));
        assert_eq!((first.code, first.graphs()), (0, [1, 0]), "{flags:?} {first:?}");
        let again = deployment.run(&generate("hello", &[&flags[..], &["--threads", "3"]].concat()));
        assert_eq!((again.graphs(), again.stdout), ([0, 1], first.stdout), "{flags:?}");
    }
}

#[test]
fn quantization_is_refused_where_it_does_not_exist() {
    let deployment = Deployment::new();
    let flags = ["--quantization", "int8", "--backend", "ascend"];
    let ended = deployment.run(&generate("hello", &flags));
    assert_eq!(ended.code, 1, "{ended:?}");
    for part in
        ["ascend backend does not support quantization int8", "hint: leave `--quantization`"]
    {
        assert!(ended.stderr.contains(part), "{ended:?}");
    }
}

#[test]
fn startup_is_measured_as_a_table() {
    let deployment = Deployment::new();
    let ended = deployment.run(&["bench", "startup", "--runs", "1", "--", "model"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for name in ["graphs from the cache, ms", "graphs compiled, ms"] {
        assert!(ended.stdout.contains(name), "{ended:?}");
    }
    let failed = deployment.run(&["bench", "startup", "--", "nothing-here"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("`cairn generate` failed"), "{failed:?}");
}

#[test]
fn a_seed_makes_sampling_repeatable() {
    let deployment = Deployment::new();
    let text = |seed: &[&str]| {
        let sampling = ["--temperature", "1", "--max-tokens", "24"];
        let ended = deployment.run(&generate("hello", &[&sampling, seed].concat()));
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    };
    let first = text(&["--seed", "7"]);
    assert_eq!(first, text(&["--seed", "7"]));
    assert_eq!(first, text(&["--seed", "7", "--threads", "1", "--max-num-batched-tokens", "5"]));
    assert_ne!(first, text(&["--seed", "8"]));
    assert_ne!(text(&[]), text(&[]), "without a seed, the text is another each time");
    // Of one candidate, sampling takes that one.
    let greedy = deployment.run(&generate("hello", &["--max-tokens", "24"])).stdout;
    assert_eq!(text(&["--top-k", "1"]), greedy);
    assert_eq!(text(&["--top-p", "0.000001"]), greedy);
    assert_eq!(text(&["--min-p", "1"]), greedy);
}

#[test]
fn a_prompt_must_leave_room_in_the_context() {
    let deployment = Deployment::new();
    let full = "a".repeat(CONTEXT);
    let error = deployment.failure(&generate(&full, &["--raw"]));
    let begin = format!("error: the prompt has {CONTEXT} tokens, but the context holds {CONTEXT}");
    assert!(error.starts_with(&begin) && error.contains("hint: shorten the prompt"), "{error}");

    // One token fits, whatever was asked for.
    let json = deployment.json(&generate(&full[1..], &["--raw", "--json"]));
    assert_eq!(json["usage"]["completion_tokens"], 1);
    assert_eq!(json["finish_reason"], "length");

    let error = deployment.failure(&generate("hello", &["--max-model-len", "16"]));
    assert!(
        error.starts_with("error: the prompt has 23 tokens, but the context holds 16"),
        "{error}"
    );
    let beyond = (CONTEXT + 1).to_string();
    let error = deployment.failure(&generate("hello", &["--max-model-len", &beyond]));
    assert!(error.contains(&format!("the model's context is {CONTEXT}")), "{error}");
}

#[test]
fn an_empty_prompt_is_refused() {
    let error = Deployment::new().failure(&generate("", &["--raw"]));
    assert_eq!(error, "error: invalid prompt: expected at least one token, got none\n");
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_not_utf_8_is_wrong_usage() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let deployment = Deployment::new();
    let mut command = deployment.command(&["generate", "model", "--prompt"]);
    let ended = finish(command.arg(OsStr::from_bytes(b"caf\xe9")));
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert!(ended.stderr.starts_with("error: invalid UTF-8"), "{ended:?}");
}

#[test]
fn a_reader_that_leaves_ends_the_text_quietly() {
    let deployment = Deployment::new();
    let mut child = deployment
        .process(&generate("hello", &["--max-tokens", "2000"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Much of the text is still to come: what was read is there as soon as it is made.
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_stdout_that_takes_nothing_is_a_failure() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return skip("a_stdout_that_takes_nothing_is_a_failure", "there is no /dev/full");
    };
    let deployment = Deployment::new();
    let child = deployment
        .process(&generate("hello", &["--max-tokens", "8"]))
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: writing to stdout: "), "{stderr}");
}

#[test]
fn the_null_backend_runs_the_same_way() {
    let deployment = Deployment::new();
    let more = ["--backend", "null", "--max-tokens", "8", "--json"];
    let json = deployment.json(&generate("hello", &more));
    assert_eq!(json["usage"]["completion_tokens"], 8);
}

#[test]
fn latency_is_measured_as_a_table_and_as_json() {
    let deployment = Deployment::new();
    let sizes = ["--input-len", "8", "--output-len", "4", "--runs", "3", "--warmup", "1"];
    let args = [&["bench", "latency", "model"], &sizes[..]].concat();
    let json = deployment.json(&[&args[..], &["--json"]].concat());
    for name in
        ["prefill_tokens_per_second", "decode_tokens_per_second", "time_to_first_token_seconds"]
    {
        let result = &json["results"][name];
        assert_eq!(result["samples"].as_array().unwrap().len(), 3, "{name}: {result}");
        let [min, median, max] = ["min", "median", "max"].map(|key| result[key].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{name}: {result}");
    }
    let settings = &json["settings"];
    for (name, expected) in [("input_len", 8), ("output_len", 4), ("runs", 3), ("warmup", 1)] {
        assert_eq!(settings[name], expected, "{name}: {settings}");
    }
    assert_eq!(
        (&json["model"], &json["architecture"]),
        (&json!("model"), &json!("LlamaForCausalLM"))
    );
    assert!(is_positive(&json["machine"]["cores"]), "{json}");
    assert!(json["build"]["version"].is_string() && json["build"]["git_revision"].is_string());

    let ended = deployment.run(&args);
    let first_words: Vec<&str> =
        ended.stdout.lines().skip(1).filter_map(|line| line.split([',', ':']).next()).collect();
    let figures = ["prefill", "decode", "time to first token"];
    assert_eq!(first_words, [&figures[..], &["prefill", "decode"]].concat(), "{ended:?}");
    assert!(ended.stdout.contains(" % of the limit of "), "{ended:?}");
    for limit in ["bytes_per_second", "operations_per_second", "decode_tokens_per_second"] {
        assert!(is_positive(&json["limits"][limit]), "{limit}: {json}");
    }

    let error = deployment.failure(&["bench", "latency", "model", "--input-len", "2048"]);
    assert!(error.starts_with("error: `--input-len` is too long"), "{error}");
}

#[test]
fn what_inspect_prints_is_a_graph() {
    let deployment = Deployment::new();
    for more in [&[][..], &["--dtype", "bf16"], &["--static-shapes"]] {
        let ended = deployment.run(&[&["inspect", "model"], more].concat());
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        let graph = cairn::ir::text::parse(&ended.stdout).unwrap();
        let graph = cairn::ir::verify(graph).unwrap();
        assert_eq!(graph.to_string().trim_end(), ended.stdout.trim_end());
    }
    let stats = deployment.run(&["inspect", "model", "--stats"]).stdout;
    assert!(stats.starts_with("op") && stats.contains("parameters"), "{stats}");
    assert!(!deployment.path("cache").exists(), "looking writes nothing");
}

#[test]
fn warmup_reports_every_graph() {
    let deployment = Deployment::new();
    for (state, compiled, from_cache) in [("compiled", 1, 0), ("from cache", 0, 1)] {
        let json = deployment.json(&["warmup", "model", "--json"]);
        let counts = [&json["compiled"], &json["from_cache"], &json["missing"]];
        assert_eq!(counts, [&json!(compiled), &json!(from_cache), &json!(0)]);
        let [graph] = &json["graphs"].as_array().unwrap()[..] else { panic!("{json}") };
        assert_eq!(graph["state"], state);
        assert!(graph["bucket"].is_string() && graph["seconds"].is_f64(), "{graph}");
        let key = graph["key"].as_str().unwrap();
        assert!(key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
    }
    let table = deployment.run(&["warmup", "model"]).stdout;
    assert!(table.starts_with("graph ") && table.lines().count() == 2, "{table}");
}

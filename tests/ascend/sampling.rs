//! Choosing tokens on the device: the largest logit and the 64 largest of each row, and what is
//! made of them.

use std::thread;

use serde_json::{Value, json};

use super::checkpoint::poison_row;
use super::client::Server;
use super::deployment::Deployment;
use super::margins::{CLEAR_F16, Oracle};
use super::toolkit::Toolkit;
use super::{at_once, greedy, ids, on, one_by_one, serve, text, tiny};

const ASCEND: [&str; 8] = [
    "--backend",
    "ascend",
    "--max-num-seqs",
    "8",
    "--max-num-batched-tokens",
    "128",
    "--max-model-len",
    "256",
];
/// Seeds to try until one draws what no rounding changes.
const MAX_SEEDS: u64 = 400;

/// A sampled request whose answer stays the same when the logits change a little: all of them in
/// proportion, as by another temperature, or each in its own way, as by weights in f16.
fn clear(cpu: &Server, f16: &Server, fields: &Value) -> (Value, String) {
    let mut fields = fields.clone();
    for seed in 0..MAX_SEEDS {
        fields["seed"] = seed.into();
        let expected = text(cpu, &fields);
        let is_same_at = |scale: f64| {
            let mut changed = fields.clone();
            changed["temperature"] = (fields["temperature"].as_f64().unwrap() * scale).into();
            text(cpu, &changed) == expected
        };
        let is_clear = [0.99, 1.01, 0.97, 1.03].into_iter().all(is_same_at);
        if is_clear && text(f16, &fields) == expected {
            return (fields, expected);
        }
    }
    panic!("no seed below {MAX_SEEDS} is clear with {fields}");
}

#[test]
fn seeded_samples_equal_the_cpu_with_every_filter() {
    let toolkit = Toolkit::new();
    let deployment = tiny("llama", &toolkit, &[]);
    let cpu = serve(&deployment, &[]);
    let f16 = serve(&deployment, &["--dtype", "f16"]);
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    // Up to 64 the device hands out candidates; from 65 on, and without a limit, all logits.
    for (idx, top_k) in [1, 2, 3, 8, 20, 40, 50, 63, 64, 65, -1].into_iter().enumerate() {
        for (top_p, min_p) in [(1.0, 0.0), (0.9, 0.0), (1.0, 0.2), (0.7, 0.05)] {
            let fields = json!({
                "prompt": "a sampled answer".repeat(1 + idx % 3), "max_tokens": 8,
                "temperature": 0.6, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                "ignore_eos": true,
            });
            let (fields, text) = clear(&cpu, &f16, &fields);
            requests.push(fields);
            expected.push(text);
        }
    }
    let mut server = serve(&deployment, &ASCEND);
    // Alone, a step asks the device for what this request needs; together, for what all need.
    let alone = one_by_one(&server, &requests);
    let together = at_once(&server, &requests);
    for (idx, fields) in requests.iter().enumerate() {
        assert_eq!(alone[idx], expected[idx], "alone: {fields}");
        assert_eq!(together[idx], expected[idx], "together: {fields}");
    }
    server.terminate();
    assert!(server.ended().success());
    toolkit.assert_clean();
}

/// Rows of logits may have more columns than there are tokens. The device's largest may be one of
/// those; no answer ever is.
#[test]
fn columns_without_a_token_are_never_chosen() {
    let toolkit = Toolkit::new();
    // 259 tokens, 320 columns.
    let deployment = on(&toolkit, Deployment::new());
    let mut oracle = Oracle::open(&deployment.path("model"), 64);
    let mut num_checked = 0;
    for _ in 0..40 {
        let prompt = oracle.prompt(6);
        let unlimited = oracle.greedy(&prompt, 1, CLEAR_F16);
        if unlimited.tokens[0] < 259 {
            continue;
        }
        num_checked += 1;
        for sampling in [&["--temperature", "0"][..], &["--temperature", "1", "--top-k", "1"]] {
            let args = ["generate", "model", "--raw", "--json", "--prompt", &prompt];
            let args = [&args[..], &["--max-tokens", "2"], sampling].concat();
            let cpu = ids(&deployment.json(&args));
            let ascend = ids(&deployment.json(&[&args[..], &ASCEND].concat()));
            assert_eq!(ascend, cpu, "after {prompt:?}");
            assert!(cpu.iter().all(|&token| token < 259), "{cpu:?}");
        }
    }
    assert!(num_checked >= 3, "only {num_checked} prompts have such a column first");
}

#[test]
fn logits_that_are_no_numbers_fail_their_own_request_only() {
    const POISON: char = 'Z';
    let toolkit = Toolkit::new();
    let deployment = tiny("llama", &toolkit, &[]);
    let model = deployment.path("model");
    let mut oracle = Oracle::open(&model, 128);
    let good: Vec<Value> = (0..6)
        .map(|idx| {
            loop {
                let prompt = oracle.clear(10 + idx, 12, CLEAR_F16).prompt;
                if !prompt.contains(POISON) {
                    break greedy(&prompt, 12);
                }
            }
        })
        .collect();
    let expected = one_by_one(&serve(&deployment, &[]), &good);
    let embeddings = "model.embed_tokens.weight";
    poison_row(&model, embeddings, POISON as usize + 3);
    // Rows that only fill a graph's size have this token: they reach nobody.
    poison_row(&model, embeddings, 0);

    let mut server = serve(&deployment, &ASCEND);
    let bad: Vec<Value> = [0, 1]
        .into_iter()
        .flat_map(|temperature| {
            [1, 20, -1].map(|top_k| {
                let prompt = format!("before {POISON} after");
                json!({"prompt": prompt, "max_tokens": 8, "temperature": temperature, "top_k": top_k})
            })
        })
        .collect();
    for _ in 0..3 {
        thread::scope(|scope| {
            for fields in &bad {
                let server = &server;
                scope.spawn(move || {
                    let reply = server.complete(fields);
                    assert_eq!(reply.status, 500, "{fields}: {reply:?}");
                    assert_eq!(reply.error()["type"], "server_error");
                });
            }
            assert_eq!(at_once(&server, &good), expected);
        });
    }
    server.terminate();
    assert!(server.ended().success());
    let prompt = POISON.to_string();
    let generate = ["generate", "model", "--raw", "--prompt", &prompt];
    let error = deployment.failure(&[&generate[..], &ASCEND].concat());
    assert!(error.contains("logits that are not finite numbers: NaN"), "{error}");
    toolkit.assert_clean();
}

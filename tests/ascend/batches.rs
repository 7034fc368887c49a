//! Many sequences at once: whatever a sequence shares its steps with, its tokens are the same.

use serde_json::Value;

use super::checkpoint::write_wide_heads;
use super::deployment::Deployment;
use super::margins::{CLEAR_BF16, CLEAR_F16, Oracle};
use super::toolkit::Toolkit;
use super::{at_once, greedy, on, one_by_one, serve, texts, tiny};

/// Lengths of prompts and of answers, in tokens.
const SIZES: [(usize, usize); 24] = [
    (1, 120),
    (20, 40),
    (130, 100),
    (300, 40),
    (3, 100),
    (126, 10),
    (380, 100),
    (60, 80),
    (127, 100),
    (128, 60),
    (1, 20),
    (200, 80),
    (90, 120),
    (257, 1),
    (10, 90),
    (340, 50),
    // The crowd.
    (118, CROWD_TOKENS),
    (119, CROWD_TOKENS),
    (120, CROWD_TOKENS),
    (121, CROWD_TOKENS),
    (122, CROWD_TOKENS),
    (123, CROWD_TOKENS),
    (124, CROWD_TOKENS),
    (125, CROWD_TOKENS),
];
/// Eight sequences that begin with a block each and soon want two, of the ten that there are.
const CROWD: usize = 8;
const CROWD_TOKENS: usize = 40;

const ASCEND: [&str; 8] = [
    "--backend",
    "ascend",
    "--max-num-seqs",
    "8",
    "--max-num-batched-tokens",
    "128",
    "--max-model-len",
    "512",
];

/// The answers of a server with room for ten blocks to all requests at once.
fn crowded(deployment: &Deployment, kv_cache_bytes: &str, requests: &[Value]) -> Vec<String> {
    let flags = [&ASCEND[..], &["--kv-cache-bytes", kv_cache_bytes]].concat();
    let mut server = serve(deployment, &flags);
    let answers = at_once(&server, requests);
    // In one request, so that they are there together whatever else the machine does.
    let first = requests.len() - CROWD;
    let mut crowd = requests[first].clone();
    crowd["prompt"] = requests[first..].iter().map(|fields| fields["prompt"].clone()).collect();
    assert_eq!(texts(&server, &crowd), answers[first..]);
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "nothing was preempted");
    server.terminate();
    assert!(server.ended().success());
    answers
}

fn assert_equal(requests: &[Value], answers: &[String], expected: &[String]) {
    for ((fields, answer), expected) in requests.iter().zip(answers).zip(expected) {
        assert_eq!(answer, expected, "{fields}");
    }
}

#[test]
fn preempted_and_chunked_requests_answer_as_if_they_were_alone() {
    let toolkit = Toolkit::new();
    let deployment = tiny("llama", &toolkit, &[("max_position_embeddings", 512.into())]);
    let mut oracle = Oracle::open(&deployment.path("model"), 512);
    let requests = SIZES.map(|(len, num_tokens)| {
        greedy(&oracle.clear(len, num_tokens, CLEAR_F16).prompt, num_tokens)
    });
    let expected = one_by_one(&serve(&deployment, &[]), &requests);
    assert_equal(&requests, &crowded(&deployment, "320KiB", &requests), &expected);
    toolkit.assert_clean();
}

#[test]
fn a_packed_batch_answers_bit_by_bit_as_each_alone() {
    let toolkit = Toolkit::install(&["--cann", "9.0.0"]);
    let deployment = on(&toolkit, Deployment::with_model(write_wide_heads));
    let args = ["inspect", "model", "--backend", "ascend", "--soc", "Ascend910B3", "--graph"];
    let graph = deployment.run(&args).stdout;
    assert!(graph.starts_with("layout packed\n"), "{graph}");

    let mut oracle = Oracle::open(&deployment.path("model"), 512);
    let clear = SIZES.map(|(len, num_tokens)| {
        let prompt = oracle.prompt(len);
        oracle.greedy(&prompt, num_tokens, CLEAR_BF16)
    });
    let requests: Vec<Value> = clear
        .iter()
        .zip(SIZES)
        .map(|(clear, (_, num_tokens))| greedy(&clear.prompt, num_tokens))
        .collect();
    let together = crowded(&deployment, "1280KiB", &requests);
    let alone = one_by_one(&serve(&deployment, &ASCEND), &requests);
    assert_equal(&requests, &together, &alone);
    toolkit.assert_clean();

    let cpu = one_by_one(&serve(&deployment, &["--dtype", "f32"]), &requests);
    let mut num_compared = 0;
    for ((clear, cpu), ascend) in clear.iter().zip(&cpu).zip(&alone) {
        // Special tokens have no text.
        let tokens = &clear.tokens[..clear.num_clear];
        let num_clear = tokens.iter().filter(|&&token| token > 2).count();
        let begin = |text: &str| text.chars().take(num_clear).collect::<String>();
        assert_eq!(begin(ascend), begin(cpu), "after {:?}", clear.prompt);
        num_compared += num_clear;
    }
    assert!(num_compared >= 100, "only {num_compared} tokens were beyond doubt");
}

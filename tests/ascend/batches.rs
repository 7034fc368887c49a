//! Many sequences at once: whatever a sequence shares its steps with, its tokens are the same.

use serde_json::Value;

use super::checkpoint::write_wide_heads;
use super::deployment::Deployment;
use super::margins::{CLEAR_BF16, CLEAR_F16, Oracle};
use super::toolkit::Toolkit;
use super::{at_once, greedy, on, one_by_one, serve, tiny};

/// Lengths of prompts and of answers, in tokens.
const SIZES: [(usize, usize); 16] = [
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
];

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

#[test]
fn preempted_and_chunked_requests_answer_as_if_they_were_alone() {
    let toolkit = Toolkit::new();
    let deployment = tiny("llama", &toolkit, &[("max_position_embeddings", 512.into())]);
    let mut oracle = Oracle::open(&deployment.path("model"), 512);
    let requests = SIZES.map(|(len, num_tokens)| {
        greedy(&oracle.clear(len, num_tokens, CLEAR_F16).prompt, num_tokens)
    });
    let expected = one_by_one(&serve(&deployment, &[]), &requests);

    // Ten blocks: so few that eight sequences cannot all grow to their end.
    let crowded = [&ASCEND[..], &["--kv-cache-bytes", "320KiB"]].concat();
    let mut server = serve(&deployment, &crowded);
    let answers = at_once(&server, &requests);
    for ((fields, answer), expected) in requests.iter().zip(&answers).zip(&expected) {
        assert_eq!(answer, expected, "{fields}");
    }
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "nothing was preempted");
    server.terminate();
    assert!(server.ended().success());
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
    let roomy = [&ASCEND[..], &["--kv-cache-bytes", "1GiB"]].concat();
    let crowded = [&ASCEND[..], &["--kv-cache-bytes", "1280KiB"]].concat();
    let alone = one_by_one(&serve(&deployment, &roomy), &requests);
    let mut server = serve(&deployment, &crowded);
    let together = at_once(&server, &requests);
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "nothing was preempted");
    for ((fields, alone), together) in requests.iter().zip(&alone).zip(&together) {
        assert_eq!(together, alone, "{fields}");
    }
    server.terminate();
    assert!(server.ended().success());
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

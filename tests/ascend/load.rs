//! Everything at once: whatever five hundred requests are like, nothing is compiled for them, and
//! nothing is left of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::client::{CHAT, COMPLETIONS, Server, post_bytes, user, with_model};
use super::toolkit::Toolkit;
use super::{serve, tiny};

const NUM_REQUESTS: usize = 500;
const NUM_CLIENTS: usize = 16;
/// Every so many requests, one has many prompts.
const CROWD_EVERY: usize = 50;
const FLAGS: [&str; 10] = [
    "--backend",
    "ascend",
    "--max-num-seqs",
    "12",
    "--max-num-batched-tokens",
    "160",
    "--max-model-len",
    "256",
    "--kv-cache-bytes",
    "256KiB",
];

/// A request, and what its client does with the answer.
struct Plan {
    path: &'static str,
    fields: Value,
    leaves: Leaves,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// When it has the whole answer.
    AtTheEnd,
    /// After the first chunk of a stream.
    AfterAChunk,
    /// Without reading anything.
    AtOnce,
}

impl Plan {
    /// The request of that index, always the same.
    fn new(idx: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(idx as u64);
        let mut below = |limit: u32| random.next_u32() % limit;
        // Many grow into a second block, and there are not two for each.
        let len = 1 + match below(3) {
            0 => below(20),
            1 => below(200),
            _ => 112 + below(20),
        };
        let prompt: String = (0..len).map(|_| char::from(b' ' + below(95) as u8)).collect();
        let is_chat = below(4) == 0;
        let mut fields = json!({"max_tokens": 1 + below(12), "ignore_eos": below(2) == 0});
        if is_chat {
            fields["messages"] = user(&prompt);
        } else {
            fields["prompt"] = prompt.into();
        }
        match below(4) {
            0 => fields["temperature"] = 0.into(),
            1 => fields["top_k"] = (1 + below(64)).into(),
            2 => fields["top_p"] = 0.8.into(),
            _ => fields["min_p"] = 0.1.into(),
        }
        if below(2) == 0 {
            fields["seed"] = below(1000).into();
        }
        if idx.is_multiple_of(CROWD_EVERY) {
            // They fill every block there is, and then each wants a second one.
            let fields = json!({"prompt": vec!["x".repeat(124); 12], "max_tokens": 12,
                                "ignore_eos": true});
            return Self { path: COMPLETIONS, fields, leaves: Leaves::AtTheEnd };
        }
        let is_streamed = below(2) == 0;
        fields["stream"] = is_streamed.into();
        let leaves = match below(8) {
            0 if is_streamed => Leaves::AfterAChunk,
            1 => Leaves::AtOnce,
            _ => Leaves::AtTheEnd,
        };
        Self { path: if is_chat { CHAT } else { COMPLETIONS }, fields, leaves }
    }

    fn run(&self, server: &Server) {
        let mut client = server.connect();
        client.send(&post_bytes(self.path, with_model(&self.fields).to_string().as_bytes()));
        match self.leaves {
            Leaves::AtOnce => {}
            Leaves::AfterAChunk => {
                assert_eq!(client.read_head().unwrap().status, 200, "{}", self.fields);
                client.read_chunk();
            }
            Leaves::AtTheEnd => {
                let reply = client.read_reply().unwrap();
                assert_eq!(reply.status, 200, "{}: {reply:?}", self.fields);
                let body = String::from_utf8(reply.body).unwrap();
                if self.fields["stream"] == true {
                    assert!(body.ends_with("data: [DONE]\n\n"), "{}: {body}", self.fields);
                    assert!(!body.contains("\"error\""), "{}: {body}", self.fields);
                }
            }
        }
    }
}

#[test]
fn five_hundred_requests_compile_nothing_and_leave_nothing() {
    let toolkit = Toolkit::new();
    let deployment = tiny("llama-head-dim", &toolkit, &[]);
    let mut server = serve(&deployment, &FLAGS);
    let num_compiles = toolkit.num_compiles();
    // Sequences of 1, 2, 4, 8 and 12; prompts of 128 and 160 tokens.
    assert_eq!(num_compiles, 7);

    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..NUM_CLIENTS {
            scope.spawn(|| {
                loop {
                    let idx = next.fetch_add(1, Ordering::Relaxed);
                    if idx >= NUM_REQUESTS {
                        break;
                    }
                    Plan::new(idx).run(&server);
                }
            });
        }
    });
    server.wait_until_idle();
    server.assert_serves("the load");
    for (series, expected) in [
        ("cairn_compiles_after_ready_total", 0.0),
        ("cairn_graphs_compiled_total", num_compiles as f64),
    ] {
        assert!((server.metric(series) - expected).abs() < f64::EPSILON, "{series}");
    }
    assert!(server.metric("vllm:num_preemptions_total") > 0.0, "there was room for all");
    assert_eq!(toolkit.num_compiles(), num_compiles, "atc ran after the server was ready");
    server.terminate();
    let status = server.ended();
    assert!(status.success(), "{status}");
    toolkit.assert_clean();
}

//! What the machine could do at most, measured in the same run, and how much of it was reached.
//!
//! A step reads the weights of its products once, and multiplies what the graph says: it takes as long
//! as the longer of the two. Reading is measured over as many bytes as those weights are, multiplying
//! with the instructions that the products use. Nothing else is counted: neither the KV cache, nor
//! what lies between the products.

use std::fmt;

use serde_json::{Value, json};

use super::Samples;
use crate::boot::{self, Booted};
use crate::config::{BackendKind, EngineConfig};

/// The limits of one model on this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Bytes that a step reads.
    bytes: u64,
    bytes_per_second: f64,
    operations_per_second: f64,
    pub(super) prefill_tokens_per_second: f64,
    pub(super) decode_tokens_per_second: f64,
}

impl Limits {
    /// Measures them, where the host computes: for prompts of so many tokens, and for decoding so many
    /// sequences at once.
    pub(super) fn measure(
        config: &EngineConfig,
        booted: &Booted,
        input_len: usize,
        num_seqs: usize,
    ) -> anyhow::Result<Option<Self>> {
        if config.backend != BackendKind::Cpu {
            return Ok(None);
        }
        let work = booted.work();
        let bytes = boot::product_bytes(config, &work);
        let (bytes_per_second, operations_per_second) = boot::roofline(config, bytes)?;
        let seconds = |operations: u64| {
            let reading = bytes as f64 / bytes_per_second;
            reading.max(operations as f64 / operations_per_second)
        };
        let prompt = work.prompt_operations(input_len as u64);
        let decode = (work.operations_per_token + work.operations_per_output) * num_seqs as u64;
        Ok(Some(Self {
            bytes,
            bytes_per_second,
            operations_per_second,
            prefill_tokens_per_second: input_len as f64 / seconds(prompt),
            decode_tokens_per_second: num_seqs as f64 / seconds(decode),
        }))
    }

    /// The line about one figure.
    pub(super) fn share(name: &str, samples: &Samples, limit: f64) -> String {
        let [median, ..] = samples.spread();
        format!("{name}: {:.0} % of the limit of {limit:.0} tokens/s\n", 100.0 * median / limit)
    }

    pub(super) fn to_json(self) -> Value {
        json!({
            "bytes_per_step": self.bytes,
            "bytes_per_second": self.bytes_per_second,
            "operations_per_second": self.operations_per_second,
            "prefill_tokens_per_second": self.prefill_tokens_per_second,
            "decode_tokens_per_second": self.decode_tokens_per_second,
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "this machine reads {:.1} GB/s (over {:.0} MB of weights) and computes {:.0} GOP/s",
            self.bytes_per_second / 1e9,
            self.bytes as f64 / 1e6,
            self.operations_per_second / 1e9,
        )
    }
}

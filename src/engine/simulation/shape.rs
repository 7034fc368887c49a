//! What of a model costs time and memory: its sizes, without a weight.
//!
//! ```text
//! layer   q k v projection  [hidden, (heads + 2 kv_heads) head_dim]   attention
//!         output projection [heads head_dim, hidden]                  feed-forward [hidden, 3 inner]
//! ends    embedding [vocab, hidden]   logits [hidden, vocab], the same weight when tied
//! ```
//!
//! Norms and biases are left out: they are less than a thousandth of the weights.
//!
//! What this module deliberately does not do: it knows no device and no names of weights.

use crate::model::config::ModelConfig;

/// Sizes of a dense decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Heads of q.
    pub num_attention_heads: usize,
    /// Heads of k and v.
    pub num_kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Whether the logits use the embedding's weight.
    pub has_tied_embeddings: bool,
    /// How many layers see how many of the last tokens; `None`: all of them.
    pub layers: Vec<(Option<usize>, usize)>,
    /// Bits of a weight.
    pub weight_bits: usize,
    /// Bits of a number in the KV cache.
    pub kv_bits: usize,
    /// Longest context that the model declares, in tokens.
    pub max_position_embeddings: usize,
}

impl ModelShape {
    /// Qwen3-8B in 16 bits, after its published `config.json`.
    pub fn qwen3_8b() -> Self {
        Self {
            hidden_size: 4096,
            intermediate_size: 12_288,
            num_attention_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            vocab_size: 151_936,
            has_tied_embeddings: false,
            layers: vec![(None, 36)],
            weight_bits: 16,
            kv_bits: 16,
            max_position_embeddings: 40_960,
        }
    }

    /// Qwen3-32B in 16 bits, after its published `config.json`.
    pub fn qwen3_32b() -> Self {
        Self {
            hidden_size: 5120,
            intermediate_size: 25_600,
            num_attention_heads: 64,
            layers: vec![(None, 64)],
            ..Self::qwen3_8b()
        }
    }

    /// That of a checkpoint, in 16 bits.
    pub fn of(config: &ModelConfig) -> Self {
        let mut layers: Vec<(Option<usize>, usize)> = Vec::new();
        for &window in &config.sliding_window {
            match layers.iter_mut().find(|(other, _)| *other == window) {
                Some((_, num_layers)) => *num_layers += 1,
                None => layers.push((window, 1)),
            }
        }
        Self {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_attention_heads: config.num_attention_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            has_tied_embeddings: config.tie_word_embeddings,
            layers,
            weight_bits: 16,
            kv_bits: 16,
            max_position_embeddings: config.max_position_embeddings,
        }
    }

    /// Decoder layers.
    pub fn num_layers(&self) -> usize {
        self.layers.iter().map(|(_, num_layers)| num_layers).sum()
    }

    /// Weights of all projections, the logits' among them: what every launch reads.
    pub fn num_projection_weights(&self) -> f64 {
        let hidden = self.hidden_size as f64;
        let heads = ((self.num_attention_heads + self.num_kv_heads) * self.head_dim) as f64;
        let layer = 2.0 * hidden * heads + 3.0 * hidden * self.intermediate_size as f64;
        self.num_layers() as f64 * layer + self.num_logit_weights()
    }

    /// Those of the logits.
    pub fn num_logit_weights(&self) -> f64 {
        (self.hidden_size * self.vocab_size) as f64
    }

    /// All weights.
    pub fn num_weights(&self) -> f64 {
        let embedding = if self.has_tied_embeddings { 0.0 } else { self.num_logit_weights() };
        self.num_projection_weights() + embedding
    }
}

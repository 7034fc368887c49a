//! What a model is: sizes, options and rope settings, read from `config.json` or GGUF metadata.
//!
//! ```text
//! config.json             v4 keys: rope_theta, rope_scaling     ─┐
//!                         v5 keys: rope_parameters              ─┼─> ModelConfig ─> graph
//! GGUF metadata           {arch}.embedding_length, ...          ─┘        │
//! generation_config.json  eos_token_id                                    └─> rope::rope_tables
//! ```
//!
//! A [`ModelConfig`] has been checked: every value lies within [`limits`], so that products of a
//! few of them fit 64 bits and nothing is allocated for a mistake; heads divide evenly; every token
//! id lies in the vocabulary. Defaults of absent keys are those of Transformers' configuration
//! classes. It does not read files, does not look at weights, and says nothing of the device.

mod config_gguf;
mod config_json;
mod object;

use std::fmt;

pub use crate::ir::RopeStyle;

pub use config_gguf::{GgufTensorFacts, MetadataSource};
pub use config_json::MAX_CONFIG_BYTES;

/// What a config may hold: sizes from 1 to these, numbers in these ranges. Far beyond any model, far
/// from any overflow.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Width of the hidden state.
    pub const HIDDEN_SIZE: usize = 1 << 20;
    /// Width inside the feed-forward part.
    pub const INTERMEDIATE_SIZE: usize = 1 << 22;
    /// Decoder layers.
    pub const NUM_LAYERS: usize = 1 << 12;
    /// Attention heads.
    pub const NUM_HEADS: usize = 1 << 12;
    /// Elements of one head.
    pub const HEAD_DIM: usize = 1 << 12;
    /// Tokens in the vocabulary.
    pub const VOCAB_SIZE: usize = 1 << 24;
    /// Positions in the context.
    pub const POSITIONS: usize = 1 << 27;
    /// The epsilon of norms: not 0 as an f32.
    pub const EPSILON: RangeInclusive<f64> = 1e-30..=1.0;
    /// The rope base: its powers stay finite, and its logarithm is not 0.
    pub const ROPE_THETA: RangeInclusive<f64> = 2.0..=1e18;
    /// Every other number of the rope settings: angles stay finite.
    pub const ROPE_NUMBER: RangeInclusive<f64> = 1e-6..=1e6;
}

/// The families of models that can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 1 to 3 and everything of the same form, such as `SmolLM2`.
    Llama,
    /// Mistral 7B: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: bias on q, k and v.
    Qwen2,
    /// Qwen3: norms on each head of q and k.
    Qwen3,
}

impl Architecture {
    /// Every architecture, in the order of the messages.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The name in `architectures` of `config.json`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The name in `model_type` of `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class_name())
    }
}

/// How positions rotate q and k.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric row of frequencies; above 1.
    pub theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
    /// Which elements of a head form a pair.
    pub style: RopeStyle,
}

/// How rope frequencies are stretched; the formulas are in [`rope`](crate::model::rope).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by the same factor.
    Linear {
        /// Divides every frequency.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths by a factor, short ones not, smoothly in between.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wavelengths above the original context divided by this are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below the original context divided by this stay; above `low_freq_factor`.
        high_freq_factor: f64,
        /// Context before the stretching.
        original_max_position_embeddings: usize,
    },
    /// `YaRN`: by dimension, between two numbers of rotations; and a factor on cos and sin.
    Yarn {
        /// Divides the low frequencies.
        factor: f64,
        /// Context before the stretching.
        original_max_position_embeddings: usize,
        /// Dimensions with more rotations than this in the original context stay.
        beta_fast: f64,
        /// Dimensions with fewer rotations than this are divided by `factor`.
        beta_slow: f64,
        /// Multiplies cos and sin.
        attention_factor: f64,
        /// Whether the borders between the dimensions are whole numbers.
        truncate: bool,
    },
    /// One divisor per frequency, `[head_dim / 2]`: the tensor `rope_freqs.weight` of GGUF files.
    FrequencyFactors(Vec<f32>),
}

/// Sizes and options of a model, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding, and logits of a position.
    pub vocab_size: usize,
    /// Width of the hidden state.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Heads of q; a multiple of `num_kv_heads`.
    pub num_attention_heads: usize,
    /// Heads of k and v.
    pub num_kv_heads: usize,
    /// Elements of one head; even, and not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Longest context that the model declares, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// How positions rotate q and k.
    pub rope: RopeConfig,
    /// Whether the logits use the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Whether the projections of q, k and v have a bias.
    pub attention_bias: bool,
    /// Whether the projection of the attention's output has a bias.
    pub attention_output_bias: bool,
    /// Whether the three projections of the feed-forward part have a bias.
    pub mlp_bias: bool,
    /// Whether each head of q and k is normed before rope.
    pub qk_norm: bool,
    /// For each layer, how many of the last tokens a token sees, itself included; `None`: all.
    pub sliding_window: Vec<Option<usize>>,
    /// Tokens that end a text, each once.
    pub eos_token_ids: Vec<u32>,
    /// Token that begins a text, where the model has one.
    pub bos_token_id: Option<u32>,
}

/// Why a model's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// More bytes than any honest config has.
    #[error("{file} is too large: expected at most {limit} bytes, got {got}")]
    TooLarge {
        /// Which file.
        file: &'static str,
        /// Most bytes that are read.
        limit: usize,
        /// Bytes that it has.
        got: usize,
    },
    /// Not JSON, or nested too deeply.
    #[error("{file} is not valid JSON")]
    Json {
        /// Which file.
        file: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// JSON, but a list or a scalar.
    #[error("{file} must hold a JSON object, got {got}")]
    NotAnObject {
        /// Which file.
        file: &'static str,
        /// What it holds.
        got: String,
    },
    /// A key without a default is absent.
    #[error("missing `{key}` in {file}")]
    Missing {
        /// Which file.
        file: &'static str,
        /// Which key.
        key: String,
    },
    /// A value of the wrong type, out of range, or at odds with another one.
    #[error("invalid `{key}` in {file}: expected {expected}, got {got}")]
    Invalid {
        /// Which file.
        file: &'static str,
        /// Which key.
        key: String,
        /// What would be valid.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A family that cannot be built.
    #[error("unknown architecture `{got}` in {file}: supported are {supported}")]
    UnknownArchitecture {
        /// Which file.
        file: &'static str,
        /// Its name.
        got: String,
        /// The names that would do.
        supported: String,
    },
    /// A valid option that is not implemented.
    #[error("unsupported `{key}` in {file}: {reason}")]
    Unsupported {
        /// Which file.
        file: &'static str,
        /// Which key.
        key: String,
        /// What it asks for, and what would do.
        reason: String,
    },
}

/// Head counts and sizes that must fit together, and the keys to blame.
struct AttentionSizes<'a> {
    hidden_size: (&'a str, usize),
    num_attention_heads: (&'a str, usize),
    num_kv_heads: (&'a str, Option<usize>),
    head_dim: (&'a str, Option<usize>),
}

impl AttentionSizes<'_> {
    /// The number of KV heads and the head size, defaults filled in.
    fn check(self, file: &'static str) -> Result<(usize, usize), ConfigError> {
        let invalid = |key: &str, expected: String, got: String| ConfigError::Invalid {
            file,
            key: key.to_owned(),
            expected,
            got,
        };
        let (heads_key, num_heads) = self.num_attention_heads;
        let (kv_key, num_kv_heads) = self.num_kv_heads;
        let num_kv_heads = num_kv_heads.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            let expected = format!("a divisor of `{heads_key}` {num_heads}");
            return Err(invalid(kv_key, expected, num_kv_heads.to_string()));
        }
        let (hidden_key, hidden_size) = self.hidden_size;
        let (head_dim_key, head_dim) = self.head_dim;
        let head_dim = match head_dim {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                let expected =
                    format!("a multiple of `{heads_key}` {num_heads} without `{head_dim_key}`");
                return Err(invalid(hidden_key, expected, hidden_size.to_string()));
            }
        };
        if head_dim > limits::HEAD_DIM || !head_dim.is_multiple_of(2) {
            let expected = format!("an even number up to {}", limits::HEAD_DIM);
            return Err(invalid(head_dim_key, expected, head_dim.to_string()));
        }
        Ok((num_kv_heads, head_dim))
    }
}

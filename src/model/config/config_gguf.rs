//! [`ModelConfig`] from the metadata of a GGUF file.
//!
//! Keys are those of the GGUF specification; `{arch}` is the value of `general.architecture`.
//! `llama` covers Mistral too: the file format makes no difference between them.
//!
//! | key | field |
//! | --- | --- |
//! | `{arch}.embedding_length` | `hidden_size` |
//! | `{arch}.feed_forward_length` | `intermediate_size` |
//! | `{arch}.block_count` | `num_layers` |
//! | `{arch}.attention.head_count`, `_kv` | `num_attention_heads`, `num_kv_heads` |
//! | `{arch}.attention.key_length` | `head_dim` |
//! | `{arch}.context_length` | `max_position_embeddings` |
//! | `{arch}.rope.freq_base`, `{arch}.rope.scaling.*` | `rope` |
//!
//! What the metadata does not say, biases and tied embeddings, the list of tensors does:
//! [`GgufTensorFacts`].

use std::ops::RangeInclusive;

use super::object::{Result, shortened};
use super::{
    Architecture, AttentionSizes, ConfigError, ModelConfig, RopeConfig, RopeScaling, RopeStyle,
    limits,
};
use crate::model::rope::yarn_attention_factor;

const METADATA: &str = "GGUF metadata";
/// The base of a file that names none.
const DEFAULT_THETA: f64 = 10_000.0;

/// Key-value metadata, as a GGUF file carries it.
pub trait MetadataSource {
    /// Whether the key is there, with a value of whatever type.
    fn contains(&self, key: &str) -> bool;
    /// The value of an integer key that is not negative.
    fn u64(&self, key: &str) -> Option<u64>;
    /// The value of a floating point or integer key.
    fn f64(&self, key: &str) -> Option<f64>;
    /// The value of a string key.
    fn str(&self, key: &str) -> Option<String>;
}

/// What the tensors of a GGUF file say about the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufTensorFacts {
    /// Rows of `token_embd.weight`.
    pub vocab_size: usize,
    /// Whether there is an `output.weight`; without, the embedding's weight is used.
    pub has_output_weight: bool,
    /// Whether there is a `blk.0.attn_q.bias`.
    pub has_attention_bias: bool,
    /// Whether there is a `blk.0.attn_output.bias`.
    pub has_attention_output_bias: bool,
    /// Whether there is a `blk.0.ffn_gate.bias`.
    pub has_mlp_bias: bool,
    /// The values of `rope_freqs.weight`, if there is one.
    pub frequency_factors: Option<Vec<f32>>,
}

impl ModelConfig {
    /// Reads the metadata of a GGUF file and what its tensors say.
    ///
    /// # Errors
    /// A key that is missing or invalid, an architecture or option that is not supported; each
    /// names the key.
    pub fn from_gguf(metadata: &dyn MetadataSource, tensors: GgufTensorFacts) -> Result<Self> {
        let name = metadata.str("general.architecture").ok_or_else(|| ConfigError::Missing {
            file: METADATA,
            key: "general.architecture".to_owned(),
        })?;
        let architecture = architecture(&name)?;
        let reader = Reader { metadata, prefix: architecture.model_type() };
        reader.refuse_experts()?;

        let hidden_size = reader.required("embedding_length", limits::HIDDEN_SIZE)?;
        let num_layers = reader.required("block_count", limits::NUM_LAYERS)?;
        let num_attention_heads = reader.required("attention.head_count", limits::NUM_HEADS)?;
        let max_position_embeddings = reader.required("context_length", limits::POSITIONS)?;
        let keys = [
            "embedding_length",
            "attention.head_count",
            "attention.head_count_kv",
            "attention.key_length",
        ]
        .map(|key| reader.path(key));
        let (num_kv_heads, head_dim) = AttentionSizes {
            hidden_size: (&keys[0], hidden_size),
            num_attention_heads: (&keys[1], num_attention_heads),
            num_kv_heads: (&keys[2], reader.size("attention.head_count_kv", limits::NUM_HEADS)?),
            head_dim: (&keys[3], reader.size("attention.key_length", limits::HEAD_DIM)?),
        }
        .check(METADATA)?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            reader.expect_size(key, head_dim)?;
        }
        let vocab_size = tensors.vocab_size;
        if !(1..=limits::VOCAB_SIZE).contains(&vocab_size) {
            let expected = format!("1 to {} rows", limits::VOCAB_SIZE);
            return Err(invalid("token_embd.weight", expected, vocab_size));
        }
        let window = reader.size("attention.sliding_window", limits::POSITIONS)?;
        let theta = reader.number("rope.freq_base", limits::ROPE_THETA)?;
        let epsilon = reader.number("attention.layer_norm_rms_epsilon", limits::EPSILON)?;

        Ok(Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: reader.required("feed_forward_length", limits::INTERMEDIATE_SIZE)?,
            num_layers,
            num_attention_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: epsilon
                .ok_or_else(|| reader.missing("attention.layer_norm_rms_epsilon"))?
                as f32,
            rope: RopeConfig {
                theta: theta.unwrap_or(DEFAULT_THETA),
                scaling: reader.rope_scaling(
                    tensors.frequency_factors,
                    head_dim,
                    max_position_embeddings,
                )?,
                style: match architecture {
                    Architecture::Llama | Architecture::Mistral => RopeStyle::Interleaved,
                    Architecture::Qwen2 | Architecture::Qwen3 => RopeStyle::Halves,
                },
            },
            tie_word_embeddings: !tensors.has_output_weight,
            attention_bias: tensors.has_attention_bias,
            attention_output_bias: tensors.has_attention_output_bias,
            mlp_bias: tensors.has_mlp_bias,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: vec![window; num_layers],
            eos_token_ids: eos_token_ids(metadata, vocab_size)?,
            bos_token_id: token_id(metadata, "tokenizer.ggml.bos_token_id", vocab_size)?,
        })
    }
}

/// `mistral` is no name of the format: such models are stored as `llama`.
fn architecture(name: &str) -> Result<Architecture> {
    const KNOWN: [Architecture; 3] =
        [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];
    KNOWN.into_iter().find(|architecture| architecture.model_type() == name).ok_or_else(|| {
        ConfigError::UnknownArchitecture {
            file: METADATA,
            got: shortened(name),
            supported: KNOWN.map(Architecture::model_type).join(", "),
        }
    })
}

/// Besides the end of text, a file may name the ends of a turn and of a message: generation stops
/// at each of them.
fn eos_token_ids(metadata: &dyn MetadataSource, vocab_size: usize) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{kind}_token_id");
        if let Some(id) = token_id(metadata, &key, vocab_size)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn token_id(metadata: &dyn MetadataSource, key: &str, vocab_size: usize) -> Result<Option<u32>> {
    if !metadata.contains(key) {
        return Ok(None);
    }
    let expected = || format!("a token id below the {vocab_size} rows of token_embd.weight");
    let Some(id) = metadata.u64(key) else {
        return Err(invalid(key, expected(), "another type"));
    };
    match u32::try_from(id) {
        Ok(small) if id < vocab_size as u64 => Ok(Some(small)),
        _ => Err(invalid(key, expected(), id)),
    }
}

fn invalid(key: &str, expected: impl Into<String>, got: impl ToString) -> ConfigError {
    ConfigError::Invalid {
        file: METADATA,
        key: key.to_owned(),
        expected: expected.into(),
        got: got.to_string(),
    }
}

/// Reads the keys of one architecture.
struct Reader<'a> {
    metadata: &'a dyn MetadataSource,
    prefix: &'static str,
}

impl Reader<'_> {
    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { file: METADATA, key: self.path(key) }
    }

    fn unsupported(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Unsupported { file: METADATA, key: self.path(key), reason: reason.into() }
    }

    fn size(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let path = self.path(key);
        if !self.metadata.contains(&path) {
            return Ok(None);
        }
        let expected = || format!("an integer from 1 to {most}");
        let Some(number) = self.metadata.u64(&path) else {
            return Err(invalid(&path, expected(), "another type"));
        };
        match usize::try_from(number) {
            Ok(size) if (1..=most).contains(&size) => Ok(Some(size)),
            _ => Err(invalid(&path, expected(), number)),
        }
    }

    fn required(&self, key: &str, most: usize) -> Result<usize> {
        self.size(key, most)?.ok_or_else(|| self.missing(key))
    }

    fn expect_size(&self, key: &str, head_dim: usize) -> Result<()> {
        match self.size(key, limits::HEAD_DIM)? {
            Some(size) if size != head_dim => {
                let expected = format!("{head_dim}, the size of a head");
                Err(invalid(&self.path(key), expected, size))
            }
            _ => Ok(()),
        }
    }

    fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let path = self.path(key);
        if !self.metadata.contains(&path) {
            return Ok(None);
        }
        let expected = || format!("a number from {:?} to {:?}", range.start(), range.end());
        match self.metadata.f64(&path) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) => Err(invalid(&path, expected(), number)),
            None => Err(invalid(&path, expected(), "another type")),
        }
    }

    fn refuse_experts(&self) -> Result<()> {
        let key = self.path("expert_count");
        match self.metadata.u64(&key) {
            None | Some(0) => Ok(()),
            Some(count) => Err(self.unsupported(
                "expert_count",
                format!("a mixture of {count} experts is not implemented"),
            )),
        }
    }

    fn rope_scaling(
        &self,
        frequency_factors: Option<Vec<f32>>,
        head_dim: usize,
        max_position_embeddings: usize,
    ) -> Result<RopeScaling> {
        let scaling = self.declared_rope_scaling(max_position_embeddings)?;
        let Some(factors) = frequency_factors else {
            return Ok(scaling);
        };
        if scaling != RopeScaling::None {
            let reason = "a scaling type beside the tensor rope_freqs.weight is not implemented";
            return Err(self.unsupported("rope.scaling.type", reason));
        }
        if factors.len() != head_dim / 2 {
            let expected = format!("{} values, half a head", head_dim / 2);
            return Err(invalid("rope_freqs.weight", expected, factors.len()));
        }
        if let Some(factor) = factors.iter().find(|&&f| !(f > 0.0 && f.is_finite())) {
            return Err(invalid("rope_freqs.weight", "finite values above 0", factor));
        }
        Ok(RopeScaling::FrequencyFactors(factors))
    }

    fn declared_rope_scaling(&self, max_position_embeddings: usize) -> Result<RopeScaling> {
        let number = |key| self.number(key, limits::ROPE_NUMBER);
        let factor = || {
            let factor = number("rope.scaling.factor")?;
            factor.ok_or_else(|| self.missing("rope.scaling.factor"))
        };
        let key = self.path("rope.scaling.type");
        let kind = match self.metadata.str(&key) {
            Some(kind) => kind,
            None if self.metadata.contains(&key) => {
                return Err(invalid(&key, "a string", "another type"));
            }
            None => "none".to_owned(),
        };
        match kind.as_str() {
            // Before there was a type, linear scaling was one key.
            "none" => Ok(match number("rope.scale_linear")? {
                Some(factor) if factor > 1.0 => RopeScaling::Linear { factor },
                _ => RopeScaling::None,
            }),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "yarn" => {
                let original =
                    self.size("rope.scaling.original_context_length", limits::POSITIONS)?;
                let factor = factor()?;
                // On top of YaRN's own factor, not instead of it: `rope_yarn` in ggml.
                let extra = number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                Ok(RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original.unwrap_or(max_position_embeddings),
                    beta_fast: number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attention_factor: extra * yarn_attention_factor(factor, None),
                    truncate: true,
                })
            }
            other => Err(invalid(&key, "none, linear or yarn", shortened(other))),
        }
    }
}

#[cfg(test)]
mod tests;

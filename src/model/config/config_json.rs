//! [`ModelConfig`] from `config.json` and `generation_config.json`.
//!
//! Both key styles of Transformers load:
//!
//! | meaning | v4 | v5 |
//! | --- | --- | --- |
//! | rope base | `rope_theta` | `rope_parameters.rope_theta` |
//! | rope scaling | `rope_scaling` (null, or `type`/`rope_type`, `factor`, ...) | `rope_parameters` (`rope_type`, `factor`, ...) |
//! | element type, not used | `torch_dtype` | `dtype` |
//!
//! A null counts as an absent key; where Transformers has a default for the absent key and nothing
//! for null (`sliding_window`, token ids), so does this. `auto_map` names Python code of the
//! checkpoint: it is ignored, and never run.

use serde_json::Value;

use super::object::{Object, Result, describe, shortened};
use super::{
    Architecture, AttentionSizes, ConfigError, ModelConfig, RopeConfig, RopeScaling, RopeStyle,
    limits,
};
use crate::model::rope::yarn_attention_factor;

/// Most bytes of a config file; whoever reads one may stop there.
pub const MAX_CONFIG_BYTES: usize = 16 << 20;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// Transformers' `default_theta`.
const DEFAULT_THETA: f64 = 10_000.0;
/// Default of `sliding_window` in the classes of Mistral and Qwen.
const DEFAULT_SLIDING_WINDOW: usize = 4096;
/// Default of `max_window_layers` in the classes of Qwen.
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;
/// Default of `head_dim` in the class of Qwen3.
const DEFAULT_QWEN3_HEAD_DIM: usize = 128;

impl ModelConfig {
    /// Reads the text of `config.json` and, where there is one, of `generation_config.json`, whose
    /// end-of-text tokens take precedence.
    ///
    /// ```
    /// # use cairn::model::config::ModelConfig;
    /// let config = ModelConfig::from_json(
    ///     br#"{"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96,
    ///          "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}"#,
    ///     None,
    /// )?;
    /// assert_eq!(config.head_dim, 16);
    /// # Ok::<(), cairn::model::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// Text that is too large or not a JSON object, a key that is missing or invalid, an
    /// architecture or option that is not supported; each names the file and the key.
    pub fn from_json(config: &[u8], generation_config: Option<&[u8]>) -> Result<Self> {
        let root = parse(CONFIG, config)?;
        let root = Object::root(CONFIG, &root)?;
        let generation =
            generation_config.map(|text| parse(GENERATION_CONFIG, text)).transpose()?;
        let generation =
            generation.as_ref().map(|value| Object::root(GENERATION_CONFIG, value)).transpose()?;

        let architecture = architecture(&root)?;
        refuse_unsupported(&root)?;
        let vocab_size = root.required("vocab_size", limits::VOCAB_SIZE)?;
        let hidden_size = root.required("hidden_size", limits::HIDDEN_SIZE)?;
        let num_layers = root.required("num_hidden_layers", limits::NUM_LAYERS)?;
        let num_attention_heads = root.required("num_attention_heads", limits::NUM_HEADS)?;
        let max_position_embeddings =
            root.required("max_position_embeddings", limits::POSITIONS)?;
        let head_dim = root.size("head_dim", limits::HEAD_DIM)?;
        let (num_kv_heads, head_dim) = AttentionSizes {
            hidden_size: ("hidden_size", hidden_size),
            num_attention_heads: ("num_attention_heads", num_attention_heads),
            num_kv_heads: (
                "num_key_value_heads",
                root.size("num_key_value_heads", limits::NUM_HEADS)?,
            ),
            head_dim: (
                "head_dim",
                head_dim
                    .or((architecture == Architecture::Qwen3).then_some(DEFAULT_QWEN3_HEAD_DIM)),
            ),
        }
        .check(CONFIG)?;
        let bias = Bias::of(architecture, &root)?;

        Ok(Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: root.required("intermediate_size", limits::INTERMEDIATE_SIZE)?,
            num_layers,
            num_attention_heads,
            num_kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: root.number("rms_norm_eps", limits::EPSILON)?.unwrap_or(1e-6) as f32,
            rope: rope(&root, max_position_embeddings)?,
            tie_word_embeddings: root.bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: bias.qkv,
            attention_output_bias: bias.output,
            mlp_bias: bias.mlp,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: sliding_window(architecture, &root, num_layers)?,
            eos_token_ids: eos_token_ids(architecture, &root, generation.as_ref(), vocab_size)?,
            bos_token_id: bos_token_id(architecture, &root, vocab_size)?,
        })
    }
}

fn parse(file: &'static str, text: &[u8]) -> Result<Value> {
    if text.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { file, limit: MAX_CONFIG_BYTES, got: text.len() });
    }
    serde_json::from_slice(text).map_err(|source| ConfigError::Json { file, source })
}

/// The first of `architectures`, else `model_type`.
fn architecture(root: &Object) -> Result<Architecture> {
    let find = |name: &str, of: fn(Architecture) -> &'static str| {
        let known = Architecture::ALL.into_iter();
        known.clone().find(|&architecture| of(architecture) == name).ok_or_else(|| {
            ConfigError::UnknownArchitecture {
                file: CONFIG,
                got: shortened(name),
                supported: known.map(of).collect::<Vec<_>>().join(", "),
            }
        })
    };
    let names = match root.get("architectures") {
        None => &[],
        Some(Value::Array(names)) => names.as_slice(),
        Some(other) => {
            return Err(root.invalid("architectures", "a list of strings", describe(other)));
        }
    };
    match names.first() {
        Some(Value::String(name)) => find(name, Architecture::class_name),
        Some(other) => Err(root.invalid("architectures", "a list of strings", describe(other))),
        None => match root.str("model_type")? {
            Some(name) => find(name, Architecture::model_type),
            None => Err(root.missing("architectures")),
        },
    }
}

/// Options that change what a model computes and are not implemented.
fn refuse_unsupported(root: &Object) -> Result<()> {
    if let Some(quantisation) = root.get("quantization_config") {
        let method = quantisation.get("quant_method").map(describe);
        return Err(ConfigError::Unsupported {
            file: CONFIG,
            key: "quantization_config".to_owned(),
            reason: format!(
                "quantised safetensors (quant_method {}) cannot be read; use the unquantised \
                 checkpoint or a GGUF file",
                method.as_deref().unwrap_or("not given")
            ),
        });
    }
    if let Some(activation) = root.str("hidden_act")?
        && !matches!(activation, "silu" | "swish")
    {
        return Err(root.invalid("hidden_act", "silu or swish", shortened(activation)));
    }
    for key in ["dtype", "torch_dtype"] {
        if let Some(dtype) = root.str(key)?
            && !matches!(dtype, "float32" | "float16" | "bfloat16")
        {
            return Err(root.invalid(key, "float32, float16 or bfloat16", shortened(dtype)));
        }
    }
    Ok(())
}

/// Which projections have a bias.
struct Bias {
    qkv: bool,
    output: bool,
    mlp: bool,
}

impl Bias {
    fn of(architecture: Architecture, root: &Object) -> Result<Self> {
        let flag = |key| Ok(root.bool(key)?.unwrap_or(false));
        let attention = match architecture {
            Architecture::Llama | Architecture::Qwen3 => flag("attention_bias")?,
            Architecture::Mistral | Architecture::Qwen2 => false,
        };
        Ok(Self {
            qkv: attention || architecture == Architecture::Qwen2,
            output: attention,
            mlp: architecture == Architecture::Llama && flag("mlp_bias")?,
        })
    }
}

/// Mistral: all layers. Qwen: with `use_sliding_window`, those that `layer_types` names, else those
/// from `max_window_layers` on. Llama: none, whatever the keys say.
fn sliding_window(
    architecture: Architecture,
    root: &Object,
    num_layers: usize,
) -> Result<Vec<Option<usize>>> {
    // Here null differs from absent: no window, not the default one.
    let window = if root.contains("sliding_window") {
        root.size("sliding_window", limits::POSITIONS)?
    } else {
        Some(DEFAULT_SLIDING_WINDOW)
    };
    let is_used = root.bool("use_sliding_window")?.unwrap_or(false);
    let window = match architecture {
        Architecture::Llama => return Ok(vec![None; num_layers]),
        Architecture::Mistral => return Ok(vec![window; num_layers]),
        Architecture::Qwen2 | Architecture::Qwen3 => window.filter(|_| is_used),
    };
    if let Some(types) = root.get("layer_types") {
        return layer_types(root, types, window, num_layers);
    }
    let first =
        root.count("max_window_layers", limits::NUM_LAYERS)?.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
    let of_layer = |layer| window.filter(|_| layer >= first);
    Ok((0..num_layers).map(of_layer).collect())
}

fn layer_types(
    root: &Object,
    types: &Value,
    window: Option<usize>,
    num_layers: usize,
) -> Result<Vec<Option<usize>>> {
    let expected = format!("a list of {num_layers} strings, one for each layer");
    let types = match types {
        Value::Array(types) if types.len() == num_layers => types,
        other => return Err(root.invalid("layer_types", expected, describe(other))),
    };
    let of_layer = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            let expected = "no sliding_attention without a sliding window";
            Err(root.invalid("layer_types", expected, describe(kind)))
        }
        _ => {
            let expected = "full_attention or sliding_attention";
            Err(root.invalid("layer_types", expected, describe(kind)))
        }
    };
    types.iter().map(of_layer).collect()
}

/// As Transformers does: a `rope_scaling` that is not empty wins over `rope_parameters`; the base
/// inside it wins over the one beside it.
fn rope(root: &Object, max_position_embeddings: usize) -> Result<RopeConfig> {
    let scaling = root.object("rope_scaling")?;
    let parameters = match scaling.filter(|object| !object.is_empty()) {
        Some(scaling) => Some(scaling),
        None => root.object("rope_parameters")?,
    };
    let mut theta = root.number("rope_theta", limits::ROPE_THETA)?;
    let mut rope_scaling = RopeScaling::None;
    root.refuse_partial_rotary()?;
    if let Some(parameters) = parameters {
        theta = parameters.number("rope_theta", limits::ROPE_THETA)?.or(theta);
        parameters.refuse_partial_rotary()?;
        rope_scaling = self::rope_scaling(root, &parameters, max_position_embeddings)?;
    }
    Ok(RopeConfig {
        theta: theta.unwrap_or(DEFAULT_THETA),
        scaling: rope_scaling,
        style: RopeStyle::Halves,
    })
}

fn rope_scaling(
    root: &Object,
    parameters: &Object,
    max_position_embeddings: usize,
) -> Result<RopeScaling> {
    if let Some(kind) = parameters.nested() {
        return Err(ConfigError::Unsupported {
            file: CONFIG,
            key: parameters.path(kind),
            reason: "rope settings for each type of layer are not implemented; expected one set \
                     for all layers"
                .to_owned(),
        });
    }
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let optional = |key| parameters.number(key, limits::ROPE_NUMBER);
    let required = |key| optional(key)?.ok_or_else(|| parameters.missing(key));
    let original_max_position_embeddings = || -> Result<usize> {
        let key = "original_max_position_embeddings";
        let beside = root.size(key, limits::POSITIONS)?;
        let inside = parameters.size(key, limits::POSITIONS)?;
        Ok(beside.or(inside).unwrap_or(max_position_embeddings))
    };
    match parameters.str(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let low_freq_factor = required("low_freq_factor")?;
            let high_freq_factor = required("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let expected = format!("more than `low_freq_factor` {low_freq_factor}");
                let got = high_freq_factor.to_string();
                return Err(parameters.invalid("high_freq_factor", expected, got));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original_max_position_embeddings()?,
            })
        }
        "yarn" => {
            let original = original_max_position_embeddings()?;
            let implied = max_position_embeddings as f64 / original as f64;
            let factor = optional("factor")?.unwrap_or(implied);
            let mscale = optional("mscale")?.zip(optional("mscale_all_dim")?);
            let attention_factor = optional("attention_factor")?;
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                attention_factor: attention_factor
                    .unwrap_or_else(|| yarn_attention_factor(factor, mscale)),
                truncate: parameters.bool("truncate")?.unwrap_or(true),
            })
        }
        other => {
            let expected = "default, linear, llama3 or yarn";
            Err(parameters.invalid(key, expected, shortened(other)))
        }
    }
}

fn eos_token_ids(
    architecture: Architecture,
    root: &Object,
    generation: Option<&Object>,
    vocab_size: usize,
) -> Result<Vec<u32>> {
    let from_config = if root.contains("eos_token_id") {
        root.token_ids("eos_token_id", vocab_size)?
    } else {
        default_token(architecture, 2, vocab_size).into_iter().collect()
    };
    let from_generation = match generation {
        Some(generation) => generation.token_ids("eos_token_id", vocab_size)?,
        None => Vec::new(),
    };
    Ok(if from_generation.is_empty() { from_config } else { from_generation })
}

fn bos_token_id(
    architecture: Architecture,
    root: &Object,
    vocab_size: usize,
) -> Result<Option<u32>> {
    if root.contains("bos_token_id") {
        return Ok(root.token_ids("bos_token_id", vocab_size)?.first().copied());
    }
    Ok(default_token(architecture, 1, vocab_size))
}

/// The classes of Llama and Mistral have default tokens, those of Qwen have none.
fn default_token(architecture: Architecture, token: u32, vocab_size: usize) -> Option<u32> {
    let has_default = matches!(architecture, Architecture::Llama | Architecture::Mistral);
    (has_default && (token as usize) < vocab_size).then_some(token)
}

#[cfg(test)]
mod tests;

//! A model on disk: its config, its tensors, and the graph that they make.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::config::{ConfigError, GgufTensorFacts, MAX_CONFIG_BYTES, MetadataSource, ModelConfig};
use super::io::GraphOutput;
use super::layers::{EMBEDDING, LM_HEAD, ROPE_COS, ROPE_SIN};
use super::registry;
use super::rope::{RopeError, rope_tables};
use crate::ir::{DType, Graph, TypeError};
use crate::weights::{Bytes, Checkpoint, GgufMetadata, Tensor, WeightsError};

/// The type that matrices are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightPolicy {
    /// As the checkpoint has them.
    #[default]
    AsStored,
    /// Converted to f32.
    F32,
    /// Converted to f16.
    F16,
    /// Converted to bf16.
    BF16,
}

/// The element types that a model is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Of matrices.
    pub weights: WeightPolicy,
    /// Of everything between them, and of vectors (norms, biases, rope tables). Logits are f32.
    pub activations: DType,
    /// Of the KV cache.
    pub kv_cache: DType,
}

impl Precision {
    /// One type for all, as devices want it that multiply only equal types. Their attention takes
    /// 16 bits at most, so the KV cache of an f32 model is f16.
    ///
    /// # Panics
    /// When the type is neither f32, f16 nor bf16.
    pub fn uniform(dtype: DType) -> Self {
        let weights = match dtype {
            DType::F32 => WeightPolicy::F32,
            DType::F16 => WeightPolicy::F16,
            DType::BF16 => WeightPolicy::BF16,
            _ => panic!("models are computed in f32, f16 or bf16, not in {dtype}"),
        };
        let kv_cache = if dtype == DType::F32 { DType::F16 } else { dtype };
        Self { weights, activations: dtype, kv_cache }
    }

    fn dtype_of(self, tensor: &Tensor) -> DType {
        if tensor.shape.len() < 2 {
            return self.activations;
        }
        match self.weights {
            WeightPolicy::AsStored => tensor.dtype,
            WeightPolicy::F32 => DType::F32,
            WeightPolicy::F16 => DType::F16,
            WeightPolicy::BF16 => DType::BF16,
        }
    }
}

/// Any matrices, f32 for all else: what the CPU computes with.
impl From<WeightPolicy> for Precision {
    fn from(weights: WeightPolicy) -> Self {
        Self { weights, activations: DType::F32, kv_cache: DType::F32 }
    }
}

/// Why a model could not be opened or its graph not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is neither GGUF nor part of a model's folder.
    #[error(
        "`{}` is not a model: expected a GGUF file, or a folder with config.json and safetensors",
        path.display()
    )]
    NotAModel {
        /// Which file.
        path: PathBuf,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor or its file cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The config describes a part of the checkpoint only.
    #[error("the config has {num_layers} layers, but the checkpoint has `{tensor}` beyond them")]
    MoreLayers {
        /// Layers of the config.
        num_layers: usize,
        /// A tensor of the first layer that the config does not have.
        tensor: String,
    },
    /// The rope tables cannot be computed.
    #[error(transparent)]
    Rope(#[from] RopeError),
    /// The model's sizes do not fit each other.
    #[error("the model's graph does not fit together")]
    Graph(#[from] TypeError),
}

/// A model on disk.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    checkpoint: Checkpoint,
    precision: Precision,
}

impl Model {
    /// Opens a folder with `config.json` and safetensors, or a GGUF file. Weights are mapped, not
    /// read.
    ///
    /// # Errors
    /// When a file is missing, broken, or not of a supported architecture.
    pub fn open(path: &Path, precision: impl Into<Precision>) -> Result<Self, ModelError> {
        let checkpoint;
        let config;
        if path.is_dir() {
            // The config first: its errors say more about a folder that is no model at all.
            config = folder_config(path)?;
            checkpoint = Checkpoint::open(path)?;
        } else {
            checkpoint = Checkpoint::open(path)?;
            config = gguf_config(&checkpoint)?;
        }
        let num_layers = config.num_layers;
        let tensor = format!("model.layers.{num_layers}.input_layernorm.weight");
        if checkpoint.contains(&tensor) {
            return Err(ModelError::MoreLayers { num_layers, tensor });
        }
        Ok(Self { config, checkpoint, precision: precision.into() })
    }

    /// Sizes and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The same model, computed with other types.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The types that it is computed with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The type that the checkpoint has its matrices in; that of the embedding stands for all.
    ///
    /// # Errors
    /// When there is no embedding.
    pub fn stored_dtype(&self) -> Result<DType, ModelError> {
        Ok(self.checkpoint.tensor(EMBEDDING)?.dtype)
    }

    /// Where the tensors are.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The graph of one step, with symbols as in [`io`](super::io), for a KV cache in blocks of
    /// `block_size` tokens.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape than the config says.
    pub fn graph(&self, block_size: usize) -> Result<Graph, ModelError> {
        registry::build(self, block_size, GraphOutput::Logits)
    }

    /// The same graph with the last hidden states for output, in place of what they say about the
    /// next token. Its weights are the first of those of [`graph`](Self::graph).
    ///
    /// # Errors
    /// As of [`graph`](Self::graph).
    pub fn embedding_graph(&self, block_size: usize) -> Result<Graph, ModelError> {
        registry::build(self, block_size, GraphOutput::HiddenStates)
    }

    /// The type that a tensor will be bound with, after checking that it has that shape.
    pub(super) fn declare(&self, name: &str, shape: &[usize]) -> Result<DType, ModelError> {
        let tensor = self.checkpoint.tensor(name)?.with_shape(shape)?;
        Ok(self.precision.dtype_of(&tensor))
    }

    /// The tensors that a graph of this model asks for: for each weight in order, its parts.
    /// `num_positions` is the value of that symbol: how many positions the rope tables hold.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn tensors(
        &self,
        graph: &Graph,
        num_positions: usize,
    ) -> Result<Vec<Vec<Tensor>>, ModelError> {
        let tables = rope_tables(&self.config.rope, self.config.head_dim, num_positions)?;
        let shape = vec![num_positions, self.config.head_dim / 2];
        let table = |name: &str, values: &[f32]| {
            let bytes = Bytes::from(values.to_vec());
            let table =
                Tensor { name: name.to_owned(), dtype: DType::F32, shape: shape.clone(), bytes };
            table.convert(self.precision.activations)
        };
        graph
            .weights()
            .map(|(_, parts)| {
                parts
                    .iter()
                    .map(|part| match part.name.as_str() {
                        ROPE_COS => Ok(table(ROPE_COS, &tables.cos)),
                        ROPE_SIN => Ok(table(ROPE_SIN, &tables.sin)),
                        name => {
                            let tensor = self.checkpoint.tensor(name)?;
                            let dtype = self.precision.dtype_of(&tensor);
                            Ok(tensor.convert(dtype))
                        }
                    })
                    .collect()
            })
            .collect()
    }
}

/// The config of a folder: `config.json`, and `generation_config.json` where there is one.
fn folder_config(folder: &Path) -> Result<ModelConfig, ModelError> {
    let config = read_config(&folder.join("config.json"))?;
    let generation = folder.join("generation_config.json");
    let generation = generation.exists().then(|| read_config(&generation)).transpose()?;
    Ok(ModelConfig::from_json(&config, generation.as_deref())?)
}

/// A regular file of a bounded size: opening anything else could hang or fill the memory.
fn read_config(path: &Path) -> Result<Vec<u8>, ModelError> {
    let read = |reason: io::Error| ModelError::Read { path: path.to_owned(), source: reason };
    let metadata = fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(read(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    let limit = MAX_CONFIG_BYTES as u64 + 1;
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(read)?;
    Ok(bytes)
}

/// The config of a GGUF file: its metadata, and what its tensors say.
fn gguf_config(checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
    let metadata = checkpoint
        .gguf()
        .ok_or_else(|| ModelError::NotAModel { path: checkpoint.path().to_owned() })?;
    let has = |name: &str| checkpoint.contains(name);
    let factors = "rope_freqs.weight";
    let facts = GgufTensorFacts {
        vocab_size: match checkpoint.tensor(EMBEDDING) {
            Ok(tensor) => tensor.rows(),
            Err(error) => return Err(error.into()),
        },
        has_output_weight: has(LM_HEAD),
        has_attention_bias: has("model.layers.0.self_attn.q_proj.bias"),
        has_attention_output_bias: has("model.layers.0.self_attn.o_proj.bias"),
        has_mlp_bias: has("model.layers.0.mlp.gate_proj.bias"),
        frequency_factors: has(factors)
            .then(|| checkpoint.tensor(factors).map(|tensor| tensor.to_f32_vec()))
            .transpose()?,
    };
    Ok(ModelConfig::from_gguf(metadata, facts)?)
}

impl MetadataSource for GgufMetadata {
    fn contains(&self, key: &str) -> bool {
        Self::contains(self, key)
    }

    fn u64(&self, key: &str) -> Option<u64> {
        Self::u64(self, key).ok()
    }

    fn f64(&self, key: &str) -> Option<f64> {
        Self::f32(self, key).ok().map(f64::from)
    }

    fn str(&self, key: &str) -> Option<String> {
        self.string(key).ok()
    }
}
